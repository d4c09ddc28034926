"""Trials that take their steps together: one call for the gradients of all, everything else by each trial itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainers.packed.gradient import StackedGradient
from trainers.problem import Batch, Problem
from trainers.training.arithmetic import training_in
from trainers.training.loop import Due
from trainers.training.stepper import Stepper
from trainers.trees import tensors_of
from trainers.update.norms import is_right
from trainers.update.side_by_side import Mover, is_plain, step_side_by_side

__all__ = ["Ended", "Pack", "PackedStepper", "in_step"]

_MOST_AHEAD = 16
_AHEAD_BYTES = 2**26
"""Batches are made several steps at a time: an epoch's order is remembered for one or two trials only."""

T = TypeVar("T")


class PackedStepper(Stepper):
    """Takes one trial of a pack from x_k to x_{k+1}: as alone, but for a gradient that may be there already.

    Args:
        problem: As for :class:`~trainers.training.stepper.Stepper`; so are the options.
        rule: See there.
        options: See there.
    """

    def __init__(self, problem: Problem, rule: Any, **options: Any) -> None:
        super().__init__(problem, rule, **options)
        self._ready: tuple[int, Tensor] | None = None
        self._ahead: dict[int, Batch] = {}
        self._taken: tuple[int, float, Tensor, Tensor] | None = None
        self._is_plain = is_plain(self._rule) and self._vector.device.type == "cpu"

    @property
    def parameters(self) -> Tensor:
        """x_k, shape (n,)."""
        return self._vector

    @property
    def gradient(self) -> Tensor:
        """The buffer of the gradient, shape (n,)."""
        return self._flat.gradient

    def batch(self, step: int, *, ahead: int) -> Batch:
        """The batch of a step.

        Args:
            step: k.
            ahead: How many are made at a time.

        Returns:
            The batch, on the device.
        """
        if step not in self._ahead:
            last = min(step + ahead, self._total_steps)
            self._ahead = {k: self._to_device(self._problem.batch(k)) for k in range(step, last)}
        return self._ahead.pop(step)

    def alone(self, step: int) -> Tensor:
        """Put the gradient of a step into the buffer without the others; returns the loss."""
        return super()._differentiate(step)

    def ready(self, step: int, loss: Tensor) -> None:
        """The buffer holds the gradient of step k, with this loss."""
        self._ready = (step, loss)

    @property
    def is_plain(self) -> bool:
        """Whether its step can be taken with those of others."""
        return self._is_plain

    def rate(self, step: int) -> float:
        """The learning rate of step k."""
        rate = self._rule.learning_rate_at(step, self._total_steps, steps_per_epoch=self._steps_per_epoch)
        return self._problem.learning_rate_factor(step) * rate

    def mover(self, learning_rate: float) -> Mover:
        """This trial's part of a step."""
        return Mover(rule=self._rule, updater=self._updater, vector=self._vector.detach(), learning_rate=learning_rate)

    def taken(self, step: int, learning_rate: float, scalars: Tensor, before: Tensor) -> None:
        """Step k has been taken, from ``before``; the rest as :meth:`take` returns it."""
        self._taken = (step, learning_rate, scalars, before)

    def take(self, step: int, *, keep_iterates: bool = False) -> tuple[float, Tensor]:
        """See :meth:`~trainers.training.stepper.Stepper.take`."""
        taken, self._taken = self._taken, None
        if taken is None or taken[0] != step:
            return super().take(step, keep_iterates=keep_iterates)
        self._ready = None
        _, learning_rate, scalars, before = taken
        if keep_iterates:
            self._keep(before)
        return learning_rate, scalars

    def _differentiate(self, batch: int) -> Tensor:
        ready, self._ready = self._ready, None
        if ready is None or ready[0] != batch:
            return super()._differentiate(batch)
        return ready[1]


class Pack:
    """The gradients of several trials of one shape.

    A trace of so many trials serves until only half of them are left, their places filled by the first of the others.

    Args:
        smallest: With fewer trials than this, each goes on by itself.
        verify: Whether every new trace is compared with each trial's own gradient, and given up where a bit differs.

    Attributes:
        differed: By how much the gradients differed, relative to their norm, where that ended the pack; None otherwise.
        error: What computing them together raised, where that ended the pack; None otherwise.
        num_together: Trials whose last gradient came from one call; 0 if each computed its own.
        share_s: Seconds that the last call took for each trial.
    """

    def __init__(self, *, smallest: int = 2, verify: bool = True) -> None:
        self._smallest = smallest
        self._verify = verify
        self._gradient: StackedGradient | None = None
        self._size = 0
        self._ahead = 1
        self.differed: float | None = None
        self.error: Exception | None = None
        self.num_together = 0
        self.share_s = 0.0

    def prepare(self, due: Sequence[tuple[PackedStepper, int]], problem: Problem) -> None:
        """Compute the gradients of the steps that are due.

        Args:
            due: The trials that are still under way, each with its step.
            problem: Of one of them.
        """
        started = time.perf_counter()
        self.num_together = 0
        if self.differed is None and self.error is None and len(due) >= self._smallest:
            with training_in("ieee", due[0][0].parameters.device):
                self._together(due, problem)
        self.share_s = (time.perf_counter() - started) / max(1, len(due))

    def _together(self, due: Sequence[tuple[PackedStepper, int]], problem: Problem) -> None:
        batches = [stepper.batch(step, ahead=self._ahead) for stepper, step in due]
        is_new = self._gradient is None or not self._size // 2 < len(due) <= self._size
        if is_new:
            self._size = len(due)
            self._gradient = StackedGradient(problem, self._size)
            nbytes = sum(one.numel() * one.element_size() for batch in batches for one in tensors_of(batch))
            self._ahead = max(1, min(_MOST_AHEAD, _AHEAD_BYTES // max(1, nbytes)))
        assert self._gradient is not None
        vectors = [stepper.parameters.detach() for stepper, _ in due]
        spare = self._size - len(due)
        try:
            flat, losses, before = self._gradient(vectors + vectors[:1] * spare, batches + batches[:1] * spare)
        except Exception as error:
            # Each by itself may fare better, or say which of them it is.
            self.error, self._gradient = error, None
            return
        if is_new and self._verify:
            self.differed = _difference(due, flat, losses)
            if self.differed is not None:
                self._gradient = None
                return
        torch._foreach_copy_([stepper.gradient for stepper, _ in due], list(flat[: len(due)].unbind()))
        for (stepper, step), loss in zip(due, losses, strict=False):
            stepper.ready(step, loss)
        self.num_together = len(due)
        with torch.no_grad():
            _step([(*one, place) for place, one in enumerate(due)], flat, losses, before)


def _step(
    due: Sequence[tuple[PackedStepper, int, int]], flat: Tensor, losses: Sequence[Tensor], before: Tensor
) -> None:
    """Take the steps of those that can take them side by side; the others take theirs by themselves."""
    plain = [one for one in due if one[0].is_plain]
    if not plain:
        return
    norms = torch.stack(torch._foreach_norm([stepper.gradient for stepper, _, _ in plain]))
    right = [is_right(norm, flat.dtype, flat.shape[1]) for norm in norms.tolist()]
    if not all(right):
        plain = [one for one, fine in zip(plain, right, strict=True) if fine]
        norms = norms[torch.tensor(right)]
        if not plain:
            return
    places = [place for _, _, place in plain]
    if len(plain) < len(flat):
        flat, before = flat[places], before[places]
    rates = [stepper.rate(step) for stepper, step, _ in plain]
    movers = [stepper.mover(rate) for (stepper, _, _), rate in zip(plain, rates, strict=True)]
    scales, moved, thresholds = step_side_by_side(movers, flat, norms, before)
    loss = torch.stack([losses[place] for place in places]).double()
    scalars = torch.stack((loss, norms.double(), scales, moved, thresholds), dim=1).unbind()
    for (stepper, step, _), rate, row, start in zip(plain, rates, scalars, before, strict=True):
        stepper.taken(step, rate, row, start)


def _difference(due: Sequence[tuple[PackedStepper, int]], flat: Tensor, losses: Sequence[Tensor]) -> float | None:
    """The largest relative difference from the gradients that trials compute alone; None if all bits are equal."""
    largest, same = 0.0, True
    for (stepper, step), packed, loss in zip(due, flat, losses, strict=False):
        own_loss = stepper.alone(step)
        own = stepper.gradient
        # As bits: a NaN is equal to itself.
        same &= own.numpy(force=True).tobytes() == packed.numpy(force=True).tobytes()
        same &= own_loss.numpy(force=True).tobytes() == loss.numpy(force=True).tobytes()
        largest = max(largest, float((own - packed).norm() / own.norm().clamp(min=1e-30)))
    return None if same else largest


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trial has nothing more to say.

    Attributes:
        error: What it raised; None if it came to its end.
    """

    error: Exception | None = None


def in_step(
    streams: Mapping[int, Iterator[T | Due]], prepare: Callable[[Mapping[int, int]], None]
) -> Generator[tuple[int, T | Ended]]:
    """Run several trials in step: each up to its next step, then that step of all.

    Args:
        streams: Trials that halt before every step, by place.
        prepare: Called with places and steps before the trials that are due take theirs.

    Yields:
        Place and item; the last of a trial is that it has ended. An error in one leaves the others alone.

    Example:
        >>> def trial(steps):
        ...     for step in range(steps):
        ...         yield Due(step=step)
        ...     yield f"{steps} steps"
        >>> list(in_step({0: trial(2), 1: trial(1)}, lambda due: print(due)))
        {0: 0, 1: 0}
        {0: 1}
        [(1, '1 steps'), (1, Ended(error=None)), (0, '2 steps'), (0, Ended(error=None))]
    """
    left = dict(streams)
    while left:
        due: dict[int, int] = {}
        for place, stream in list(left.items()):
            while True:
                try:
                    item = next(stream)
                except StopIteration:
                    del left[place]
                    yield place, Ended()
                    break
                except Exception as error:
                    del left[place]
                    yield place, Ended(error=error)
                    break
                if isinstance(item, Due):
                    due[place] = item.step
                    break
                yield place, item
        if due:
            try:
                prepare(due)
            except Exception as error:
                yield from ((place, Ended(error=error)) for place in due)
                return
