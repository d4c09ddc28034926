"""The gradient of f, the deterministic function whose smoothness is measured.

f is the mean loss over the frozen probe batches, with dropout off, batch-norm on each probe batch's own
statistics and an RNN's state at its initial value at the start of every batch. So f depends on the parameters
alone: the same point gives the same gradient bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GradientFn", "Params", "ProbeGradient", "freeze_stochastic_layers"]

Params = Mapping[str, Tensor]
"""A point in parameter space: named tensors."""

GradientFn = Callable[[Params], Params]
"""The gradient of f: parameters to tensors of the same names and shapes."""

Loss = Callable[[nn.Module, Any, Any], tuple[Tensor, Any]]


class ProbeGradient:
    """The gradient of f = mean loss over the probe batches, evaluated batch by batch.

    Parameters and gradients live in one flat buffer each, so that a point of parameter space is a single vector
    and its norm a single reduction.

    Args:
        model: The model; copied, so that measuring leaves the caller's alone.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``, differentiable.
        batches: The frozen probe batches, of equal size, so that the mean of their means is the mean.
        initial_carry: Makes the state with which every probe batch starts.
        dtype: The arithmetic of f; ``torch.float64`` gives the reference against which rounding is measured.

    Raises:
        ValueError: There is no batch, or the model has no parameter to differentiate by.

    Example:
        f(w) = mean of (w - b)^2 over b in {1, 3}; its gradient is 2 w - 4.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> square = lambda model, batch, carry: ((model.weight - batch).square().mean(), carry)
        >>> gradient = ProbeGradient(model, square, [torch.tensor(1.0), torch.tensor(3.0)])
        >>> gradient({"flat": torch.tensor([5.0])})["flat"]
        tensor([6.])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        initial_carry: Callable[[], Any] = lambda: None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._loss = loss
        self._batches = list(batches)
        self._initial_carry = initial_carry
        self._dtype = dtype
        if not self._batches:
            raise ValueError("the probe holds no batch: f would be the mean of nothing")
        self._model = freeze_stochastic_layers(copy.deepcopy(model))
        if dtype is not None:
            self._model = self._model.to(dtype)
            self._batches = [_cast(batch, dtype) for batch in self._batches]
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("the model has no parameter that requires a gradient")
        self._point, self._slope = _flatten(parameters)

    @property
    def num_parameters(self) -> int:
        """Number of scalars that f depends on."""
        return self._point.numel()

    @property
    def device(self) -> torch.device:
        """Where f is evaluated."""
        return self._point.device

    def __call__(self, point: Params) -> dict[str, Tensor]:
        """The gradient at ``{"flat": vector}``, shape (num_parameters,), as a fresh tensor under the same name."""
        return {"flat": self.value_and_gradient(point["flat"])[1]}

    def value_and_gradient(self, flat: Tensor) -> tuple[float, Tensor]:
        """f and its gradient.

        Args:
            flat: The point, shape (num_parameters,), any float type; rounded to the arithmetic of f.

        Returns:
            f in units of the loss, and the gradient, shape (num_parameters,), a fresh tensor.
        """
        self._point.copy_(flat)
        self._slope.zero_()
        total = torch.zeros((), dtype=torch.float64, device=self._point.device)
        for batch in self._batches:
            carry = self._initial_carry()
            if self._dtype is not None:
                carry = _cast(carry, self._dtype)
            loss, _ = self._loss(self._model, batch, carry)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return (total / len(self._batches)).item(), self._slope / len(self._batches)


def freeze_stochastic_layers(model: nn.Module) -> nn.Module:
    """The model in the mode in which f is defined; changed in place and returned.

    Dropout is off and batch-norm normalises by the statistics of the batch at hand, never by running averages
    (which depend on the path that training took, not on the parameters). Recurrent layers stay in training mode
    with their dropout at zero, since cuDNN differentiates them in no other.

    Returns:
        ``model`` itself.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
            module.running_mean = None
            module.running_var = None
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.training = True
    return model


def _flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Make parameters and gradients views of one flat buffer each; return both buffers."""
    point = torch.cat([p.detach().reshape(-1) for p in parameters])
    slope = torch.zeros_like(point)
    offset = 0
    for parameter in parameters:
        window = slice(offset, offset + parameter.numel())
        parameter.data = point[window].view_as(parameter)
        parameter.grad = slope[window].view_as(parameter)
        offset += parameter.numel()
    return point, slope


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """The tree with its floating-point tensors in ``dtype``; everything else as it is."""
    if isinstance(tree, Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, Mapping):
        return {key: _cast(value, dtype) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_cast(value, dtype) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(_cast(value, dtype) for value in tree)
    return tree
