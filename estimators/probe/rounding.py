"""How far a gradient in working precision is from the exact one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from estimators.probe.gradient import Loss, ProbeGradient
from estimators.probe.policy import BatchNorm, Statistics
from estimators.probe.vectors import length

__all__ = ["RoundingProbe", "UnauditableError"]


class UnauditableError(ValueError):
    """The loss cannot be evaluated in float64, so that nothing is known of its gradient's rounding error.

    Usually it uses data that does not come through its batch, which therefore stays in working precision.

    Args:
        raised: What was raised instead.

    Attributes:
        raised: The same.
    """

    def __init__(self, raised: Exception) -> None:
        super().__init__(raised)
        self.raised = raised


class RoundingProbe:
    """eta = ||g - g_float64||, the rounding error of one gradient, audited on part of the probe.

    The audited batches are computed twice, in working precision and in float64. Where they are the whole probe, eta is
    the error of exactly the gradient that is used for measuring. Where they are a part of it, eta is a sample: fewer
    samples average out less rounding, so it usually overestimates, but that is not a proof.

    Args:
        model: The model, in working precision.
        loss: As for ``ProbeGradient``.
        batches: What is audited.
        initial_carry: As for ``ProbeGradient``.
        batch_norm: As for ``ProbeGradient``.

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
        batch_norm: BatchNorm = "batch",
    ) -> None:
        def gradient(dtype: torch.dtype | None) -> ProbeGradient:
            return ProbeGradient(model, loss, batches, initial_carry=initial_carry, dtype=dtype, batch_norm=batch_norm)

        self._working, self._exact = gradient(None), gradient(torch.float64)

    def __call__(self, flat: Tensor) -> float:
        """eta at the point ``flat``, shape (num_parameters,), in units of the gradient."""
        return length(self.error(flat))

    def error(self, flat: Tensor) -> Tensor:
        """How far the gradient is from the exact one.

        Args:
            flat: The point, shape (num_parameters,).

        Returns:
            g - g_float64, shape (num_parameters,), in float64.

        Raises:
            UnauditableError: The loss cannot be evaluated in float64.
        """
        with _auditing():
            _, exact = self._exact.value_and_gradient(flat)
        _, working = self._working.value_and_gradient(flat)
        return working.double() - exact

    def loss_error(self, flat: Tensor) -> float:
        """By how much the loss is off.

        The root mean square over the audited batches, which the error of their mean cannot exceed, and which is not
        small by chance as one difference may be.

        Args:
            flat: The point, shape (num_parameters,).

        Returns:
            The error in units of the loss; by forward passes alone.

        Raises:
            UnauditableError: The loss cannot be evaluated in float64.
        """
        try:
            exact, working = (one.batch_values(flat, graph=False) for one in (self._exact, self._working))
        except (RuntimeError, TypeError, ValueError):
            # Perhaps as the loss itself takes gradients.
            with _auditing():
                exact = self._exact.batch_values(flat)
            working = self._working.batch_values(flat)
        return length(working - exact) / math.sqrt(len(exact))

    def set_statistics(self, statistics: Statistics) -> None:
        """Normalise by these from now on, in both arithmetics; for ``batch_norm="frozen"``."""
        self._working.set_statistics(statistics)
        self._exact.set_statistics(statistics)

    def follow(self, model: nn.Module) -> None:
        """Take over what f depends on besides its parameters, see :meth:`ProbeGradient.follow`."""
        self._working.follow(model)
        self._exact.follow(model)


@contextlib.contextmanager
def _auditing() -> Iterator[None]:
    """Tell what is raised in float64 from a lack of memory, which says nothing about the loss."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        texts = [part for part in error.args if isinstance(part, str)]
        if isinstance(error, torch.OutOfMemoryError) or any("allocate memory" in text for text in texts):
            raise
        raise UnauditableError(error) from error
