"""Forward and backward pass of a training batch as a CUDA graph, recorded once for each shape of a batch, and replayed.

Small models are limited by launching their kernels, and a graph launches all of a batch's at once. The update stays
outside, where any schedule and optimiser may do what they like. What is recorded has to be a function of the batch, the
carry, the weights and the device's generator alone: the problems that come with clipsweep are, and one's own are looked
at while their first batches are computed as ever.

Written for CUDA and tested on the CPU, where the recorder runs the work itself; not measured on a GPU.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.trees import map_tensors, tensors_of

__all__ = ["CudaRecorder", "Differentiate", "EagerRecorder", "GraphedDifferentiate", "Recorder"]

_log = logging.getLogger(__name__)

Differentiate = Callable[[Any, Any], tuple[Tensor, Any]]
"""From a batch and a carry to loss and next carry, both without a graph; puts the gradient into its buffer."""

_WARM_UP = 2
"""Batches of a shape that are computed as ever: cuDNN and the allocator settle, and what cannot be recorded shows."""

_GRAPHS = 64
"""Shapes that are held; sequences of random length have some forty."""


class EagerRecorder:
    """Records nothing: replaying repeats the work. For the CPU, and for tests.

    Example:
        >>> recorder = EagerRecorder()
        >>> recorder.record(lambda: 7)()
        7
    """

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """What in the context no graph could repeat: here nothing.

        Yields:
            An empty list.
        """
        yield []

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Record some work, without doing it.

        Args:
            work: The work, on tensors that stay where they are.

        Returns:
            Does it.
        """
        return work


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory, which is fit for that as they never run at the same time.

    Args:
        cuda: ``torch.cuda``, or what a test has in its place.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._pool: Any = None
        self._stream: Any = None

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """What in the context no graph could repeat: waiting for the GPU, and random numbers that come from the CPU.

        Yields:
            Words for each, complete after the context.
        """
        found: list[str] = []
        drawn = _host_generators()
        before = self._cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                self._cuda.set_sync_debug_mode(before)
        for one in caught:
            if "synchronizing CUDA operation" in str(one.message):
                found.append("it waits for the GPU, to read a value or to copy from the CPU")
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if _host_generators() != drawn:
            found.append("it draws random numbers on the CPU")

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """Record some work as a CUDA graph, without doing it.

        Args:
            work: Forward and backward pass on tensors that stay where they are.

        Returns:
            Does it.

        Raises:
            RuntimeError: The work cannot be recorded.
        """
        cuda = self._cuda
        if self._stream is None:
            self._stream, self._pool = cuda.Stream(), cuda.graph_pool_handle()
        generator = cuda.default_generators[cuda.current_device()]
        # A failed recording leaves a generator that refuses to draw.
        sound = generator.clone_state()
        graph = cuda.CUDAGraph()
        self._stream.wait_stream(cuda.current_stream())
        try:
            with cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        except BaseException:
            generator.graphsafe_set_state(sound)
            raise
        cuda.current_stream().wait_stream(self._stream)
        replay: Callable[[], object] = graph.replay
        return replay


Recorder = EagerRecorder | CudaRecorder


@dataclass(kw_only=True)
class _Shape:
    """What is known of batches of one shape."""

    seen: int = 0
    batch: Any = None
    carry: Any = None
    replay: Callable[[], object] | None = None
    found: list[tuple[Tensor, Any]] = field(default_factory=list)


class GraphedDifferentiate:
    """Differentiates batches as ever at first, and from the third of a shape on by a recorded graph.

    The generators must be seeded before every call: a graph draws from the seed that it finds when it is replayed. The
    first batches of a shape are real ones, so that nothing is computed twice that changes buffers of the model.

    Args:
        differentiate: What is recorded, see :data:`Differentiate`.
        recorder: Records it.
        forget: Removes what a call that failed has left in parameters.

    Attributes:
        given_up: Why batches are computed as ever for good; empty while they need not be.
        num_recorded: How many graphs were recorded.

    Example:
        >>> weight, slope = torch.tensor(3.0), torch.zeros(())
        >>> def differentiate(batch, carry):
        ...     slope.copy_(batch.sum())
        ...     return weight * batch.sum(), carry
        >>> graphed = GraphedDifferentiate(differentiate, EagerRecorder())
        >>> [graphed(torch.tensor([float(k)]), None)[0].item() for k in range(4)], slope.item()
        ([0.0, 3.0, 6.0, 9.0], 3.0)
        >>> graphed.num_recorded
        1
    """

    def __init__(
        self, differentiate: Differentiate, recorder: Recorder, *, forget: Callable[[], object] = lambda: None
    ) -> None:
        self._differentiate = differentiate
        self._forget = forget
        self._recorder = recorder
        self._shapes: OrderedDict[Any, _Shape] = OrderedDict()
        self.given_up = ""
        self.num_recorded = 0

    def __call__(self, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        """Differentiate a batch.

        Args:
            batch: A tree of tensors, on the device.
            carry: The same.

        Returns:
            The loss, and the next carry, which the next call of the same shape overwrites.
        """
        if self.given_up or (key := _shape_of((batch, carry))) is None:
            return self._differentiate(batch, carry)
        shape = self._shapes.setdefault(key, _Shape())
        self._shapes.move_to_end(key)
        if len(self._shapes) > _GRAPHS:
            self._shapes.popitem(last=False)
        if shape.seen < _WARM_UP:
            shape.seen += 1
            return self._looked_at(batch, carry)
        if shape.replay is None and not self._record(shape, batch, carry):
            return self._differentiate(batch, carry)
        assert shape.replay is not None
        static = list(tensors_of((shape.batch, shape.carry)))
        if static:
            torch._foreach_copy_(static, list(tensors_of((batch, carry))))
        shape.replay()
        loss, after = shape.found[0]
        # The next replay overwrites it, and a step may have several batches.
        return loss.clone(), after

    def _looked_at(self, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        """Differentiate as ever, and give up where that does what a graph would not repeat."""
        with self._recorder.watching() as unrepeatable:
            found = self._differentiate(batch, carry)
        if unrepeatable:
            self._give_up(unrepeatable[0])
        return found

    def _record(self, shape: _Shape, batch: Any, carry: Any) -> bool:
        """Record the work on tensors of its own; returns whether that was possible."""
        shape.batch, shape.carry = (map_tensors(_like, tree) for tree in (batch, carry))

        def work() -> None:
            found = self._differentiate(shape.batch, shape.carry)
            if not shape.found:
                shape.found.append(found)
            else:
                # Where replaying repeats the work, its results are where a graph's would be, too.
                torch._foreach_copy_(list(tensors_of(shape.found[0])), list(tensors_of(found)))

        try:
            shape.replay = self._recorder.record(work)
        except RuntimeError as error:
            # It may have ended between some parameters' gradients and others'.
            self._forget()
            self._give_up(str(error).strip().partition("\n")[0])
            return False
        self.num_recorded += 1
        return True

    def _give_up(self, why: str) -> None:
        self.given_up = why
        self._shapes.clear()
        _log.warning("training launches kernels one by one, since no CUDA graph of a batch can be recorded: %s", why)


def _shape_of(tree: Any) -> Any:
    """What two trees share that a graph may be replayed for; None where there is no graph for it."""
    if isinstance(tree, Tensor):
        overlaps = any(stride == 0 and size > 1 for stride, size in zip(tree.stride(), tree.shape, strict=True))
        if tree.layout != torch.strided or tree.requires_grad or overlaps:
            return None
        return tree.shape, tree.stride(), tree.dtype, tree.device
    if isinstance(tree, dict | tuple | list):
        parts = [_shape_of(part) for part in (tree.values() if isinstance(tree, dict) else tree)]
        names = tuple(map(repr, tree)) if isinstance(tree, dict) else ()
        return None if None in parts else (type(tree), names, *parts)
    # Numbers and the like become part of the graph.
    return (type(tree), tree) if tree is None or isinstance(tree, bool | int | float | str) else None


def _like(tensor: Tensor) -> Tensor:
    """Memory of the same layout, which decides which kernels are taken."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _host_generators() -> tuple[Any, ...]:
    """The states of what random numbers on the CPU come from."""
    numpy = np.random.get_state(legacy=False)
    drawn = [part.tobytes() if isinstance(part, np.ndarray) else part for part in numpy["state"].values()]
    rest = numpy.get("has_gauss"), numpy.get("gauss")
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate(), *drawn, *rest
