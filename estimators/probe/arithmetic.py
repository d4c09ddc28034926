"""Full float32 arithmetic for the probe, whatever the training around it uses.

TensorFloat-32 keeps 10 bits of a factor's mantissa and is off by up to 0.75 % of a smoothness at delta = 0.1; bfloat16
by up to 8 %. PyTorch uses the first in cuDNN's convolutions and recurrent layers unless it is told not to, and
``torch.set_float32_matmul_precision`` enables either in matrix products, also on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["arithmetic_of", "full_float32"]

_MODERN = (
    "cuda.matmul.fp32_precision",
    "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision",
    "mkldnn.matmul.fp32_precision",
    "mkldnn.conv.fp32_precision",
    "mkldnn.rnn.fp32_precision",
)
"""Below ``torch.backends``, one per kind of kernel; newer PyTorch."""

_OLDER = ("cuda.matmul.allow_tf32", "cudnn.allow_tf32")
"""The older flags; reading them on a newer PyTorch after the others were set is an error."""


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute in IEEE float32, without TF32, bfloat16 or autocast, within a ``with`` block.

    Yields:
        Nothing. Afterwards every switch is restored, so that training around a measurement is not changed.

    Example:
        >>> torch.set_float32_matmul_precision("medium")
        >>> with full_float32():
        ...     arithmetic_of(torch.float32)
        'float32 ieee'
        >>> torch.get_float32_matmul_precision()
        'medium'
        >>> torch.set_float32_matmul_precision("highest")
    """
    switches: list[tuple[Any, str, Any]] = [(*_place(path), "ieee") for path in _MODERN if _exists(path)]
    if not switches:
        switches = [(*_place(path), False) for path in _OLDER]
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in switches]
    precision = None if _exists(_MODERN[0]) else torch.get_float32_matmul_precision()
    try:
        if precision is not None:
            torch.set_float32_matmul_precision("highest")
        for holder, name, value in switches:
            setattr(holder, name, value)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        for holder, name, value in before:
            setattr(holder, name, value)


def arithmetic_of(dtype: torch.dtype) -> str:
    """The arithmetic in use, as rows name it.

    Args:
        dtype: Of the parameters.

    Returns:
        The type's name, and for float32 ``ieee``, or the lower precision that some kernel may use.
    """
    name = str(dtype).removeprefix("torch.")
    if dtype != torch.float32:
        return name
    if _exists(_MODERN[0]):
        found = {str(getattr(*_place(path))) for path in _MODERN if _exists(path)}
        lower = sorted(found & {"tf32", "bf16"})
    else:
        lower = ["tf32"] if any(getattr(*_place(path)) for path in _OLDER) else []
    return f"{name} {' '.join(lower) or 'ieee'}"


def _place(path: str) -> tuple[Any, str]:
    """The module below ``torch.backends`` that holds a switch, and the switch's name there."""
    *steps, name = path.split(".")
    holder: Any = torch.backends
    for step in steps:
        holder = getattr(holder, step)
    return holder, name


def _exists(path: str) -> bool:
    try:
        return hasattr(*_place(path))
    except AttributeError:
        return False
