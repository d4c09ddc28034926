"""Whether steps are stable along a trajectory: the rate times the top eigenvalue, over what the optimiser stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sweeper.errors import ClipsweepError
from sweeper.labels import counted
from sweeper.report.plots.axes import MAX_PANELS, UNORDERED, Picture, explain, log_labels
from sweeper.report.plots.cells import drawn_cells, tell_apart
from sweeper.report.plots.steps import draw_curve, latest_rows, step_panels
from sweeper.report.select import how_to_measure
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["stability"]

_TABLE = "preconditioned_sharpness"

_RATIO = "stability_ratio"


def stability(run: Run, trials: pd.DataFrame) -> Picture:
    """eta lambda_max(P^{-1} H) over the optimiser's threshold, against the step: unstable above 1.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure, with a panel for each cell in which it was measured.

    Raises:
        ClipsweepError: Preconditioned sharpness was not measured on the chosen trials.
    """
    rows = latest_rows(run, _TABLE) if _TABLE in run.estimators else None
    points = None if rows is None else _finite(rows[rows["trial_id"].isin(trials["trial_id"])])
    if rows is None or points is None or points.empty:
        raise ClipsweepError(
            f"{run.path}: no ratio of stability was measured on these trials: {how_to_measure(run, _TABLE)}"
        )
    measured = [cell for cell in drawn_cells(run, trials) if rows["trial_id"].isin(cell.trials["trial_id"]).any()]
    cells = [cell for cell in measured if points["trial_id"].isin(cell.trials["trial_id"]).any()]
    figure, axes = step_panels(cells, tell_apart([cell.swept for cell in cells[:MAX_PANELS]]))
    for axis, cell in zip(axes, cells, strict=False):
        own = points[points["trial_id"].isin(cell.trials["trial_id"]) & (points[_RATIO] > 0)]
        figure.drawn += [{**cell.columns, **row} for row in draw_curve(axis, own, _RATIO, UNORDERED[0])]
        axis.axhline(1, color="black", linewidth=0.8, linestyle="--")
    for axis in axes:
        axis.set_yscale("log")
        log_labels(axis.yaxis, axis.get_ylim())
    figure.supylabel("η λ_max(P⁻¹H) / threshold")
    notes = [
        "line: median over the seeds, with dots for each where there are several. Above the dashed line a step of the "
        "optimiser, unclipped, diverges along the top eigenvector, as far as a quadratic model tells"
    ]
    if left := len(measured) - len(cells):
        notes.append(
            f"{counted(left, 'cell')} without a threshold not shown: steps that are no multiples of a gradient"
        )
    if hidden := len(points) - int((points[_RATIO] > 0).sum()):
        notes.append(f"{counted(hidden, 'snapshot')} without a positive eigenvalue not shown")
    explain(figure, notes)
    return figure


def _finite(rows: pd.DataFrame) -> pd.DataFrame:
    ratios = rows[_RATIO].astype(float)
    return rows.loc[np.isfinite(ratios), ["trial_id", "step", _RATIO]].assign(**{_RATIO: ratios})
