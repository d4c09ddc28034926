"""Does smoothness grow with the gradient norm? Correlations of one trajectory and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

__all__ = [
    "Interval",
    "correlation_interval",
    "holm",
    "log_log_correlation",
    "mean_interval",
    "p_value",
    "rank_correlation",
]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its two-sided confidence interval.

    Attributes:
        mean: The mean of the finite values.
        low: Lower end; NaN if there is only one value.
        high: Upper end.
        count: How many values were used.
    """

    mean: float
    low: float
    high: float
    count: int


_LARGE = 1e100


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    r"""Mean with Student's t interval: mean ± t s / sqrt(n), n - 1 degrees of freedom.

    Args:
        values: Independent replications, one per seed; non-finite ones are left out.
        confidence: Two-sided coverage.

    Returns:
        The interval; its ends are NaN for fewer than two values.

    Example:
        >>> interval = mean_interval([1.0, 2.0, 3.0])
        >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
        (2.0, -0.484, 4.484)
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if data.size == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=0)
    data, unit = _scaled(data)
    mean = float(data.mean()) * unit
    if data.size == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, count=1)
    half = float(stdtrit(data.size - 1, (1 + confidence) / 2) * data.std(ddof=1) / math.sqrt(data.size)) * unit
    return Interval(mean=mean, low=mean - half, high=mean + half, count=int(data.size))


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
    data, _ = _scaled(data)
    mean, spread = float(data.mean()), float(data.std(ddof=1))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(data.size - 1, -abs(mean) * math.sqrt(data.size) / spread))


def _scaled(data: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Data in units in which sums and squares do not overflow, and the unit: a power of 2, which changes no bits."""
    largest = float(np.abs(data).max())
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > _LARGE else 1.0
    return data / unit, unit


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


_LARGEST_CORRELATION = 0.999
"""Fisher's z of a correlation of 1 is infinite, and a few points in order give exactly 1."""


def correlation_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    r"""Mean of correlations with an interval that stays between -1 and 1.

    Student's t interval on Fisher's scale, z = artanh r, taken back: tanh(mean z ± t s / sqrt(n)) (Fisher, 1921).
    On the scale of r itself the interval of a few seeds leaves [-1, 1].

    Args:
        values: One correlation per seed; those that are not finite are left out.
        confidence: Two-sided coverage.

    Returns:
        tanh(mean z) and the interval, which is not symmetric. For fewer than two values, where all are equal, which
        says nothing of how far others would lie, and where one is beyond ±0.999, whose z would decide alone: the plain
        mean, and NaN for the ends.

    Example:
        >>> interval = correlation_interval([0.9, 0.8, 0.85])
        >>> round(interval.mean, 3), round(interval.low, 3), round(interval.high, 3)
        (0.855, 0.669, 0.94)
        >>> wide = correlation_interval([0.9, -0.2])
        >>> -1 < wide.low < wide.high < 1
        True
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if data.size < 2 or np.ptp(data) == 0 or np.abs(data).max() > _LARGEST_CORRELATION:
        mean = float(data.mean()) if data.size else math.nan
        return Interval(mean=mean, low=math.nan, high=math.nan, count=int(data.size))
    scaled = mean_interval(np.arctanh(data), confidence=confidence)
    return Interval(
        mean=math.tanh(scaled.mean), low=math.tanh(scaled.low), high=math.tanh(scaled.high), count=scaled.count
    )


def log_log_correlation(grad_norm: ArrayLike, smoothness: ArrayLike) -> float:
    """Pearson's correlation of log smoothness with log gradient norm, as drawn in Figures 2 and 3.

    Args:
        grad_norm: ||grad f(x_k)|| along a trajectory, shape (n,).
        smoothness: Smoothness at the same iterates, shape (n,).

    Returns:
        The correlation over the pairs that are positive and finite; NaN for fewer than three, or if one side is
        constant.

    Example:
        A power law is a straight line on log axes:

        >>> round(log_log_correlation([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 12)
        1.0
    """
    x, y = _positive_logs(grad_norm, smoothness)
    return float("nan") if _degenerate(x, y) else _pearson(x, y)


def rank_correlation(grad_norm: ArrayLike, smoothness: ArrayLike) -> float:
    """Spearman's rank correlation of the same pairs as :func:`log_log_correlation`; blind to the scale of the axes.

    Returns:
        The correlation; NaN below three pairs, or where one side is constant.

    Example:
        >>> round(rank_correlation([1.0, 2.0, 4.0], [1.0, 30.0, 31.0]), 12)
        1.0
    """
    x, y = _positive_logs(grad_norm, smoothness)
    return float("nan") if _degenerate(x, y) else _pearson(_ranks(x), _ranks(y))


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank. Not ``scipy.stats``, which takes half a second to import."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[group]


def _positive_logs(one: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logs of the pairs of which both are positive and finite."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    return np.log(x[usable]), np.log(y[usable])


def _degenerate(x: Sequence[float] | NDArray[np.float64], y: Sequence[float] | NDArray[np.float64]) -> bool:
    """Whether a correlation would divide by zero."""
    return len(x) < 3 or bool(np.ptp(x) == 0) or bool(np.ptp(y) == 0)
