"""Norms, distances and inner products of points in parameter space, accumulated in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.probe.gradient import Params

__all__ = ["difference", "distance", "inner", "length", "lerp", "norm"]

_CHUNK = 1 << 20
"""Elements converted to float64 at a time: 8 MB, which stay in the cache."""

_SMALLEST = 2.0**-508
"""Root mean square below which squares lose digits in float64."""


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
    return length(torch.tensor([length(tensor) for tensor in point.values()], dtype=torch.float64))


def length(vector: Tensor) -> float:
    """Euclidean norm of one tensor of any shape.

    Squares are added up in float64, which holds those of every float32. Where the vector is float64 itself, and its
    squares overflow or underflow, it is scaled by its largest entry.

    Args:
        vector: The tensor.

    Returns:
        The norm.

    Example:
        >>> length(torch.tensor([3.0, 4.0])), f"{length(torch.tensor([3e200, 4e200], dtype=torch.float64)):.6g}"
        (5.0, '5e+200')
    """
    plain = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    if vector.dtype != torch.float64 or _SMALLEST * math.sqrt(vector.numel()) <= plain < math.inf or not vector.numel():
        return plain
    largest = float(vector.abs().max())
    if not 0 < largest < math.inf:
        return largest
    return float(torch.linalg.vector_norm(vector / largest)) * largest


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
