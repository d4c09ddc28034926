"""Arms compared with each other: the best cell of each, seed by seed, and what chance may have done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from estimators.fits.intervals import Interval, mean_interval
from estimators.fits.selection import BestDifference, choose, compare_best
from estimators.fits.significance import holm
from sweeper.cell_labels import CellLabels
from sweeper.labels import plain_value
from sweeper.report.cells import TEST_LOSS, Cell, deterministic, rows_of
from sweeper.report.stability import is_clipped

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ArmBest", "Comparison", "compare_arms"]

_LEVEL = 0.05
"""How often chance alone may decide any of the comparisons of a report."""


@dataclass(frozen=True, kw_only=True)
class ArmBest:
    """The best cell of an arm, among the cells whose seeds are all done.

    Attributes:
        arm: The arm.
        cell: Its best cell; None if no cell has all its seeds done.
        label: What tells that cell from the others of its context; empty without one.
        cells_tried: How many cells the arm had: more tries find a better best.
        context: What tells the swept values outside the update rule from those of other contexts; arms are compared
            only within the same context.
        held_out: Mean over the seeds of the loss of the cell that is the best of the other seeds: what the choice is
            worth on seeds that it was not made by. NaN where there is one cell, or one seed.
        why_none: Why there is no best cell; empty where there is one.
        unranked: How many of the cells have all their seeds done, but lack the loss by which cells are ranked, or have
            trials in which it is not finite.
        missing: What these do not have.
    """

    arm: str
    cell: Cell | None
    cells_tried: int
    context: str
    label: str = ""
    held_out: float = math.nan
    why_none: str = ""
    unranked: int = 0
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The best cells of two arms, compared seed by seed.

    Attributes:
        first: Name of the arm whose loss is taken.
        second: Name of the arm whose loss is subtracted.
        difference: first - second over the common seeds; negative if the first is better. On each seed the cells are
            compared that are the best of the other seeds: those that are chosen by the very losses that are compared
            differ by more than new seeds of them would (:func:`~estimators.fits.selection.compare_best`).
        as_chosen: The same of the cells that are the best of all seeds.
        context: As in :class:`ArmBest`.
        loss: What is compared: the loss by which cells are chosen, or that on the test data.
        larger_is_better: Whether the spec has the loss maximised.
        cells_tried: Of how many cells the first and the second are the best.
        p_value: Of the paired t test of the best cells, times the number of cells of which the better one is the best
            (Bonferroni's correction for the choice); NaN for fewer than two common seeds.
        p_adjusted: The same by Holm's correction for all comparisons of the report.
        num_compared: How many these are.
    """

    first: str
    second: str
    difference: Interval
    as_chosen: Interval
    context: str
    loss: str = ""
    larger_is_better: bool = False
    cells_tried: tuple[int, int] = (1, 1)
    p_value: float = math.nan
    p_adjusted: float = math.nan
    num_compared: int = 1

    @property
    def gain(self) -> Interval:
        """By how much the first is better; negative if it is worse."""
        return self.difference if self.larger_is_better else _turned(self.difference)

    @property
    def is_decided(self) -> bool:
        """Whether chance is excluded at 95 %, all comparisons of the report together."""
        of = self.gain
        same_way = self.difference.mean * self.as_chosen.mean > 0
        return self.p_adjusted < _LEVEL and same_way and not of.low <= 0 <= of.high

    @property
    def verdict(self) -> str:
        """What can be concluded."""
        if self.difference.count == 0:
            return "no seed that all of their cells have done"
        if self.difference.count < 2:
            return "one seed says nothing about chance"
        if not self.is_decided:
            return "undecided at 95 %"
        return f"{self.first if self.gain.mean > 0 else self.second} is better"


def compare_arms(
    trials: pd.DataFrame,
    context_columns: Mapping[str, str],
    row_of: Callable[[pd.DataFrame], Cell],
    primary: str,
    *,
    labels: CellLabels,
    larger: bool,
) -> tuple[tuple[ArmBest, ...], tuple[Comparison, ...]]:
    """The best cell of each arm, and the best cells of each pair of arms compared, within each context.

    Args:
        trials: The trials.
        context_columns: Swept columns outside the update rule, each to its short name.
        row_of: Sums up the trials of one cell.
        primary: The loss by which cells are ranked.
        labels: What the cells are called.
        larger: Whether the largest loss is the best.

    Returns:
        The best cells, context by context, and the comparisons.
    """
    bests: list[ArmBest] = []
    comparisons: list[Comparison] = []
    for within in rows_of(trials, list(context_columns)):
        context = labels.part({name: plain_value(within.iloc[0][path]) for path, name in context_columns.items()})
        arms = {
            str(arm): [row_of(group) for group in rows_of(of_arm, ["cell_id"])]
            for arm, of_arm in within.groupby("arm", sort=False)
        }
        here = [_best(arm, cells, context, primary, larger=larger) for arm, cells in arms.items()]
        here = [replace(best, label=_label_within(best, set(context_columns.values()), labels)) for best in here]
        if deterministic(within):
            bests += here
            continue
        ranked = {arm: _ranked(cells, primary) for arm, cells in arms.items()}
        bests += [replace(best, held_out=_held_out(ranked[best.arm], larger=larger)) for best in here]
        found = [best for best in here if best.cell is not None]
        comparisons += [
            compared
            for i, one in enumerate(found)
            for other in found[i + 1 :]
            for compared in _compare(one, other, ranked, context, primary, larger=larger)
        ]
    return tuple(bests), tuple(
        replace(one, p_adjusted=p, num_compared=tested)
        for loss in (primary, TEST_LOSS)
        for one, p, tested in _corrected([one for one in comparisons if one.loss == loss])
    )


def _corrected(comparisons: Sequence[Comparison]) -> Iterator[tuple[Comparison, float, int]]:
    """Comparisons in one loss, each with its p value by Holm's correction and the number of tests."""
    tested = sum(not math.isnan(one.p_value) for one in comparisons)
    for one, p in zip(comparisons, holm([one.p_value for one in comparisons]), strict=True):
        yield one, p, tested


def _label_within(best: ArmBest, context_names: set[str], labels: CellLabels) -> str:
    """The label of a best cell without what its context says, where nothing else is lost by that."""
    if best.cell is None:
        return ""
    if not best.context or best.cell.case is not None:
        return best.cell.label
    return (
        labels.part({name: value for name, value in best.cell.values.items() if name not in context_names})
        or best.cell.label
    )


def _ranked(cells: Sequence[Cell], primary: str) -> list[Cell]:
    """The cells with a finite loss of every seed."""
    return [
        cell
        for cell in cells
        if cell.done == cell.trials
        and primary in cell.losses
        and cell.losses[primary].count
        and not cell.not_finite.get(primary)
    ]


def _losses(cells: Sequence[Cell], seeds: Sequence[int], *, larger: bool) -> list[list[float]]:
    """Losses by cell and seed, of which the smallest is the best."""
    return [[-cell.seed_losses[seed] if larger else cell.seed_losses[seed] for seed in seeds] for cell in cells]


def _common_seeds(cells: Sequence[Cell]) -> list[int]:
    """The seeds that all of the cells have, in ascending order."""
    return sorted(set.intersection(*(set(cell.seed_losses) for cell in cells))) if cells else []


def _held_out(cells: Sequence[Cell], *, larger: bool) -> float:
    """Mean loss where on each seed the others choose the cell; NaN where there is nothing to choose."""
    seeds = _common_seeds(cells)
    if len(cells) < 2 or len(seeds) < 2:
        return math.nan
    mean = mean_interval(choose(_losses(cells, seeds, larger=larger)).held_out).mean
    return -mean if larger else mean


def _best(arm: str, cells: list[Cell], context: str, primary: str, *, larger: bool) -> ArmBest:
    whole = [cell for cell in cells if cell.done == cell.trials]
    ranked = _ranked(cells, primary)
    sign = -1 if larger else 1
    missing = f"{'a finite ' if any(primary in cell.not_finite for cell in whole) else ''}{primary}"
    best = min(ranked, key=lambda cell: sign * cell.losses[primary].mean, default=None)
    why = f"has no {missing.removeprefix('a ')}" if whole else "no cell finished with all its seeds"
    return ArmBest(
        arm=arm,
        cell=best,
        cells_tried=len(cells),
        context=context,
        why_none="" if best is not None else why,
        unranked=len(whole) - len(ranked),
        missing=missing,
    )


def _compare(
    one: ArmBest,
    other: ArmBest,
    ranked: Mapping[str, Sequence[Cell]],
    context: str,
    primary: str,
    *,
    larger: bool,
) -> list[Comparison]:
    """The best cells of two arms, the clipped one against the other, and on the test data where all cells have it."""
    if is_clipped(one.arm) and not is_clipped(other.arm):
        one, other = other, one
    groups = ranked[other.arm], ranked[one.arm]
    common = _common_seeds([cell for group in groups for cell in group])
    nothing = mean_interval([])
    by_loss = {primary: BestDifference(difference=nothing, as_chosen=nothing, p_value=math.nan)}
    if common:
        first, second = (_losses(group, common, larger=larger) for group in groups)
        by_loss[primary] = compare_best(first, second)
        if all(set(common) <= cell.test_losses.keys() for group in groups for cell in group):
            tests = [[[cell.test_losses[seed] for seed in common] for cell in group] for group in groups]
            by_loss[TEST_LOSS] = compare_best(first, second, judged=(tests[0], tests[1]))
    return [
        Comparison(
            first=other.arm,
            second=one.arm,
            difference=_turned(found.difference) if larger and loss == primary else found.difference,
            as_chosen=_turned(found.as_chosen) if larger and loss == primary else found.as_chosen,
            context=context,
            loss=loss,
            larger_is_better=larger and loss == primary,
            cells_tried=(other.cells_tried, one.cells_tried),
            p_value=found.p_value,
        )
        for loss, found in by_loss.items()
    ]


def _turned(interval: Interval) -> Interval:
    """The interval of the negative values."""
    return replace(interval, mean=-interval.mean, low=-interval.high, high=-interval.low)
