"""Figures of answers: the stability frontier with theory's advice on it, and fitted lines through the points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.errors import ClipsweepError
from sweeper.labels import plot_label
from sweeper.report.advice import build_advice
from sweeper.report.fits import build_fits, fit_cells
from sweeper.report.plots.axes import log_axes, panels
from sweeper.report.select import positive, trusted_points
from sweeper.report.stability import unstable
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fit", "frontier"]

_MAX_PANELS = 9


def frontier(run: Run, trials: pd.DataFrame) -> Figure:
    """Where training diverged, over threshold and learning rate, with the rules that theory advises.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure; unclipped trials are to the right of all thresholds.

    Raises:
        ClipsweepError: No trial ended, or fewer than two learning rates were swept.
    """
    ended = trials[trials["status"].isin(["done", "diverged"])]
    own = run.trials.loc[ended.index, ["learning_rate", "clip_norm"]].astype(float)
    ended = ended.assign(rate=own["learning_rate"], threshold=own["clip_norm"], lost=unstable(run, ended))
    if ended["rate"].nunique() < 2:
        raise ClipsweepError(f"{run.path}: a frontier needs several learning rates")
    advised = [rule for advice in _advice(run, ended) for rule in advice.rules if rule.clip_norm is not None]
    thresholds = [*ended["threshold"].dropna(), *(rule.clip_norm for rule in advised)]
    right = 4 * max(thresholds, default=1.0)
    figure, (axis,) = panels(1, width=5.2, height=3.8)
    shares = ended.assign(x=ended["threshold"].fillna(right)).groupby(["x", "rate"])["lost"].agg(["mean", "size"])
    x, y = (shares.index.get_level_values(level).to_numpy(float) for level in (0, 1))
    dots = axis.scatter(
        x, y, c=shares["mean"], cmap="RdYlGn_r", vmin=0, vmax=1, s=70, edgecolors="black", linewidths=0.5
    )
    for at in np.unique(x):
        _bracket(axis, at, y[x == at], shares["mean"].to_numpy(float)[x == at])
    for rule, marker in zip(advised, "*PXD", strict=False):
        assert rule.clip_norm is not None
        axis.plot(rule.clip_norm, rule.learning_rate, marker, color="tab:blue", markersize=11, label=rule.theory)
    log_axes(axis)
    axis.set(xlabel="threshold on the gradient norm", ylabel="learning rate")
    if ended["threshold"].isna().any():
        axis.annotate("no clipping", (right, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    if advised:
        figure.legend(loc="outside lower center", ncols=3, title="theory advises, from the fitted L0 and L1")
    figure.colorbar(dots, label="share of seeds that were unstable")
    return figure


def _bracket(axis: Axes, x: float, rates: Any, shares: Any) -> None:
    """A bar between the last stable rate and the first unstable one."""
    order = np.argsort(rates)
    rates, unstable = rates[order], shares[order] >= 0.5
    if unstable.any() and not unstable[0]:
        first = int(np.argmax(unstable))
        axis.plot([x, x], [rates[first - 1], rates[first]], color="black", linewidth=2.5, alpha=0.6)


def _advice(run: Run, ended: pd.DataFrame) -> Any:
    try:
        fits = build_fits(run, resamples=0)
    except ClipsweepError:
        return ()
    chosen = [cell for cell in fits if cell.arm in set(ended["arm"])]
    return build_advice(chosen, steps=int(ended["steps"].max()), tau=None) if chosen else ()


def fit(run: Run, trials: pd.DataFrame) -> Figure:
    """Smoothness against gradient norm with the fitted upper line of each seed, on linear axes.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure, with a panel per cell.

    Raises:
        ClipsweepError: There are no trusted measurements.
    """
    points = positive(trusted_points(run))
    cells = fit_cells(run, trials, resamples=0)[:_MAX_PANELS]
    figure, axes = panels(len(cells), width=3.1, height=2.4)
    for axis, cell in zip(axes, cells, strict=True):
        own = points[points["trial_id"].isin(trials.loc[trials["cell_id"] == cell.cell_id, "trial_id"])]
        axis.scatter(own["grad_norm"], own["smoothness"], s=6, alpha=0.5)
        for index, fitted in enumerate(cell.trajectories.values()):
            labels = ("95 % line", "median line") if index == 0 else (None, None)
            x = np.linspace(*fitted.range, 50)
            style = "-" if not fitted.unidentifiable else ":"
            axis.plot(x, fitted.upper[0] + fitted.upper[1] * x, style, color="tab:red", linewidth=1.2, label=labels[0])
            axis.plot(x, fitted.median[0] + fitted.median[1] * x, "--", color="grey", linewidth=0.9, label=labels[1])
        told = f"L0 = {cell.L0.mean:.3g}, L1 = {cell.L1.mean:.3g}" if not cell.unidentifiable else "L1 not identifiable"
        axis.set_title(f"{plot_label(cell.values)}\n{told}")
        axis.set(xlim=(0, None), ylim=(0, None))
    figure.supxlabel("gradient norm  ||∇f(x)||")
    figure.supylabel("local smoothness")
    axes[0].legend(loc="upper left", handlelength=1.2)
    return figure
