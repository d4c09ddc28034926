"""Functions with known constants, by name; each class derives its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from trainers.analytic.arrays import Array, library_of, power, softplus, sum_of_rows
from trainers.analytic.function import Function, signed
from trainers.analytic.roots import largest_real_value
from trainers.analytic.theorem4 import Theorem4Flat, Theorem4Steep
from trainers.errors import TrainerError

__all__ = ["FUNCTIONS", "Extremal", "Logistic", "Power", "Quadratic", "ScalarNetwork"]


@dataclass(frozen=True, kw_only=True)
class Quadratic(Function):
    r"""f(x) = 1/2 sum_i lambda_i x_i^2.

    ||Hessian|| is the largest lambda everywhere and the gradient vanishes at 0: L0 = max lambda, L1 = 0.

    Attributes:
        eigenvalues: lambda, shape (dimension,) or (dimension, lanes), positive.

    Example:
        >>> f = Quadratic(eigenvalues=(1.0, 4.0))
        >>> f.smoothness(), f.gradient(np.array([[1.0], [1.0]])).ravel().tolist()
        ((4.0, 0.0), [1.0, 4.0])
    """

    eigenvalues: Any

    @property
    def num_coordinates(self) -> int:
        return len(self.eigenvalues)

    def _columns(self, x: Array) -> Array:
        plain = isinstance(self.eigenvalues, tuple | list)
        eigenvalues = library_of(x).asarray(self.eigenvalues, dtype=x.dtype) if plain else self.eigenvalues
        return eigenvalues if eigenvalues.ndim == 2 else eigenvalues[:, None]

    def value(self, x: Array) -> Array:
        return 0.5 * sum_of_rows(self._columns(x) * x * x)

    def gradient(self, x: Array) -> Array:
        return self._columns(x) * x

    def curvature(self, x: Array) -> Array:
        return library_of(x).broadcast_to(library_of(x).amax(self._columns(x), 0), x.shape[1:])

    def smoothness(self) -> tuple[float, float]:
        return float(np.max(self.eigenvalues)), 0.0

    def belongs_to(self, L0: float, L1: float) -> bool:
        return self.smoothness()[0] <= L0 * (1 + 1e-12)

    def start_of_gradient_norm(self, norm: float) -> float:
        """Every coordinate of x0 = s (1, ..., 1) with ||gradient|| = s ||lambda||."""
        return norm / float(np.linalg.norm(self.eigenvalues))

    def start_of_gap(self, gap: float) -> float:
        """Every coordinate of x0 = s (1, ..., 1) with f(x0) = s^2 sum lambda / 2."""
        return math.sqrt(2 * gap / float(np.sum(self.eigenvalues)))

    def sublevel_gradient_norm(self, start: float) -> float:
        """sqrt(2 f(x0) max lambda): reached on the axis of the largest eigenvalue."""
        value = 0.5 * start * start * float(np.sum(self.eigenvalues))
        return math.sqrt(2 * value * float(np.max(self.eigenvalues)))


@dataclass(frozen=True, kw_only=True)
class Power(Function):
    r"""f(x) = |x|^p with p >= 2.

    |f''| - L1 |f'| = p (p-1) |x|^{p-2} - L1 p |x|^{p-1} is largest at |x| = (p-2)/L1, where it equals
    L0 = p ((p-2)/L1)^{p-2}: 2 for x^2, 3/L1 for |x|^3, 16/L1^2 for x^4. Any L1 > 0 will do.

    Attributes:
        exponent: p.
        L1: The slope for which L0 is given.

    Example:
        >>> Power(exponent=4.0, L1=2.0).smoothness(), Power(exponent=3.0, L1=2.0).smoothness()
        ((4.0, 2.0), (1.5, 2.0))
    """

    exponent: Any
    L1: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any(np.asarray(self.exponent) < 2):
            raise TrainerError(f"exponent must be at least 2, but is {self.exponent!r}: below, f'' is unbounded at 0")
        if np.any(np.asarray(self.L1) == 0):
            raise TrainerError("L1 must be positive")

    def value(self, x: Array) -> Array:
        return power(abs(x[0]), self.exponent)

    def gradient(self, x: Array) -> Array:
        slope = power(abs(x), self.exponent - 1)
        slope *= self.exponent
        return signed(slope, x)

    def curvature(self, x: Array) -> Array:
        p = self.exponent
        return p * (p - 1) * power(abs(x[0]), p - 2)

    def smoothness(self) -> tuple[float, float]:
        p, L1 = float(self.exponent), float(self.L1)
        return p * ((p - 2) / L1) ** (p - 2), L1

    def start_of_gradient_norm(self, norm: float) -> float:
        """(norm / p)^{1/(p-1)}."""
        p = float(self.exponent)
        return float((norm / p) ** (1 / (p - 1)))


@dataclass(frozen=True, kw_only=True)
class Extremal(Function):
    r"""f' = (L0/L1) (e^{L1 |x|} - 1) sign x: equality in Definition 1 at every point.

    f'' = L0 e^{L1 |x|} = L0 + L1 |f'|, and f(x) = (L0/L1^2) (e^{L1 |x|} - 1 - L1 |x|). Among all functions with these
    constants its gradient grows fastest from its minimum.

    Attributes:
        L0: Curvature at the minimum.
        L1: Growth of the curvature with the gradient.

    Example:
        >>> f = Extremal(L0=1.0, L1=1.0)
        >>> round(f.start_of_gradient_norm(100.0), 6) == round(math.log(101), 6)
        True
    """

    L0: Any = 1.0
    L1: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any(np.asarray(self.L0) == 0) or np.any(np.asarray(self.L1) == 0):
            raise TrainerError("L0 and L1 must be positive")

    def value(self, x: Array) -> Array:
        t = abs(x[0]) * self.L1
        return self.L0 / self.L1**2 * (library_of(x).expm1(t) - t)

    def gradient(self, x: Array) -> Array:
        slope = abs(x)
        slope *= self.L1
        # Not exp(t) - 1, which loses all digits near the minimum.
        library_of(x).expm1(slope, out=slope)
        slope *= self._scale
        return signed(slope, x)

    @cached_property
    def _scale(self) -> Any:
        return self.L0 / self.L1

    def curvature(self, x: Array) -> Array:
        return self.L0 * library_of(x).exp(abs(x[0]) * self.L1)

    def smoothness(self) -> tuple[float, float]:
        return float(self.L0), float(self.L1)

    def belongs_to(self, L0: float, L1: float) -> bool:
        """The growth of its gradient needs all of L1, and L1 does not make up for L0 at the minimum."""
        return bool(self.L0 <= L0 and self.L1 <= L1)

    def start_of_gradient_norm(self, norm: float) -> float:
        """log(1 + L1 norm / L0) / L1."""
        return math.log1p(float(self.L1) * norm / float(self.L0)) / float(self.L1)


@dataclass(frozen=True, kw_only=True)
class Logistic(Function):
    r"""f(x) = log(1 + e^{-a x}), the logistic loss of one sample; infimum 0, not attained.

    With s = 1/(1 + e^{a x}): f' = -a s and f'' = a^2 s (1 - s), so |f''| - L1 |f'| = a s ((a - L1) - a s), which is
    largest at s = (a - L1)/(2a): L0 = ((a - L1)_+)^2 / 4. For L1 >= a that is 0.

    Attributes:
        slope: a.
        L1: The slope for which L0 is given.

    Example:
        >>> Logistic(slope=3.0, L1=1.0).smoothness()
        (1.0, 1.0)
    """

    slope: Any = 1.0
    L1: Any = 0.0

    @property
    def gradient_bound(self) -> float:
        """a, which |f'| approaches for x to -infinity."""
        return float(self.slope)

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.any(np.asarray(self.slope) == 0):
            raise TrainerError("slope must be positive")

    def value(self, x: Array) -> Array:
        return softplus(-self.slope * x[0])

    def gradient(self, x: Array) -> Array:
        steep = self.slope * x
        # Where e^{ax} overflows, 1 / inf = 0 is the gradient's limit.
        library_of(x).exp(steep, out=steep)
        steep += 1
        return -self.slope / steep

    def curvature(self, x: Array) -> Array:
        s = -self.gradient(x)[0] / self.slope
        return self.slope**2 * s * (1 - s)

    def smoothness(self) -> tuple[float, float]:
        return max(0.0, float(self.slope) - float(self.L1)) ** 2 / 4, float(self.L1)

    def start_of_gradient_norm(self, norm: float) -> float:
        """log(a / norm - 1) / a; only norms below a exist."""
        a = float(self.slope)
        if not norm < a:
            raise TrainerError(f"Logistic has no point of gradient norm {norm!r}: it stays below slope = {a!r}")
        return math.log(a / norm - 1) / a

    def start_of_gap(self, gap: float) -> float:
        """-log(e^gap - 1) / a."""
        # log(e^gap - 1) = gap + log(1 - e^{-gap}), which does not overflow.
        return -(gap + math.log(-math.expm1(-gap))) / float(self.slope)


@dataclass(frozen=True, kw_only=True)
class ScalarNetwork(Function):
    r"""f(w) = (w^k - 1)^2: a linear network of k layers of one weight that they share; not convex for k >= 2.

    f' = 2k w^{k-1} (w^k - 1) and f'' = 2k w^{k-2} ((2k-1) w^k - (k-1)). |f''| - L1 |f'| is piecewise a polynomial in w,
    so its largest value is one of finitely many: at the real roots of the derivatives of its pieces, and where
    pieces meet. It tends to minus infinity, since f' has the higher degree.

    Attributes:
        depth: k, a whole number.
        L1: The slope for which L0 is given, positive.

    Example:
        For k = 2 the largest value is at w = (1 + sqrt(1 + L1^2 / 3)) / L1, or at w = 0 where |f''| = 4.

        >>> L0, _ = ScalarNetwork(depth=2, L1=1.0).smoothness()
        >>> w = 1 + math.sqrt(4 / 3)
        >>> math.isclose(L0, 12 * w**2 - 4 - 4 * w * (w**2 - 1))
        True
    """

    depth: Any = 2
    L1: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        depth = np.asarray(self.depth)
        if np.any(depth < 1) or np.any(depth != np.rint(depth)):
            raise TrainerError(f"depth must be a whole number, at least 1, but is {self.depth!r}")
        if np.any(np.asarray(self.L1) == 0):
            raise TrainerError("L1 must be positive")

    def value(self, x: Array) -> Array:
        return (power(x[0], self.depth * 1.0) - 1) ** 2

    def gradient(self, x: Array) -> Array:
        k = self.depth * 1.0
        lower = power(x, k - 1)
        return 2 * k * lower * (lower * x - 1)

    def curvature(self, x: Array) -> Array:
        k = self.depth + 0 * x[0]
        # w^{k-2} is infinite at w = 0 for k = 1, where its factor k - 1 is 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            bent = abs(2 * k * ((2 * k - 1) * power(x[0], 2 * k - 2) - (k - 1) * power(x[0], k - 2)))
        return library_of(x).where(k == 1, 2.0, bent)

    def smoothness(self) -> tuple[float, float]:
        k, L1 = int(self.depth), float(self.L1)
        network = np.polynomial.Polynomial([-1.0, *[0.0] * (k - 1), 1.0]) ** 2
        slope, bent = network.deriv(), network.deriv(2)
        return largest_real_value(bent, slope, L1), L1

    def sublevel_gradient_norm(self, start: float) -> float:
        """2k (1 + r)^{(k-1)/k} r with r = |w0^k - 1|: on |w^k - 1| <= r the worst is w^k = 1 + r."""
        k = int(self.depth)
        r = abs(float(start) ** k - 1)
        return float(2 * k * (1 + r) ** ((k - 1) / k) * r)


FUNCTIONS: dict[str, type[Function]] = {
    "quadratic": Quadratic,
    "power": Power,
    "extremal": Extremal,
    "logistic": Logistic,
    "scalar_network": ScalarNetwork,
    "theorem4_steep": Theorem4Steep,
    "theorem4_flat": Theorem4Flat,
}
"""Name to class."""
