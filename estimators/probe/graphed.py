"""Eq. (20) on a GPU: a recorded batch is replayed at every fraction, with one synchronisation per snapshot.

Small models are limited by launching their kernels, not by the kernels. A CUDA graph records the launches of one probe
batch once and replays them in one go for all batches of its shape. What it needs is nearly there: parameters and
gradients lie in buffers that never move, and batches are copied into one. Norms and distances are reduced on the device
and fetched together at the end.

Written for CUDA and tested on the CPU, where the recorder runs the work itself; not measured on a GPU, since none was
available.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from estimators.probe.arithmetic import full_float32
from estimators.probe.copies import tensors_in
from estimators.probe.gradient import ProbeGradient, differentiate

__all__ = ["GraphedGradient", "GridOnDevice", "Recorder", "record_cuda_graph", "run_eagerly", "shape_of"]

Recorder = Callable[[Callable[[], object]], Callable[[], object]]
"""Takes work on fixed buffers; returns a function that repeats it on the buffers' current contents."""

_DEPTH = 50
"""Containers within one another in a batch."""

_WARM_UP = 3
"""Runs before recording, during which cuDNN and the allocator settle; recommended by PyTorch."""


def run_eagerly(work: Callable[[], object]) -> Callable[[], object]:
    """Record nothing: replaying repeats the work. For the CPU, and for tests.

    Args:
        work: The work, on fixed buffers.

    Returns:
        ``work`` itself.
    """
    return work


def record_cuda_graph(work: Callable[[], object]) -> Callable[[], object]:
    """Record the kernel launches of some work as a CUDA graph.

    Args:
        work: Forward and backward passes on fixed buffers that neither wait for the device nor look at a tensor's
            values from Python.

    Returns:
        Replays it.

    Raises:
        RuntimeError: The work cannot be recorded, for one of these reasons.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass(frozen=True, kw_only=True, eq=False)
class GridOnDevice:
    """What eq. (20) is made of, as fetched from the device.

    Attributes:
        changes: ||grad f(x_k + gamma d) - grad f(x_k)|| at every fraction.
        distances: Of the rounded points from x_k.
        update_norm: ||d|| of the parameters as they are stored.
        end: f and its gradient at x_{k+1}, shape (num_parameters,), which no replay overwrites.
        next_grad_norm: ||grad f(x_{k+1})||.
    """

    changes: tuple[float, ...]
    distances: tuple[float, ...]
    update_norm: float
    end: tuple[float, Tensor]
    next_grad_norm: float


class GraphedGradient:
    """The gradient of f, of which one batch is recorded and replayed for every batch and at every point.

    Args:
        gradient: f; its buffers are replayed into, so nothing else may use it in the meantime.
        record: How the work is recorded, at the first point; by default as a CUDA graph on a GPU, and not at all
            elsewhere.

    Example:
        f(w) = w^2 / 2 along any step has the ratio 1:

        >>> from torch import nn
        >>> square = lambda model, batch, carry: (model.weight.square().sum() / 2, carry)
        >>> graphed = GraphedGradient(ProbeGradient(nn.Linear(2, 1, bias=False), square, [None]))
        >>> here, there = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
        >>> found = graphed.grid(here, there, [0.5, 1.0], start=here)
        >>> found.changes == found.distances, found.end
        (True, (10.0, tensor([2., 4.])))
    """

    def __init__(self, gradient: ProbeGradient, *, record: Recorder | None = None) -> None:
        self._gradient = gradient
        self._total = torch.zeros((), dtype=torch.float64, device=gradient.device)
        if record is None:
            record = record_cuda_graph if gradient.device.type == "cuda" else run_eagerly
        self._record = record

    @cached_property
    def _replays(self) -> list[tuple[list[Tensor], list[Tensor], Callable[[], object]]]:
        """For every batch its tensors, those that it is copied into, and what replays a batch that is there.

        Recorded at the first point: what f depends on besides it, such as statistics, is in its buffers by then.
        """
        recorded: dict[Any, tuple[list[Tensor], Callable[[], object]]] = {}
        replays = []
        for index, batch in enumerate(self._gradient.batches):
            shape = shape_of(batch)
            # A batch that cannot be copied is recorded where it lies; so is a single one.
            in_place = shape is None or self._gradient.num_batches == 1
            key = index if in_place else shape
            if key not in recorded:
                held = batch if in_place else _like(batch)
                static = [] if in_place else _tensors(held)
                if static:
                    torch._foreach_copy_(static, _tensors(batch))
                recorded[key] = static, self._recorded(held)
            static, replay = recorded[key]
            replays.append((_tensors(batch) if static else [], static, replay))
        return replays

    def _recorded(self, batch: Any) -> Callable[[], object]:
        def work() -> None:
            loss = self._gradient.loss_of(batch)
            differentiate(loss)
            self._total.add_(loss.detach())

        try:
            with full_float32():
                return self._record(work)
        except RuntimeError as error:
            raise ValueError(
                f"the gradient of f cannot be recorded as a CUDA graph: {error}; set cuda_graphs to false"
            ) from error

    def value_and_gradient(self, flat: Tensor) -> tuple[float, Tensor]:
        """f and its gradient, as :meth:`~estimators.probe.gradient.ProbeGradient.value_and_gradient` gives them.

        Args:
            flat: The point, shape (num_parameters,).

        Returns:
            f in units of the loss, and the gradient, shape (num_parameters,), a fresh tensor.

        Raises:
            ValueError: The gradient cannot be recorded.
        """
        slope = self._at(flat).clone()
        return self._value().item(), slope

    def grid(self, iterate: Tensor, following: Tensor, fractions: Sequence[float], *, start: Tensor) -> GridOnDevice:
        """The changes of the gradient between two iterates.

        Args:
            iterate: x_k, shape (num_parameters,), on the device of f.
            following: x_{k+1}, the same.
            fractions: The fractions, each in (0, 1], of which the last is 1.
            start: grad f(x_k), shape (num_parameters,).

        Returns:
            The changes, after one synchronisation.

        Raises:
            ValueError: The gradient cannot be recorded, or the last fraction is not 1.
        """
        if fractions[-1] != 1:
            raise ValueError(f"the last fraction must be 1, found {fractions[-1]!r}")
        found: list[Tensor] = []
        for fraction in fractions:
            point = following if fraction == 1 else torch.lerp(iterate, following, fraction)
            there = self._at(point)
            found += [_norm(there - start), _norm(point - iterate)]
        end = there.clone()
        # The one place where the CPU waits.
        *numbers, value, next_grad_norm = torch.stack([*found, self._value(), _norm(end)]).tolist()
        return GridOnDevice(
            changes=tuple(numbers[::2]),
            distances=tuple(numbers[1::2]),
            update_norm=numbers[-1],
            end=(value, end),
            next_grad_norm=next_grad_norm,
        )

    def _value(self) -> Tensor:
        return self._total / self._gradient.num_batches

    def _at(self, point: Tensor) -> Tensor:
        """The gradient at a point, in a buffer that the next call overwrites."""
        self._gradient.move_to(point)
        # First: recording may run the work, too.
        replays = self._replays
        slope = self._gradient.summed_gradient.zero_()
        self._total.zero_()
        with full_float32():
            for batch, static, replay in replays:
                if static:
                    torch._foreach_copy_(static, batch)
                replay()
        return slope.div_(self._gradient.num_batches)


def shape_of(tree: Any) -> Any:
    """What two batches share that one recorded graph may be replayed for.

    Args:
        tree: Tensors in any nesting of mappings, tuples and lists, beside numbers and texts.

    Returns:
        A key; None for what cannot be copied from one to the other.

    Example:
        >>> shape_of([torch.ones(2), 3]) == shape_of([torch.zeros(2), 3]), shape_of(object()) is None
        (True, True)
    """
    if isinstance(tree, Tensor):
        overlaps = any(stride == 0 and size > 1 for stride, size in zip(tree.stride(), tree.shape, strict=True))
        if tree.layout != torch.strided or tree.requires_grad or overlaps:
            return None
        return tree.shape, tree.stride(), tree.dtype, tree.device
    if isinstance(tree, Mapping | tuple | list):
        parts = [shape_of(part) for part in (tree.values() if isinstance(tree, Mapping) else tree)]
        names = tuple(map(repr, tree)) if isinstance(tree, Mapping) else ()
        return None if None in parts else (type(tree), names, *parts)
    return (type(tree), tree) if tree is None or isinstance(tree, bool | int | float | str) else None


def _like(tree: Any) -> Any:
    """The same tree with memory of its own."""
    if isinstance(tree, Tensor):
        return torch.empty_strided(tree.shape, tree.stride(), dtype=tree.dtype, device=tree.device)
    if isinstance(tree, Mapping):
        return {key: _like(value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(_like, tree))
    return type(tree)(map(_like, tree)) if isinstance(tree, tuple | list) else tree


def _tensors(tree: Any) -> list[Tensor]:
    return list(tensors_in(tree, depth=_DEPTH))


def _norm(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return norm
