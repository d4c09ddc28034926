"""Measuring without a trace in the process around it: random numbers, modes of autograd and of arithmetic."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["undisturbed"]


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave the generators of random numbers as they were, and compute gradients whatever the mode outside.

    A function that draws from the generators of torch, NumPy or Python inside draws what training would have drawn
    next; afterwards training draws it again.

    Args:
        device: Where the model is.

    Yields:
        Nothing.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with undisturbed(torch.device("cpu")):
        ...     inside = torch.rand(())
        >>> torch.equal(inside, torch.rand(()))
        True
    """
    others: tuple[Any, Any] = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])
