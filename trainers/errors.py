"""The user's mistakes in problems, update rules, data and checkpoints, one family."""

from __future__ import annotations

__all__ = ["CheckpointError", "DataError", "TrainerError"]


class TrainerError(ValueError):
    """A problem, option or training setting that cannot be used; the text says what would be accepted."""


class DataError(TrainerError):
    """Data that is missing or is not what its name promises; the text names the files that were looked for."""


class CheckpointError(TrainerError):
    """Bytes that are not a checkpoint, or a checkpoint of another problem."""
