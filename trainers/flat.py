"""A model's parameters as one vector, and their gradients as another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.snapshot import flat_parameters, parameter_shapes

__all__ = ["FlatParameters"]


class FlatParameters:
    """One buffer for all trained parameters and one for their gradients, of which the model's own tensors become views.

    An elementwise optimiser takes the same step on the vector as on its pieces, in one kernel instead of one a
    parameter; norms are one reduction, and a snapshot is one copy.

    Args:
        model: Changed in place: its parameters move into the buffer. Tied parameters stay tied, frozen ones stay out.

    Attributes:
        vector: All trained parameters, shape (n,), with the gradients in ``vector.grad``.
        layout: Names and shapes in order.
        parameters: The model's own tensors, in order: views of ``vector``.
        views: The same of the gradients.

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
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if not kinds:
            raise TrainerError("the model has no parameter that requires a gradient")
        if len(kinds) > 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise TrainerError(f"all trained parameters must share one type and device, but there are: {found}")
        self.vector = nn.Parameter(flat_parameters(model))
        self.gradient = torch.zeros_like(self.vector, requires_grad=False)
        self.vector.grad = self.gradient
        self.views: list[Tensor] = []
        offset = 0
        for parameter in self.parameters:
            window = slice(offset, offset + parameter.numel())
            parameter.data = self.vector.data[window].view(parameter.shape)
            view = self.gradient[window].view(parameter.shape)
            parameter.grad = view
            self.views.append(view)
            offset += parameter.numel()

    def check_gradients(self) -> None:
        """Make sure that the backward pass accumulated into the buffer.

        Raises:
            TrainerError: A parameter's gradient is no longer the view that it was given.
        """
        for parameter, view, (name, _) in zip(self.parameters, self.views, self.layout, strict=True):
            if parameter.grad is not view:
                raise TrainerError(
                    f"the gradient of {name!r} was replaced while the loss was computed: a problem's loss must leave "
                    ".grad alone (no zero_grad, no backward); the training loop does both"
                )
