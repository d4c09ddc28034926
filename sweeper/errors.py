"""The user's mistakes, one family: what went wrong, where, and how to mend it."""

from __future__ import annotations

__all__ = ["ClipsweepError", "ClusterError", "IntegrityError", "RunDirectoryError", "SpecError", "mend_of_memory"]


def mend_of_memory(resource: str) -> str:
    """What to do where memory does not suffice.

    Args:
        resource: ``cpus`` or ``gpus``, whichever memory it is.

    Returns:
        The end of a message.
    """
    return f"lower the problem's batch_size, or have fewer workers share the memory (resources.*.{resource} or count)"


class ClipsweepError(ValueError):
    """What a user did, or a machine did to a user; its text is fit to be printed as it is.

    Attributes:
        exit_code: What the command line returns for it: 2 for usage, 3 for a cluster or internal error.
    """

    exit_code = 2


class SpecError(ClipsweepError):
    """A spec that cannot be read, each problem on lines of its own with file, line, column and key."""


class RunDirectoryError(ClipsweepError):
    """A run directory that cannot be used: missing, locked, foreign, unwritable or of another spec."""


class IntegrityError(ClipsweepError):
    """Stored bytes that are not what was written: a hash, a journal line or a key does not agree."""

    exit_code = 3


class ClusterError(ClipsweepError):
    """Ray cannot be started, reached, or has not what the spec asks for."""

    exit_code = 3
