"""How many steps a cell takes until a level is reached, and whether clipping takes fewer: the paper's claim, tested.

T_epsilon of eqs. (7) and (8) is the first step at which the gradient norm is at most epsilon. On a real network it is
that of the probe, or the first step at which an evaluation passes a level; known up to the distance of measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.fits.censored import median_ratio, paired_ratios, sign_test
from estimators.fits.intervals import Interval
from estimators.fits.selection import compare_best
from estimators.fits.significance import holm
from sweeper.cell_labels import CellLabels
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.report.cells import deterministic, rows_of
from sweeper.report.select import labels_of, outside_the_rule, select
from sweeper.report.stability import is_clipped
from sweeper.tables.directions import direction_of
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PROBE_GRADIENT", "Reach", "ReachRatio", "ReachedCell", "build_reach"]

PROBE_GRADIENT = "probe_grad_norm"
"""||grad f(x_k)|| of the measured function, at the snapshots."""

_SMOOTHNESS = "directional_smoothness"

_NUMBERED = {"trial_id", "step", "epoch", "seed"}

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class ReachedCell:
    """When the seeds of one cell reach the level.

    Attributes:
        cell_id: The cell.
        label: What differs from the other cells.
        case: The name that the spec gives its case; None for none.
        values: Short name of each swept path to its value.
        texts: The same as tables show it.
        arm: The arm of the cell.
        context: What tells the swept values outside the update rule from those of other contexts.
        steps: Seed to the first step at which the level was seen to be reached; infinite where it never was.
        taken: Seed to the steps that the trial took.
        is_best: Whether it is the fastest of its arm in its context.
    """

    cell_id: str
    label: str
    case: str | None
    values: dict[str, Any]
    texts: dict[str, str]
    arm: str
    context: str
    steps: dict[int, float]
    taken: dict[int, int]
    is_best: bool = False

    @property
    def reached(self) -> int:
        """How many seeds reached the level."""
        return sum(map(math.isfinite, self.steps.values()))

    @property
    def median(self) -> float:
        """Median over the seeds; infinite where half of them never reached the level."""
        return float(np.median(list(self.steps.values()))) if self.steps else math.nan


@dataclass(frozen=True, kw_only=True)
class ReachRatio:
    """Steps of the fastest cell of one arm over those of another's, paired by seed.

    Attributes:
        first: The arm whose steps are divided.
        second: The arm by whose steps they are divided.
        context: As in :class:`ReachedCell`.
        ratio: The ratio with its interval: the geometric mean with that of
            :func:`~estimators.fits.selection.compare_best` where every seed of both reached the level; else the
            median with the smallest and the largest, which hold it in 95 % of cases from six pairs on.
        middle: The ratios between which the median lies; the same one twice for an odd number of pairs. Where one is 0
            or infinite and the other is not, the median is unknown, and ``ratio.mean`` is NaN.
        p_adjusted: Of the test that it is 1, times the number of cells of which the faster one is the fastest, by
            Holm's correction for all ratios: the paired t test of logs, or where a seed did not reach the level, the
            sign test. NaN for fewer than two pairs.
        cells_tried: Of how many cells the first and the second are the fastest.
        is_censored: Whether a seed of one of both never reached the level.
    """

    first: str
    second: str
    context: str
    ratio: Interval
    middle: tuple[float, float]
    p_adjusted: float
    cells_tried: tuple[int, int]
    is_censored: bool

    @property
    def is_decided(self) -> bool:
        """Whether chance is excluded at 95 %."""
        return (self.ratio.low > 1 or self.ratio.high < 1) and self.p_adjusted < _LEVEL


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Everything that ``clipsweep reach`` shows.

    Attributes:
        path: The run directory.
        metric: What is to reach the level.
        level: The level.
        larger: Whether it is reached from below.
        cells: The cells, in the order of the plan.
        ratios: Arms compared with each other.
        notes: What a reader should know.
    """

    path: str
    metric: str
    level: float
    larger: bool
    cells: tuple[ReachedCell, ...]
    ratios: tuple[ReachRatio, ...]
    notes: tuple[str, ...]


def build_reach(run: Run, *, metric: str | None = None, level: float | None = None, where: Sequence[str] = ()) -> Reach:
    """When each cell reaches a level, and how many times as many steps one arm takes as another.

    Args:
        run: The run.
        metric: A column of the metrics table, or :data:`PROBE_GRADIENT`; by default the validation loss, else the
            training loss.
        level: The level; by default the hardest one that the best cell of every arm reaches on every seed.
        where: ``column=value`` conditions, as for a report.

    Returns:
        The answer.

    Raises:
        ClipsweepError: No trial has ended, the trials are analytic, nothing has values of the metric, the level is not
            finite, or a condition is wrong.
    """
    if level is not None and not math.isfinite(level):
        raise ClipsweepError(f"--level {level}: must be a finite number")
    trials = select(run, where)
    ended = trials[trials["status"].isin(["done", "diverged"])]
    if ended.empty:
        raise ClipsweepError(f"{run.path}: no trial has ended yet")
    if "hitting_status" in ended and ended["hitting_status"].notna().any():
        raise ClipsweepError(f"{run.path}: analytic trials know their hitting times exactly: see `clipsweep theory`")
    series = _series(run, ended, metric)
    name = series.attrs["metric"]
    declared = run.state.declared_metrics(str(ended["trial_id"].iloc[0]))
    larger = name != PROBE_GRADIENT and direction_of(name, declared) == "max"
    sign = -1.0 if larger else 1.0
    by_trial = {
        str(trial): (rows["step"].to_numpy(dtype=float), sign * rows["value"].to_numpy(dtype=float))
        for trial, rows in series.groupby("trial_id", sort=False)
    }
    names = short_names(run.swept)
    context = outside_the_rule(names)
    labels = labels_of(run, trials)
    wanted = sign * level if level is not None else _common_level(run, ended, context, by_trial)
    cells, ratios = _cells_and_ratios(ended, names, context, labels, by_trial, wanted)
    adjusted = holm([one.p_adjusted for one in ratios])
    left = len(trials) - len(ended)
    notes = [_coarseness(series, name)]
    if left:
        notes.append(f"{left} of {len(trials)} trials have not ended, or ended without a loss, and do not count")
    if any(one.is_censored for one in ratios):
        notes.append(
            "where a seed never reaches the level, ratios have a median, from six pairs on the smallest and the "
            "largest as its interval, and a sign test"
        )
    return Reach(
        path=str(run.path),
        metric=name,
        level=sign * wanted,
        larger=larger,
        cells=cells,
        ratios=tuple(replace(one, p_adjusted=p) for one, p in zip(ratios, adjusted, strict=True)),
        notes=tuple(notes),
    )


def _series(run: Run, ended: pd.DataFrame, metric: str | None) -> pd.DataFrame:
    """Rows of trial, step and value, in the order of steps; what is not finite has not reached anything."""
    if metric == PROBE_GRADIENT:
        if _SMOOTHNESS not in run.estimators:
            raise ClipsweepError(f"{run.path}: {PROBE_GRADIENT} takes the estimator {_SMOOTHNESS}, which it has not")
        rows = run.measurements(_SMOOTHNESS)[["trial_id", "step", "grad_norm"]].rename(columns={"grad_norm": "value"})
        rows = rows.drop_duplicates(["trial_id", "step"], keep="last")
    else:
        metrics = run.metrics
        known = [
            str(name)
            for name in metrics.columns
            if name not in _NUMBERED and metrics[name].dtype.kind == "f" and metrics[name].notna().any()
        ]
        metric = metric or ("valid_loss" if "valid_loss" in known else "train_loss")
        if metric not in known:
            raise ClipsweepError(
                f"{run.path}: --metric {metric}: no such metric; known: {', '.join([*known, PROBE_GRADIENT])}"
            )
        rows = metrics[["trial_id", "step", metric]].rename(columns={metric: "value"})
    rows = rows[rows["trial_id"].isin(ended["trial_id"])].dropna(subset=["value"]).sort_values(["trial_id", "step"])
    if rows.empty:
        raise ClipsweepError(f"{run.path}: no trial that ended has a value of {metric}")
    rows.attrs["metric"] = metric
    return rows


_ByTrial = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def _common_level(run: Run, ended: pd.DataFrame, context: Mapping[str, str], by_trial: _ByTrial) -> float:
    """The hardest level that the best cell of every arm reaches on every seed, in every context."""
    hardest = -math.inf
    for within in rows_of(ended, list(context)):
        for _, of_arm in within.groupby("arm", sort=False):
            worst_of_cell = []
            for cell in rows_of(of_arm, ["cell_id"]):
                bests = [_best(by_trial.get(str(trial))) for trial in cell["trial_id"]]
                worst_of_cell.append(max(bests))
            hardest = max(hardest, min(worst_of_cell))
    if not math.isfinite(hardest):
        raise ClipsweepError(
            f"{run.path}: some arm has no cell with a finite value of every seed, so that there is no level which all "
            "arms reach: choose one with --level"
        )
    return _eased(hardest)


def _eased(level: float) -> float:
    """A level with four significant digits, as it is shown, on the side that is easier to reach."""
    if level == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(level))) - 3)
    for steps in (0, 1, 2):
        eased = float(f"{(math.ceil(level / unit) + steps) * unit:.4g}")
        if eased >= level:
            return eased
    return level


def _best(series: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None) -> float:
    """The smallest finite value; infinite where there is none."""
    if series is None:
        return math.inf
    finite = series[1][np.isfinite(series[1])]
    return float(finite.min()) if finite.size else math.inf


def _first(series: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None, level: float) -> float:
    """The first step with a value of at most the level; infinite where there is none."""
    if series is None:
        return math.inf
    steps, values = series
    passed = np.isfinite(values) & (values <= level)
    return float(steps[int(passed.argmax())]) if passed.any() else math.inf


def _cells_and_ratios(
    ended: pd.DataFrame,
    names: Mapping[str, str],
    context: Mapping[str, str],
    labels: CellLabels,
    by_trial: _ByTrial,
    level: float,
) -> tuple[tuple[ReachedCell, ...], list[ReachRatio]]:
    cells: list[ReachedCell] = []
    ratios: list[ReachRatio] = []
    for within in rows_of(ended, list(context)):
        said = labels.part({name: plain_value(within.iloc[0][path]) for path, name in context.items()})
        arms = {
            str(arm): [_cell(group, names, said, labels, by_trial, level) for group in rows_of(of_arm, ["cell_id"])]
            for arm, of_arm in within.groupby("arm", sort=False)
        }
        fastest = {arm: min(found, key=_slowness) for arm, found in arms.items()}
        for found in arms.values():
            cells += [replace(one, is_best=one.reached > 0 and one is fastest[one.arm]) for one in found]
        if deterministic(within):
            continue
        listed = list(arms)
        for at, one in enumerate(listed):
            for other in listed[at + 1 :]:
                first, second = (one, other) if is_clipped(one) or not is_clipped(other) else (other, one)
                ratios += _ratio(arms[first], arms[second], fastest[first], fastest[second])
    return tuple(cells), ratios


def _slowness(cell: ReachedCell) -> tuple[int, float]:
    """Cells which more seeds reach come first, then those that take fewer steps."""
    times = [math.log1p(steps) for steps in cell.steps.values() if math.isfinite(steps)]
    return -cell.reached, math.fsum(times) / len(times) if times else math.inf


def _cell(
    group: pd.DataFrame,
    names: Mapping[str, str],
    context: str,
    labels: CellLabels,
    by_trial: _ByTrial,
    level: float,
) -> ReachedCell:
    first = group.iloc[0]
    values = {name: plain_value(first[path]) for path, name in names.items()}
    seeds = [int(seed) for seed in group["seed"]]
    return ReachedCell(
        cell_id=str(first["cell_id"]),
        label=labels[str(first["cell_id"])],
        case=plain_value(first["case"]),
        values=values,
        texts=labels.texts(values),
        arm=str(first["arm"]),
        context=context,
        steps={
            seed: _first(by_trial.get(str(trial)), level) for seed, trial in zip(seeds, group["trial_id"], strict=True)
        },
        taken=dict(zip(seeds, _taken(group), strict=True)),
    )


def _taken(group: pd.DataFrame) -> list[int]:
    """The steps that each trial took: up to its divergence, or all."""
    ends = group["steps"]
    if "diverged_step" in group:
        ends = group["diverged_step"].fillna(ends)
    return [int(steps) for steps in ends]


def _ratio(
    first: Sequence[ReachedCell], second: Sequence[ReachedCell], one: ReachedCell, other: ReachedCell
) -> list[ReachRatio]:
    """Steps of the first arm over those of the second; nothing where no seed has both."""
    common = sorted(one.steps.keys() & other.steps.keys())
    if not common or not (one.reached or other.reached):
        return []
    whole = [
        [[math.log(cell.steps[seed] + 1) for seed in common] for cell in cells if _is_whole(cell, common)]
        for cells in (first, second)
    ]
    is_censored = not all(whole)
    tried = len(first), len(second)
    if is_censored:
        ratios = paired_ratios([(one.steps[seed], other.steps[seed]) for seed in common])
        ratio, middle = median_ratio(ratios)
        faster = sum(of < 1 for of in ratios), sum(of > 1 for of in ratios)
        p = min(1.0, sign_test(*faster) * (tried[0] if faster[0] > faster[1] else tried[1]))
    else:
        found = compare_best(*whole)
        of, p = found.difference, found.p_value
        ratio = Interval(mean=math.exp(of.mean), low=math.exp(of.low), high=_exp(of.high), count=of.count)
        middle = ratio.mean, ratio.mean
    return [
        ReachRatio(
            first=one.arm,
            second=other.arm,
            context=one.context,
            ratio=ratio,
            middle=middle,
            p_adjusted=p,
            cells_tried=tried,
            is_censored=is_censored,
        )
    ]


def _is_whole(cell: ReachedCell, seeds: Sequence[int]) -> bool:
    """Whether all of some seeds reached the level."""
    return all(math.isfinite(cell.steps.get(seed, math.inf)) for seed in seeds)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _coarseness(series: pd.DataFrame, name: str) -> str:
    """How far apart the values are."""
    gaps = series.groupby("trial_id")["step"].diff().dropna()
    apart = int(gaps.median()) if len(gaps) else 1
    if apart <= 1:
        return f"{name} is known at every step"
    late = f"{apart - 1} step{'s' if apart > 2 else ''}"
    return f"{name} is known every {apart} steps, so that a level may have been reached up to {late} earlier"
