r"""The two instances with which Theorem 4 bounds gradient descent from below: one diverges where the other crawls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.analytic.arrays import Array, library_of
from trainers.analytic.function import Function, signed
from trainers.errors import TrainerError

__all__ = ["Theorem4Flat", "Theorem4Steep"]


@dataclass(frozen=True, kw_only=True)
class Theorem4Steep(Function):
    r"""The first instance of Theorem 4: a parabola whose walls grow exponentially.

    f = L1 x^2/2 + 1/(2 L1) for |x| <= 1/L1 and e^{L1 |x| - 1}/L1 beyond. On the walls |f''| = L1 |f'|; in the parabola
    |f''| - L1 |f'| = L1 - L1^2 |x|, largest at 0: L0 = L1. The paper says L0 = 1, which holds for L1 = 1 alone.

    Attributes:
        L1: Curvature at the minimum, and growth of the walls.

    Example:
        >>> f = Theorem4Steep(L1=2.0)
        >>> f.smoothness(), float(f.value(np.array([[0.0]]))[0]), float(f.minimum)
        ((2.0, 2.0), 0.25, 0.25)
    """

    L1: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any(np.asarray(self.L1) == 0):
            raise TrainerError("L1 must be positive")

    @property
    def minimum(self) -> Any:
        return 0.5 / self.L1

    def value(self, x: Array) -> Array:
        t = abs(x[0]) * self.L1
        return library_of(x).where(t <= 1, 0.5 * t * t + 0.5, library_of(x).exp(t - 1)) / self.L1

    def gradient(self, x: Array) -> Array:
        t = abs(x) * self.L1
        return signed(library_of(x).where(t <= 1, t, library_of(x).exp(t - 1)), x)

    def curvature(self, x: Array) -> Array:
        t = abs(x[0]) * self.L1
        return self.L1 * library_of(x).where(t <= 1, 1.0, library_of(x).exp(t - 1))

    def smoothness(self) -> tuple[float, float]:
        return float(self.L1), float(self.L1)

    def belongs_to(self, L0: float, L1: float) -> bool:
        """L0 is needed at the minimum and L1 on the walls."""
        return bool(self.L1 <= L0 and self.L1 <= L1)

    def start_of_gradient_norm(self, norm: float) -> float:
        """The paper's x0 = (log M + 1)/L1; in the parabola norm / L1."""
        return (norm if norm <= 1 else math.log(norm) + 1) / float(self.L1)


@dataclass(frozen=True, kw_only=True)
class Theorem4Flat(Function):
    r"""The second instance of Theorem 4: a valley whose sides have the slope 2 epsilon.

    f = (epsilon/4)(6 x^2 - x^4) for |x| <= 1 and 2 epsilon (|x| - 1) + 5 epsilon/4 beyond. f'' = 3 epsilon (1 - x^2)
    inside and 0 outside; at 0 the gradient vanishes, so that L0 = 3 epsilon for every L1: a class with L0 = 1 holds it
    for epsilon <= 1/3 only.

    Attributes:
        epsilon: Half the slope of the sides.

    Example:
        >>> Theorem4Flat(epsilon=0.1).start_of_gap(1.125)
        6.0
    """

    epsilon: Any

    @property
    def gradient_bound(self) -> float:
        """The slope of the sides, 2 epsilon."""
        return 2 * float(self.epsilon)

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any(np.asarray(self.epsilon) == 0):
            raise TrainerError("epsilon must be positive")

    def value(self, x: Array) -> Array:
        t = abs(x[0])
        u = library_of(x).clip(t, 0.0, 1.0)
        return self.epsilon * (0.25 * u * u * (6 - u * u) + 2 * (t - u))

    def gradient(self, x: Array) -> Array:
        u = library_of(x).clip(abs(x), 0.0, 1.0)
        return signed(self.epsilon * u * (3 - u * u), x)

    def curvature(self, x: Array) -> Array:
        u = library_of(x).clip(abs(x[0]), 0.0, 1.0)
        return 3 * self.epsilon * (1 - u * u)

    def smoothness(self) -> tuple[float, float]:
        return 3 * float(self.epsilon), 0.0

    def belongs_to(self, L0: float, L1: float) -> bool:
        """At the minimum the gradient vanishes, so that L1 is of no help."""
        return self.smoothness()[0] <= L0 * (1 + 1e-12)

    def start_of_gap(self, gap: float) -> float:
        """1 + (gap - 5 epsilon/4)/(2 epsilon) on the sides."""
        epsilon = float(self.epsilon)
        if gap < 1.25 * epsilon:
            return super().start_of_gap(gap)
        return 1 + (gap / epsilon - 1.25) / 2
