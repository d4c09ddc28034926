"""What formulas on NumPy arrays and on torch tensors share: the library, and what the two round differently."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Array", "library_of", "power", "softplus", "sum_of_rows"]

Array: TypeAlias = Any
"""Numbers in float64: a NumPy array where a start is solved for, a torch tensor where trials run side by side."""


def library_of(array: Array) -> Any:
    """The library whose functions take an array: NumPy or torch, which share their names.

    Args:
        array: Of either.

    Returns:
        The module.

    Example:
        >>> library_of(np.zeros(2)).__name__
        'numpy'
    """
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def power(base: Array, exponent: Any) -> Array:
    """``base ** exponent``, so that no number depends on its place in the array.

    Args:
        base: Not negative where an exponent is not whole, any shape.
        exponent: A number, or one for each lane, in the last axis.

    Returns:
        The powers, of the shape of ``base``.
    """
    if not isinstance(base, np.ndarray):
        if base.device.type != "cpu":
            return base**exponent
        import torch

        # On the CPU torch rounds the last few powers of an array in another way than those before.
        found = power(base.numpy(), exponent if isinstance(exponent, float | int) else np.asarray(exponent))
        return torch.from_numpy(found)
    with np.errstate(all="ignore"):
        return np.asarray(np.power(base, exponent))


def softplus(x: Array) -> Array:
    """log(1 + e^x) without overflow.

    Args:
        x: Any shape.

    Returns:
        The same shape.

    Example:
        >>> softplus(np.array([-1000.0, 0.0, 1000.0])).round(6).tolist()
        [0.0, 0.693147, 1000.0]
    """
    library = library_of(x)
    return library.log1p(library.exp(-library.abs(x))) + library.clip(x, 0.0, None)


def sum_of_rows(rows: Array) -> Array:
    """The sum over the first axis, in an order that the number of columns does not change.

    Rows are added in pairs, as in NumPy's own sums; torch's depend on how many columns there are.

    Args:
        rows: Shape (dimension, lanes).

    Returns:
        Shape (lanes,).

    Example:
        >>> sum_of_rows(np.arange(6.0).reshape(3, 2)).tolist()
        [6.0, 9.0]
    """
    while (count := len(rows)) > 1:
        half = count // 2
        paired = rows[:half] + rows[half : 2 * half]
        if count % 2:
            paired[0] += rows[-1]
        rows = paired
    return rows[0]
