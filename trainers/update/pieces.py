"""The pieces of a flat vector, each multiplied by a number of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["multiply_pieces", "multiply_runs"]


def multiply_pieces(vector: Tensor, pieces: Sequence[Tensor], factors: Tensor) -> None:
    """Multiply every piece of a vector by its factor, in place.

    Args:
        vector: All of it, shape (n,).
        pieces: Views of it that follow each other from its first number to its last.
        factors: One for each piece, on the vector's device; rounded to the vector's type.

    Example:
        >>> vector = torch.ones(5)
        >>> multiply_pieces(vector, vector.split([2, 3]), torch.tensor([2.0, 3.0]))
        >>> vector
        tensor([2., 2., 3., 3., 3.])
    """
    if vector.device.type == "cpu":
        torch._foreach_mul_(list(pieces), list(factors.unbind()))
    else:
        multiply_runs(vector, [(1, piece.numel()) for piece in pieces], factors)


def multiply_runs(vector: Tensor, runs: Sequence[tuple[int, int]], factors: Tensor) -> None:
    """The same for pieces given by their sizes, in a few launches however many there are.

    Args:
        vector: All of it, shape (n,).
        runs: How many pieces of which size follow each other.
        factors: One for each piece, on the vector's device; rounded to the vector's type.

    Example:
        >>> vector = torch.ones(5)
        >>> multiply_runs(vector, [(2, 1), (1, 3)], torch.tensor([2.0, 3.0, 4.0]))
        >>> vector
        tensor([2., 3., 4., 4., 4.])
    """
    sizes = _sizes(tuple(runs), vector.device)
    vector.mul_(torch.repeat_interleave(factors.to(vector.dtype), sizes, output_size=len(vector)))


@lru_cache(maxsize=8)
def _sizes(runs: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """The size of every piece, made once for each model."""
    return torch.cat([torch.full((count,), size) for count, size in runs]).to(device)
