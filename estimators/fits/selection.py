"""The best of several cells against the best of several others, chosen by the very losses that are compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators.fits.intervals import Interval, mean_interval, scaled
from estimators.fits.significance import p_value

__all__ = ["BestDifference", "Choice", "choose", "compare_best"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of several cells is the best.

    Attributes:
        best: Place of the cell with the smallest mean loss.
        losses: Its losses, one per seed, or what it is judged by.
        held_out: The same on each seed of the cell that is the best of the other seeds, which that seed had no part in
            choosing; of a single seed its own.
        is_settled: Whether that is the same cell for each of them.
    """

    best: int
    losses: tuple[float, ...]
    held_out: tuple[float, ...]
    is_settled: bool


def choose(losses: ArrayLike, judged: ArrayLike | None = None) -> Choice:
    """The best cell, and on each seed the best cell of the other seeds.

    Args:
        losses: What cells are chosen by. Finite, shape (cells, seeds), at least one of each; smaller is better.
        judged: What they are judged by, of the same shape: losses on other data, for one; the same by default.

    Returns:
        The choice; of equal ones the first.

    Raises:
        ValueError: The losses have another shape, or both not the same.

    Example:
        >>> choice = choose([[1.0, 3.0, 1.0], [2.0, 1.5, 1.0]])
        >>> choice.best, choice.held_out, choice.is_settled
        (1, (2.0, 3.0, 1.0), False)
    """
    table = _table(losses)
    shown = table if judged is None else _table(judged)
    if shown.shape != table.shape:
        raise ValueError(f"what cells are judged by must have the shape {table.shape}, found {shown.shape}")
    in_units, _ = scaled(table)
    totals = np.array([math.fsum(row) for row in in_units])
    seeds = table.shape[1]
    chosen = (totals[:, None] - in_units).argmin(axis=0) if seeds > 1 else table.argmin(axis=0)
    best = int(totals.argmin())
    return Choice(
        best=best,
        losses=tuple(shown[best].tolist()),
        held_out=tuple(shown[chosen, np.arange(seeds)].tolist()),
        is_settled=bool((chosen == best).all()),
    )


def _table(losses: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"losses must have the shape (cells, seeds), at least one of each; found {table.shape}")
    return table


@dataclass(frozen=True, kw_only=True)
class BestDifference:
    """The best of some cells against the best of others, paired by seed.

    Attributes:
        difference: first - second, on each seed of the cells that are the best of the other seeds.
        as_chosen: The same of the cells that are the best of all seeds.
        p_value: Of the paired t test of these, corrected for the choice; NaN for one seed.
    """

    difference: Interval
    as_chosen: Interval
    p_value: float


def compare_best(
    first: ArrayLike, second: ArrayLike, *, judged: tuple[ArrayLike, ArrayLike] | None = None
) -> BestDifference:
    """Compare the best cells of two groups without the optimism of choosing them by the losses that are compared.

    The best of many cells is in part the luckiest one: of equal cells, one chosen out of eight differs from one that
    was not chosen by 0.3 to 0.8 standard deviations. Hence

    - the difference is taken seed by seed of the cells that are the best of the *other* seeds, which is without bias.
      Where these are not always the same cells, the spread of such differences says too little, since they share most
      of what they were chosen by: the variance of their mean over S seeds is corrected by Nadeau and Bengio (2003,
      "Inference for the generalization error") from 1/S to 1/S + 1/(S - 1), and the spread is at least that of the
      cells that are the best of all seeds;
    - the p value of the paired t test of the best cells is multiplied by the number of cells of which the better one is
      the best (Bonferroni's correction).

    Args:
        first: Losses of the first group's cells, shape (cells, seeds); smaller is better.
        second: Losses of the second group's cells on the same seeds.
        judged: What the cells of both groups are judged by, of the same shapes, where that is not what they are chosen
            by: the loss on test data, which leaves the luck of training to be corrected for.

    Returns:
        The comparison.

    Raises:
        ValueError: The losses have another shape, or not the same number of seeds.

    Example:
        >>> found = compare_best([[1.0, 1.1, 1.2]], [[4.0, 4.2, 4.1], [5.0, 5.0, 5.0]])
        >>> round(found.difference.mean, 9), found.difference == found.as_chosen, found.p_value < 0.01
        (-3.0, True, True)
    """
    tables = _table(first), _table(second)
    if tables[0].shape[1] != tables[1].shape[1]:
        raise ValueError(f"both groups must have the same seeds; found {tables[0].shape[1]} and {tables[1].shape[1]}")
    one, other = (choose(*both) for both in zip(tables, judged or (None, None), strict=True))
    of_best = np.subtract(one.losses, other.losses)
    as_chosen, difference = mean_interval(of_best), mean_interval(np.subtract(one.held_out, other.held_out))
    if not (one.is_settled and other.is_settled) and difference.count > 1:
        half = max(difference.high - difference.mean, as_chosen.high - as_chosen.mean)
        half *= math.sqrt(1 + difference.count / (difference.count - 1))
        difference = replace(difference, low=difference.mean - half, high=difference.mean + half)
    tried = len(tables[0] if as_chosen.mean < 0 else tables[1])
    alone = p_value(of_best)
    return BestDifference(
        difference=difference,
        as_chosen=as_chosen,
        p_value=alone if math.isnan(alone) else min(1.0, tried * alone),
    )
