"""What is minimised: model, loss and data, with batches as a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from trainers.errors import TrainerError

__all__ = ["Batch", "Carry", "Loss", "Problem"]

Batch = Any
"""Any tree of tensors."""

Carry = Any
"""What a step passes to the next one, for example an RNN's hidden state: any tree of tensors, or None."""

Loss = Callable[[nn.Module, Batch, Carry], tuple[Tensor, Carry]]


def _no_carry() -> Carry:
    return None


def _unchanged(step: int) -> float:
    return 1.0


def _no_metrics(model: nn.Module) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model with its loss and data. Optimiser, clipping, loop and checkpoints belong to the trainer.

    Attributes:
        model: Freshly initialised.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``; a scalar tensor, no backward, no step.
        batch: The batch of a step, a pure function of the step: the same however often and in whatever order it is
            called.
        probe: The frozen batches that define the function f whose smoothness is measured, for a share of the training
            data in (0, 1]. All of equal size, so that f, the plain mean of the measured loss over them, is a mean
            over samples. The same whatever the seed of the trial.
        initial_carry: The carry at the start of every epoch.
        measured_loss: What f is the mean of, where that is not ``loss``: without regularisers that only training needs.
        learning_rate_factor: What the learning rate of a step is multiplied by, a pure function of the step.
        evaluate: Metrics by name, in evaluation mode and without gradients.
        metrics: Metric to ``min`` or ``max``: which of its values is the best. A metric that is not named here is
            judged by the words of its name.
        steps_per_epoch: Number of steps in one pass over the training data.
        fingerprint: Identifies the data; equal fingerprints mean equal data.

    Raises:
        TrainerError: ``steps_per_epoch`` is not a positive integer, or ``metrics`` says something else.
    """

    model: nn.Module
    loss: Loss
    batch: Callable[[int], Batch]
    probe: Callable[[float], Iterable[Batch]]
    steps_per_epoch: int
    fingerprint: str
    initial_carry: Callable[[], Carry] = _no_carry
    measured_loss: Loss | None = None
    learning_rate_factor: Callable[[int], float] = _unchanged
    evaluate: Callable[[nn.Module], dict[str, float]] = _no_metrics
    metrics: Mapping[str, Literal["min", "max"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.steps_per_epoch, int) or self.steps_per_epoch < 1:
            raise TrainerError(f"steps_per_epoch must be a positive integer, not {self.steps_per_epoch!r}")
        if not isinstance(self.metrics, Mapping):
            raise TrainerError(f"metrics must map names of metrics to min or max, not {self.metrics!r:.80}")
        for name, direction in self.metrics.items():
            if not isinstance(name, str) or direction not in ("min", "max"):
                raise TrainerError(
                    f"metrics must map names of metrics to min or max, found {name!r}: {direction!r:.80}"
                )
