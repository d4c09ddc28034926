"""The mean of several micro-batches' gradients, each of them transformed before it or not."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.update.flat import FlatParameters
from trainers.update.norms import norm
from trainers.update.rule import UpdateRule
from trainers.update.transforms import Direction

__all__ = ["Accumulation"]


class Accumulation:
    """Adds up the gradients of the micro-batches of one step.

    The gradient of a step is g = (1/n) sum g_i. With ``clip_each_micro_batch`` the transform T works on every g_i, and
    what is stepped along is (1/n) sum T(g_i), which is no transform of g.

    Args:
        rule: The update rule.
        flat: Parameters, and the buffer into which every micro-batch's gradient is put, one after the other.
        count: n, how many there are in a step.
    """

    def __init__(self, rule: UpdateRule, flat: FlatParameters, count: int) -> None:
        self._rule = rule
        self._flat = flat
        self._count = count
        # A sum of gradients of 16 bits may overflow where their mean does not.
        wide = torch.promote_types(flat.gradient.dtype, torch.float32)
        self._sum = torch.zeros_like(flat.gradient, dtype=wide)
        self._transformed = torch.zeros_like(self._sum) if rule.clip_each_micro_batch else None
        self._is_changed: Tensor | None = None

    def add(self) -> None:
        """Add the gradient in the buffer, which may be overwritten."""
        gradient, transformed = self._flat.gradient, self._transformed
        self._sum.add_(gradient)
        if transformed is None:
            return
        views, parameters = self._flat.views, self._flat.parameters
        direction = Direction(vector=gradient, norm=norm(gradient), views=views, parameters=parameters)
        scale = self._rule.transform(direction)
        assert scale is not None
        transformed.add_(gradient)
        self._is_changed = scale != 1 if self._is_changed is None else self._is_changed | (scale != 1)

    def finish(self) -> tuple[Tensor, Tensor] | None:
        """Put the mean into the buffer, and begin with the next step.

        Returns:
            Where every micro-batch was transformed: ||g|| and ||(1/n) sum T(g_i)|| / ||g||, scalars on the device; the
            ratio is 1 exactly if no T changed anything, and never otherwise. None where g itself is in the buffer.
        """
        gradient = self._flat.gradient
        torch.div(self._sum, self._count, out=gradient)
        self._sum.zero_()
        if self._transformed is None:
            return None
        before = norm(gradient)
        torch.div(self._transformed, self._count, out=gradient)
        self._transformed.zero_()
        assert self._is_changed is not None
        is_changed, self._is_changed = self._is_changed, None
        after = norm(gradient)
        # Micro-batches that cancel may do so only before they are clipped: the ratio may be above 1, up to infinity.
        ratio = torch.where(after == 0, torch.zeros_like(after), after / before)
        ratio = torch.where(ratio == 1, 1 - torch.finfo(gradient.dtype).eps, ratio)
        return before, torch.where(is_changed, ratio, torch.ones_like(ratio))
