"""Does smoothness grow with the gradient norm? Correlations along one trajectory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["log_log_correlation", "partial_rank_correlation", "rank_correlation"]


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


def partial_rank_correlation(grad_norm: ArrayLike, smoothness: ArrayLike, given: ArrayLike) -> float:
    """Spearman's correlation of smoothness with the gradient norm, with what both share with a third quantity removed.

        (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))   of ranks

    With the mechanical bound of the smoothness as the third it tells how much of a correlation is left beyond what
    arithmetic alone would give.

    Args:
        grad_norm: ||grad f(x_k)|| along a trajectory, shape (n,).
        smoothness: Smoothness at the same iterates, shape (n,).
        given: The third quantity, shape (n,).

    Returns:
        The correlation over the iterates at which all three are positive and finite; NaN for fewer than four, where
        one of them is constant, or where the third is a monotone function of one of the others, so that nothing is
        left.

    Example:
        >>> x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> round(partial_rank_correlation(x, x**2, [2.0, 1.0, 4.0, 3.0, 5.0]), 6)
        1.0
        >>> partial_rank_correlation(x, [2.0, 1.0, 4.0, 3.0, 5.0], x)
        nan
    """
    columns = [np.asarray(one, dtype=np.float64) for one in (grad_norm, smoothness, given)]
    usable = np.logical_and.reduce([np.isfinite(one) & (one > 0) for one in columns])
    x, y, z = (one[usable] for one in columns)
    if len(x) < 4 or min(np.ptp(x), np.ptp(y), np.ptp(z)) == 0:
        return float("nan")
    xy, xz, yz = (_pearson(_ranks(one), _ranks(other)) for one, other in ((x, y), (x, z), (y, z)))
    left = (1 - xz * xz) * (1 - yz * yz)
    return float(np.clip((xy - xz * yz) / np.sqrt(left), -1, 1)) if left > 1e-12 else float("nan")


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
