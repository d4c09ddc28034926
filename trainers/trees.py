"""Nested tuples, lists and dicts of tensors: what batches and carries are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["map_tensors"]


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
