"""How heavy the tail of a positive quantity is: Hill's estimate of its index."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators.fits.intervals import Interval

__all__ = ["MIN_LARGEST", "hill", "hill_curve", "num_largest"]

MIN_LARGEST = 10
"""The fewest values from which a tail index is estimated."""

_SHARE = 0.1
"""Of all values, that count as the tail."""

_QUANTILE = 1.959963984540054
"""97.5 % of a normal distribution lie below."""


def num_largest(count: int) -> int:
    """How many of the largest values count as the tail: a tenth, at least ten.

    Args:
        count: How many values there are.

    Returns:
        The number; 0 where there are too few for any.

    Example:
        >>> num_largest(1000), num_largest(50), num_largest(10)
        (100, 10, 0)
    """
    wanted = max(MIN_LARGEST, int(_SHARE * count))
    return wanted if wanted < count else 0


def hill_curve(values: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    r"""Hill's estimate of the tail index from every number of largest values (Hill, 1975), for his plot.

        1/alpha(k) = 1/k sum_{i=1}^{k} log(x_(i) / x_(k+1)),   x_(1) >= x_(2) >= ...

    P(X > x) falls like x^-alpha: the variance is infinite for alpha <= 2, the mean for alpha <= 1. A tail that falls
    faster than any power, as of a normal distribution, has estimates that grow without end as k falls.

    Args:
        values: Positive values, shape (n,); others are left out.

    Returns:
        k = 1, ..., n - 1, and alpha(k); infinite where the k + 1 largest values are equal.

    Example:
        >>> k, alpha = hill_curve([math.e**2, math.e, 1.0])
        >>> k.tolist(), alpha.round(6).tolist()
        ([1, 2], [1.0, 0.666667])
    """
    data = np.asarray(values, dtype=np.float64)
    logs = np.sort(np.log(data[np.isfinite(data) & (data > 0)]))[::-1]
    k = np.arange(1, logs.size)
    excess = np.cumsum(logs[:-1]) / k - logs[1:] if logs.size > 1 else np.empty(0)
    with np.errstate(divide="ignore"):
        return k, np.where(excess > 0, 1 / np.where(excess > 0, excess, 1.0), np.inf)


def hill(values: ArrayLike) -> Interval:
    """Hill's estimate from a tenth of the values, with its interval alpha exp(∓ 1.96/sqrt(k)).

    The logs of a power law's excesses are exponential, so that the estimate has a relative error of 1/sqrt(k).

    Args:
        values: Independent positive values, shape (n,); others are left out.

    Returns:
        The index with its 95 % interval, and k as its count; NaN where there are too few values.

    Example:
        >>> found = hill(np.random.default_rng(0).pareto(3.0, 5000) + 1)
        >>> found.low < 3.0 < found.high, found.count
        (True, 500)
    """
    k, alpha = hill_curve(values)
    largest = num_largest(len(k) + 1)
    if not largest:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=0)
    index, factor = float(alpha[largest - 1]), math.exp(_QUANTILE / math.sqrt(largest))
    return Interval(mean=index, low=index / factor, high=index * factor, count=largest)
