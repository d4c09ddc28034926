"""f over the probe batches of several processes that train one model together.

Rank 0 measures; whenever it needs f or its gradient at a point, it sends the point, and every process adds what its own
batches say. So there is one course of events, that of rank 0, and no process can wait for something that another has
decided not to do. What is raised anywhere is told to all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from estimators.monitor.batches import describe_batch, fingerprint
from estimators.probe.gradient import ProbeGradient
from estimators.probe.probe import Probe

__all__ = ["OVER_RANKS", "RankError", "Ranks", "SharedGradient", "SharedProbe", "ranks_of"]

_log = logging.getLogger(__name__)

OVER_RANKS = frozenset({"directional_smoothness", "layer_smoothness", "critical_sharpness"})
"""Estimators that need of f its values and gradients alone, which processes can add up."""

_END, _GRADIENT, _VALUE, _VALUE_WITHOUT_GRAPH = range(4)


class RankError(RuntimeError):
    """Another process that trains the same model has raised."""


class Ranks:
    """The processes that train one model together.

    Args:
        group: Theirs; None for all.
        device: Where the model is.
    """

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        self._group = group
        self._rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._root = 0 if group is None else dist.get_global_rank(group, 0)
        self._device = device if dist.get_backend(group) == "nccl" else torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that measures and writes."""
        return self._rank == 0

    def agree(self, here: bool) -> bool:
        """Whether all processes say yes; asked of all at the same step."""
        answer = torch.tensor([float(here)], device=self._device)
        dist.all_reduce(answer, op=dist.ReduceOp.MIN, group=self._group)
        return bool(answer.item())

    def gathered(self, mine: Any) -> list[Any]:
        """What every process has, in the order of ranks."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self._group)
        return found

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Do something in every process; where one raises, all do.

        Yields:
            Nothing.

        Raises:
            RankError: Another process has raised.
        """
        try:
            yield
        except Exception as error:
            self.gathered(f"{type(error).__name__}: {error}")
            raise
        for rank, text in enumerate(self.gathered(None)):
            if text is not None:
                raise RankError(f"rank {rank} raised {text}")

    def joint_fingerprint(self, batches: Sequence[Any]) -> str:
        """A hash of the probe batches of all processes, which must be of one size.

        Args:
            batches: Those of this process.

        Returns:
            The hash.

        Raises:
            ValueError: They have different sizes, in all processes alike.
        """
        found = self.gathered((describe_batch(batches[0]), fingerprint(batches)))
        kinds = [kind for kind, _ in found]
        for rank, kind in enumerate(kinds):
            if kind != kinds[0]:
                raise ValueError(
                    f"the probe batches of rank {rank} are {kind}, those of rank 0 {kinds[0]}: the mean of their "
                    "losses would not be one over all examples; hand over batches of one size"
                )
        return fingerprint([digest for _, digest in found])

    def evaluate(self, gradient: SharedGradient, code: int, flat: Tensor) -> tuple[Tensor, Tensor | None]:
        """On rank 0: f, or f and its gradient, over the batches of all processes.

        Args:
            gradient: That of this process.
            code: What is to be evaluated.
            flat: The point, shape (num_parameters,).

        Returns:
            The mean loss, float64, shape (), and the mean gradient if it was asked for.

        Raises:
            RankError: Another process could not evaluate it.
        """
        self._send(code)
        point = flat.to(self._device, gradient.dtype)
        dist.broadcast(point, self._root, group=self._group)
        numbers, slope, error = self._add_up(gradient, code, point)
        if error is not None:
            raise error
        if failed := int(numbers[2]):
            raise RankError(f"f could not be evaluated on {failed} of {self.size} processes, whose logs say why")
        if slope is not None:
            slope = slope.to(gradient.device) / numbers[1].item()
        return numbers[0] / numbers[1], slope

    @contextmanager
    def served(self) -> Iterator[None]:
        """On rank 0: what is evaluated within is served by the others, until the end of the block, however it ends.

        Yields:
            Nothing.
        """
        try:
            yield
        finally:
            self._send(_END)

    def serve(self, gradient: SharedGradient, error: Exception | None = None) -> None:
        """On the other ranks: evaluate what rank 0 asks for, until it is done.

        Args:
            gradient: That of this process.
            error: Why it cannot; None if it can.
        """
        before = error
        while (code := self._received()) != _END:
            point = torch.empty(gradient.num_parameters, dtype=gradient.dtype, device=self._device)
            dist.broadcast(point, self._root, group=self._group)
            *_, error = self._add_up(gradient, code, point, before)
            if error is not None:
                _log.warning("rank %d could not evaluate f: %s", self._rank, error, exc_info=error)

    def _send(self, code: int) -> None:
        dist.broadcast(torch.tensor([code], device=self._device), self._root, group=self._group)

    def _received(self) -> int:
        code = torch.empty(1, dtype=torch.int64, device=self._device)
        dist.broadcast(code, self._root, group=self._group)
        return int(code.item())

    def _add_up(
        self, gradient: SharedGradient, code: int, point: Tensor, before: Exception | None = None
    ) -> tuple[Tensor, Tensor | None, Exception | None]:
        """Sum of losses, number of batches and number of failures, and the sum of gradients, over all processes."""
        total, slope, error = torch.zeros(()), None, None
        if code == _GRADIENT:
            slope = torch.zeros(gradient.num_parameters, dtype=gradient.dtype, device=self._device)
        try:
            if before is not None:
                raise before
            total, own = gradient.of_own_batches(point.to(gradient.device), code)
            slope = own.to(self._device) if own is not None else None
        except Exception as raised:
            error = raised
        count = gradient.num_batches
        numbers = torch.tensor([float(total), count, error is not None], dtype=torch.float64, device=self._device)
        dist.all_reduce(numbers, group=self._group)
        if slope is not None:
            dist.all_reduce(slope, group=self._group)
        return numbers, slope, error


class SharedGradient(ProbeGradient):
    """The gradient of f over the batches of all processes; alone, until :attr:`ranks` is set."""

    ranks: Ranks | None = None

    def of_own_batches(self, flat: Tensor, code: int) -> tuple[Tensor, Tensor | None]:
        """Sums over the batches of this process.

        Args:
            flat: The point, shape (num_parameters,).
            code: What is to be evaluated.

        Returns:
            The sum of losses, shape (), and that of gradients if it was asked for.
        """
        if code == _GRADIENT:
            value, slope = super().value_and_gradient(flat)
            return torch.tensor(value * self.num_batches, dtype=torch.float64), slope * self.num_batches
        value = super().value(flat, graph=code == _VALUE)
        return torch.tensor(value * self.num_batches, dtype=torch.float64), None

    def value_and_gradient(self, flat: Tensor) -> tuple[float, Tensor]:
        """f and its gradient, over all processes."""
        if self.ranks is None:
            return super().value_and_gradient(flat)
        value, slope = self.ranks.evaluate(self, _GRADIENT, flat)
        assert slope is not None
        return float(value), slope

    def value(self, flat: Tensor, *, graph: bool = True) -> float:
        """f alone, over all processes."""
        if self.ranks is None:
            return super().value(flat, graph=graph)
        return float(self.ranks.evaluate(self, _VALUE if graph else _VALUE_WITHOUT_GRAPH, flat)[0])


class SharedProbe(Probe):
    """f over the batches of all processes.

    Its rounding is audited on the batches of rank 0: a part of the probe, which usually overestimates the error.
    """

    gradient: SharedGradient

    def join(self, ranks: Ranks) -> None:
        """Evaluate f over all processes from now on."""
        self.gradient.ranks = ranks
        self.value_and_gradient.clear()

    def _gradient_over(self, batches: Any) -> ProbeGradient:
        return SharedGradient(
            self.model,
            self.loss,
            batches,
            initial_carry=self.initial_carry,
            batch_norm=self.policy.batch_norm,
        )


def ranks_of(model: nn.Module, device: torch.device, *, distributed: bool | None) -> Ranks | None:
    """The processes that train a model together.

    Args:
        model: The model as it is trained, wrapped.
        device: Where it is.
        distributed: Whether there are any; None to ask the model.

    Returns:
        They; None where this process trains it alone.

    Raises:
        ValueError: There should be some, but torch knows of no group.
    """
    is_wrapped = isinstance(getattr(model, "_orig_mod", model), nn.parallel.DistributedDataParallel)
    if distributed is False or not (distributed or is_wrapped):
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("distributed=True: torch.distributed.init_process_group was not called")
    ranks = Ranks(getattr(getattr(model, "_orig_mod", model), "process_group", None), device)
    return ranks if ranks.size > 1 else None
