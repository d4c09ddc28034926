"""Pairs of consecutive iterates as flat vectors: when one is due, and how a vector maps to a model's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainers.errors import TrainerError

__all__ = ["Snapshot", "SnapshotSchedule"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """x_k and x_{k+1}, to be measured elsewhere.

    Attributes:
        step: k.
        epoch: Passes over the training data before step k.
        loss: Loss of batch k at x_k.
        grad_norm: Norm of that loss's gradient, before the transform.
        learning_rate: eta of step k, by which the rule's direction was multiplied.
        iterates: Both iterates in CPU memory, float32 (float64 for a model in float64), shape (2, n), C-contiguous, in
            the order of :func:`parameter_shapes`; of shape (3, n) where the diagonal of the step's preconditioner
            follows them.
    """

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    iterates: np.ndarray[Any, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SnapshotSchedule:
    """When snapshots are taken: the union of several conditions.

    Attributes:
        every: Every n-th step.
        first: The first n steps.
        last: The last n steps.
        epochs: Once every this many epochs, which may be a fraction: at the first step at or after each multiple.
        steps: These steps.
        from_step: Where ``every`` and ``epochs`` begin.
        to_step: Where ``every`` and ``epochs`` end, this step included; None for the end of training.

    Raises:
        TrainerError: A count is negative or an interval is not positive.

    Example:
        >>> schedule = SnapshotSchedule(every=10, first=2, from_step=20)
        >>> [step for step in range(40) if schedule.due(step, 40, 5)]
        [0, 1, 20, 30]
    """

    every: int | None = None
    first: int = 0
    last: int = 0
    epochs: float | None = None
    steps: Sequence[int] = ()
    from_step: int = 0
    to_step: int | None = None

    def __post_init__(self) -> None:
        for name in ("every", "epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise TrainerError(f"{name} must be positive, not {value!r}")
        for name in ("first", "last", "from_step"):
            if getattr(self, name) < 0:
                raise TrainerError(f"{name} must not be negative, but is {getattr(self, name)!r}")

    def due(self, step: int, steps: int, steps_per_epoch: int, *, batches_per_step: int = 1) -> bool:
        """Whether a snapshot is taken of the step from x_k to x_{k+1}.

        Args:
            step: k, counted from 0.
            steps: Number of steps of the whole trial.
            steps_per_epoch: Number of batches in one pass over the data.
            batches_per_step: Number of batches in a step.

        Returns:
            True if any of the conditions holds.
        """
        if step < self.first or step >= steps - self.last or step in self.steps:
            return True
        if step < self.from_step or (self.to_step is not None and step > self.to_step):
            return False
        if self.every is not None and step % self.every == 0:
            return True
        if self.epochs is None:
            return False
        interval = self.epochs * steps_per_epoch
        return step == 0 or step * batches_per_step // interval > (step - 1) * batches_per_step // interval
