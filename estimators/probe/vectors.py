"""Norms, distances and inner products of points in parameter space, accumulated in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.probe.gradient import Params

__all__ = ["difference", "distance", "inner", "lerp", "norm"]

_CHUNK = 1 << 20
"""Elements converted to float64 at a time: 8 MB, which stay in the cache."""


def lerp(iterate: Params, following: Params, fraction: float) -> Params:
    """x + gamma (y - x) as the tensors round it; y itself at gamma = 1, to which x + (y - x) may not round."""
    if fraction == 1:
        return following
    return {name: torch.lerp(iterate[name], following[name], fraction) for name in iterate}


def difference(one: Params, other: Params) -> dict[str, Tensor]:
    """other - one, in the arithmetic of the tensors."""
    return {name: other[name] - one[name] for name in one}


def distance(one: Params, other: Params) -> float:
    """Euclidean distance of two points."""
    return norm(difference(one, other))


def norm(point: Params) -> float:
    """Euclidean norm over all tensors.

    Args:
        point: Named tensors of any shapes.

    Returns:
        The norm.

    Example:
        >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})
        5.0
    """
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in point.values()]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def inner(one: Params, other: Params) -> float:
    """Inner product over all tensors; a float32 dot product of many terms would lose the digits that cancel.

    Args:
        one: Named tensors.
        other: The same names and shapes.

    Returns:
        The product.

    Example:
        >>> inner({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 4.0])})
        11.0
    """
    total = torch.zeros((), dtype=torch.float64, device=next(iter(one.values())).device)
    for name, tensor in one.items():
        pieces = zip(torch.split(tensor.reshape(-1), _CHUNK), torch.split(other[name].reshape(-1), _CHUNK), strict=True)
        for left, right in pieces:
            total += torch.dot(left.double(), right.double())
    return float(total)
