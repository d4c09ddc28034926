r"""What a function with known constants offers.

A function is (L0, L1)-smooth if ||Hessian|| <= L0 + L1 ||gradient||: Definition 1, eq. (2), of Zhang et al. (2020),
"Why gradient clipping accelerates training". For a given L1 the smallest L0 is the supremum of
||Hessian|| - L1 ||gradient||; every class derives its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from trainers.analytic.arrays import Array, library_of
from trainers.analytic.roots import point_where
from trainers.errors import TrainerError

__all__ = ["Function", "signed"]


@dataclass(frozen=True, kw_only=True)
class Function:
    """What every function offers. The lower bound of Assumption 1 is ``minimum``, whether attained or not.

    Points are NumPy arrays or torch tensors of float64, and so is what becomes of them. A function's own numbers are
    plain ones, or arrays of the same library with one number for each lane in the last axis.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.all(np.isfinite(value)) or np.any(np.asarray(value) < 0):
                raise TrainerError(f"{field.name} must be finite and not negative, but is {value!r}")

    def with_numbers(self, numbers: Mapping[str, Any]) -> Self:
        """The same kind of function with other numbers, which have been checked before.

        Args:
            numbers: By the names of the fields, all of them.

        Returns:
            The function.
        """
        changed = object.__new__(type(self))
        # Frozen, and without what the other has derived of its own numbers.
        changed.__dict__.update(numbers)
        return changed

    @property
    def num_coordinates(self) -> int:
        """Length of a point."""
        return 1

    def value(self, x: Array) -> Array:
        """f at points of shape (dimension, lanes); shape (lanes,)."""
        raise NotImplementedError

    def gradient(self, x: Array) -> Array:
        """The gradient at points of shape (dimension, lanes), a fresh array of the same shape."""
        raise NotImplementedError

    def curvature(self, x: Array) -> Array:
        """||Hessian|| at points of shape (dimension, lanes); shape (lanes,)."""
        raise NotImplementedError

    def smoothness(self) -> tuple[float, float]:
        """The constants (L0, L1): for this L1 the smallest L0."""
        raise NotImplementedError

    def belongs_to(self, L0: float, L1: float) -> bool:
        """Whether the function is (L0, L1)-smooth.

        Args:
            L0: Of the class.
            L1: Of the class.

        Returns:
            Whether the smallest L0 for this L1 is no larger, rounding aside.
        """
        return replace(self, L1=L1).smoothness()[0] <= L0 * (1 + 1e-12)  # type: ignore[call-arg]

    @property
    def minimum(self) -> Any:
        """f*, the infimum."""
        return 0.0

    def start_of_gradient_norm(self, norm: float) -> float:
        """The point whose gradient has this norm, on the right of the minimiser where there is one.

        Args:
            norm: Positive.

        Returns:
            x0.

        Raises:
            TrainerError: No point has such a gradient.
        """
        return self._solve("gradient norm", norm, lambda x: float(np.abs(self.gradient(np.array([[x]]))[0, 0])))

    def start_of_gap(self, gap: float) -> float:
        """The point whose value lies this far above the infimum, on the right of the minimiser where there is one.

        Args:
            gap: f(x0) - f*, positive.

        Returns:
            x0.

        Raises:
            TrainerError: No point has such a value.
        """
        return self._solve("gap", gap, lambda x: float(self.value(np.array([[x]]))[0] - self.minimum))

    @property
    def gradient_bound(self) -> float | None:
        """The supremum of ||f'|| on the whole space, as Theorem 8 needs it; None where there is none."""
        return None

    def sublevel_gradient_norm(self, start: float) -> float:
        """M of Assumption 4: the largest gradient norm where f(x) <= f(x0).

        Here for functions whose gradient norm grows with their value, so that it is the start's own.

        Args:
            start: x0, every coordinate of it.

        Returns:
            M.
        """
        return float(np.abs(self.gradient(np.array([[start]]))[0, 0]))

    def _solve(self, what: str, target: float, measure: Any) -> float:
        point = point_where(measure, target)
        if point is None:
            raise TrainerError(f"{type(self).__name__} has no point of {what} {target!r}")
        return point


def signed(magnitude: Array, x: Array) -> Array:
    """The gradient of an even function: its magnitude with the sign of x, in place."""
    # Cheaper than copysign, which torch does one by one.
    magnitude *= library_of(x).sign(x)
    return magnitude
