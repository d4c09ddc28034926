"""Smoothness against gradient norm (Figures 2 and 3 of the paper) and losses against the step (Figure 4)."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from estimators.fits.statistics import correlation_interval, log_log_correlation
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, plot_label, short_names
from sweeper.report.plots.axes import log_axes, panels
from sweeper.report.select import positive, trusted_points, unmeasured_words
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAX_PANELS = 16
"""The most panels in one figure; more would be too small to read."""


def _cells(run: Run, trials: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The trials of each cell with the cell's label, in the order of the plan."""
    names = list(short_names(run.swept).values())
    cells = []
    for _, group in trials.groupby("cell_id", sort=False):
        values = {name: plain_value(group.iloc[0][name]) for name in names}
        cells.append((plot_label(values), group))
    return cells


def smoothness(run: Run, trials: pd.DataFrame) -> Figure:
    """Local smoothness against gradient norm on log axes, one panel per cell, coloured by step.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure; panels share axes, so that they can be compared.

    Raises:
        ClipsweepError: There are no trusted measurements.
    """
    rows = positive(trusted_points(run))
    cells = [(label, group, rows[rows["trial_id"].isin(group["trial_id"])]) for label, group in _cells(run, trials)]
    cells = [(label, group, points) for label, group, points in cells if len(points)]
    if not cells:
        raise ClipsweepError(
            f"{run.path}: no smoothness above its noise floor was measured{unmeasured_words(run, trials)}"
        )
    left_out = max(0, len(cells) - MAX_PANELS)
    cells = cells[:MAX_PANELS]
    columns = _columns(run, trials, len(cells))
    figure, axes = panels(len(cells), columns=columns, width=3.1, height=2.1, sharex=True, sharey=True)
    last = max(int(points["step"].max()) for _, _, points in cells)
    dots = None
    for axis, (label, group, points) in zip(axes, cells, strict=True):
        shuffled = points.sample(frac=1, random_state=0)  # so that no step hides the others
        dots = axis.scatter(
            shuffled["grad_norm"], shuffled["smoothness"], c=shuffled["step"], vmin=0, vmax=last, s=7, cmap="viridis"
        )
        log_axes(axis)
        by_seed = [
            log_log_correlation(of_seed["grad_norm"], of_seed["smoothness"])
            for _, of_seed in points.groupby("trial_id")
        ]
        mean = correlation_interval(by_seed).mean
        correlation = f"r = {mean:.2f}" if math.isfinite(mean) else "r undefined"
        diverged = int((group["status"] == "diverged").sum())
        ending = f", {diverged}/{len(group)} diverged" if diverged else ""
        axis.set_title(f"{_wrapped(label)}\n{correlation}{ending}")
    assert dots is not None
    figure.supxlabel("gradient norm  ||∇f(x)||")
    figure.supylabel("local smoothness, eq. (20)")
    figure.colorbar(dots, ax=axes, label="step", shrink=0.8)
    if left_out:
        figure.suptitle(f"the first {MAX_PANELS} cells; {left_out} more not shown: choose with --where")
    return figure


def _wrapped(label: str) -> str:
    """A label of several pairs, two per line, so that titles of neighbours do not overlap."""
    pairs = label.split(" ")
    return "\n".join(" ".join(pairs[begin : begin + 2]) for begin in range(0, len(pairs), 2))


def _columns(run: Run, trials: pd.DataFrame, num_cells: int) -> int:
    """As many columns as the last axis of the grid has values, if that fills the rows; otherwise roughly a square."""
    names = list(short_names(run.swept).values())
    values = trials[names[-1]].nunique(dropna=False) if names else 1
    return values if 1 < values <= 4 and num_cells % values == 0 else math.ceil(math.sqrt(num_cells))


def loss(run: Run, trials: pd.DataFrame) -> Figure:
    """Training and validation loss against the step: mean over seeds, band from the lowest to the highest seed.

    Arms differ by line style; everything else that is swept, by colour.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure; a cross marks where a seed diverged.
    """
    metrics = run.metrics
    columns = [name for name in _AXES if name in metrics]
    figure, axes = panels(len(columns), columns=len(columns), width=4.2, height=3.2)
    cells = _cells(run, trials)
    styles = dict(zip(dict.fromkeys(trials["arm"]), itertools.cycle(["-", "--", ":", "-."])))
    labels_without_arm = [_without_arm(label) for label, _ in cells]
    colours = dict(zip(dict.fromkeys(labels_without_arm), itertools.cycle(mpl.colormaps["tab10"].colors)))  # type: ignore[attr-defined]
    for axis, column in zip(axes, columns, strict=True):
        top = _readable_top(metrics, column)
        for (label, group), rest in zip(cells, labels_without_arm, strict=True):
            look = {"color": colours[rest], "linestyle": styles[group.iloc[0]["arm"]]}
            rows = metrics[metrics["trial_id"].isin(group["trial_id"])]
            _curve(axis, rows, column, label, look, smooth=column == "train_loss")
            if column == "train_loss":
                for _, trial in group[group["status"] == "diverged"].iterrows():
                    height = min(trial["last_finite_loss"], top) if np.isfinite(trial["last_finite_loss"]) else top
                    axis.plot(trial["diverged_step"], height, "x", color=colours[rest], markersize=6, clip_on=False)
        axis.set(xlabel="step", ylabel=_AXES[column])
        if axis.get_ylim()[1] > top:
            lowest = metrics[column].min()
            axis.set_ylim(lowest - 0.05 * (top - lowest), top)
    handles, labels = axes[0].get_legend_handles_labels()
    diverged = bool((trials["status"] == "diverged").any())
    figure.legend(handles, labels, loc="outside right upper", title="x: diverged" if diverged else None)
    return figure


_AXES = {"train_loss": "training loss", "valid_loss": "validation loss"}


def _without_arm(label: str) -> str:
    """A cell's label without what distinguishes its arm."""
    return " ".join(pair for pair in label.split() if not pair.startswith(("clip_norm=", "normalize=")))


def _readable_top(metrics: pd.DataFrame, column: str) -> float:
    """Where to cut the axis, so that one exploding run does not flatten all others: half above the first losses."""
    values = metrics[column][np.isfinite(metrics[column])]
    first = metrics.loc[metrics["step"] == 0, "train_loss"]
    start = first[np.isfinite(first)].median()
    highest = values.max() if len(values) else 1.0
    return float(min(highest, 1.5 * start) if np.isfinite(start) and start > 0 else highest)


def _curve(axis: Axes, rows: pd.DataFrame, column: str, label: str, look: dict[str, Any], *, smooth: bool) -> None:
    """Mean over seeds and the band between them; one batch's loss is noisy, so training loss is smoothed."""
    by_seed = rows.pivot(index="step", columns="trial_id", values=column).dropna(how="all")
    by_seed = by_seed.where(np.isfinite(by_seed))
    if smooth:
        by_seed = by_seed.rolling(max(1, len(by_seed) // 40), min_periods=1).mean()
    axis.plot(by_seed.index, by_seed.mean(axis=1), linewidth=1.2, label=label, **look)
    low, high = by_seed.min(axis=1), by_seed.max(axis=1)
    axis.fill_between(by_seed.index, low, high, color=look["color"], alpha=0.15, linewidth=0)
