"""Lines with non-negative coefficients through the upper edge of a cloud of points, by linear programming."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse

__all__ = ["Line", "envelope_line", "profile_line", "quantile_for", "quantile_line"]

Line = tuple[float, float]
"""L0 and L1 of y = L0 + L1 x."""

_POINTS_ABOVE = 5
"""Points that a quantile must leave above it: fewer would be a fit to outliers."""


def quantile_for(count: int, wanted: float = 0.95) -> float:
    """The quantile that a sample supports: lowered until five points lie above it, but not below the median.

    Args:
        count: n.
        wanted: The quantile for large samples.

    Returns:
        min(wanted, 1 - 5/n), at least 1/2.

    Example:
        >>> quantile_for(1000), quantile_for(50), quantile_for(8)
        (0.95, 0.9, 0.5)
    """
    return max(0.5, min(wanted, 1 - _POINTS_ABOVE / count)) if count else 0.5


def quantile_line(x: ArrayLike, y: ArrayLike, quantile: float) -> Line:
    r"""Non-negative quantile regression (Koenker and Bassett, 1978) of y on x.

        min over L0, L1 >= 0 of sum_i rho(y_i - L0 - L1 x_i),   rho(r) = quantile r^+ + (1 - quantile) r^-

    With quantile = 0.95 about a twentieth of the points lie above the line.

    Args:
        x: Gradient norms, not negative, shape (n,).
        y: Smoothness, shape (n,).
        quantile: In (0, 1).

    Returns:
        L0 and L1.

    Raises:
        ValueError: No points, other lengths, or values that are not finite.

    Example:
        >>> [round(value, 9) for value in quantile_line([1.0, 2.0, 3.0], [3.0, 5.0, 7.0], 0.5)]
        [1.0, 2.0]
    """
    points = _Points(x, y)
    n = points.count
    identity = sparse.eye_array(n, format="csr")
    design = sparse.csr_array(np.column_stack([np.ones(n), points.x]))
    equalities = sparse.hstack([design, identity, -identity], format="csr")
    cost = np.concatenate([[0.0, 0.0], np.full(n, quantile), np.full(n, 1 - quantile)])
    solved = optimize.linprog(cost, A_eq=equalities, b_eq=points.y, bounds=(0, None), method="highs")
    return points.line(solved)


def envelope_line(x: ArrayLike, y: ArrayLike) -> Line:
    """The line with non-negative coefficients above all points that is closest to them in the mean.

    Args:
        x: Gradient norms, not negative, shape (n,).
        y: Smoothness, shape (n,).

    Returns:
        L0 and L1 with L0 + L1 x_i >= y_i for all i.

    Raises:
        ValueError: No points, other lengths, or values that are not finite.

    Example:
        >>> [round(value, 9) for value in envelope_line([0.0, 1.0, 1.5], [1.0, 2.0, 2.2])]
        [1.0, 1.0]
    """
    points = _Points(x, y)
    above = -np.column_stack([np.ones(points.count), points.x])
    cost = [float(points.count), float(points.x.sum())]
    solved = optimize.linprog(cost, A_ub=above, b_ub=-points.y, bounds=(0, None), method="highs")
    return points.line(solved)


def profile_line(x: ArrayLike, y: ArrayLike, quantile: float) -> Line:
    """The same line as :func:`quantile_line`, about a hundred times faster and to six digits: for resampling.

    For a given L1 the best L0 is a quantile of y - L1 x; the remaining loss is convex in L1.

    Args:
        x: Gradient norms, not negative, shape (n,).
        y: Smoothness, shape (n,).
        quantile: In (0, 1).

    Returns:
        L0 and L1.

    Raises:
        ValueError: No points, other lengths, or values that are not finite.

    Example:
        >>> L0, L1 = profile_line([1.0, 2.0, 3.0], [3.0, 5.0, 7.0], 0.5)
        >>> round(L0, 4), round(L1, 4)
        (1.0, 2.0)
    """
    points = _Points(x, y)

    def intercept(slope: float) -> float:
        residuals = points.y - slope * points.x
        rank = min(points.count - 1, max(0, math.ceil(quantile * points.count) - 1))
        return max(0.0, float(np.partition(residuals, rank)[rank]))

    def loss(slope: float) -> float:
        residuals = points.y - slope * points.x - intercept(slope)
        return float(np.where(residuals > 0, quantile * residuals, (quantile - 1) * residuals).sum())

    positive = points.x > 0
    top = float(np.max(points.y[positive] / points.x[positive])) if positive.any() else 0.0
    if top <= 0:
        return points.scaled(intercept(0.0), 0.0)
    best = optimize.minimize_scalar(loss, bounds=(0.0, top), method="bounded", options={"xatol": 1e-8 * top})
    slope = float(best.x) if best.fun < loss(0.0) else 0.0
    return points.scaled(intercept(slope), slope)


class _Points:
    """Points scaled to unit size, for which the solver's tolerances are meant."""

    def __init__(self, x: ArrayLike, y: ArrayLike) -> None:
        given_x, given_y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if given_x.shape != given_y.shape or given_x.ndim != 1 or given_x.size == 0:
            raise ValueError(
                f"x and y must have the same length, at least one; found shapes {given_x.shape}, {given_y.shape}"
            )
        if not (np.isfinite(given_x).all() and np.isfinite(given_y).all()):
            raise ValueError("points must be finite")
        self._x_unit = float(np.abs(given_x).max()) or 1.0
        self._y_unit = float(np.abs(given_y).max()) or 1.0
        self.x: NDArray[np.float64] = given_x / self._x_unit
        self.y: NDArray[np.float64] = given_y / self._y_unit
        self.count = int(given_x.size)

    def scaled(self, intercept: float, slope: float) -> Line:
        """The coefficients in the units of the points."""
        return intercept * self._y_unit, slope * self._y_unit / self._x_unit

    def line(self, solved: optimize.OptimizeResult) -> Line:
        assert solved.success, solved.message  # bounded below by 0 and always feasible
        return self.scaled(float(solved.x[0]), float(solved.x[1]))
