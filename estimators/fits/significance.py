"""Whether a difference is more than chance: the paired t test, and its correction for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from estimators.fits.intervals import scaled

__all__ = ["holm", "p_value", "replications_needed"]


def p_value(values: ArrayLike) -> float:
    r"""How likely a mean this far from 0 is by chance: Student's t test of mean = 0, two-sided.

    Args:
        values: Independent replications, one per seed; non-finite ones are left out.

    Returns:
        The probability; below 0.05 where the 95 % interval of :func:`mean_interval` leaves 0 out. NaN for fewer than
        two values.

    Example:
        >>> round(p_value([1.0, 2.0, 3.0]), 4)
        0.0742
        >>> p_value([1.0, 1.0]), p_value([0.0, 0.0])
        (0.0, 1.0)
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if data.size < 2:
        return math.nan
    data, _ = scaled(data)
    mean, spread = float(data.mean()), float(data.std(ddof=1))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(data.size - 1, -abs(mean) * math.sqrt(data.size) / spread))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values as if each were the only one: at a level of 5 %, one of them all is below it by chance in 5 % of cases.

    Holm (1979), "A simple sequentially rejective multiple test procedure": of m sorted values the i-th is multiplied
    by m - i + 1, and is at least as large as the one before it. It holds whatever depends on whatever.

    Args:
        p_values: One for each comparison; NaN for those that test nothing, which do not count.

    Returns:
        The adjusted values in the same order, at most 1.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
        >>> holm([0.2])
        [0.2]
    """
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    adjusted, least = [math.nan] * len(p_values), 0.0
    for place, at in enumerate(order):
        least = adjusted[at] = max(least, min(1.0, (len(order) - place) * p_values[at]))
    return adjusted


def replications_needed(difference: float, spread: float, *, level: float = 0.05, power: float = 0.8) -> int | None:
    r"""How many replications a paired t test needs to find a difference of a given size.

    The smallest n with  (t_{1 - level/2, n-1} + t_{power, n-1}) s / sqrt(n) <= |d|,  the usual approximation of the
    power of Student's t test, two-sided (for example Chow, Shao & Wang, *Sample Size Calculations in Clinical
    Research*, 2008, section 3.1).

    Args:
        difference: The mean d of the differences.
        spread: Their standard deviation s over the replications.
        level: How often chance alone may be taken for a difference.
        power: How often the test should find the difference.

    Returns:
        The number, at least 2; None where it is above 10,000, where either is not finite, or without a difference.

    Example:
        >>> replications_needed(1.0, 1.0), replications_needed(-0.5, 1.0), replications_needed(0.0, 1.0)
        (10, 34, None)
    """
    if not (math.isfinite(difference) and math.isfinite(spread)) or difference == 0:
        return None
    if spread == 0:
        return 2

    def suffices(n: int) -> bool:
        freedom = n - 1
        quantiles = stdtrit(freedom, 1 - level / 2) + stdtrit(freedom, power)
        return bool(quantiles * spread <= abs(difference) * math.sqrt(n))

    if not suffices(_MOST_REPLICATIONS):
        return None
    low, high = 1, _MOST_REPLICATIONS  # what does not suffice, or is none, and what does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


_MOST_REPLICATIONS = 10_000
