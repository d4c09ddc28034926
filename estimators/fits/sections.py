"""Intervals from one trajectory, whose points depend on their neighbours: the spread of its contiguous sections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

__all__ = ["ENOUGH_FOR_FOUR", "UNKNOWN", "Bounds", "autocorrelation_time", "half_width", "section_bounds", "sections"]

ENOUGH_FOR_FOUR = 50.0
"""Independent points from which on a trajectory is cut into four sections, and below which into three.

With four, L1's interval covers down to 88 % where neighbours have a correlation of 0.9 (``benchmarks/coverage.py``).
"""

_LEAST_SHARE = 0.25
"""The spread is corrected for the correlation of neighbouring sections by a factor of 2 at most."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A 95 % interval; NaN where it cannot be computed."""

    low: float
    high: float


UNKNOWN = Bounds(low=math.nan, high=math.nan)
"""No interval."""


def autocorrelation_time(series: ArrayLike) -> float:
    r"""Integrated autocorrelation time: half the number of successive points that are worth one independent point.

        tau_int = 1/2 + sum_{t=1}^{W} rho(t),   W the first with W >= 5 tau_int(W)

    (Sokal's self-consistent window.) The mean of n points has the variance of n / (2 tau_int) independent ones.

    Args:
        series: In the order of the trajectory, shape (n,).

    Returns:
        tau_int, at least 1/2 and at most n/2; 1/2 for independent points and for a constant.

    Example:
        >>> autocorrelation_time([1.0, 1.0, 1.0])
        0.5
    """
    values = np.asarray(series, dtype=np.float64)
    n = values.size
    centred = values - values.mean() if n else values
    # The mean of equal values may differ from them in the last digit.
    if n < 3 or np.abs(centred).max() <= 1e-12 * np.abs(values).max():
        return 0.5
    # Scaled to unit size, so that squares neither underflow nor overflow.
    centred = centred / np.abs(centred).max()
    size = 2 ** math.ceil(math.log2(2 * n))
    spectrum = np.fft.rfft(centred, size)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum), size)[:n]
    correlation /= correlation[0]
    times = 0.5 + np.cumsum(correlation[1:])
    windows = np.arange(1, n)
    enough = windows >= 5 * times
    at = int(np.argmax(enough)) if enough.any() else n - 2
    return float(min(max(times[at], 0.5), n / 2))


def sections(count: int, effective: float) -> list[NDArray[np.intp]]:
    """Places of a trajectory's points, cut into contiguous sections of equal length.

    Args:
        count: n.
        effective: n_eff, how many independent points they are worth.

    Returns:
        The places of each section, which differ by at most one in number: four sections from
        :data:`ENOUGH_FOR_FOUR` independent points on, else three.

    Example:
        >>> [part.tolist() for part in sections(5, effective=5.0)]
        [[0, 1], [2, 3], [4]]
    """
    number = 4 if effective >= ENOUGH_FOR_FOUR else 3
    return [np.asarray(part, dtype=np.intp) for part in np.array_split(np.arange(count), number)]


def half_width(estimate: float, parts: Sequence[float], *, effective: float, confidence: float = 0.95) -> float:
    r"""Half the width of an interval of an estimate, from the same estimate on contiguous sections of the data.

        t s / sqrt(K (1 - (K + 1) / (2 n_eff))),   s^2 = sum_j (e_j - e)^2 / (K - 1),   K - 1 degrees of freedom

    Sectioning (Asmussen and Glynn, 2007, "Stochastic Simulation", III.5) centred at the estimate from all points, so
    that a bias of short sections widens the interval. Sections whose neighbours are correlated lie closer together than
    independent ones: the variance of a mean of n points of integrated autocorrelation time tau_int, estimated from K
    batches, is low by the factor 1 - (K + 1) tau_int / n to first order, for which the width is corrected.

    Args:
        estimate: From all points, on a scale on which its errors are symmetric.
        parts: The same from each section, on the same scale.
        effective: n_eff = n / (2 tau_int), how many independent points the trajectory is worth.
        confidence: Two-sided coverage.

    Returns:
        Half the width; NaN if a section has no estimate.

    Example:
        >>> round(half_width(0.0, [1.0, -1.0, 1.0, -1.0], effective=1e9), 3)
        1.837
    """
    number = len(parts)
    spread = math.sqrt(sum((part - estimate) ** 2 for part in parts) / (number - 1))
    share = max(_LEAST_SHARE, 1 - (number + 1) / (2 * effective))
    return float(stdtrit(number - 1, (1 + confidence) / 2)) * spread / math.sqrt(number * share)


def section_bounds(
    estimate: float,
    parts: Sequence[float],
    effective: float,
    *,
    scale: Callable[[float], float] = float,
    back: Callable[[float], float] = float,
    confidence: float = 0.95,
) -> Bounds:
    """An interval of an estimate, symmetric on a scale of one's choice.

    Args:
        estimate: From all points.
        parts: The same from each section.
        effective: As of :func:`half_width`.
        scale: To the scale on which errors are symmetric, such as ``math.log``.
        back: Its inverse.
        confidence: Two-sided coverage.

    Returns:
        The interval in units of the estimate; unknown where that, or a section's, is not finite.

    Example:
        >>> bounds = section_bounds(1.0, [2.0, 0.5, 2.0, 0.5], 1e9, scale=math.log, back=math.exp)
        >>> round(bounds.low * bounds.high, 9), round(bounds.high, 3)
        (1.0, 3.574)
    """
    if not np.isfinite([estimate, *parts]).all():
        return UNKNOWN
    centre = scale(estimate)
    half = half_width(centre, [scale(part) for part in parts], effective=effective, confidence=confidence)
    try:
        return Bounds(low=back(centre - half), high=back(centre + half))
    except OverflowError:
        return UNKNOWN
