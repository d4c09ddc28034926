"""Ratios of paired times of which some never came: their median, and a test of which side is faster."""

from __future__ import annotations

import math
from collections.abc import Sequence

from estimators.fits.intervals import Interval

__all__ = ["median_ratio", "paired_ratios", "sign_test"]

_MIN_PAIRS = 6
"""Pairs from which on the smallest and the largest of them hold the median in 95 % of cases: 1 - 2^(1 - n)."""


def paired_ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Ratios of numbers of steps, each counted from 1 so that 0 is a time, too.

    Args:
        pairs: Steps of the first and of the second; infinite for one that never gets there.

    Returns:
        Ratios in ascending order, 0 where only the first gets there and infinite where only the second does; pairs of
        which neither does say nothing and are left out.

    Example:
        >>> paired_ratios([(9, 4), (math.inf, 4), (9, math.inf), (math.inf, math.inf)])
        [0.0, 2.0, inf]
    """
    return sorted(
        (one + 1) / (other + 1) if math.isfinite(one) else math.inf
        for one, other in pairs
        if math.isfinite(one) or math.isfinite(other)
    )


def median_ratio(ratios: Sequence[float]) -> tuple[Interval, tuple[float, float]]:
    """The median of ratios, which a few infinite ones do not change.

    Args:
        ratios: In ascending order, as :func:`paired_ratios` gives them.

    Returns:
        The median, NaN where it lies between two ratios that have no geometric mean, with its 95 % interval: the
        smallest and the largest ratio from six on, none for fewer; and the two ratios that it lies between.

    Example:
        >>> interval, middle = median_ratio([0.5, 0.6, 0.7, 0.8, 0.9, math.inf])
        >>> round(interval.mean, 3), interval.low, interval.high, middle
        (0.748, 0.5, inf, (0.7, 0.8))
    """
    count = len(ratios)
    if not count:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=0), (math.nan, math.nan)
    below, above = ratios[(count - 1) // 2], ratios[count // 2]
    is_known = below == above or (below > 0 and math.isfinite(above))
    middle = math.nan if not is_known else below if below == above else math.sqrt(below * above)
    ends = (ratios[0], ratios[-1]) if count >= _MIN_PAIRS else (math.nan, math.nan)
    return Interval(mean=middle, low=ends[0], high=ends[1], count=count), (below, above)


def sign_test(smaller: int, larger: int) -> float:
    """How likely it is that so few of the pairs go the other way by chance.

    Args:
        smaller: Pairs that go one way.
        larger: Pairs that go the other; ties are left out.

    Returns:
        The two-sided p-value of the sign test.

    Example:
        >>> sign_test(6, 0), sign_test(3, 3)
        (0.03125, 1.0)
    """
    count = smaller + larger
    fewer = min(smaller, larger)
    return min(1.0, math.ldexp(sum(math.comb(count, of) for of in range(fewer + 1)), 1 - count))
