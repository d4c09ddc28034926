"""Curvature along a trajectory beside the edge of stability: what a step of this length can stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D

from sweeper.errors import ClipsweepError
from sweeper.report.plots.axes import UNORDERED, Picture, explain, log_labels
from sweeper.report.plots.cells import DrawnCell, drawn_cells, tell_apart
from sweeper.report.plots.steps import draw_curve, latest_rows, step_panels
from sweeper.report.select import how_to_measure, trusted_points
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["catapults", "sharpness"]

_EDGE = "stability_edge"

_QUANTITIES = {
    "smoothness": ("directional_smoothness", "local smoothness, eq. (20)"),
    "critical_curvature": ("critical_sharpness", "critical curvature"),
    "spectral_norm": ("hessian_spectral_norm", "norm of the Hessian"),
    _EDGE: ("critical_sharpness", "edge of stability"),
}
"""Column to its table and to what it is called."""

_RISE = 1.1
"""By which factor a loss exceeds all earlier ones where it is a catapult's."""


def catapults(steps: Sequence[int], losses: Sequence[float]) -> list[int]:
    """Where a loss rises above all it has been, and falls below all it has been afterwards.

    Lewkowycz et al. (2020), "The large learning rate phase of deep learning: the catapult mechanism", describe it. The
    rule here: a loss is at least a tenth above the largest earlier one, and some later loss is below the smallest
    earlier one. A rise over several points is one catapult, at its peak.

    Args:
        steps: Steps, ascending.
        losses: f at each, not negative; those that are not finite are left out.

    Returns:
        The steps of the peaks.

    Example:
        >>> catapults([0, 1, 2, 3, 4], [2.0, 2.5, 6.0, 1.0, 0.5])
        [2]
        >>> catapults([0, 1, 2, 3], [2.0, 1.0, 1.8, 0.5]), catapults([0, 1, 2], [2.0, 6.0, 3.0])
        ([], [])
    """
    points = [(loss, step) for step, loss in zip(steps, losses, strict=True) if math.isfinite(loss)]
    peaks: list[int] = []
    at = 1
    while at < len(points):
        earlier = [loss for loss, _ in points[:at]]
        if points[at][0] <= _RISE * max(earlier):
            at += 1
            continue
        fallen = next((k for k in range(at, len(points)) if points[k][0] < min(earlier)), None)
        if fallen is None:
            break
        peaks.append(max(points[at:fallen])[1])
        at = fallen + 1
    return peaks


def sharpness(run: Run, trials: pd.DataFrame) -> Picture:
    """Smoothness, critical curvature and the Hessian's norm against the step, with the edge of stability.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure, with a panel for each cell, as far as each of these was measured; a triangle marks the peak of a
        catapult.

    Raises:
        ClipsweepError: Neither critical sharpness nor the Hessian's norm was measured on the chosen trials.
    """
    chosen = {column: _points(run, trials, column) for column in _QUANTITIES}
    if chosen["critical_curvature"].empty and chosen["spectral_norm"].empty:
        raise ClipsweepError(
            f"{run.path}: neither critical_sharpness nor hessian_spectral_norm was measured on the chosen trials: "
            f"{how_to_measure(run, 'critical_sharpness')}"
        )
    tables = dict.fromkeys(table for table, _ in _QUANTITIES.values() if table in run.estimators)
    seen = [latest_rows(run, table).dropna(subset="loss") for table in tables]
    every = drawn_cells(run, trials)
    labels = dict(zip([cell.cell_id for cell in every], tell_apart([cell.swept for cell in every]), strict=True))
    measured = {trial for points in chosen.values() for trial in points["trial_id"]}
    cells = [cell for cell in every if not measured.isdisjoint(cell.trials["trial_id"])]
    figure, axes = step_panels(cells, [labels[cell.cell_id] for cell in cells])
    used = []
    num_peaks = 0
    for axis, cell in zip(axes, cells, strict=False):
        for (column, (_, words)), colour in zip(_QUANTITIES.items(), _COLOURS, strict=True):
            points = chosen[column]
            own = points[points["trial_id"].isin(cell.trials["trial_id"])]
            samples = draw_curve(axis, own, column, colour, is_edge=column == _EDGE)
            figure.drawn += [{**cell.columns, "quantity": column, **sample} for sample in samples]
            used += [(words, colour, column)] if samples and (words, colour, column) not in used else []
        peaks = _peaks(seen, cell)
        num_peaks += len(peaks)
        figure.drawn += [{**cell.columns, "quantity": "catapult", "step": step, "trial_id": of} for of, step in peaks]
        for _, step in peaks:
            # At the lower end of the panel, whatever its scale.
            axis.plot(step, 0.05, "^", color="black", ms=4, transform=axis.get_xaxis_transform())
        axis.set_yscale("log")
    for axis in axes:
        log_labels(axis.yaxis, axis.get_ylim())
    figure.supylabel("loss / weight²")
    handles = [
        Line2D([], [], color=colour, label=words, linestyle="--" if column == _EDGE else "-")
        for words, colour, column in used
    ]
    notes = [
        "line: median over the seeds; dots: each seed. Where the critical curvature lies above the edge of stability, "
        "the step raised f"
    ]
    if num_peaks:
        notes.append("triangle: a catapult, f a tenth above all before, and later below")
    explain(figure, notes, handles)
    return figure


_COLOURS = (UNORDERED[0], UNORDERED[1], UNORDERED[2], UNORDERED[6])


def _points(run: Run, trials: pd.DataFrame, column: str) -> pd.DataFrame:
    """Trial, step and a positive value of each snapshot: as the run measured it, else as it was measured last."""
    table, _ = _QUANTITIES[column]
    if table not in run.estimators:
        return trials[["trial_id"]].iloc[:0].assign(step=[], **{column: []})
    if table == "directional_smoothness":
        rows = trusted_points(run)
    else:
        rows = latest_rows(run, table)
    rows = rows[rows["trial_id"].isin(trials["trial_id"])]
    values = rows[column].astype(float)
    return rows.loc[(values > 0) & np.isfinite(values), ["trial_id", "step", column]]


def _peaks(seen: Sequence[pd.DataFrame], cell: DrawnCell) -> list[tuple[str, int]]:
    """Trial and step of each catapult in the measured loss, of whichever estimator saw most of it."""
    found: list[tuple[str, int]] = []
    for trial in cell.trials["trial_id"]:
        most = max((rows[rows["trial_id"] == trial] for rows in seen), key=len)
        found += [(str(trial), step) for step in catapults(most["step"].tolist(), most["loss"].tolist())]
    return found
