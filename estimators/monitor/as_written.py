"""A model without what a training library has put around it, for as long as it is copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["as_written"]


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Let a model be what its author wrote, so that a copy of it is that, too.

    - Lightning's modules hold their trainer, with all of its data, which nobody wants copied.
    - Accelerate, and with it the Trainer of transformers, replaces ``forward`` by one that enters autocast: f would not
      be computed in float32, whatever is said around it.

    Args:
        model: The model; as it was afterwards.

    Yields:
        Nothing.
    """
    held = vars(model)
    kept: dict[str, Any] = {
        name: held[name] for name in ("_trainer", "_fabric", "forward", "_original_forward") if name in held
    }
    try:
        for name in ("_trainer", "_fabric"):
            if name in kept:
                held[name] = None
        if "_original_forward" in kept:
            # A bound method, found on the class again once nothing hides it.
            held.pop("forward", None)
            held.pop("_original_forward")
        yield
    finally:
        held.update(kept)
