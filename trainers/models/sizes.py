"""Checks that models share: sizes of at least one, and possible probabilities."""

from __future__ import annotations

from trainers.errors import TrainerError

__all__ = ["check_probabilities", "check_sizes"]


def check_sizes(model: str, **sizes: int) -> None:
    """Refuse sizes below one.

    Args:
        model: What the model is called in messages.
        sizes: Sizes by the name of their option.

    Raises:
        TrainerError: One is below one.
    """
    for name, size in sizes.items():
        if size < 1:
            raise TrainerError(f"model {model}: {name} must be at least 1, not {size!r}")


def check_probabilities(model: str, **probabilities: float) -> None:
    """Refuse dropout probabilities outside [0, 1).

    Args:
        model: What the model is called in messages.
        probabilities: Probabilities by the name of their option.

    Raises:
        TrainerError: One is outside.
    """
    for name, probability in probabilities.items():
        if not 0 <= probability < 1:
            raise TrainerError(f"model {model}: {name} must lie in [0, 1), not {probability!r}")
