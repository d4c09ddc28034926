"""A monitor as a callback of Lightning's Trainer.

.. code-block:: python

    from estimators.monitor.lightning import SmoothnessCallback

    trainer = Trainer(callbacks=[SmoothnessCallback(out="runs/mine")])
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from estimators.monitor.function import LossFn
from estimators.monitor.monitor import SmoothnessMonitor
from estimators.monitor.optimizer import gradient_norm, parameters_of

__all__ = ["SmoothnessCallback", "training_loss"]


def training_loss(module: nn.Module, batch: Any) -> Tensor:
    """The loss of ``training_step``, as f takes it.

    What the step logs goes nowhere: the copy that is measured has no trainer.

    Args:
        module: A copy of the LightningModule.
        batch: The batch.

    Returns:
        The loss.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*You are trying to `self\.log\(\)`")
        step: Any = module.training_step
        found = step(batch, 0)
    loss: Tensor = found["loss"] if isinstance(found, dict) else found
    return loss


class SmoothnessCallback(Callback):  # type: ignore[misc]
    """A :class:`~estimators.monitor.monitor.SmoothnessMonitor` from the beginning of training to its end.

    Loss, batches, clipping by ``gradient_clip_val``, the number of steps and of processes it takes from the trainer.

    Args:
        out: The run directory.
        loss_fn: ``loss_fn(module, batch)``; ``training_step`` by default, which must do without its trainer.
        optimizer: Which of the module's optimisers is followed.
        options: Of :class:`~estimators.monitor.monitor.SmoothnessMonitor`.

    Attributes:
        monitor: The monitor; None before training.
    """

    def __init__(self, *, out: str | Path, loss_fn: LossFn = training_loss, optimizer: int = 0, **options: Any) -> None:
        self._out = out
        self._loss_fn = loss_fn
        self._index = optimizer
        self._options = options
        self.monitor: SmoothnessMonitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        told = {
            "clip_norm": _threshold(trainer),
            "first_step": trainer.global_step,
            "steps": trainer.max_steps if trainer.max_steps > 0 else None,
            "steps_per_epoch": math.ceil(per_epoch) if math.isfinite(per_epoch) else None,
            "distributed": trainer.world_size > 1,
        }
        self.monitor = SmoothnessMonitor(
            pl_module, trainer.optimizers[self._index], self._loss_fn, out=self._out, **told | self._options
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hand over the batch."""
        if self.monitor is not None:
            self.monitor.note(batch=batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Hand over the loss, which the trainer has divided by the number of batches that are accumulated."""
        if self.monitor is not None:
            self.monitor.note(loss.detach() * trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Hand over the gradient's norm; right after this the trainer clips it."""
        if self.monitor is not None and optimizer is trainer.optimizers[self._index]:
            norm = gradient_norm(parameters_of(optimizer))
            if norm is not None:
                self.monitor.note_clipping(norm, _threshold(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        if self.monitor is not None:
            self.monitor.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End, saying why."""
        if self.monitor is not None:
            self.monitor.__exit__(type(exception), exception, None)


def _threshold(trainer: Trainer) -> float | None:
    """The threshold of clipping by norm, where the trainer does that."""
    value = trainer.gradient_clip_val
    algorithm = str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm))
    return float(value) if value and algorithm in {"norm", "None"} else None
