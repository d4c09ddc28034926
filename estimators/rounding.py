"""How far a gradient in working precision lies from the exact one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from estimators.gradient import Loss, ProbeGradient

__all__ = ["RoundingProbe"]


class RoundingProbe:
    """eta = ||g - g_float64||, the rounding error of one gradient, audited on one probe batch.

    The error of the mean over batches is at most the mean of the batches' errors (triangle inequality), so one
    batch stands for all of them at the price of one batch in float64. Sampled, not proven: another batch may err
    more.

    Args:
        model: The model, in working precision.
        loss: As for ``ProbeGradient``.
        batches: The probe; the first batch is audited.
        initial_carry: As for ``ProbeGradient``.

    Example:
        In float64 there is nothing to round away from:

        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> square = lambda model, batch, carry: ((model.weight - batch).square().mean(), carry)
        >>> RoundingProbe(model, square, [torch.tensor(1.0)])(torch.tensor([5.0], dtype=torch.float64))
        0.0
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Sequence[Any],
        *,
        initial_carry: Callable[[], Any] = lambda: None,
    ) -> None:
        self._working = ProbeGradient(model, loss, batches[:1], initial_carry=initial_carry)
        self._exact = ProbeGradient(model, loss, batches[:1], initial_carry=initial_carry, dtype=torch.float64)

    def __call__(self, flat: Tensor) -> float:
        """eta at the point ``flat``, shape (num_parameters,), in units of the gradient."""
        _, working = self._working.value_and_gradient(flat)
        _, exact = self._exact.value_and_gradient(flat)
        return float(torch.linalg.vector_norm(working.double() - exact))
