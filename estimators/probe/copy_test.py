"""Whether the copy of a model that estimators measure is a whole one: f must be a function of the copy's parameters.

A loss or a forward pass that reaches for the model in another way than by its arguments (a variable of the function
around it, a global one, a bound method) goes on computing with the original: the copy's gradient is then that of
another function, usually zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from estimators.probe.copies import copy_of, left_as_it_was
from estimators.probe.gradient import Loss, ProbeGradient, in_arithmetic
from estimators.probe.policy import BatchNorm
from estimators.probe.reach import reaches_for
from estimators.probe.vectors import length

__all__ = ["FIX", "CopyTest", "compare_copy"]

FIX = "use the model that the loss is given as its first argument, and in forward only self: estimators measure a copy"
"""What to do about a copy that is another function than the model."""

_STEP = 1e-2
"""How far the second point is from the first, as a share of a parameter's mean size."""


@dataclass(frozen=True, kw_only=True)
class CopyTest:
    """f on the copy that is measured, against f on the model itself, on one batch and at two points.

    Attributes:
        repeats: Whether the model itself gives the same twice; where it does not, a difference means nothing.
        grad_norm: Norm of the model's own gradient, at the point where the two differ most.
        copied_grad_norm: That of the copy's, there.
        distance: Norm of their difference, there.
        losses_differ: Whether the losses differ at one of the points.
        tolerance: The largest share of the norm by which gradients may differ: 0 where kernels repeat exactly.
        reached: What reaches for the model, in words; empty where nothing was found.
    """

    repeats: bool
    grad_norm: float
    copied_grad_norm: float
    distance: float
    losses_differ: bool
    tolerance: float
    reached: str

    @property
    def differs(self) -> bool:
        """Whether the copy is another function than the model. NaN, which says nothing about that, does not count."""
        return self.repeats and (self.losses_differ or self.distance > self.tolerance * self.grad_norm)

    @property
    def words(self) -> str:
        """What was found; empty where nothing differs."""
        if not self.differs:
            return ""
        copied = "the copy of the model that estimators measure"
        if self.distance <= self.tolerance * self.grad_norm:
            found = f"{copied} has another loss than the model itself"
        elif self.copied_grad_norm == 0:
            found = f"the gradient of {copied} is exactly 0, that of the model itself has the norm {self.grad_norm:.3g}"
        else:
            found = f"the gradient of {copied} is off by {self.distance:.3g}, of a norm of {self.grad_norm:.3g}"
        why = self.reached or "something in loss or forward uses tensors of the model that were not handed to it"
        return f"{found}: {why}"


def compare_copy(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    initial_carry: Callable[[], Any] = lambda: None,
    batch_norm: BatchNorm = "batch",
    whole: bool = False,
) -> CopyTest:
    """Compare loss and gradient of a copy with those of the model itself, on one batch.

    Once where the model is, and once a little away from there: what a loss takes from the original without a gradient
    is right only at the first point. Costs five gradients of the batch. Both draw the same random numbers from torch's
    global generators.

    Args:
        model: The model; used in place and put back.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``.
        batch: The batch.
        initial_carry: Makes the carry.
        batch_norm: As for :class:`~estimators.probe.gradient.ProbeGradient`.
        whole: Compute in float32, for a model in bfloat16 or float16.

    Returns:
        The comparison where they differ most.

    Raises:
        ValueError: The model has no parameter to differentiate by.
        UnfaithfulCopyError: The model cannot be copied.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> def loss(given, batch, carry):
        ...     return model(batch).square().mean(), carry
        >>> compare_copy(model, loss, torch.ones(2, 1)).reached.partition(" (")[0]
        'loss'
        >>> compare_copy(model, lambda given, batch, carry: (given(batch).mean(), carry), torch.ones(2, 1)).differs
        False
    """
    with left_as_it_was(model):
        copied = copy_of(model)
        if whole:
            in_arithmetic(copied, torch.float32), in_arithmetic(model, torch.float32)
        settings: dict[str, Any] = {"initial_carry": initial_carry, "batch_norm": batch_norm, "in_place": True}
        # The copy first: the model's parameters move into a buffer.
        theirs, own = (ProbeGradient(one, loss, [batch], **settings) for one in (copied, model))
        here = own.point()
        expected = [_evaluated(own, point) for point in (here, _moved(here), here)]
        repeats = all(_same(one, again) for one, again in zip(expected[0], expected[2], strict=True))
        # The model is back at the first point by now, so what the copy's loss takes from it at the second one differs.
        tests = []
        for point, (value, slope) in zip((here, _moved(here)), expected, strict=False):
            alike = theirs.layout == own.layout
            copied_value, copied_slope = _evaluated(theirs, point) if alike else (value, torch.zeros_like(slope))
            tests.append(
                CopyTest(
                    repeats=repeats,
                    grad_norm=length(slope),
                    copied_grad_norm=length(copied_slope),
                    distance=length(copied_slope - slope),
                    losses_differ=not _same(value, copied_value, _tolerance(own.device)),
                    tolerance=_tolerance(own.device),
                    reached="",
                )
            )
    worst = max(tests, key=lambda test: (test.distance > test.tolerance * test.grad_norm, test.losses_differ))
    return replace(worst, reached=reaches_for(loss, model)) if worst.differs else worst


def _evaluated(gradient: ProbeGradient, point: Tensor) -> tuple[Tensor, Tensor]:
    with _seeded(gradient.device):
        value, slope = gradient.value_and_gradient(point)
    return torch.tensor(value, dtype=torch.float64), slope


def _moved(point: Tensor) -> Tensor:
    """A point nearby, every parameter a little away, to either side in turn."""
    size = point.abs().mean().clamp(min=1e-3) * _STEP
    signs = torch.ones_like(point)
    signs[1::2] = -1
    return point + size * signs


def _tolerance(device: torch.device) -> float:
    """On a GPU, kernels may sum in another order each time."""
    return 0.0 if device.type == "cpu" else 1e-3


def _same(one: Tensor, other: Tensor, tolerance: float = 0.0) -> bool:
    return torch.allclose(one, other, rtol=tolerance, atol=0.0, equal_nan=True)


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The same random numbers each time, from torch's global generators, which are put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
