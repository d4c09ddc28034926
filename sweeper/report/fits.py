"""L0 and L1 of every cell: one fit per trajectory, summarised over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.fits.intervals import Interval, correlation_interval, geometric_interval, mean_interval
from estimators.fits.laws import held_out_losses, laws_left
from estimators.fits.line import SmoothnessFit, fit_smoothness
from estimators.fits.sections import Bounds
from sweeper.cell_labels import CellLabels
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.report.correlations import Correlations, trial_correlations
from sweeper.report.select import (
    labels_of,
    outside_the_rule,
    positive,
    select,
    trusted_points,
    unmeasured_words,
)
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CellFit", "ProbeSpread", "build_fits", "fit_cells", "fit_hessians", "fitted", "with_laws"]


_HESSIAN = "hessian_spectral_norm"

_SNAPSHOT = ["trial_id", "step", "measurement_id"]


@dataclass(frozen=True, kw_only=True)
class ProbeSpread:
    """By how much what a cell says would change with another probe of the same size: standard deviations over several.

    Attributes:
        count: How many probes there are.
        smoothness: Of the smoothness of a snapshot, as a share of its mean; median over the snapshots.
        spearman: Of the cell's rank correlation.
        L0: Of the cell's L0; NaN where it cannot be identified on each of the probes.
        L1: The same of L1.
    """

    count: int
    smoothness: float
    spearman: float
    L0: float
    L1: float


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
        bound: The rank correlation of the mechanical bound, over the seeds.
        partial: What of the rank correlation is left, given the bound.
        control: The rank correlation of the curvature along the update; without values where that was not measured.
        slope: Slope of log smoothness on log gradient norm, over the seeds.
        quantile: Quantile of the upper line, the lowest of these seeds; NaN if there are none.
        L0: L0 of the upper line, geometric mean over the seeds whose L1 can be identified; a lower end of 0 is the
            boundary of what it can be.
        L1: L1 of the upper line, over the same seeds.
        range: Smallest and largest gradient norm that any seed visited.
        unidentifiable: Why L1 cannot be identified; empty if it can for at least half of the seeds.
        laws: The laws that fit the points no worse than another, of :data:`~estimators.fits.laws.LAWS`; empty where
            that was not asked for, or there are too few points.
        exponent: The exponent of the power law, median over the seeds; NaN where there are no laws.
        layer: The parameter tensor whose smoothness and gradient these are; None for those of the whole model.
        along: The direction in which smoothness was measured: ``step``, ``gradient`` or ``random``.
        probes: What other probes say, where snapshots were measured on several; None where that was not asked for.
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
    bound: Interval
    partial: Interval
    control: Interval
    slope: Interval
    quantile: float
    L0: Interval
    L1: Interval
    range: tuple[float, float]
    unidentifiable: str
    laws: tuple[str, ...] = ()
    exponent: float = math.nan
    layer: str | None = None
    along: str = "step"
    probes: ProbeSpread | None = None

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


def build_fits(run: Run, *, where: Sequence[str] = (), laws: bool = False) -> tuple[CellFit, ...]:
    """Fit every trajectory of a run, and summarise each cell over its seeds.

    Intervals of one trajectory come from its own points; those of a cell are over its seeds, which are the unit of
    replication: Student's t, of L0 and L1 on the log scale, of correlations on Fisher's.

    Args:
        run: The run.
        where: ``column=value`` conditions, as for a report.
        laws: Whether to compare laws of growth, too, which takes some 25 ms a trajectory.

    Returns:
        The cells in which something was measured, in the order of the plan.

    Raises:
        ClipsweepError: There are no trusted measurements, or a condition is wrong.
    """
    trials = select(run, where)
    cells = fit_cells(run, trials)
    return with_laws(run, trials, cells) if laws else cells


def fit_cells(run: Run, trials: pd.DataFrame) -> tuple[CellFit, ...]:
    """Fit every trajectory of some trials, and summarise each cell over its seeds.

    Args:
        run: The run.
        trials: The trials, as :func:`~sweeper.report.select.select` returns them.

    Returns:
        The cells in which something was measured, in the order of the plan.

    Raises:
        ClipsweepError: There are no trusted measurements.
    """
    cells = fitted(run, trials, positive(trusted_points(run)))
    if not cells:
        raise ClipsweepError(
            f"{run.path}: no smoothness above its noise floor was measured, so there is nothing to fit"
            f"{unmeasured_words(run, trials)}"
        )
    return cells


def with_laws(run: Run, trials: pd.DataFrame, cells: Sequence[CellFit]) -> tuple[CellFit, ...]:
    """Compare laws of growth by how well they describe sections of the trajectories that they were not fitted to.

    Args:
        run: The run.
        trials: The trials of the cells.
        cells: What :func:`fit_cells` returns for them.

    Returns:
        The cells with their laws, where at least half of the seeds have enough points.
    """
    points = positive(trusted_points(run))
    by_trial = {str(trial): own.sort_values("step") for trial, own in points.groupby("trial_id", sort=False)}
    found = []
    for cell in cells:
        of_cell = trials[trials["cell_id"] == cell.cell_id]
        told = []
        for seed, trial in zip(of_cell["seed"], of_cell["trial_id"], strict=True):
            fit = cell.trajectories.get(int(seed))
            if fit is not None and not fit.unidentifiable:
                own = by_trial[trial]
                told.append(held_out_losses(own["grad_norm"], own["smoothness"], fit.quantile, tau_int=fit.tau_int))
        if told and not cell.unidentifiable:
            exponent = float(np.median([one.exponent for one in told]))
            found.append(replace(cell, laws=laws_left(told), exponent=exponent))
        else:
            found.append(cell)
    return tuple(found)


def fit_hessians(run: Run, trials: pd.DataFrame) -> tuple[CellFit, ...]:
    """The same of the Hessian's norm, which directional smoothness is a lower bound of, at the same snapshots.

    Args:
        run: The run.
        trials: As for :func:`fit_cells`.

    Returns:
        The cells in which it was measured; none where the run has no ``hessian_spectral_norm``.
    """
    if _HESSIAN not in run.estimators:
        return ()
    norms = run.measurements(_HESSIAN)[[*_SNAPSHOT, "spectral_norm"]].dropna()
    points = trusted_points(run).merge(norms, on=_SNAPSHOT)
    return fitted(run, trials, positive(points.assign(smoothness=points["spectral_norm"].astype(float))))


def fitted(run: Run, trials: pd.DataFrame, points: pd.DataFrame, *, controlled: bool = True) -> tuple[CellFit, ...]:
    """Fit every trajectory of some points, and summarise each cell over its seeds.

    Args:
        run: The run.
        trials: As for :func:`fit_cells`.
        points: ``trial_id``, ``step``, ``grad_norm``, ``smoothness`` and ``mechanical_bound``, the first two of them
            positive; NaN for a bound that there is not.
        controlled: Whether the curvature along the step is a control of these points.

    Returns:
        The cells of which there are points, in the order of the plan.
    """
    found = trial_correlations(run, points, controlled=controlled)
    by_trial = {str(trial): own.sort_values("step") for trial, own in points.groupby("trial_id", sort=False)}
    names = short_names(run.swept)
    context = list(outside_the_rule(names).values())
    labels = labels_of(run, trials)
    cells = []
    for _, group in trials.groupby("cell_id", sort=False):
        seeds = {
            int(seed): trial for seed, trial in zip(group["seed"], group["trial_id"], strict=True) if trial in by_trial
        }
        fits = {
            seed: fit_smoothness(by_trial[trial]["grad_norm"], by_trial[trial]["smoothness"])
            for seed, trial in seeds.items()
        }
        if fits:
            cells.append(_cell(group, names, context, fits, [found[trial] for trial in seeds.values()], labels))
    return tuple(cells)


def _cell(
    group: pd.DataFrame,
    names: Mapping[str, str],
    context: list[str],
    fits: dict[int, SmoothnessFit],
    correlations: list[Correlations],
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
        bound=correlation_interval([one.bound for one in correlations]),
        partial=correlation_interval([one.partial for one in correlations]),
        control=correlation_interval([one.control for one in correlations]),
        slope=mean_interval([fit.slope for fit in fits.values()]),
        quantile=min((fit.quantile for fit in told), default=math.nan),
        L0=_of_line([fit.upper[0] for fit in told], [fit.L0 for fit in told]),
        L1=_of_line([fit.upper[1] for fit in told], [fit.L1 for fit in told]),
        range=(min(fit.range[0] for fit in fits.values()), max(fit.range[1] for fit in fits.values())),
        unidentifiable=why,
    )


def _of_line(values: list[float], bounds: list[Bounds]) -> Interval:
    """L0 or L1 over the seeds; where all are 0, below the largest upper end that a seed has by itself."""
    interval = geometric_interval(values)
    if interval.count < 2 or max(values) > 0:
        return interval
    return replace(interval, low=0.0, high=max(one.high for one in bounds))
