"""The scalars of every step: read from the device in blocks, searched for divergence, kept as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Ledger", "Rows", "join_rows"]

Rows = dict[str, np.ndarray[Any, Any]]
"""Columns of equal length by name."""

_RATE = 6
"""Column of the learning rate in a block: behind the step and the five scalars of ``Stepper.take``."""


def join_rows(pieces: Sequence[Rows]) -> Rows:
    """The rows of consecutive segments.

    Args:
        pieces: Columns, as :meth:`Ledger.take_rows` gives them.

    Returns:
        One column for each that any piece has, masked where a piece does not.

    Example:
        >>> first, second = {"step": np.array([0])}, {"step": np.array([1]), "acc": np.ma.array([0.5])}
        >>> join_rows([first, second])["acc"].tolist()
        [None, 0.5]
    """
    names = dict.fromkeys(name for piece in pieces for name in piece)
    joined: Rows = {}
    for name in names:
        columns = [piece.get(name, np.ma.array(np.zeros(len(piece["step"])), mask=True)) for piece in pieces]
        values = np.concatenate([np.ma.getdata(column) for column in columns])
        if any(isinstance(column, np.ma.MaskedArray) for column in columns):
            values = np.ma.array(values, mask=np.concatenate([np.ma.getmaskarray(column) for column in columns]))
        joined[name] = values
    return joined


class Ledger:
    """Collects what every step reports. The result does not depend on how many steps are read at a time.

    Args:
        steps: Number of steps of the whole trial; the last one is always logged.
        log_every: A step is logged if its number is a multiple of this.
        steps_per_epoch: Number of batches in one pass over the data.
        batches_per_step: Number of batches in a step.
        max_loss: A loss above it is divergence; None for no finite limit.
        clips: Whether a scale other than 1 means clipping.
        start: The first step.
        num_clipped: Number of clipped steps before it.
        last_finite_loss: The last finite loss before it.

    Attributes:
        diverged_step: The first step with a loss, gradient or update that is not finite, or a loss above the limit;
            None if there was none yet.
        last_finite_loss: The last finite loss up to the last step read or the diverged one.
        total_clipped: Number of clipped steps since the trial began, not counting the diverged step.
        num_clipped: The same since the last :meth:`take_rows`.
        num_steps: Number of steps read since the last :meth:`take_rows`, not counting the diverged step.
    """

    def __init__(
        self,
        *,
        steps: int,
        log_every: int,
        steps_per_epoch: int,
        max_loss: float | None,
        clips: bool,
        start: int = 0,
        num_clipped: int = 0,
        last_finite_loss: float | None = None,
        batches_per_step: int = 1,
    ) -> None:
        self._steps = steps
        self._log_every = log_every
        self._steps_per_epoch = steps_per_epoch
        self._batches_per_step = batches_per_step
        self._max_loss = math.inf if max_loss is None else max_loss
        self._clips = clips
        self._next = start
        self._block: list[Tensor] = []
        self._learning_rates: list[float] = []
        self._logged: list[np.ndarray[Any, Any]] = []
        self._metrics: dict[int, Mapping[str, float]] = {}
        self.diverged_step: int | None = None
        self.last_finite_loss = last_finite_loss
        self.total_clipped = num_clipped
        self.num_clipped = 0
        self.num_steps = 0
        self.last_loss = math.nan
        self.last_grad_norm = math.nan
        self.last_learning_rate = math.nan

    @property
    def num_unread(self) -> int:
        """Number of steps whose scalars are still on the device."""
        return len(self._block)

    def append(self, learning_rate: float, scalars: Tensor) -> None:
        """Note one step, in order, without waiting for the device; ``scalars`` as ``Stepper.take`` gives them."""
        self._learning_rates.append(learning_rate)
        self._block.append(scalars)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note the metrics of x_k."""
        self._metrics[step] = metrics

    def read(self) -> bool:
        """Fetch the scalars noted since the last time.

        Returns:
            Whether training continues: False once it has diverged.
        """
        if self.diverged_step is not None or not self._block:
            return self.diverged_step is None
        scalars = torch.stack(self._block).to("cpu", torch.float64).numpy()
        block = np.column_stack([np.arange(self._next, self._next + len(scalars)), scalars, self._learning_rates])
        self._block, self._learning_rates = [], []
        self._next += len(block)
        losses = block[:, 1]
        bad = ~np.isfinite(block[:, [1, 2, 4]]).all(axis=1) | (losses > self._max_loss)
        num_good = int(bad.argmax()) if bad.any() else len(block)
        if num_good < len(block):
            self.diverged_step = int(block[num_good, 0])
            block = block[: num_good + 1]
        num_clipped = int(_changes(block[:num_good, 3]).sum()) if self._clips else 0
        self.num_clipped += num_clipped
        self.total_clipped += num_clipped
        self.num_steps += num_good
        finite = block[np.isfinite(block[:, 1]), 1]
        if len(finite):
            self.last_finite_loss = float(finite[-1])
        self.last_loss, self.last_grad_norm = float(block[-1, 1]), float(block[-1, 2])
        self.last_learning_rate = float(block[-1, _RATE])
        self._logged.append(block[[self._is_logged(int(step)) for step in block[:, 0]]])
        return self.diverged_step is None

    def take_rows(self) -> Rows:
        """The rows collected since the last call; also resets the counts.

        Returns:
            ``step`` (int64), ``epoch``, ``train_loss``, ``grad_norm``, ``step_size`` (learning rate times scale),
            ``clipped`` (bool), ``update_norm``, ``learning_rate``, ``threshold`` (NaN for none), and one column per
            metric that was evaluated, masked where it was not, since an evaluation may give NaN; float64 unless stated
            otherwise.
        """
        block = np.concatenate([np.empty((0, _RATE + 1)), *self._logged])
        if self._steps in self._metrics:
            # The last iterate has metrics, but no batch of its own.
            block = np.concatenate([block, [[self._steps, *[np.nan] * _RATE]]])
        step = block[:, 0].astype(np.int64)
        scale = block[:, 3]
        rows: Rows = {
            "step": step,
            "epoch": step * self._batches_per_step / self._steps_per_epoch,
            "train_loss": block[:, 1].copy(),
            "grad_norm": block[:, 2].copy(),
            "step_size": block[:, _RATE] * scale,
            "clipped": _changes(scale) if self._clips else np.zeros(len(step), dtype=np.bool_),
            "update_norm": block[:, 4].copy(),
            "learning_rate": block[:, _RATE].copy(),
            "threshold": np.where(np.isfinite(block[:, 5]), block[:, 5], np.nan),
        }
        for name in dict.fromkeys(name for metrics in self._metrics.values() for name in metrics):
            found = [self._metrics.get(k, {}).get(name) for k in step.tolist()]
            rows[name] = np.ma.array(
                [math.nan if value is None else value for value in found], mask=[value is None for value in found]
            )
        self._logged, self._metrics = [], {}
        self.num_clipped = self.num_steps = 0
        return rows

    def _is_logged(self, step: int) -> bool:
        return (
            step % self._log_every == 0
            or step in self._metrics
            or step == self._steps - 1
            or step == self.diverged_step
        )


def _changes(scale: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where a scale is a number other than 1: above it, too, where micro-batches were clipped one by one."""
    return (scale < 1) | (scale > 1)
