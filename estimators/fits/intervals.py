"""Intervals over seeds: of means, of positive quantities, of correlations."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, stdtrit

__all__ = [
    "LARGEST_CORRELATION",
    "Interval",
    "correlation_interval",
    "geometric_interval",
    "mean_interval",
    "positive_interval",
    "scaled",
    "share_interval",
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
    data, unit = scaled(data)
    mean = float(data.mean()) * unit
    if data.size == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, count=1)
    half = float(stdtrit(data.size - 1, (1 + confidence) / 2) * data.std(ddof=1) / math.sqrt(data.size)) * unit
    return Interval(mean=mean, low=mean - half, high=mean + half, count=int(data.size))


def positive_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    r"""Mean of quantities that cannot be negative, such as losses, with an interval that is not either.

    Student's t on the log scale by the delta method: the standard error of log(mean) is s / (mean sqrt(n)), so that

        low, high = mean exp(∓ t s / (mean sqrt(n))),   n - 1 degrees of freedom.

    For values close to one another these are the ends of :func:`mean_interval`; where they scatter widely, as losses
    do next to divergence, those reach below 0 and miss on the side of the large values.

    Args:
        values: Independent replications, one per seed; non-finite ones are left out.
        confidence: Two-sided coverage.

    Returns:
        The interval. With a value of exactly 0 that of :func:`mean_interval`, cut at 0; with negative ones that of
        :func:`mean_interval`: then 0 is no bound.

    Example:
        >>> interval = positive_interval([1.0, 2.0, 3.0])
        >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
        (2.0, 0.578, 6.926)
        >>> positive_interval([0.0, 1.0]).low, round(positive_interval([-1.0, 1.0]).low, 3)
        (0.0, -12.706)
    """
    plain = mean_interval(values, confidence=confidence)
    data = np.asarray(values, dtype=np.float64)
    if plain.count < 2 or data[np.isfinite(data)].min() < 0:
        return plain
    if data[np.isfinite(data)].min() == 0:
        return replace(plain, low=max(0.0, plain.low))
    factor = math.exp((plain.high - plain.mean) / plain.mean)
    return replace(plain, low=plain.mean / factor, high=plain.mean * factor)


def share_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    r"""Mean of shares, such as accuracies, with an interval that stays between 0 and 1 as they do.

    Student's t on the scale of log(p / (1 - p)) by the delta method, p being the mean: the standard error there is
    s / (p (1 - p) sqrt(n)).

    Args:
        values: Independent replications, one per seed; non-finite ones are left out.
        confidence: Two-sided coverage.

    Returns:
        The interval. Where a value is not a share, that of :func:`positive_interval`; where all are 0, or all 1, that
        of :func:`mean_interval`, of no width.

    Example:
        >>> interval = share_interval([0.1, 0.4])
        >>> interval.mean, round(interval.low, 3), round(interval.high, 3)
        (0.25, 0.0, 1.0)
        >>> interval = share_interval([0.90, 0.92, 0.91])
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.882, 0.932)
    """
    plain = mean_interval(values, confidence=confidence)
    data = np.asarray(values, dtype=np.float64)
    finite = data[np.isfinite(data)]
    if plain.count < 2 or not (finite.min() >= 0 and finite.max() <= 1):
        return positive_interval(values, confidence=confidence)
    if not 0 < plain.mean < 1:
        return plain
    half = (plain.high - plain.mean) / (plain.mean * (1 - plain.mean))
    odds = math.log(plain.mean / (1 - plain.mean))
    low, high = float(expit(odds - half)), float(expit(odds + half))
    # Rounding must not put the mean outside.
    return replace(plain, low=min(low, plain.mean), high=max(high, plain.mean))


_BOUNDARY = 1e-3
"""Share of the largest value below which another one is taken to lie on the boundary, 0."""


def geometric_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    r"""Geometric mean of positive quantities, such as L0 and L1, with Student's t interval of their logs.

        exp(mean log x ± t s_log / sqrt(n)),   n - 1 degrees of freedom

    Args:
        values: Independent replications, one per seed, not negative; non-finite ones are left out.
        confidence: Two-sided coverage.

    Returns:
        The interval, which is not symmetric. Where a value is 0 (below a thousandth of the largest), an estimate on
        its boundary, which has no logarithm: the plain mean, the low end 0, and the upper end that
        :func:`positive_interval` would have; NaN for that end if all are 0.

    Example:
        >>> interval = geometric_interval([1.0, 10.0, 100.0])
        >>> round(interval.mean, 6), round(interval.low, 3), round(interval.high, 1)
        (10.0, 0.033, 3048.9)
        >>> geometric_interval([0.0, 1.0, 1.1]).low, geometric_interval([0.0, 0.0]).high
        (0.0, nan)
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if data.size < 2:
        return mean_interval(data)
    if data.min() <= _BOUNDARY * data.max():
        plain = mean_interval(data, confidence=confidence)
        high = plain.mean * math.exp((plain.high - plain.mean) / plain.mean) if plain.mean > 0 else math.nan
        return replace(plain, low=0.0, high=high)
    logs = mean_interval(np.log(data), confidence=confidence)
    return replace(logs, mean=math.exp(logs.mean), low=math.exp(logs.low), high=_exp(logs.high))


def _exp(value: float) -> float:
    """Infinite where it overflows."""
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


def scaled(data: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Data in units in which sums and squares do not overflow.

    Args:
        data: Finite values, at least one.

    Returns:
        The values in the unit, and the unit: a power of 2, which changes no bits.

    Example:
        >>> scaled(np.array([1.0, 3.0]))[1]
        1.0
    """
    largest = float(np.abs(data).max())
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > _LARGE else 1.0
    return data / unit, unit


LARGEST_CORRELATION = 0.999
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
    if data.size < 2 or np.ptp(data) == 0 or np.abs(data).max() > LARGEST_CORRELATION:
        mean = float(data.mean()) if data.size else math.nan
        return Interval(mean=mean, low=math.nan, high=math.nan, count=int(data.size))
    scaled = mean_interval(np.arctanh(data), confidence=confidence)
    return Interval(
        mean=math.tanh(scaled.mean), low=math.tanh(scaled.low), high=math.tanh(scaled.high), count=scaled.count
    )
