"""The synthetic model of the audit: its loss is linear in its weights, so that a batch is its own gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["SIZE", "TENSORS", "LinearLoss", "Place", "flattened", "parameter_groups"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a parameter tensor lies in the vector of all weights.

    Attributes:
        name: As in ``named_parameters``.
        shape: Its shape; its rows halve evenly, so that two ranks can share it.
        start: Where it begins.
        group: Its parameter group: weights or biases, as loops have it that exempt biases from weight decay.
        module: The part of the model that it belongs to.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    group: str
    module: str

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Its place in the vector."""
        return slice(self.start, self.start + self.size)


def _places() -> tuple[Place, ...]:
    shapes = {
        "encoder.weight": (8, 6),
        "encoder.bias": (8,),
        "decoder.inner.weight": (6, 8),
        "decoder.inner.bias": (6,),
        "decoder.head.weight": (8, 6),
    }
    places, start = [], 0
    for name, shape in shapes.items():
        group = "biases" if name.endswith("bias") else "weights"
        place = Place(name=name, shape=shape, start=start, group=group, module=name.partition(".")[0])
        places.append(place)
        start += place.size
    return tuple(places)


TENSORS = _places()
"""The model's parameter tensors. None has fewer weights than there are micro-batches on all ranks together."""

SIZE = sum(place.size for place in TENSORS)
"""Number of weights of the model, and of numbers in a batch."""


class _Part(nn.Module):
    """A layer whose output is the inner product of its parameters with its share of a batch."""

    def __init__(self, weight: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(weight, dtype=torch.float32))
        if bias is not None:
            self.bias = nn.Parameter(torch.zeros(bias, dtype=torch.float32))

    def forward(self, batch: Tensor) -> Tensor:
        # The size of the shape, not of the parameter, which may be a share of it.
        parameters = list(self.parameters())
        shares = torch.split(batch, [parameter.numel() for parameter in parameters])
        terms = [
            (parameter * share.view(parameter.shape)).sum() for parameter, share in zip(parameters, shares, strict=True)
        ]
        return torch.stack(terms).sum()


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _Part((6, 8), (6,))
        self.head = _Part((8, 6), None)

    def forward(self, batch: Tensor) -> Tensor:
        inner, head = torch.split(batch, [54, 48])
        result: Tensor = self.inner(inner) + self.head(head)
        return result


class LinearLoss(nn.Module):
    """A model that is called with a batch and returns its loss, the inner product of weights and batch.

    So the gradient of the loss is the batch, at whatever weights. All weights begin as 0, so that weight decay and
    momentum add nothing to the first step. They are float32, whatever the user's module has made the default.

    Args:
        frozen: Whether the decoder's head is frozen, and has no gradient.

    Example:
        >>> model = LinearLoss()
        >>> batch = torch.arange(float(SIZE))
        >>> model(batch).backward()
        >>> bool((flattened(model, lambda p: p.grad) == batch.numpy()).all())
        True
    """

    def __init__(self, *, frozen: bool = False) -> None:
        super().__init__()
        self.encoder = _Part((8, 6), (8,))
        self.decoder = _Decoder()
        self.decoder.head.requires_grad_(not frozen)
        self.told_forward: Callable[[], Callable[[float], None]] | None = None
        """Is told of each call that has a gradient; what it returns is told the factor with which backward comes."""

    def forward(self, batch: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            batch: Shape (SIZE,).

        Returns:
            A scalar.
        """
        encoder, decoder = torch.split(batch, [56, 102])
        loss: Tensor = self.encoder(encoder) + self.decoder(decoder)
        if self.told_forward is not None and loss.requires_grad:
            told = self.told_forward()
            loss.register_hook(lambda gradient: told(float(gradient)))  # type: ignore[no-untyped-call]
        return loss


def flattened(model: nn.Module, of: Callable[[nn.Parameter], Tensor | None] = lambda one: one) -> np.ndarray:
    """Something of every parameter, in one vector.

    Args:
        model: A :class:`LinearLoss`.
        of: What is taken of a parameter; None counts as zeros.

    Returns:
        Shape (SIZE,), float64.
    """
    parts = []
    for parameter in model.parameters():
        tensor = of(parameter)
        parts.append(np.zeros(parameter.numel()) if tensor is None else tensor.detach().double().flatten().numpy())
    return np.concatenate(parts)


def parameter_groups(model: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    """Weights and biases, as an optimizer takes them.

    Args:
        model: Whatever holds the parameters of a :class:`LinearLoss`.

    Returns:
        Two groups.
    """
    named = list(model.named_parameters())
    return [
        {"params": [parameter for name, parameter in named if name.endswith("bias") == biases]}
        for biases in (False, True)
    ]
