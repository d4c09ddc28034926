"""The frozen batches that define f: kept as they were, whatever the loop does to its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["describe_batch", "fingerprint", "frozen"]


def frozen(batch: Any, device: torch.device) -> Any:
    """A copy of a batch that nothing else changes.

    Args:
        batch: Tensors in any nesting of containers that torch knows, dictionaries of transformers' included.
        device: Where the model is.

    Returns:
        The same structure, its tensors without graphs on the device, everything else as it is.
    """
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to(device, copy=True), _plain(batch))


def _plain(batch: Any) -> Any:
    """A mapping of a class that torch's trees take for a leaf, such as transformers' ``BatchEncoding``, as a dict."""
    if not isinstance(batch, dict) and hasattr(batch, "keys") and hasattr(batch, "__getitem__"):
        return {key: batch[key] for key in batch.keys()}
    return batch


def describe_batch(batch: Any) -> list[str]:
    """Types and shapes of a batch's tensors.

    Args:
        batch: The batch.

    Returns:
        One text per tensor, in order.

    Example:
        >>> describe_batch({"x": torch.zeros(8, 3), "y": torch.zeros(8, dtype=torch.long)})
        ['float32[8, 3]', 'int64[8]']
    """
    return [
        f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}"
        for leaf in pytree.tree_leaves(batch)
        if isinstance(leaf, Tensor)
    ]


def fingerprint(batches: Sequence[Any]) -> str:
    """A hash of the contents of batches.

    Args:
        batches: The batches.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.zeros(2)]) != fingerprint([torch.ones(2)])
        True
    """
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(list(batches)):
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{list(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()[:16]
