"""The gradient of f, the deterministic function whose smoothness is measured.

f is the mean loss over the frozen probe batches, with dropout off, batch-norm on statistics that the policy names
and an RNN's state at its initial value at the start of every batch. So f depends on the parameters alone: the same
point gives the same gradient bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from estimators.probe.arithmetic import arithmetic_of, full_float32
from estimators.probe.copies import copy_of
from estimators.probe.policy import BatchNorm, Statistics, freeze_stochastic_layers, load_statistics, probe_statistics

__all__ = ["DETACHED", "GradientFn", "Loss", "Params", "ProbeGradient", "cast", "differentiate", "in_arithmetic"]

Params = Mapping[str, Tensor]
"""A point in parameter space: named tensors."""

GradientFn = Callable[[Params], Params]
"""The gradient of f: parameters to tensors of the same names and shapes."""

Loss = Callable[[nn.Module, Any, Any], tuple[Tensor, Any]]
"""``loss(model, batch, carry) -> (mean loss, carry)``, differentiable."""

DETACHED = (
    "the loss does not depend on the parameters of the model that it is given: compute it from that model's output, "
    "without detach, .data, .item, NumPy or torch.no_grad"
)
"""What a loss without a graph is told."""


class ProbeGradient:
    """The gradient of f = mean loss over the probe batches, evaluated batch by batch.

    Parameters and gradients live in one flat buffer each, so that a point of parameter space is a single vector
    and its norm a single reduction.

    Args:
        model: The model; copied, so that measuring does not change the caller's.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``, differentiable.
        batches: The frozen probe batches, of equal size, so that the mean of their means is the mean.
        initial_carry: Makes the state with which every probe batch starts.
        dtype: The arithmetic of f; ``torch.float64`` gives the reference against which rounding is measured.
        batch_norm: By which statistics batch-norm normalises, see :class:`~estimators.probe.policy.ProbePolicy`. With
            ``frozen``, :meth:`set_statistics` comes before the first gradient.
        in_place: Compute with the model itself, which is changed, in place of a copy.

    Attributes:
        parameters: The parameters that f depends on; views of the point.
        layout: Parameter name to its place in the flat vectors.

    Raises:
        ValueError: There is no batch, or the model has no parameter to differentiate by.
        UnfaithfulCopyError: The model cannot be copied.

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
        batch_norm: BatchNorm = "batch",
        in_place: bool = False,
    ) -> None:
        self._loss = loss
        self._batches = list(batches)
        self._initial_carry = initial_carry
        self._dtype = dtype
        if not self._batches:
            raise ValueError("the probe holds no batch: f would be the mean of nothing")
        _require_real(model)
        self._model = freeze_stochastic_layers(model if in_place else copy_of(model), batch_norm=batch_norm)
        if dtype is not None:
            in_arithmetic(self._model, dtype)
            self._batches = [cast(batch, dtype) for batch in self._batches]
        named = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("the model has no parameter that requires a gradient")
        self.parameters = [parameter for _, parameter in named]
        self._point, self._slope = _flatten(self.parameters)
        ends = list(itertools.accumulate(parameter.numel() for parameter in self.parameters))
        self.layout = {name: slice(end - p.numel(), end) for (name, p), end in zip(named, ends, strict=True)}

    @property
    def num_parameters(self) -> int:
        """Number of scalars that f depends on."""
        return self._point.numel()

    @property
    def device(self) -> torch.device:
        """Where f is evaluated."""
        return self._point.device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which f is evaluated."""
        return self._point.dtype

    def __call__(self, point: Params) -> dict[str, Tensor]:
        """The gradient at ``{"flat": vector}``, shape (num_parameters,), as a fresh tensor under the same name."""
        return {"flat": self.value_and_gradient(point["flat"])[1]}

    @property
    def arithmetic(self) -> str:
        """The arithmetic of f, for example ``float32 ieee``, whatever is in use outside."""
        with full_float32():
            return arithmetic_of(self._point.dtype)

    def value_and_gradient(self, flat: Tensor) -> tuple[float, Tensor]:
        """f and its gradient.

        Args:
            flat: The point, shape (num_parameters,), any float type; rounded to the arithmetic of f.

        Returns:
            f in units of the loss, and the gradient, shape (num_parameters,), a fresh tensor.
        """
        self.move_to(flat)
        with full_float32():
            total = self.accumulate()
        return (total / len(self._batches)).item(), self._slope / len(self._batches)

    def accumulate(self) -> Tensor:
        """Sum loss and gradient over the batches at the current parameters, without waiting for the device.

        Returns:
            The sum of the batches' losses, float64, shape (). That of their gradients is in :attr:`summed_gradient`.

        Raises:
            ValueError: The loss does not depend on the parameters.
        """
        self._slope.zero_()
        total = torch.zeros((), dtype=torch.float64, device=self._point.device)
        for loss in self.losses():
            differentiate(loss)
            total += loss.detach()
        return total

    def value(self, flat: Tensor, *, graph: bool = True) -> float:
        """f alone, by forward passes.

        Args:
            flat: The point, shape (num_parameters,), any float type; rounded to the arithmetic of f.
            graph: Build the graphs that a gradient would need, so that kernels and bits are those of
                :meth:`value_and_gradient`. Without them it takes half the time, but other kernels may round
                differently, and a loss that takes gradients itself fails.

        Returns:
            f, in units of the loss.
        """
        self.move_to(flat)
        total = torch.zeros((), dtype=torch.float64, device=self._point.device)
        with full_float32(), torch.set_grad_enabled(graph):
            for loss in self.losses():
                total += loss.detach()
                # Its graph, before the next one is built.
                del loss
        return (total / len(self._batches)).item()

    def batch_values(self, flat: Tensor, *, graph: bool = True) -> Tensor:
        """The losses of which f is the mean.

        Args:
            flat: The point, shape (num_parameters,).
            graph: As for :meth:`value`.

        Returns:
            One per batch, shape (num_batches,), in float64.
        """
        self.move_to(flat)
        with full_float32(), torch.set_grad_enabled(graph):
            return torch.stack([loss.detach().double().reshape(()) for loss in self.losses()])

    @property
    def summed_gradient(self) -> Tensor:
        """The buffer into which :meth:`accumulate` sums, shape (num_parameters,); overwritten by the next call."""
        return self._slope

    @property
    def batches(self) -> list[Any]:
        """The batches, in the arithmetic of f."""
        return self._batches

    @property
    def num_batches(self) -> int:
        """The number of batches over which f is the mean."""
        return len(self._batches)

    def modules(self) -> Iterator[nn.Module]:
        """The modules of the copy that f is computed with."""
        return self._model.modules()

    def move_to(self, flat: Tensor) -> None:
        """Set the parameters to a point, shape (num_parameters,), rounded to the arithmetic of f."""
        self._point.copy_(flat)

    def point(self) -> Tensor:
        """The current parameters, shape (num_parameters,), a fresh tensor."""
        return self._point.clone()

    def losses(self) -> Iterator[Tensor]:
        """The loss of one batch after another at the current parameters, each with its graph."""
        yield from map(self.loss_of, self._batches)

    def loss_of(self, batch: Any) -> Tensor:
        """The loss of a batch at the current parameters, with its graph."""
        carry = self._initial_carry()
        if self._dtype is not None:
            carry = cast(carry, self._dtype)
        return self._loss(self._model, batch, carry)[0]

    def each(self, flat: Tensor) -> Iterator[Tensor]:
        """The gradient of one batch after another.

        Args:
            flat: The point, shape (num_parameters,).

        Yields:
            Shape (num_parameters,); a buffer that the next one overwrites.
        """
        self.move_to(flat)
        with full_float32():
            for loss in self.losses():
                self._slope.zero_()
                differentiate(loss)
                yield self._slope

    def statistics_at(self, flat: Tensor) -> Statistics:
        """The statistics of batch-norm layers at a point, averaged over the probe; for ``batch_norm="frozen"``.

        Args:
            flat: The point, shape (num_parameters,).

        Returns:
            Mean and variance per layer.
        """
        self.move_to(flat)
        with full_float32():
            return probe_statistics(self._model, lambda: list(self.losses()))

    def set_statistics(self, statistics: Statistics) -> None:
        """Normalise by these from now on."""
        load_statistics(self._model, statistics)

    def follow(self, model: nn.Module) -> bool:
        """Take over what f depends on besides its parameters: buffers, and parameters that are not trained.

        Args:
            model: The model that is trained; left as it is. Statistics of batch-norm are the policy's business, and
                stay.

        Returns:
            Whether anything was different.
        """
        changed = False
        theirs = dict(_rest(model))
        with torch.no_grad():
            for name, held in _rest(self._model):
                given = theirs.get(name)
                if given is None or given.shape != held.shape:
                    continue
                if not torch.equal(held, value := given.detach().to(held)):
                    held.copy_(value)
                    changed = True
        return changed


def _rest(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a model holds besides its trained parameters and the statistics of batch-norm, by name."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if not parameter.requires_grad)
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield from ((f"{prefix}.{name}", buffer) for name, buffer in module.named_buffers(recurse=False))


def _require_real(model: nn.Module) -> None:
    """Refuse what f would be differentiated by and that is no part of a vector of real numbers."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (
            parameter.is_complex() or parameter.is_meta or parameter.layout != torch.strided
        ):
            raise ValueError(
                f"the parameter {name!r} ({parameter.dtype}, {parameter.layout}, on {parameter.device}) cannot be "
                "a part of a vector of real numbers: f is measured where all parameters are real, dense and have "
                "values; torch.view_as_real makes complex ones real"
            )


def differentiate(loss: Tensor) -> None:
    """Add the gradient of a loss to those of the parameters.

    Args:
        loss: A scalar with its graph.

    Raises:
        ValueError: It has none.
    """
    if not loss.requires_grad:
        raise ValueError(DETACHED)
    loss.backward()  # type: ignore[no-untyped-call]


def _flatten(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Make parameters and gradients views of one flat buffer each; return both buffers."""
    point = _aligned(torch.cat([p.detach().reshape(-1) for p in parameters]), [p.numel() for p in parameters])
    slope = torch.zeros_like(point)
    offset = 0
    for parameter in parameters:
        window = slice(offset, offset + parameter.numel())
        parameter.data = point[window].view_as(parameter)
        parameter.grad = slope[window].view_as(parameter)
        offset += parameter.numel()
    return point, slope


def _aligned(values: Tensor, sizes: list[int]) -> Tensor:
    """The same vector, placed so that most pieces start at a cache line, as oneDNN prefers."""
    line = max(1, 64 // values.element_size())
    pieces = [(end - size, size) for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    shift = max(range(line), key=lambda k: sum(size for start, size in pieces if (start + k) % line == 0))
    return values.new_empty(len(values) + shift)[shift:].copy_(values)


def in_arithmetic(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A model with its floating-point tensors in another arithmetic; changed in place and returned.

    Not ``model.to(dtype)``, which drops the imaginary part of what is complex.

    Args:
        model: The model.
        dtype: The type.

    Returns:
        ``model`` itself.
    """
    model._apply(lambda tensor: cast(tensor, dtype))  # type: ignore[no-untyped-call]
    return model


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """A batch or a carry in another arithmetic.

    Args:
        tree: Tensors in any nesting of mappings, tuples and lists.
        dtype: The type.

    Returns:
        The tree with its floating-point tensors in ``dtype``, complex ones at least in its complex counterpart;
        everything else as it is.
    """
    if isinstance(tree, Tensor):
        if tree.is_complex():
            return tree.to(max(tree.dtype, dtype.to_complex(), key=lambda kind: kind.itemsize))
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, Mapping):
        return {key: cast(value, dtype) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(cast(value, dtype) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(cast(value, dtype) for value in tree)
    return tree
