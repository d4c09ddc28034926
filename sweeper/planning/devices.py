"""Whether this machine has a device that a command is to use; asked of another process, since torch knows."""

from __future__ import annotations

import re

from sweeper.apart import Died, apart
from sweeper.errors import ClipsweepError

__all__ = ["require_device"]


def require_device(name: str) -> None:
    """Require a device of this machine.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ClipsweepError: There is no such device, or it cannot be used.

    Example:
        >>> require_device("cpu")
        >>> require_device("gpu")
        Traceback (most recent call last):
        sweeper.errors.ClipsweepError: --device: unknown device 'gpu'; known: cpu, cuda, cuda:N
    """
    if name == "cpu":
        return
    if not re.fullmatch(r"cuda(:[0-9]{1,3})?", name):
        raise ClipsweepError(f"--device: unknown device {name!r}; known: cpu, cuda, cuda:N")
    for _, item in apart("sweeper.workers.device:examine_device", [{"name": name}]):
        why = item.words if isinstance(item, Died) else item["unusable"]
        if why:
            raise ClipsweepError(f"--device {name}: {why}")
