"""A monitor as a callback of the Trainer of transformers.

.. code-block:: python

    from estimators.monitor.huggingface import SmoothnessCallback

    trainer = Trainer(model, args, train_dataset=data, callbacks=[SmoothnessCallback(out="runs/mine")])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from estimators.monitor.function import LossFn
from estimators.monitor.monitor import SmoothnessMonitor

__all__ = ["SmoothnessCallback", "model_loss"]

_OF_ALL_BATCHES = "num_items_in_batch"
"""What the Trainer hands over beside a batch: how many labels all batches of a step have together."""


def model_loss(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The loss that a model of transformers computes from a batch with labels.

    Args:
        model: A copy of the model.
        batch: What its ``forward`` takes.

    Returns:
        The mean loss.
    """
    loss: Tensor = model(**batch)["loss"]
    return loss


class SmoothnessCallback(TrainerCallback):  # type: ignore[misc]
    """A :class:`~estimators.monitor.monitor.SmoothnessMonitor` from the beginning of training to its end.

    Losses and batches it takes from the model's own forward passes in training, the threshold, the seed, the number of
    steps and of processes from the arguments. The norm of a gradient before it is clipped the Trainer does not tell its
    callbacks, so it is null where ``max_grad_norm`` is not 0.

    Args:
        out: The run directory.
        loss_fn: ``loss_fn(model, batch)``; what the model computes from a batch with labels by default.
        options: Of :class:`~estimators.monitor.monitor.SmoothnessMonitor`.

    Attributes:
        monitor: The monitor; None before training.
    """

    def __init__(self, *, out: str | Path, loss_fn: LossFn = model_loss, **options: Any) -> None:
        self._out = out
        self._loss_fn = loss_fn
        self._options = options
        self.monitor: SmoothnessMonitor | None = None
        self._hook: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin."""
        model: nn.Module = kwargs["model"]
        optimizer = kwargs["optimizer"]
        while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
            optimizer = inner
        told = {
            "clip_norm": args.max_grad_norm or None,
            "seed": args.seed,
            "first_step": state.global_step,
            "steps": state.max_steps if state.max_steps > 0 else None,
            "steps_per_epoch": _steps_per_epoch(kwargs.get("train_dataloader"), args.gradient_accumulation_steps),
            "distributed": args.world_size > 1,
        }
        self.monitor = monitor = SmoothnessMonitor(
            model, optimizer, self._loss_fn, out=self._out, **told | self._options
        )

        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            # Neither a copy, which has this hook as well, nor an evaluation.
            if module is not model or not module.training or given:
                return
            batch = {name: value for name, value in named.items() if name != _OF_ALL_BATCHES}
            loss = output.get("loss") if isinstance(output, Mapping) else None
            if loss is not None and named.get(_OF_ALL_BATCHES) is not None:
                # A share of the sum over the batches of a step, of which the mean is taken.
                loss = loss.detach() * args.gradient_accumulation_steps
            monitor.note(loss, batch)

        self._hook = model.register_forward_hook(note, with_kwargs=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End."""
        if self.monitor is not None:
            self._hook.remove()
            self.monitor.close()


def _steps_per_epoch(loader: Any, accumulated: int) -> int | None:
    try:
        return math.ceil(len(loader) / accumulated)
    except TypeError:
        return None
