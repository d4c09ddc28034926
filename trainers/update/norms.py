"""Euclidean norms that neither overflow nor underflow on the way, at the price of the plain ones.

A sum of squares in float32 is infinite from entries of 2e19 on and zero below 1e-23, where the norm itself is an
ordinary number. On the CPU the plain norm is computed first and looked at; only one that cannot be trusted is computed
again, in float64 or scaled, so that ordinary norms have the bits of the plain ones. A GPU would have to be waited for,
so there squares are added up in float64 from the start, which takes one pass, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["distance", "is_right", "largest_plain", "norm", "norms", "scaled_norm", "unit_norms"]

_BLOCK = 2**17
"""Numbers at a time on a CPU: two blocks and their difference stay in its cache."""


def norm(vector: Tensor) -> Tensor:
    """Euclidean norm.

    Args:
        vector: Any shape, on any device.

    Returns:
        A scalar on the device: of the vector's own type where the plain norm is right, otherwise of type float64.

    Example:
        >>> norm(torch.tensor([3.0, 4.0])), f"{norm(torch.tensor([3e19, 4e19])):.6g}"
        (tensor(5.), '5e+19')
    """
    if vector.device.type != "cpu":
        return _in_float64(vector)
    plain: Tensor = torch.linalg.vector_norm(vector)
    return plain if is_right(plain.item(), vector.dtype, vector.numel()) else scaled_norm(vector)


def norms(vectors: Sequence[Tensor]) -> Tensor:
    """Euclidean norms of several vectors.

    Args:
        vectors: Of one type and device.

    Returns:
        Shape (len(vectors),), of the vectors' type, or of type float64 as for :func:`norm`.

    Example:
        >>> [f"{one:.6g}" for one in norms([torch.tensor([3.0, 4.0]), torch.tensor([3e19, 4e19])])]
        ['5', '5e+19']
    """
    if vectors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(list(vectors), 2, dtype=torch.float64))
    plain = torch.stack(torch._foreach_norm(list(vectors)))
    found = zip(plain.tolist(), vectors, strict=True)
    wrong = [at for at, (one, vector) in enumerate(found) if not is_right(one, vector.dtype, vector.numel())]
    if not wrong:
        return plain
    wide = plain.double()
    for at in wrong:
        wide[at] = scaled_norm(vectors[at])
    return wide


def unit_norms(vector: Tensor, *, wide: bool) -> Tensor:
    """Euclidean norms of the rows of a tensor: over all axes but the first, which for a vector or scalar is all of it.

    Args:
        vector: Any shape.
        wide: Compute in float64, for squares that overflow. Norms whose squares underflow are 0 otherwise.

    Returns:
        Broadcastable to the tensor; of its type, or of type float64.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), wide=False).tolist()
        [[5.0], [0.0]]
    """
    axes = tuple(range(1, vector.ndim)) if vector.ndim > 1 else None
    dtype = torch.float64 if wide else None
    found: Tensor = torch.linalg.vector_norm(vector, dim=axes, keepdim=True, dtype=dtype)
    return found


def largest_plain(dtype: torch.dtype) -> float:
    """The largest norm that a plain sum of squares can give, short of overflow.

    Args:
        dtype: Of the vector.

    Returns:
        The norm; 65504 in float16, about 1.8e19 in float32.

    Example:
        >>> largest_plain(torch.float16), f"{largest_plain(torch.float32):.3g}"
        (65504.0, '1.84e+19')
    """
    added_up_in = torch.float64 if dtype == torch.float64 else torch.float32
    return min(torch.finfo(dtype).max, math.sqrt(torch.finfo(added_up_in).max))


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean distance of two vectors, without a third vector of that length.

    Args:
        one: Shape (n,), not empty.
        other: The same shape, type and device.

    Returns:
        A scalar on the device, of the vectors' type, or of type float64 as for :func:`norm`.

    Example:
        >>> distance(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])).item()
        5.0
        >>> f"{distance(torch.tensor([3e-25, 0.0]), torch.tensor([0.0, 4e-25])):.6g}"
        '5e-25'
    """
    # A GPU needs few kernels, a CPU few passes over memory.
    if one.device.type != "cpu":
        return _in_float64(one - other)
    pairs = list(zip(torch.split(one, _BLOCK), torch.split(other, _BLOCK), strict=True))
    parts = torch.stack([torch.linalg.vector_norm(a - b) for a, b in pairs])
    plain = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(parts)
    if is_right(plain.item(), one.dtype, one.numel()):
        return plain
    return scaled_norm(torch.stack([scaled_norm(a.double() - b.double()) for a, b in pairs]))


def scaled_norm(vector: Tensor) -> Tensor:
    """The norm of a vector whose squares may be too large or too small for any type.

    Args:
        vector: Any shape, not empty.

    Returns:
        A scalar of type float64 on the device: sqrt(sum((x / max|x|)^2)) max|x|; NaN or infinite where an entry is.

    Example:
        >>> f"{scaled_norm(torch.tensor([3e200, 4e200], dtype=torch.float64)):.6g}"
        '5e+200'
    """
    wide = _in_float64(vector)
    if vector.dtype != torch.float64 or is_right(wide.item(), vector.dtype, vector.numel()):
        return wide
    largest = vector.abs().max() if vector.numel() else wide
    if not 0 < largest.item() < math.inf:
        return largest
    return _in_float64(vector / largest) * largest


def is_right(plain: float, dtype: torch.dtype, size: int) -> bool:
    """Whether a norm from a plain sum of squares is one up to rounding: it is finite, and no square was subnormal.

    Args:
        plain: The norm.
        dtype: Of the vector.
        size: How many entries it has.

    Returns:
        Whether it may be used.

    Example:
        >>> is_right(5.0, torch.float32, 2), is_right(math.inf, torch.float32, 2), is_right(0.0, torch.float32, 2)
        (True, False, False)
    """
    # Squares are added up in float32 at least. The mean square stays 2^6 above the smallest normal number.
    smallest = 2.0**-508 if dtype == torch.float64 else 2.0**-60
    return max(smallest * math.sqrt(size), torch.finfo(dtype).tiny) <= plain < math.inf


def _in_float64(vector: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return found
