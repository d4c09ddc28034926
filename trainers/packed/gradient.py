"""The gradients of several models of one shape, each on a batch of its own, in the kernels of one.

``torch.func.vmap`` makes of every kernel one over all models, and the trace of it is replayed at each step, without
Python's share of forward and backward pass. Whether the numbers are those of one model at a time depends on the
kernels: of a batched matrix product and a single one, for example. So they are compared, bit for bit, on the first
step of every trace; only where they are the same is a trace used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from trainers.problem import Batch, Problem
from trainers.trees import map_tensors, tensors_of
from trainers.update.flat import parameter_shapes

__all__ = ["StackedGradient", "stacked"]


def stacked(batches: Sequence[Batch]) -> Batch:
    """Batches of one shape as one.

    Args:
        batches: Trees of tensors, alike.

    Returns:
        The same tree with one more axis, the first.

    Example:
        >>> stacked([(torch.ones(3), None), (torch.zeros(3), None)])[0].shape
        torch.Size([2, 3])
    """
    columns = [iter(column) for column in zip(*map(tensors_of, batches), strict=True)]
    stacks = iter([torch.stack(list(column)) for column in columns])
    return map_tensors(lambda _: next(stacks), batches[0])


class StackedGradient:
    """Gradients of a fixed number of models.

    Args:
        problem: One of them; the others differ only in their weights and in what their batches hold.
        size: How many.
    """

    def __init__(self, problem: Problem, size: int) -> None:
        self._problem = problem
        self._size = size
        self._layout = parameter_shapes(problem.model)
        self._trace: Callable[..., Any] | None = None

    def __call__(self, vectors: Sequence[Tensor], batches: Sequence[Batch]) -> tuple[Tensor, list[Tensor], Tensor]:
        """Differentiate.

        Args:
            vectors: The parameters of each model, flat, shape (n,).
            batches: The batch of each.

        Returns:
            The gradients, shape (size, n), the loss of each batch, and a copy of the parameters, shape (size, n).
        """
        with torch.no_grad():
            stack = torch.stack(list(vectors))
            parameters = self._views(stack)
            inputs = stacked(batches)
            if self._trace is None:
                self._trace = self._traced(parameters, inputs)
            gradients, outputs = self._trace(parameters, inputs)
            flat = torch.cat([gradients[name].reshape(self._size, -1) for name, _ in self._layout], dim=1)
            # A mean over a batch is a sum in another order than over one of many, which shows in the loss's last bit:
            # from the outputs it is computed as for one model. The gradient does not depend on it.
            losses = [
                self._problem.loss(_returns(output), batch, None)[0]
                for output, batch in zip(outputs.unbind(), batches, strict=True)
            ]
        return flat, losses, stack

    def _views(self, stack: Tensor) -> dict[str, Tensor]:
        """The parameters of all models by name."""
        sizes = [torch.Size(shape).numel() for _, shape in self._layout]
        pieces = torch.split(stack, sizes, dim=1)
        return {name: piece.view(len(stack), *shape) for (name, shape), piece in zip(self._layout, pieces, strict=True)}

    def _traced(self, parameters: dict[str, Tensor], inputs: Batch) -> Callable[..., Any]:
        # Slow to import, and only needed here.
        from torch.fx.experimental.proxy_tensor import make_fx

        problem = self._problem

        def loss(parameters: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
            seen: list[Tensor] = []

            def model(inputs: Tensor) -> Tensor:
                seen.append(functional_call(problem.model, parameters, (inputs,)))
                return seen[0]

            found: Any = model
            return problem.loss(found, batch, None)[0], seen[0]

        def gradients(parameters: dict[str, Tensor], inputs: Batch) -> tuple[dict[str, Tensor], Tensor]:
            found, (_, outputs) = vmap(grad_and_value(loss, has_aux=True))(parameters, inputs)
            return found, outputs

        with torch.enable_grad():
            return make_fx(gradients)(parameters, inputs)


def _returns(output: Tensor) -> Any:
    """A model whose output is known already."""
    return lambda inputs: output
