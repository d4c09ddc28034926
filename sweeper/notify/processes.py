"""A process for a limited time, with nothing of this one's environment, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["PASSED_ON", "run_bounded", "small_environment"]

PASSED_ON = (
    *("PATH", "HOME", "LANG"),
    # Where a desktop shows notifications: addresses, none of which is a secret.
    *("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
)
"""The variables that a command has, where this process has them."""

_LOOK_EVERY_S = 0.05


def small_environment() -> dict[str, str]:
    """What of this process's environment a command has.

    Returns:
        The variables of :data:`PASSED_ON` alone.
    """
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def run_bounded(
    command: Sequence[str],
    *,
    given: bytes,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    stop: threading.Event,
) -> str | None:
    """Run a command to its end, or end it with its children.

    What it prints goes nowhere. It has a session of its own, so that Ctrl-C does not reach it; whatever it leaves
    behind in its process group ends with it.

    Args:
        command: Program and arguments; there is no shell.
        given: What it reads from its standard input.
        folder: Its working directory.
        environment: All of its environment.
        timeout_s: How long it may take.
        stop: Ends it at once when set.

    Returns:
        What went wrong, in a few words; None if it ended with exit code 0.
    """
    with tempfile.TemporaryFile() as standard_input:
        standard_input.write(given)
        standard_input.seek(0)
        try:
            process = subprocess.Popen(
                list(command),
                stdin=standard_input,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"cannot be started: {getattr(error, 'strerror', None) or error}"
    deadline = time.monotonic() + timeout_s
    try:
        # Not reaped before its group is ended, so that the group's number is nobody else's meanwhile.
        while not _has_ended(process.pid):
            if stop.wait(min(_LOOK_EVERY_S, max(0.0, deadline - time.monotonic()))):
                return "was ended with the sweep"
            if time.monotonic() >= deadline:
                return f"took longer than {timeout_s:g} s, and was ended"
    finally:
        _end(process)
    return None if process.returncode == 0 else f"exit code {process.returncode}"


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with its children, those that left its group too, as far as they are still its children."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()
