"""L0 and L1 of every cell: one fit per trajectory, summarised over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.fits.line import SmoothnessFit, fit_smoothness
from estimators.fits.statistics import Interval, correlation_interval, mean_interval
from sweeper.cell_labels import CellLabels
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.report.select import labels_of, outside_the_rule, positive, select, trusted_points, unmeasured_words
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CellFit", "build_fits", "fit_cells"]


_RESAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class CellFit:
    """What the seeds of one cell say about smoothness against gradient norm.

    Attributes:
        cell_id: The cell.
        label: What differs from the other cells.
        case: The name that the spec gives its case; None for none.
        texts: The values as tables show them.
        values: Short name of each swept path to its value.
        arm: The arm of the cell.
        context: Values swept outside the update rule.
        trajectories: Seed to fit, for the seeds with trusted measurements.
        spearman: Rank correlation, over the seeds.
        slope: Slope of log smoothness on log gradient norm, over the seeds.
        quantile: Quantile of the upper line, the lowest of these seeds; NaN if there are none.
        L0: L0 of the upper line, over the seeds whose L1 can be identified.
        L1: L1 of the upper line, over the same seeds.
        range: Smallest and largest gradient norm that any seed visited.
        unidentifiable: Why L1 cannot be identified; empty if it can for at least half of the seeds.
    """

    cell_id: str
    label: str
    case: str | None
    texts: dict[str, str]
    values: dict[str, Any]
    arm: str
    context: dict[str, Any]
    trajectories: dict[int, SmoothnessFit]
    spearman: Interval
    slope: Interval
    quantile: float
    L0: Interval
    L1: Interval
    range: tuple[float, float]
    unidentifiable: str

    @property
    def points(self) -> int:
        """Snapshots used."""
        return sum(fit.count for fit in self.trajectories.values())

    @property
    def effective(self) -> float:
        """How many independent points they are worth."""
        return float(np.nansum([fit.effective for fit in self.trajectories.values()]))

    @property
    def decades(self) -> float:
        """Powers of ten between the smallest and the largest gradient norm."""
        low, high = self.range
        return math.log10(high / low) if low > 0 else math.nan


def build_fits(run: Run, *, where: Sequence[str] = (), resamples: int | None = None) -> tuple[CellFit, ...]:
    """Fit every trajectory of a run, and summarise each cell over its seeds.

    Intervals of one trajectory come from its own points; those of a cell are Student's t over its seeds, which are the
    unit of replication.

    Args:
        run: The run.
        where: ``column=value`` conditions, as for a report.
        resamples: Resamples of each trajectory's bootstrap; by default 400 for cells of one seed, and none for others,
            whose spread over the seeds says more.

    Returns:
        The cells in which something was measured, in the order of the plan.

    Raises:
        ClipsweepError: There are no trusted measurements, or a condition is wrong.
    """
    return fit_cells(run, select(run, where), resamples=resamples)


def fit_cells(run: Run, trials: pd.DataFrame, *, resamples: int | None = None) -> tuple[CellFit, ...]:
    """Fit every trajectory of some trials, and summarise each cell over its seeds.

    Args:
        run: The run.
        trials: The trials, as :func:`~sweeper.report.select.select` returns them.
        resamples: As for :func:`build_fits`.

    Returns:
        The cells in which something was measured, in the order of the plan.

    Raises:
        ClipsweepError: There are no trusted measurements.
    """
    points = positive(trusted_points(run))
    names = short_names(run.swept)
    context = list(outside_the_rule(names).values())
    labels = labels_of(run, trials)
    cells = []
    for _, group in trials.groupby("cell_id", sort=False):
        fits = {}
        drawn = resamples if resamples is not None else _RESAMPLES if len(group) == 1 else 0
        for seed, trial in zip(group["seed"], group["trial_id"], strict=True):
            own = points[points["trial_id"] == trial].sort_values("step")
            if len(own):
                fits[int(seed)] = fit_smoothness(own["grad_norm"], own["smoothness"], resamples=drawn, seed=int(seed))
        if fits:
            cells.append(_cell(group, names, context, fits, labels))
    if not cells:
        raise ClipsweepError(
            f"{run.path}: no smoothness above its noise floor was measured, so there is nothing to fit"
            f"{unmeasured_words(run, trials)}"
        )
    return tuple(cells)


def _cell(
    group: pd.DataFrame,
    names: Mapping[str, str],
    context: list[str],
    fits: dict[int, SmoothnessFit],
    labels: CellLabels,
) -> CellFit:
    first = group.iloc[0]
    told = [fit for fit in fits.values() if not fit.unidentifiable]
    why = ""
    if 2 * len(told) < len(fits):
        why = next(fit.unidentifiable for fit in fits.values() if fit.unidentifiable)
    values = {name: plain_value(first[path]) for path, name in names.items()}
    return CellFit(
        cell_id=str(first["cell_id"]),
        label=labels[str(first["cell_id"])],
        case=plain_value(first["case"]),
        texts=labels.texts(values),
        values=values,
        arm=str(first["arm"]),
        context={name: values[name] for name in context},
        trajectories=fits,
        spearman=correlation_interval([fit.spearman for fit in fits.values()]),
        slope=mean_interval([fit.slope for fit in fits.values()]),
        quantile=min((fit.quantile for fit in told), default=math.nan),
        L0=mean_interval([fit.upper[0] for fit in told]),
        L1=mean_interval([fit.upper[1] for fit in told]),
        range=(min(fit.range[0] for fit in fits.values()), max(fit.range[1] for fit in fits.values())),
        unidentifiable=why,
    )
