"""The noise of mini-batch gradients in a run: the tau of Assumption 5, and how heavy its tail is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.errors import ClipsweepError
from sweeper.report.select import own_rows
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["deviations_of", "noise_of_cells"]

_NOISE = "gradient_noise"


def noise_of_cells(run: Run, trials: pd.DataFrame) -> dict[str, float]:
    """The noise of the mini-batch gradient: the largest tau seen, since Assumption 5 bounds all of it.

    Args:
        run: The run.
        trials: The trials, as :func:`~sweeper.report.select.select` returns them.

    Returns:
        Cell to the largest measured tau under the run's own settings; none where ``gradient_noise`` was not measured.
    """
    if _NOISE not in run.estimators:
        return {}
    rows = own_rows(run, _NOISE).dropna(subset=["tau"]).merge(trials[["trial_id", "cell_id"]], on="trial_id")
    return {str(cell): float(tau) for cell, tau in rows.groupby("cell_id", sort=False)["tau"].max().items()}


def deviations_of(run: Run, trials: pd.DataFrame) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """How far batch gradients lie from their mean, in units of their snapshot's median, all snapshots of a trial.

    Args:
        run: The run.
        trials: As for :func:`noise_of_cells`.

    Returns:
        Trial to ||g_i - mean|| over the median of its snapshot.

    Raises:
        ClipsweepError: They were not measured.
    """
    rows = own_rows(run, _NOISE) if _NOISE in run.estimators else None
    if rows is None or "deviations" not in rows or rows["deviations"].isna().all():
        raise ClipsweepError(f"{run.path}: no deviations of batch gradients were measured: use the estimator {_NOISE}")
    rows = rows[rows["trial_id"].isin(trials["trial_id"])].dropna(subset=["deviations"])
    found: dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]] = {}
    for trial, values in zip(rows["trial_id"], rows["deviations"], strict=True):
        deviations = np.asarray(values, dtype=np.float64)
        unit = float(np.median(deviations)) if deviations.size else 0.0
        if unit > 0:
            found.setdefault(str(trial), []).append(deviations / unit)
    return {trial: np.concatenate(parts) for trial, parts in found.items()}
