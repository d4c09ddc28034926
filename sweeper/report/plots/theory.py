"""Figures of theory sweeps: the phase diagram, the speed-up against M, the floor that noise leaves."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.errors import ClipsweepError
from sweeper.report.plots.axes import MAX_PANELS, UNORDERED, Picture, colour_bar, explain, in_order, panels
from sweeper.report.theory import build_theory, hitting_time, largest_stable_step, theory_trials
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["floor", "phase", "speedup"]


def phase(run: Run, trials: pd.DataFrame) -> Picture:
    """T over learning rate and threshold, with the exact largest stable step of gradient descent.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure: one panel per function and start; diverged and capped cells have their own colours.

    Raises:
        ClipsweepError: Fewer than two rates or two thresholds were swept.
    """
    ended = _chosen(run, trials)
    clipped = ended[ended["clip_norm"].notna()]
    if clipped["learning_rate"].nunique() < 2 or clipped["clip_norm"].nunique() < 2:
        raise ClipsweepError(f"{run.path}: a phase diagram needs several values of learning_rate and of clip_norm")
    every = list(clipped.groupby(["function_name", "L0", "L1", "M"], sort=False))
    starts = every[:MAX_PANELS]
    figure, axes = panels(len(starts), width=4.4, height=3.4)
    times = clipped["hitting_time"].dropna().astype(float)
    top = float(times.max()) if len(times) else 10.0
    mesh = None
    for axis, (_, group) in zip(axes, starts, strict=True):
        mesh = _phase_panel(axis, group, top)
        function = group["function_name"].iloc[0]
        L0, L1, M = (float(group[name].iloc[0]) for name in ("L0", "L1", "M"))
        if function == "extremal":
            step = largest_stable_step(L0, L1, M)
            axis.axhline(step, color="black", linewidth=1)
            axis.annotate(
                "h*", (1, step), xycoords=("axes fraction", "data"), textcoords="offset points", xytext=(3, -3)
            )
        axis.set_title(f"{function}, L0 = {L0:.3g}, L1 = {L1:.3g}, M = {M:.3g}")
        axis.set(xlabel="threshold on the gradient norm", ylabel="learning rate")
        names = ["function_name", "L0", "L1", "M", "learning_rate", "clip_norm"]
        for key, cell in group.groupby(names, sort=False):
            T, share = hitting_time(list(cell["time"])), float(cell["diverged"].mean())
            figure.drawn.append({**dict(zip(names, key, strict=True)), "T": T, "diverged": share})
    assert mesh is not None
    colour_bar(figure, mesh, axes, "T, eq. (7) and (8)")
    _phase_legend(figure)
    if len(every) > len(starts):
        figure.suptitle(f"the first {len(starts)} of {len(every)} panels: choose with --where")
    return figure


# Vermilion differs from all of viridis for every kind of colour vision.
_DIVERGED, _CAPPED = "#d55e00", "#d9d9d9"


def _phase_panel(axis: Axes, group: pd.DataFrame, top: float) -> Any:
    from matplotlib.colors import ListedColormap, LogNorm

    def pivot(name: str, how: Any) -> pd.DataFrame:
        return group.pivot_table(index="learning_rate", columns="clip_norm", values=name, aggfunc=how, dropna=False)

    times = pivot("time", lambda values: hitting_time(list(values)))
    diverged = pivot("diverged", "mean")
    x, y = times.columns.to_numpy(float), times.index.to_numpy(float)
    values = times.to_numpy(float)
    lost = np.where(diverged.to_numpy(float) >= 0.5, 1.0, np.where(np.isinf(values), 0.0, np.nan))
    axis.pcolormesh(x, y, lost, cmap=ListedColormap([_CAPPED, _DIVERGED]), vmin=0, vmax=1, shading="nearest")
    finite = np.where(np.isfinite(values), np.maximum(values, 1), np.nan)
    mesh = axis.pcolormesh(x, y, finite, cmap="viridis_r", norm=LogNorm(1, max(top, 10.0)), shading="nearest")
    axis.set(xscale="log", yscale="log")
    axis.grid(False)
    return mesh


def _phase_legend(figure: Picture) -> None:
    from matplotlib.patches import Patch

    figure.legend(
        handles=[Patch(color=_DIVERGED, label="diverged"), Patch(color=_CAPPED, label="capped: never hit")],
        loc="outside lower center",
        ncols=2,
    )


def speedup(run: Run, trials: pd.DataFrame) -> Picture:
    """How much longer gradient descent takes than each rule, on the worse of Theorem 4's instances, against M.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure, with M / (log M + 1) as a guide for the slope.

    Raises:
        ClipsweepError: The run does not have both instances.
    """
    speedups = build_theory(run).speedups
    if not speedups:
        raise ClipsweepError(
            f"{run.path}: needs both instances of Theorem 4, theorem4_steep at several M and theorem4_flat at one gap, "
            "each with sgd and with another rule"
        )
    figure, (axis,) = panels(1, width=4.6, height=3.4)
    for rule, colour in zip(dict.fromkeys(row.rule for row in speedups), itertools.cycle(UNORDERED)):
        points = sorted((row.M, row.ratio) for row in speedups if row.rule == rule)
        figure.drawn += [{"rule": rule, "M": M, "ratio": ratio} for M, ratio in points]
        axis.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, label=rule)
        last_ratio = points[-1][1]
    M = np.geomspace(min(row.M for row in speedups), max(row.M for row in speedups), 50)
    guide = M / (np.log(M) + 1)
    axis.plot(M, guide / guide[-1] * last_ratio, ":", color="grey", label="slope of M / (log M + 1)")
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="M, gradient norm at the start", ylabel="T descent / T rule")
    explain(figure, ["above the line at 1 a rule needs fewer steps than descent"], axis.get_legend_handles_labels()[0])
    return figure


def floor(run: Run, trials: pd.DataFrame) -> Picture:
    """The gradient norm that noise leaves, against threshold / tau; the share of clipped steps below it.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure: one curve per learning rate, mean and range over seeds.

    Raises:
        ClipsweepError: No trial with noise and a threshold continues after its hit.
    """
    ended = _chosen(run, trials)
    noisy = ended[(ended["noise"] > 0) & ended["clip_norm"].notna() & ended["tail_grad_norm"].notna()]
    if noisy.empty:
        raise ClipsweepError(f"{run.path}: needs noise, thresholds, and after_hit: go_on")
    noisy = noisy.assign(relative=noisy["clip_norm"] / noisy["noise"])
    figure, (upper, lower) = panels(2, columns=1, width=4.8, height=2.3, sharex=True, height_ratios=[2, 1])
    colours = in_order(sorted(noisy["learning_rate"].unique()))
    for rate, group in noisy.groupby("learning_rate"):
        by_threshold = group.groupby("relative")
        tail = by_threshold["tail_grad_norm"].agg(["mean", "min", "max"])
        (line,) = upper.plot(tail.index, tail["mean"], "o-", color=colours[rate], markersize=3, label=f"{rate:.3g}")
        clipped = by_threshold["clipped_fraction"].mean()
        figure.drawn += [
            {"learning_rate": rate, "threshold / tau": at, **tail.loc[at].to_dict(), "clipped_fraction": clipped[at]}
            for at in tail.index
        ]
        upper.fill_between(tail.index, tail["min"], tail["max"], color=line.get_color(), alpha=0.15, linewidth=0)
        lower.plot(tail.index, 100 * clipped, "o-", markersize=3, color=line.get_color())
    upper.set(xscale="log", yscale="log", ylabel="mean ‖∇f‖, second half")
    upper.legend(title="learning rate")
    if (seeds := noisy["seed"].nunique()) > 1:
        explain(figure, [f"line: mean; band: lowest to highest of {seeds} seeds"])
    lower.set(xlabel="threshold / tau", ylabel="clipped steps, %", ylim=(-3, 103))
    return figure


def _chosen(run: Run, trials: pd.DataFrame) -> pd.DataFrame:
    """The trials to draw that ended, with T (infinite where it never hit) and whether they diverged."""
    ended = theory_trials(run)
    ended = ended[ended["trial_id"].isin(trials["trial_id"])]
    if ended.empty:
        raise ClipsweepError(f"{run.path}: none of the chosen trials has ended")
    times = ended["hitting_time"].astype(float).fillna(math.inf)
    return ended.assign(time=times, diverged=(ended["hitting_status"] == "diverged").astype(float))
