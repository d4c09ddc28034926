"""Fits of other smoothness than that of the whole model along its step: of tensors, directions, other probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.errors import ClipsweepError
from sweeper.report.fits import CellFit, ProbeSpread, fitted
from sweeper.report.select import above_noise, how_to_measure, own_rows, positive, trusted_points, unmeasured_words
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit_direction", "fit_layers", "with_probes"]

_LAYERS = "layer_smoothness"

_DIRECTIONS = "other_directions"

_ALONG = ("gradient", "random")

_SNAPSHOT = ["trial_id", "step", "measurement_id"]


def fit_layers(run: Run, trials: pd.DataFrame) -> tuple[CellFit, ...]:
    """The same of each parameter tensor: its own part of smoothness and gradient, as ``layer_smoothness`` has them.

    Crawshaw et al. (2022, "Robustness to unbounded smoothness of generalized signSGD") bound the smoothness of each
    coordinate by its own part of the gradient; a tensor is a group of them.

    Args:
        run: The run.
        trials: As for :func:`fit_cells`.

    Returns:
        The fits, cell by cell in the order of the plan, tensors in that of the model.

    Raises:
        ClipsweepError: Nothing was measured layer by layer.
    """
    points = _points_by_layer(run)
    fits = {layer: fitted(run, trials, positive(own), controlled=False) for layer, own in points.items()}
    by_cell: dict[str, list[CellFit]] = {str(cell): [] for cell in trials["cell_id"].unique()}
    for layer, cells in fits.items():
        for cell in cells:
            by_cell[cell.cell_id].append(replace(cell, layer=layer))
    found = tuple(cell for cells in by_cell.values() for cell in cells)
    if not found:
        raise ClipsweepError(f"{run.path}: no smoothness of a layer stands above its noise floor: nothing to fit")
    return found


def _points_by_layer(run: Run) -> dict[str, pd.DataFrame]:
    """Tensor to its points, with the columns of those of the whole model."""
    _require(run, _LAYERS, "layer by layer")
    lists = ["layers", "smoothness_by_layer", "snr_by_layer", "grad_norm_by_layer"]
    rows = own_rows(run, _LAYERS).dropna(subset=["layers"])
    single = rows[[*_SNAPSHOT, *lists]].explode(lists)
    single = single.rename(columns={"smoothness_by_layer": "smoothness", "grad_norm_by_layer": "grad_norm"})
    numbers = {name: single[name].astype(float) for name in ("smoothness", "snr_by_layer", "grad_norm")}
    single = single.assign(**numbers, mechanical_bound=math.nan)
    single = single[above_noise(single, "snr_by_layer")].drop_duplicates(["trial_id", "step", "layers"], keep="last")
    return {str(layer): own for layer, own in single.groupby("layers", sort=False)}


def fit_direction(run: Run, trials: pd.DataFrame, along: str) -> tuple[CellFit, ...]:
    """The same along the gradient or along random directions, as ``other_directions`` has measured it.

    Args:
        run: The run.
        trials: As for :func:`~sweeper.report.fits.fit_cells`.
        along: ``gradient`` or ``random``.

    Returns:
        The fits, in the order of the plan.

    Raises:
        ClipsweepError: There is no such direction, or nothing was measured in it.
    """
    if along not in _ALONG:
        raise ClipsweepError(f"--along {along!r}: unknown; known: step, {', '.join(_ALONG)}")
    _require(run, _DIRECTIONS, "in other directions")
    rows = own_rows(run, _DIRECTIONS)
    named = {f"{along}_{name}": name for name in ("smoothness", "snr", "bound")}
    points = rows[[*_SNAPSHOT, "grad_norm", *named]].rename(columns=named | {f"{along}_bound": "mechanical_bound"})
    points = points[above_noise(points)].drop_duplicates(["trial_id", "step"], keep="last")
    found = fitted(run, trials, positive(points), controlled=False)
    if not found:
        raise ClipsweepError(
            f"{run.path}: no smoothness in the direction {along!r} stands above its noise floor: nothing to fit"
            f"{unmeasured_words(run, trials)}"
        )
    return tuple(replace(cell, along=along) for cell in found)


def with_probes(run: Run, trials: pd.DataFrame, cells: Sequence[CellFit]) -> tuple[CellFit, ...]:
    """Fit what was measured on each of several probes, and say by how much the cells would change with another one.

    Args:
        run: The run.
        trials: As for :func:`~sweeper.report.fits.fit_cells`.
        cells: What that returns for them.

    Returns:
        The cells, with the spread over the probes where there are at least two.
    """
    points = positive(trusted_points(run))
    points = points[points["trial_id"].isin(trials["trial_id"])]
    values = {name: several_values(points, name) for name in ("grad_norm", "smoothness")}
    count = values["smoothness"].shape[1]
    if count < 2:
        return tuple(cells)
    known = np.isfinite(values["smoothness"]).all(axis=1)
    table = values["smoothness"][known]
    relative = points.loc[known, ["trial_id"]].assign(spread=table.std(axis=1, ddof=1) / table.mean(axis=1))
    on_probe: list[dict[str, CellFit]] = []
    for probe in range(count):
        moved = points.assign(**{name: found[:, probe] for name, found in values.items()}, mechanical_bound=math.nan)
        usable = positive(moved.dropna(subset=["grad_norm", "smoothness"]))
        on_probe.append({cell.cell_id: cell for cell in fitted(run, trials, usable, controlled=False)})
    found = []
    for cell in cells:
        same = [fits[cell.cell_id] for fits in on_probe if cell.cell_id in fits]
        own = relative[relative["trial_id"].isin(trials.loc[trials["cell_id"] == cell.cell_id, "trial_id"])]
        if len(same) < count or own.empty:
            found.append(cell)
            continue
        named = {name: _spread([getattr(fit, name).mean for fit in same]) for name in ("spearman", "L0", "L1")}
        found.append(replace(cell, probes=ProbeSpread(count=count, smoothness=own["spread"].median(), **named)))
    return tuple(found)


def several_values(points: pd.DataFrame, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a column is on every probe.

    Args:
        points: Rows of ``directional_smoothness``, each with a list of the same length or without one.
        name: The column.

    Returns:
        Shape (rows, probes), NaN where there is no value; no columns where no row has a list.
    """
    lists = points.get(f"{name}_by_probe")
    # Without a list it is None, or in frames of several runs NaN.
    rows = [] if lists is None else [[] if isinstance(row, float | None) else list(row) for row in lists]
    count = max(map(len, rows), default=0)
    table = np.full((len(points), count), math.nan)
    for at, row in enumerate(rows):
        if count and len(row) == count:
            table[at] = [math.nan if value is None else value for value in row]
    return table


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; NaN where a value is."""
    return float(np.std(values, ddof=1))


def _require(run: Run, estimator: str, how: str) -> None:
    """Refuse a run in which an estimator has measured nothing."""
    if estimator not in run.estimators:
        raise ClipsweepError(f"{run.path}: no smoothness was measured {how}: {how_to_measure(run, estimator)}")
