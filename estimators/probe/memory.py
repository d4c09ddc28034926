"""Gradients that need not be computed twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["GradientMemory"]

Evaluate = Callable[[Tensor], tuple[float, Tensor]]


class GradientMemory:
    """f and its gradient, cached by point.

    Where snapshots follow each other, x_{k+1} of one is x_k of the next; and several estimators of one snapshot use
    the same points. A point is recognised by its bits, not by its step number: f is a function of the
    point alone, so a cached value equals a computed one, and no row depends on what was measured before.

    Args:
        evaluate: f and its gradient at a point, shape (n,), the gradient as a fresh tensor.
        max_bytes: Total size of the points and gradients held.
        at_least: Points that are held whatever their size: the two ends of a step.

    Example:
        >>> calls = []
        >>> square = GradientMemory(lambda x: calls.append(x) or (float(x @ x), 2 * x))
        >>> here = torch.tensor([1.0])
        >>> square(here), square(here.clone()), len(calls)
        ((1.0, tensor([2.])), (1.0, tensor([2.])), 1)
    """

    def __init__(self, evaluate: Evaluate, *, max_bytes: int = 1 << 27, at_least: int = 2) -> None:
        self._evaluate = evaluate
        self._max_bytes = max_bytes
        self._at_least = at_least
        self._held: list[tuple[Tensor, float, Tensor]] = []

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """f and its gradient, shape (n,); the gradient is shared and must not be changed."""
        for index, (known, value, slope) in enumerate(self._held):
            if _same_bits(known, point):
                self._held.append(self._held.pop(index))
                return value, slope
        value, slope = self._evaluate(point)
        # The point was just looked up, so it is added without comparing it with every cached one again.
        self._append(self._held, point, value, slope)
        return value, slope

    def known_value(self, point: Tensor) -> float | None:
        """f at a point, shape (n,), if it is held."""
        return next((value for known, value, _ in self._held if _same_bits(known, point)), None)

    def hold(self, point: Tensor, value: float, slope: Tensor) -> None:
        """Cache the value at a point, evicting the least recently used ones."""
        others = [entry for entry in self._held if not _same_bits(entry[0], point)]
        self._append(others, point, value, slope)

    def _append(self, others: list[tuple[Tensor, float, Tensor]], point: Tensor, value: float, slope: Tensor) -> None:
        room = max(self._at_least, self._max_bytes // max(1, point.nbytes + slope.nbytes))
        kept = others[max(0, len(others) + 1 - room) :]
        self._held = [*kept, (point.clone(), value, slope)] if room > 1 else []

    def clear(self) -> None:
        """Forget everything: f is now another function."""
        self._held.clear()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare bits, not values: 0.0 equals -0.0, which f may distinguish, and NaN differs from itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.view(whole), other.contiguous().view(whole))
