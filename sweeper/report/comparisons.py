"""Arms compared with each other: the best cell of each, seed by seed, and what chance may have done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from estimators.fits.statistics import Interval, holm, mean_interval, p_value
from sweeper.cell_labels import CellLabels
from sweeper.labels import plain_value
from sweeper.report.cells import Cell, deterministic, rows_of
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
    why_none: str = ""
    unranked: int = 0
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The best cells of two arms, compared seed by seed.

    Attributes:
        first: Name of the arm whose loss is taken.
        second: Name of the arm whose loss is subtracted.
        difference: first - second over the common seeds; negative if the first is better.
        context: As in :class:`ArmBest`.
        larger_is_better: Whether the spec has the loss maximised.
        cells_tried: Of how many cells the first and the second are the best.
        p_value: Of the paired t test; NaN for fewer than two common seeds.
        p_adjusted: The same by Holm's correction for all comparisons of the report.
        num_compared: How many these are.
    """

    first: str
    second: str
    difference: Interval
    context: str
    larger_is_better: bool = False
    cells_tried: tuple[int, int] = (1, 1)
    p_value: float = math.nan
    p_adjusted: float = math.nan
    num_compared: int = 1

    @property
    def gain(self) -> Interval:
        """By how much the first is better; negative if it is worse."""
        of = self.difference
        return of if self.larger_is_better else replace(of, mean=-of.mean, low=-of.high, high=-of.low)

    @property
    def is_decided(self) -> bool:
        """Whether chance is excluded at 95 %, all comparisons of the report together."""
        return self.p_adjusted < _LEVEL

    @property
    def verdict(self) -> str:
        """What can be concluded."""
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
        here = [
            _best(
                arm,
                [row_of(group) for group in rows_of(of_arm, ["cell_id"])],
                context,
                primary,
                larger=larger,
            )
            for arm, of_arm in within.groupby("arm", sort=False)
        ]
        here = [replace(best, label=_label_within(best, set(context_columns.values()), labels)) for best in here]
        bests += here
        if deterministic(within):
            continue
        found = [best for best in here if best.cell is not None]
        comparisons += [
            _compare(one, other, context, larger=larger) for i, one in enumerate(found) for other in found[i + 1 :]
        ]
    adjusted = holm([one.p_value for one in comparisons])
    tested = sum(not math.isnan(one.p_value) for one in comparisons)
    return tuple(bests), tuple(
        replace(one, p_adjusted=p, num_compared=tested) for one, p in zip(comparisons, adjusted, strict=True)
    )


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


def _best(arm: Any, cells: list[Cell], context: str, primary: str, *, larger: bool) -> ArmBest:
    whole = [cell for cell in cells if cell.done == cell.trials]
    ranked = [
        cell
        for cell in whole
        if primary in cell.losses and cell.losses[primary].count and not cell.not_finite.get(primary)
    ]
    sign = -1 if larger else 1
    missing = f"{'a finite ' if any(primary in cell.not_finite for cell in whole) else ''}{primary}"
    best = min(ranked, key=lambda cell: sign * cell.losses[primary].mean, default=None)
    why = f"has no {missing.removeprefix('a ')}" if whole else "no cell finished with all its seeds"
    return ArmBest(
        arm=str(arm),
        cell=best,
        cells_tried=len(cells),
        context=context,
        why_none="" if best is not None else why,
        unranked=len(whole) - len(ranked),
        missing=missing,
    )


def _compare(one: ArmBest, other: ArmBest, context: str, *, larger: bool) -> Comparison:
    """The best cells of two arms, the clipped one against the other."""
    if is_clipped(one.arm) and not is_clipped(other.arm):
        one, other = other, one
    assert one.cell is not None
    assert other.cell is not None
    common = sorted(one.cell.seed_losses.keys() & other.cell.seed_losses.keys())
    differences = [other.cell.seed_losses[seed] - one.cell.seed_losses[seed] for seed in common]
    return Comparison(
        first=other.arm,
        second=one.arm,
        difference=mean_interval(differences),
        context=context,
        larger_is_better=larger,
        cells_tried=(other.cells_tried, one.cells_tried),
        p_value=p_value(differences),
    )
