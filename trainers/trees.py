"""Nested tuples, lists and dicts of tensors: what batches and carries are made of."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["first_difference", "holds_nothing", "map_tensors", "tensors_of"]

_PLAIN = (bool, int, float, complex, str, bytes)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same tree with ``function`` applied to every tensor; leaves of other types stay as they are.

    Args:
        function: Applied to each tensor.
        tree: Tuples (named ones too), lists and dicts, nested to any depth.

    Returns:
        A tree of the same shape.

    Example:
        >>> import torch
        >>> map_tensors(lambda tensor: tensor + 1, {"a": torch.tensor(1), "b": [None, "text"]})
        {'a': tensor(2), 'b': [None, 'text']}
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple):
        parts = [map_tensors(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [map_tensors(function, part) for part in tree]
    if isinstance(tree, dict):
        return {key: map_tensors(function, part) for key, part in tree.items()}
    return tree


def first_difference(one: Any, other: Any) -> str:
    """Where two trees differ first, and by how much.

    Args:
        one: A tree.
        other: Another.

    Returns:
        Words to follow "they differ: "; empty where the trees are equal bit for bit. NaN equals NaN.

    Example:
        >>> import torch
        >>> first_difference((torch.ones(2), torch.tensor([1.0, 2.0])), (torch.ones(2), torch.tensor([1.0, 2.5])))
        'part [1] by up to 0.5'
        >>> first_difference({"x": torch.ones(2)}, {"x": torch.ones(3)})
        "part ['x'] has shape (2,) and shape (3,)"
        >>> first_difference([torch.ones(2), None], [torch.ones(2), None])
        ''
    """
    for place, this, that in _pairs(one, other, ""):
        if difference := _leaf_difference(this, that):
            return f"part {place} {difference}" if place else difference
    return ""


def _pairs(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Leaves at the same place; two nodes of different kinds count as leaves."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _pairs(one[key], other[key], f"{place}[{key!r}]")
    elif isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        for index, (this, that) in enumerate(zip(one, other, strict=True)):
            yield from _pairs(this, that, f"{place}[{index}]")
    else:
        yield place, one, other


def _leaf_difference(one: Any, other: Any) -> str:
    if type(one) is not type(other):
        return f"is a {type(one).__name__} and a {type(other).__name__}"
    if isinstance(one, tuple | list | dict):
        what = "keys" if isinstance(one, dict) else "parts"
        return f"has {len(one)} and {len(other)} {what}" + (" of other names" if len(one) == len(other) else "")
    if isinstance(one, np.ndarray):
        return "" if one.dtype == other.dtype and one.tobytes() == other.tobytes() else "has other numbers"
    if not isinstance(one, Tensor):
        # Of other kinds it is not known what their == means.
        if not isinstance(one, _PLAIN) or one == other or one != one:
            return ""
        return f"is {reprlib.repr(one)} and {reprlib.repr(other)}"
    if one.shape != other.shape:
        return f"has shape {tuple(one.shape)} and shape {tuple(other.shape)}"
    if one.dtype != other.dtype:
        return f"is {one.dtype} and {other.dtype}"
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()
    if torch.equal(one, other):
        return ""
    apart = torch.where(one.isnan() & other.isnan(), False, one != other)
    if not bool(apart.any()):
        return ""
    if one.dtype == torch.bool:
        return f"in {int(apart.sum())} of {one.numel()} places"
    distance = (one[apart].to(torch.complex128) - other[apart].to(torch.complex128)).abs()
    return f"by up to {float(distance.max()):.3g}"


def holds_nothing(tree: Any) -> bool:
    """Whether a batch holds no example: there are tensors in it, and all are empty.

    Args:
        tree: The batch.

    Returns:
        Whether it is empty.

    Example:
        >>> import torch
        >>> holds_nothing((torch.ones(0, 3), torch.ones(0))), holds_nothing((torch.ones(4, 3), torch.ones(0)))
        (True, False)
    """
    sizes = [tensor.numel() for tensor in tensors_of(tree)]
    return bool(sizes) and not any(sizes)


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, in order.

    Args:
        tree: The tree.

    Yields:
        One tensor after another.

    Example:
        >>> import torch
        >>> list(tensors_of({"a": torch.tensor(1), "b": [None, torch.tensor(2)]}))
        [tensor(1), tensor(2)]
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | tuple | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors_of(part)
