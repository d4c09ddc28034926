"""Which of the known ways of clipping predicts what was seen, and with which threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trainers.clip_audit.clips import Way

__all__ = ["Fit", "Pair", "fitting", "relative_error"]

_PER_DECADE = 8
_NEAR = 0.3
"""No exact threshold saves a way whose error is larger than this at the best threshold of the grid."""

_ROUGH = 1e-3
_EXACT = 1e-9
"""Widths of the interval, on the logarithm of the threshold."""
_WRONG = 0.05

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A step that was seen.

    Attributes:
        gradients: What each micro-batch contributes without a clip, shape (ranks, micro-batches, SIZE).
        used: The gradient that moved the weights, shape (SIZE,).
    """

    gradients: np.ndarray
    used: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A way of clipping that predicts every step.

    Attributes:
        way: The way.
        threshold: In the unit of the gradient that moves the weights.
        error: Largest relative error of a prediction.
    """

    way: Way
    threshold: float
    error: float


def relative_error(predicted: np.ndarray, seen: np.ndarray) -> float:
    """How far a prediction is off, relative to what was seen.

    Args:
        predicted: A vector.
        seen: A vector of the same shape.

    Returns:
        Norm of the difference over the larger of the two norms; infinite where something is not finite.

    Example:
        >>> relative_error(np.array([3.0, 0.0]), np.array([3.0, 4.0]))
        0.8
    """
    if not (np.isfinite(predicted).all() and np.isfinite(seen).all()):
        return math.inf
    size = max(np.linalg.norm(predicted), np.linalg.norm(seen))
    return float(np.linalg.norm(predicted - seen) / size) if size > 0 else 0.0


def fitting(
    ways: Iterable[Way], pairs: Sequence[Pair], *, low: float, high: float, tolerance: float
) -> tuple[list[Fit], Fit | None]:
    """The ways of clipping that predict every step that was seen.

    The threshold of each way is the one number that is fitted, on a grid and then by golden section on its logarithm.

    Args:
        ways: What is tried.
        pairs: Steps in which something was clipped.
        low: Smallest threshold that is tried.
        high: Largest one.
        tolerance: Largest relative error.

    Returns:
        Those that fit, in the order of ``ways``; and the best one of those that do not, None where none came near.
    """
    grid = np.geomspace(low, high, max(2, math.ceil(_PER_DECADE * math.log10(high / low))))
    found: list[Fit] = []
    nearest: Fit | None = None
    for way in ways:
        fit = _best(way, pairs, grid)
        if fit is not None and fit.error <= tolerance:
            found.append(fit)
        elif fit is not None and (nearest is None or fit.error < nearest.error):
            nearest = fit
    return found, nearest


def _best(way: Way, pairs: Sequence[Pair], grid: np.ndarray) -> Fit | None:
    def error(threshold: float, among: Sequence[Pair]) -> float:
        return max(relative_error(way(pair.gradients, threshold), pair.used) for pair in among)

    # The pair that is clipped the most is the one that tells the most of the threshold.
    first = pairs[-1:]
    errors = [error(threshold, first) for threshold in grid]
    at = int(np.argmin(errors))
    if errors[at] > _NEAR:
        return None
    low, high = math.log(grid[max(at - 1, 0)]), math.log(grid[min(at + 1, len(grid) - 1)])
    low, high = _narrowed(lambda log: error(math.exp(log), first), low, high, _ROUGH)
    threshold = math.exp((low + high) / 2)
    # Most ways are wrong, and seen to be so without a threshold to nine digits.
    if (off := error(threshold, pairs)) > _WRONG:
        return Fit(way=way, threshold=threshold, error=off)
    low, high = _narrowed(lambda log: error(math.exp(log), pairs), low - _ROUGH, high + _ROUGH, _EXACT)
    threshold = math.exp((low + high) / 2)
    return Fit(way=way, threshold=threshold, error=error(threshold, pairs))


def _narrowed(error: Callable[[float], float], low: float, high: float, width: float) -> tuple[float, float]:
    """Golden section: an interval of at most this width around the minimum."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left_error, right_error = error(left), error(right)
    while high - low > width:
        if left_error < right_error:
            high, right, right_error = right, left, left_error
            left = high - _GOLDEN * (high - low)
            left_error = error(left)
        else:
            low, left, left_error = left, right, right_error
            right = low + _GOLDEN * (high - low)
            right_error = error(right)
    return low, high
