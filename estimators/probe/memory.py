"""Gradients that need not be computed twice."""

from __future__ import annotations

from collections import OrderedDict
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
        self._held: OrderedDict[int, tuple[Tensor, float, Tensor]] = OrderedDict()

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """f and its gradient, shape (n,); the gradient is shared and must not be changed."""
        mark = _mark(point)
        if (found := self._found(mark, point)) is None:
            found = self._evaluate(point)
            self._add(mark, point, *found)
        return found

    def known_value(self, point: Tensor) -> float | None:
        """f at a point, shape (n,), if it is held."""
        found = self._found(_mark(point), point)
        return None if found is None else found[0]

    def hold(self, point: Tensor, value: float, slope: Tensor) -> None:
        """Cache the value at a point, evicting the least recently used ones."""
        self._add(_mark(point), point, value, slope)

    def _found(self, mark: int, point: Tensor) -> tuple[float, Tensor] | None:
        entry = self._held.get(mark)
        if entry is None or not _same_bits(entry[0], point):
            return None
        self._held.move_to_end(mark)
        return entry[1], entry[2]

    def _add(self, mark: int, point: Tensor, value: float, slope: Tensor) -> None:
        room = max(self._at_least, self._max_bytes // max(1, point.nbytes + slope.nbytes))
        # Where two points have the same mark, the earlier one makes way.
        self._held.pop(mark, None)
        while len(self._held) >= max(1, room):
            self._held.popitem(last=False)
        if room > 1:
            self._held[mark] = (point.clone(), value, slope)

    def clear(self) -> None:
        """Forget everything: f is now another function."""
        self._held.clear()


_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes per element to a type that compares bits."""


def _mark(point: Tensor) -> int:
    """A number that equal points share and different ones hardly ever: one pass over the point, on its device."""
    return int(point.contiguous().view(_WHOLE[point.element_size()]).sum(dtype=torch.int64))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare bits, not values: 0.0 equals -0.0, which f may distinguish, and NaN differs from itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    whole = _WHOLE[one.element_size()]
    return torch.equal(one.view(whole), other.contiguous().view(whole))
