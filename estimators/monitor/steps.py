"""What every optimiser step says, as rows: kept on the device, and read from it many steps at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from estimators.monitor.writer import Block

__all__ = ["Ledger", "Step"]

_ALMOST = 1e-3
"""Share of the threshold by which a clipped gradient's norm may fall short of it: clipping divides by norm + 1e-6."""


@dataclass(kw_only=True)
class Step:
    """One step of an optimiser.

    Attributes:
        number: k.
        learning_rate: Of the step; None where parameter groups differ.
        losses: What was noted since the step before, one per micro-batch.
        used_norm: Norm of the gradient that the step used; None where it is not logged.
        raw_norm: Its norm before it was clipped; None where that was not told.
        clip_norm: The threshold in force; None for none.
        update_norm: Length of the step; None where no snapshot was taken.
    """

    number: int
    learning_rate: float | None
    losses: list[Tensor] = field(default_factory=list)
    used_norm: Tensor | None = None
    raw_norm: Tensor | None = None
    clip_norm: float | None = None
    update_norm: float | None = None


class Ledger:
    """Turns steps into rows of the table ``metrics``.

    Args:
        steps_per_epoch: Steps in one pass over the data; None where that is not known.

    Attributes:
        diverged_step: The first logged step without a finite loss or gradient; None if there was none.
        last_finite_loss: The last finite loss; None if there was none.
    """

    def __init__(self, *, steps_per_epoch: int | None) -> None:
        self._steps_per_epoch = steps_per_epoch
        self._steps: list[Step] = []
        self.diverged_step: int | None = None
        self.last_finite_loss: float | None = None

    def append(self, step: Step) -> None:
        """Note a step, without waiting for the device."""
        self._steps.append(step)

    def epoch(self, step: int) -> float | None:
        """Passes over the data before a step; None where that is not known."""
        return None if self._steps_per_epoch is None else step / self._steps_per_epoch

    def read_into(self, block: Block) -> None:
        """Read the noted steps from the device, once for all, into a block's rows."""
        numbers = iter(_read([t for s in self._steps for t in (*s.losses, s.used_norm, s.raw_norm) if t is not None]))
        for step in self._steps:
            loss = _mean_of_finite([next(numbers) for _ in step.losses])
            used = None if step.used_norm is None else next(numbers)
            raw = None if step.raw_norm is None else next(numbers)
            block.metrics.append(self._row(step, loss, used, raw))
            block.num_clipped += bool(block.metrics[-1]["clipped"])
            if self.diverged_step is None:
                if any(value is not None and not math.isfinite(value) for value in (loss, used, raw)):
                    self.diverged_step = step.number
                elif loss is not None:
                    self.last_finite_loss = loss
        block.diverged_step, block.last_finite_loss = self.diverged_step, self.last_finite_loss
        self._steps = []

    def _row(self, step: Step, loss: float | None, used: float | None, raw: float | None) -> dict[str, Any]:
        """A row; what is not known of the step is None."""
        scale: float | None = 1.0
        if step.clip_norm is None:
            clipped: bool | None = False
            raw = used if raw is None else raw
        elif raw is not None:
            clipped = raw > step.clip_norm
            scale = step.clip_norm / raw if clipped else 1.0
        else:
            # What was clipped is as long as the threshold; how long it was, nobody says. Nor is it said of the others:
            # the norms of those steps alone that were not clipped would be no sample of all.
            clipped = None if used is None else used >= (1 - _ALMOST) * step.clip_norm
            scale = None
        rate = step.learning_rate
        return {
            "step": step.number,
            "epoch": self.epoch(step.number),
            "train_loss": loss,
            "grad_norm": raw,
            "step_size": None if rate is None or scale is None else rate * scale,
            "clipped": clipped,
            "update_norm": step.update_norm,
            "learning_rate": rate,
            # An infinite one is how loops have a norm computed that they do not clip.
            "threshold": step.clip_norm if step.clip_norm is not None and math.isfinite(step.clip_norm) else None,
        }


def _read(tensors: Sequence[Tensor]) -> list[float]:
    if not tensors:
        return []
    device = tensors[0].device
    found = torch.stack([tensor.detach().to(device, torch.float64).reshape(()) for tensor in tensors])
    return [float(number) for number in found.cpu().tolist()]


def _mean_of_finite(losses: Sequence[float]) -> float | None:
    """The mean loss of a step's micro-batches; those of a step that a gradient scaler skipped may be infinite."""
    if not losses:
        return None
    finite = [loss for loss in losses if math.isfinite(loss)]
    return math.fsum(finite) / len(finite) if finite else losses[-1]
