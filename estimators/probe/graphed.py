"""Eq. (20) on a GPU: a recorded gradient is replayed for every fraction, with one synchronisation per snapshot.

Small models are limited by launching their kernels, not by the kernels. A CUDA graph records the launches of one
gradient once and replays them in one go. What it needs is already there: the parameters, the gradient and the probe's
batches lie in buffers that never move. Norms and distances are reduced on the device and fetched together at the end.

Written for CUDA and tested on the CPU, where the recorder runs the work itself; not measured on a GPU, since none was
available.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from estimators.probe.arithmetic import full_float32
from estimators.probe.gradient import ProbeGradient

__all__ = ["GraphedGradient", "GridOnDevice", "Recorder", "record_cuda_graph", "run_eagerly"]

Recorder = Callable[[Callable[[], object]], Callable[[], object]]
"""Takes work on fixed buffers; returns a function that repeats it on the buffers' current contents."""

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


@dataclass(frozen=True, kw_only=True)
class GridOnDevice:
    """Eq. (20) as fetched from the device.

    Attributes:
        loss: f(x_k).
        grad_norm: ||grad f(x_k)||.
        changes: ||grad f(x_k + gamma d) - grad f(x_k)|| at every fraction.
        distances: Of the rounded points from x_k.
        gram: Inner products of the changes of the gradient, shape (fractions, fractions); None if not asked for.
    """

    loss: float
    grad_norm: float
    changes: tuple[float, ...]
    distances: tuple[float, ...]
    gram: tuple[tuple[float, ...], ...] | None

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """The ratio of eq. (20) at every fraction; None where the rounded step is zero."""
        pairs = zip(self.changes, self.distances, strict=True)
        return tuple(change / distance if distance else None for change, distance in pairs)


class GraphedGradient:
    """The gradient of f, recorded once and replayed at every point.

    Args:
        gradient: f; its buffers are replayed into, so nothing else may use it in the meantime.
        record: How the work is recorded, at the first point; by default as a CUDA graph on a GPU, and not at all
            elsewhere.

    Example:
        f(w) = w^2 / 2 along any step has the ratio 1:

        >>> from torch import nn
        >>> square = lambda model, batch, carry: (model.weight.square().sum() / 2, carry)
        >>> graphed = GraphedGradient(ProbeGradient(nn.Linear(2, 1, bias=False), square, [None]))
        >>> graphed.grid(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), [0.5, 1.0]).ratios
        (1.0, 1.0)
    """

    def __init__(self, gradient: ProbeGradient, *, record: Recorder | None = None) -> None:
        self._gradient = gradient
        self._total = torch.zeros((), dtype=torch.float64, device=gradient.device)
        if record is None:
            record = record_cuda_graph if gradient.device.type == "cuda" else run_eagerly
        self._record = record

    @cached_property
    def _replay(self) -> Callable[[], object]:
        """Recorded at the first point: what f depends on besides it, such as statistics, is in its buffers by then."""
        try:
            with full_float32():
                return self._record(self._work)
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
        return (self._total / self._gradient.num_batches).item(), slope

    def grid(
        self, iterate: Tensor, following: Tensor, fractions: Sequence[float], *, gram: bool = False
    ) -> GridOnDevice:
        """The changes of the gradient between two iterates.

        Args:
            iterate: x_k, shape (num_parameters,), on the device of f.
            following: x_{k+1}, the same.
            fractions: The fractions, each in (0, 1].
            gram: Whether inner products of the changes are wanted too, which holds one vector per fraction.

        Returns:
            The changes, after one synchronisation.
        """
        start = self._at(iterate).clone()
        loss = self._total / self._gradient.num_batches
        found = [loss, _norm(start)]
        held: list[Tensor] = []
        for fraction in fractions:
            point = following if fraction == 1 else torch.lerp(iterate, following, fraction)
            change = self._at(point) - start
            found += [_norm(change), _norm(point - iterate)]
            if gram:
                held.append(change.double())
        if gram:
            matrix = torch.stack(held)
            found += list((matrix @ matrix.T).flatten())
        # The one place where the CPU waits.
        numbers = torch.stack(found).tolist()
        count = len(fractions)
        products = numbers[2 + 2 * count :]
        return GridOnDevice(
            loss=numbers[0],
            grad_norm=numbers[1],
            changes=tuple(numbers[2 : 2 + 2 * count : 2]),
            distances=tuple(numbers[3 : 2 + 2 * count : 2]),
            gram=tuple(tuple(products[i * count : (i + 1) * count]) for i in range(count)) if gram else None,
        )

    def _at(self, point: Tensor) -> Tensor:
        """The gradient at a point, in a buffer that the next call overwrites."""
        self._gradient.move_to(point)
        with full_float32():
            self._replay()
        return self._gradient.summed_gradient.div_(self._gradient.num_batches)

    def _work(self) -> None:
        self._total.copy_(self._gradient.accumulate())


def _norm(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return norm
