"""The tail of the gradient's noise: Hill's plot, which says whether any tau of Assumption 5 can bound it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from estimators.fits.tails import MIN_LARGEST, hill_curve, num_largest
from sweeper.errors import ClipsweepError
from sweeper.report.noise import deviations_of
from sweeper.report.plots.axes import MAX_PANELS, Picture, explain, panels
from sweeper.report.plots.cells import drawn_cells, tell_apart, wrapped
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["noise"]

_MOST = 20.0
"""Indices above this are cut off: such a tail is no power law that could be told from a normal one."""


def noise(run: Run, trials: pd.DataFrame) -> Picture:
    """Hill's estimate of the noise's tail index against the number of largest deviations, one line per seed.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure, with a panel per cell.

    Raises:
        ClipsweepError: ``gradient_noise`` was not measured, or too rarely.
    """
    of_trial = deviations_of(run, trials)
    every = drawn_cells(run, trials)
    labels = tell_apart([cell.swept for cell in every])
    cells = [
        (label, cell, found)
        for label, cell in zip(labels, every, strict=True)
        if (found := {seed: of_trial[trial] for seed, trial in _seeds(cell.trials) if _is_enough(of_trial.get(trial))})
    ]
    if not cells:
        raise ClipsweepError(
            f"{run.path}: Hill's plot takes more than {MIN_LARGEST} deviations of batch gradients in a trial: "
            "num_batches of gradient_noise, times the snapshots"
        )
    shown = cells[:MAX_PANELS]
    figure, axes = panels(len(shown), width=3.1, height=2.3, sharey=True)
    for axis, (label, cell, found) in zip(axes, shown, strict=True):
        for seed, deviations in found.items():
            k, alpha = hill_curve(deviations)
            at = k >= min(MIN_LARGEST, len(k))
            factor = np.exp(1.96 / np.sqrt(k[at]))
            (line,) = axis.plot(k[at], alpha[at], linewidth=1.0)
            axis.fill_between(k[at], alpha[at] / factor, alpha[at] * factor, color=line.get_color(), alpha=0.12)
            tail = num_largest(len(deviations))
            axis.plot(tail, alpha[tail - 1], "o", color=line.get_color(), markersize=4)
            figure.drawn += [
                {
                    **cell.columns,
                    "seed": seed,
                    "k": int(at_k),
                    "tail_index": float(value) if math.isfinite(value) else None,
                }
                for at_k, value in zip(k, alpha, strict=True)
            ]
        axis.axhline(2, color="black", linewidth=0.8, linestyle="--")
        axis.set(xscale="log", ylim=(0, _MOST))
        axis.set_title(wrapped(label, figure.characters))
    for axis in axes[-figure.columns :]:
        axis.set_xlabel("largest deviations used, k")
    figure.supylabel("tail index of ‖g_i − mean‖ (Hill)")
    if len(cells) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(cells)} cells: choose with --where")
    explain(
        figure,
        [
            "one line per seed, bands: its 95 % interval, dots: a tenth of the deviations; at or below the dashed line "
            "the noise has no variance, and no tau bounds it"
        ],
    )
    return figure


def _seeds(trials: pd.DataFrame) -> list[tuple[int, str]]:
    return [(int(seed), str(trial)) for seed, trial in zip(trials["seed"], trials["trial_id"], strict=True)]


def _is_enough(deviations: np.ndarray | None) -> bool:
    return deviations is not None and num_largest(len(deviations)) > 0
