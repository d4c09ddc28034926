"""Roots and suprema of functions of one variable, to the last digits of float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import Polynomial
from scipy.optimize import brentq

__all__ = ["largest_real_value", "point_where"]

_FARTHEST = 1e150


def point_where(measure: Callable[[float], float], target: float) -> float | None:
    """Where a rising function of t > 0 reaches a value.

    Args:
        measure: Continuous; below t = 1 it rises, or is nowhere above the target; beyond it rises.
        target: The value, positive.

    Returns:
        t, or None where the function stays below the target.

    Example:
        >>> point_where(lambda t: t**3, 8.0)
        2.0
    """
    low = high = 1.0
    with np.errstate(over="ignore"):
        while not measure(high) >= target:
            low, high = high, 2 * high
            if high > _FARTHEST:
                return None
        while measure(low) > target:
            low, high = low / 2, low
            if low < 1 / _FARTHEST:
                return None
        for end in (low, high):
            if measure(end) == target:
                return end
        return float(brentq(lambda t: measure(t) - target, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps))


def largest_real_value(bent: Polynomial, slope: Polynomial, weight: float) -> float:
    """The supremum of |bent(w)| - weight |slope(w)| over the real line; ``slope`` has the higher degree.

    Args:
        bent: One polynomial.
        slope: Another one, of a higher degree.
        weight: Positive.

    Returns:
        The largest value: among the critical points of the four combinations of signs, and where a sign changes.

    Example:
        |2| - |2 w| is largest at w = 0, where the second term changes its sign.

        >>> largest_real_value(Polynomial([2.0]), Polynomial([0.0, 2.0]), 1.0)
        2.0
    """
    candidates = [polynomial.roots() for polynomial in (bent, slope)]
    candidates += [(bent + sign * weight * slope).deriv().roots() for sign in (-1, 1)]
    points = np.concatenate(candidates)
    # Multiple roots come out with small imaginary parts; a point that is no root does no harm.
    w = np.unique(points.real[np.abs(points.imag) < 1e-6])
    return float(np.max(np.abs(bent(w)) - weight * np.abs(slope(w))))
