"""A model's parameters as one vector, and their gradients as another."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from trainers.errors import TrainerError

__all__ = [
    "FlatParameters",
    "flat_parameters",
    "outer_matrices",
    "parameter_shapes",
    "require_graph",
    "require_reached",
]


class FlatParameters:
    """One buffer for all trained parameters and one for their gradients, of which the model's own tensors become views.

    An elementwise optimiser takes the same step on the vector as on its pieces, in one kernel instead of one per
    parameter; norms are one reduction, and a snapshot is one copy.

    Args:
        model: Changed in place: its parameters move into the buffer. Tied parameters stay tied, frozen ones stay out.

    Attributes:
        vector: All trained parameters, shape (n,), with the gradient in ``vector.grad``.
        layout: Names and shapes in order.
        parameters: The model's own tensors, in order: views of ``vector``.
        views: The same of the gradients.
        outer_matrices: Names of the matrices at a model's ends, see :func:`outer_matrices`.

    Raises:
        TrainerError: The model has nothing to train, or its parameters differ in type or device.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> flat = FlatParameters(model)
        >>> _ = flat.vector.data.fill_(2.0)
        >>> model.weight.item(), model.bias.item()
        (2.0, 2.0)
    """

    def __init__(self, model: nn.Module) -> None:
        self.layout = parameter_shapes(model)
        self.outer_matrices = outer_matrices(model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if not kinds:
            raise TrainerError("the model has no parameter that requires a gradient")
        if len(kinds) > 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise TrainerError(f"all trained parameters must share one type and device, but there are: {found}")
        sizes = [parameter.numel() for parameter in self.parameters]
        self.vector = nn.Parameter(_aligned(flat_parameters(model), sizes))
        self.gradient = torch.zeros_like(self.vector, requires_grad=False)
        self.vector.grad = self.gradient
        self.views: list[Tensor] = []
        offset = 0
        for parameter in self.parameters:
            window = slice(offset, offset + parameter.numel())
            parameter.data = self.vector.data[window].view(parameter.shape)
            parameter.grad = None
            self.views.append(self.gradient[window].view(parameter.shape))
            offset += parameter.numel()

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of a loss into the buffer.

        Args:
            loss: A scalar with its graph.

        Raises:
            TrainerError: The loss depends on no parameter, or something else left a gradient in one.
        """
        for parameter, (name, _) in zip(self.parameters, self.layout, strict=True):
            if parameter.grad is not None:
                raise TrainerError(
                    f"the gradient of {name!r} was set while the loss was computed: a problem's loss must leave "
                    ".grad alone (no backward); the training loop does that"
                )
        require_graph(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        # Copied once: having autograd add to a zeroed buffer would take two more passes over memory.
        views, gradients = [], []
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if (gradient := parameter.grad) is None:
                view.zero_()
                continue
            views.append(view)
            # Embeddings can have sparse gradients, which are as good as dense ones to an optimiser of one vector.
            gradients.append(gradient.to_dense() if gradient.layout != torch.strided else gradient)
            parameter.grad = None
        require_reached(bool(views))
        # All in a few kernels on a GPU, where launching one for each parameter takes longer than copying it.
        torch._foreach_copy_(views, gradients)

    def forget(self) -> None:
        """Remove the gradients that :meth:`differentiate` leaves in some parameters if it is cut short."""
        for parameter in self.parameters:
            parameter.grad = None


def outer_matrices(model: nn.Module) -> frozenset[str]:
    """The matrices at a model's ends, which are no maps from hidden units to hidden units.

    Args:
        model: Any.

    Returns:
        Names, as :func:`parameter_shapes` has them, of the weights of embeddings, and of the last parameter of two
        dimensions in the order of the model's modules: its output layer, be it tied to an embedding or not.

    Example:
        >>> sorted(outer_matrices(nn.Sequential(nn.Embedding(9, 2), nn.Linear(2, 3), nn.Linear(3, 4))))
        ['0.weight', '2.weight']
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(module.weight)]
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) in names
    }
    matrices = [one for _, one in model.named_parameters(remove_duplicate=False) if one.requires_grad and one.ndim == 2]
    return frozenset(found | {names[id(one)] for one in matrices[-1:]})


def require_reached(reached: bool) -> None:
    """Require that the gradient of a loss has reached a trained parameter.

    Args:
        reached: Whether it has.

    Raises:
        TrainerError: It has not.

    Example:
        >>> require_reached(True)
    """
    if not reached:
        raise TrainerError(
            "the loss depends on none of the parameters that are trained: compute it with the model that it is given, "
            "and let forward use the parameters that __init__ made, never replace them"
        )


def require_graph(loss: Tensor) -> None:
    """Require that a loss was computed from something that has a gradient.

    Args:
        loss: What a problem's loss returned.

    Raises:
        TrainerError: It was not.

    Example:
        >>> require_graph(nn.Linear(1, 1)(torch.ones(1)).sum())
    """
    if not loss.requires_grad:
        raise TrainerError(
            "the loss does not depend on the model's parameters: compute it from the output of the model that it is "
            "given, without detach, .data, .item, NumPy or torch.no_grad"
        )


def _aligned(values: Tensor, sizes: list[int]) -> Tensor:
    """The same vector, placed in memory so that most of its numbers are in pieces that start at a cache line."""
    # oneDNN's matrix products are a few percent slower elsewhere, and a piece of odd size shifts all later ones.
    line = max(1, 64 // values.element_size())
    pieces = [(end - size, size) for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    shift = max(range(line), key=lambda k: sum(size for start, size in pieces if (start + k) % line == 0))
    # PyTorch's own memory starts at a cache line.
    return values.new_empty(len(values) + shift)[shift:].copy_(values)


def parameter_shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the trained parameters in the order in which a flat vector holds them.

    Args:
        model: Parameters that do not require a gradient are left out; tied ones count once, under their first name.

    Returns:
        Pairs in the order of ``model.named_parameters()``.

    Example:
        >>> parameter_shapes(nn.Linear(2, 3))
        [('weight', (3, 2)), ('bias', (3,))]
    """
    return [(name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad]


def flat_parameters(model: nn.Module) -> Tensor:
    """A copy of the trained parameters as one vector, shape (n,), in the order of :func:`parameter_shapes`."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])
