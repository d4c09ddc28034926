"""The arithmetic that training computes float32 with: IEEE, TensorFloat-32 where a GPU has it, or bfloat16 by autocast.

PyTorch lets cuDNN's convolutions and recurrent layers use TF32 unless it is told not to, and what a user's module sets
for its process would decide the rest. So every step sets what its trial's spec says, and puts back what was there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch

from trainers.errors import TrainerError

__all__ = ["ARITHMETICS", "autocast_of", "require_arithmetic", "training_in"]

ARITHMETICS = ("ieee", "tf32", "bf16")
"""Full float32; TF32 in matrix products, convolutions and recurrent layers on a GPU; autocast to bfloat16."""

_KERNELS = {
    "cuda": ("cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    "cpu": ("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
}
"""Below ``torch.backends``, by the kind of device that they concern; since PyTorch 2.9."""

_OLDER = {"cuda": ("cuda.matmul.allow_tf32", "cudnn.allow_tf32")}


def require_arithmetic(arithmetic: str) -> None:
    """Require that an arithmetic is known.

    Args:
        arithmetic: Its name.

    Raises:
        TrainerError: It is not.
    """
    if arithmetic not in ARITHMETICS:
        raise TrainerError(f"arithmetic must be one of {', '.join(ARITHMETICS)}, not {arithmetic!r}")


@contextlib.contextmanager
def training_in(arithmetic: str, device: torch.device) -> Iterator[None]:
    """Within a ``with`` block, compute float32 on a device by an arithmetic, whatever the process is set to.

    Args:
        arithmetic: One of :data:`ARITHMETICS`. For ``bf16``, what :func:`autocast_of` does not cover is IEEE.
        device: Where the model computes. On the CPU ``tf32`` is IEEE: TF32 is a GPU's.

    Yields:
        Nothing. Afterwards every switch is as it was.

    Example:
        >>> torch.set_float32_matmul_precision("medium")  # bfloat16 in products on some CPUs
        >>> with training_in("ieee", torch.device("cpu")):
        ...     str(getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", "ieee"))
        'ieee'
        >>> torch.get_float32_matmul_precision()
        'medium'
        >>> torch.set_float32_matmul_precision("highest")
    """
    changed = []
    try:
        for holder, name, wanted, same in _switches(arithmetic, device.type):
            # Only what differs: setting and putting back takes as long as a small model's whole forward pass.
            if (now := getattr(holder, name)) not in same:
                changed.append((holder, name, now))
                setattr(holder, name, wanted)
        # A process-wide autocast would make an "ieee" of bfloat16.
        ambient = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, enabled=False) if ambient else nullcontext():
            yield
    finally:
        for holder, name, before in reversed(changed):
            setattr(holder, name, before)


def autocast_of(arithmetic: str, device: torch.device) -> AbstractContextManager[Any]:
    """What goes around the loss of a training batch, and not around its derivative.

    Args:
        arithmetic: One of :data:`ARITHMETICS`.
        device: Where the model computes.

    Returns:
        Autocast to bfloat16 for ``bf16``; nothing otherwise.

    Example:
        >>> with autocast_of("bf16", torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    # The meta device, on which shapes are tried, has none.
    lowered = arithmetic == "bf16" and torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, dtype=torch.bfloat16) if lowered else nullcontext()


@lru_cache
def _switches(arithmetic: str, kind: str) -> tuple[tuple[Any, str, Any, tuple[Any, ...]], ...]:
    """Holder and name of each switch of a kind of device, the value wanted, and values that mean the same."""
    lowered = arithmetic == "tf32" and kind == "cuda"
    paths = _KERNELS.get(kind, ())
    if paths and _has(paths[0]):
        wanted, same = ("tf32", ("tf32",)) if lowered else ("ieee", ("ieee", "none"))
        return tuple((*_place(path), wanted, same) for path in paths if _has(path))
    return tuple((*_place(path), lowered, (lowered,)) for path in _OLDER.get(kind, ()))


def _place(path: str) -> tuple[Any, str]:
    """The module below ``torch.backends`` that holds a switch, and the switch's name there."""
    *steps, name = path.split(".")
    holder: Any = torch.backends
    for step in steps:
        holder = getattr(holder, step)
    return holder, name


def _has(path: str) -> bool:
    try:
        return hasattr(*_place(path))
    except AttributeError:
        return False
