"""The user's mistakes, one family: what went wrong, where, and how to fix it."""

from __future__ import annotations

__all__ = ["ClipsweepError", "ClusterError", "IntegrityError", "RunDirectoryError", "SpecError", "memory_advice"]


def memory_advice(resource: str) -> str:
    """What to do when memory is short.

    Args:
        resource: ``cpus`` or ``gpus``, depending on whose memory it is.

    Returns:
        The end of a message.
    """
    return f"lower the problem's batch_size, or have fewer workers share the memory (resources.*.{resource} or count)"


class ClipsweepError(ValueError):
    """A mistake of the user or a failure of the machine; its text can be shown as it is.

    Attributes:
        exit_code: What the command line returns for it: 2 for usage, 3 for a cluster or internal error.
    """

    exit_code = 2


class SpecError(ClipsweepError):
    """A spec that cannot be read; each problem is on its own lines, with file, line, column and key."""


class RunDirectoryError(ClipsweepError):
    """A run directory that cannot be used: missing, locked, foreign, unwritable or of another spec."""


class IntegrityError(ClipsweepError):
    """Stored bytes that are not what was written: a hash, a journal line or a key does not match."""

    exit_code = 3


class ClusterError(ClipsweepError):
    """Ray cannot be started or reached, or does not have the resources that the spec asks for."""

    exit_code = 3
