"""Smoothness against gradient norm (Figures 2 and 3 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from estimators.fits.intervals import correlation_interval
from sweeper.errors import ClipsweepError
from sweeper.report.correlations import BESIDE, Correlations, beside_text, trial_correlations
from sweeper.report.plots.axes import MAX_PANELS, Picture, colour_bar, explain, log_axes, panels
from sweeper.report.plots.cells import drawn_cells, records, tell_apart, wrapped
from sweeper.report.select import positive, trusted_points, unmeasured_words
from sweeper.tables.run import Run
from sweeper.value_texts import keys_of

if TYPE_CHECKING:
    import pandas as pd


def smoothness(run: Run, trials: pd.DataFrame) -> Picture:
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
    of_trial = trial_correlations(run, rows)
    every = drawn_cells(run, trials)
    labels = tell_apart([cell.swept for cell in every])
    cells = [
        (label, cell, rows[rows["trial_id"].isin(cell.trials["trial_id"])])
        for label, cell in zip(labels, every, strict=True)
    ]
    cells = [(label, cell, points) for label, cell, points in cells if len(points)]
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
    for axis, (label, cell, points) in zip(axes, cells, strict=True):
        group = cell.trials
        kept = records(points[["trial_id", "step", "grad_norm", "smoothness"]])
        figure.drawn += [{**cell.columns, **row} for row in kept]
        shuffled = points.sample(frac=1, random_state=0)  # so that no step hides the others
        dots = axis.scatter(
            shuffled["grad_norm"], shuffled["smoothness"], c=shuffled["step"], vmin=0, vmax=last, s=7, cmap="viridis"
        )
        log_axes(axis)
        correlation = _correlation([of_trial[str(trial)] for trial in points["trial_id"].unique()])
        diverged = int((group["status"] == "diverged").sum())
        ending = f", {diverged}/{len(group)} diverged" if diverged else ""
        axis.set_title(f"{wrapped(label, figure.characters)}\n{correlation}{ending}")
    assert dots is not None
    # Not the figure's own label: it would be in the place of the legend below all panels.
    for axis in axes[-figure.columns :]:
        axis.set_xlabel("gradient norm  ||∇f(x)||")
    figure.supylabel("local smoothness, eq. (20)")
    colour_bar(figure, dots, axes, "step", shrink=0.8)
    explain(
        figure,
        [
            "each dot: one snapshot of one seed; r: Pearson r of logs, of smoothness with gradient norm, mean over the "
            f"seeds; in brackets rank correlations with the gradient norm: {BESIDE}"
        ],
    )
    if left_out:
        figure.suptitle(f"the first {MAX_PANELS} cells; {left_out} more not shown: choose with --where")
    return figure


def _correlation(trials: Sequence[Correlations]) -> str:
    """The correlation of a cell's points, with what it is to be read beside."""
    pearson, bound, partial, control = (
        correlation_interval([getattr(one, kind) for one in trials]).mean
        for kind in ("pearson", "bound", "partial", "control")
    )
    if not math.isfinite(pearson):
        return "r undefined"
    return f"r = {pearson:.2f} ({beside_text(bound, partial, control)})"


def _columns(run: Run, trials: pd.DataFrame, num_cells: int) -> int:
    """As many columns as the last axis of the grid has values, or a multiple of many rows, if that fills the rows."""
    values = len(set(keys_of(trials[run.swept[-1]]))) if run.swept else 1
    if not (1 < values <= 4 and num_cells % values == 0):
        return min(6, math.ceil(math.sqrt(num_cells)))
    return values if num_cells <= 4 * values else values * max(1, 6 // values)
