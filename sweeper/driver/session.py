"""Holds a run directory as its driver: the lock, the log of all messages, and a record of how it ended."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper.errors import ClipsweepError, RunDirectoryError, error_line, error_text
from sweeper.protocol.notices import Tell
from sweeper.protocol.view import Listener, View
from sweeper.store.driver_files import JOB, SAID, ending_of
from sweeper.store.guarded_paths import open_to_append
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir

__all__ = ["Driving", "disk_errors", "driving", "logging_to"]


_log = logging.getLogger(__name__)
_said = logging.getLogger(SAID)


@dataclass
class Driving:
    """A run directory that this process holds.

    Attributes:
        run_dir: The directory.
        lock: Keeps others out; its ``beat`` must be called from time to time.
        listener: Receives progress; messages also go to the driver's log.
        exit_code: How it ended; must be set before the end.
        text: The same in words.
        did_nothing: Whether nothing was left to do, so that the record of how an earlier driver ended stays.
        tell: Tells machines what happens; returns at once.
    """

    run_dir: RunDir
    lock: DriverLock
    listener: Listener
    exit_code: int = 0
    text: str = ""
    did_nothing: bool = False
    tell: Tell = lambda notice: None


@contextmanager
def driving(run_dir: RunDir, listener: Listener, *, create: bool = False) -> Iterator[Driving]:
    """Be the driver of a run for the duration of a ``with`` block.

    Args:
        run_dir: The run directory.
        listener: Receives progress.
        create: Create the directory if it is missing; otherwise it must exist.

    Yields:
        What a driver needs.

    Raises:
        RunDirectoryError: Another driver holds the directory, it cannot be used, or its disk is full or gone.
    """
    lock_held = DriverLock(run_dir).hold(create=create)
    with disk_errors(run_dir), lock_held as lock, logging_to(run_dir.logs / "driver.log"):
        before = ending_of(run_dir)
        run_dir.ended.unlink(missing_ok=True)
        held = Driving(run_dir=run_dir, lock=lock, listener=_Recorded(listener))
        try:
            # Nested inside, so that the record below has the same text that the user sees.
            with disk_errors(run_dir):
                yield held
        except ClipsweepError as error:
            _record(run_dir, error.exit_code, error_text(error))
            raise
        except KeyboardInterrupt:
            _record(run_dir, 130, "interrupted at once; what was committed is safe")
            raise
        except BaseException as error:
            _record(run_dir, 3, f"internal error: {error_line(error)}")
            raise
        if held.did_nothing and before is not None and before.exit_code == held.exit_code:
            _publish(run_dir, vars(before))
        else:
            _record(run_dir, held.exit_code, held.text)


def _record(run_dir: RunDir, exit_code: int, text: str) -> None:
    """Record how it ended; on a full disk, this is only logged."""
    _log.info("driver ends with exit code %d: %s", exit_code, text)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"exit_code": exit_code, "text": text, "job": os.environ.get(JOB), "ended_at": now}
    _publish(run_dir, document)


def _publish(run_dir: RunDir, document: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        run_dir.publish_json(run_dir.ended, document)


class _Recorded:
    """Passes everything on to a listener, and writes messages to the driver's log."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def show(self, view: View) -> None:
        self._listener.show(view)

    def say(self, text: str) -> None:
        _said.info("%s", text)
        self._listener.say(text)


_FEW_FILES = 64


_SOME_BYTES = 2**20


@contextmanager
def disk_errors(run_dir: RunDir) -> Iterator[None]:
    """Explain what a full or vanished disk means for the run.

    Args:
        run_dir: The run.

    Yields:
        Nothing.

    Raises:
        RunDirectoryError: In place of the system's error.
    """
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise RunDirectoryError(
            f"{error.filename or run_dir.path}: {error.strerror or error}{_shortage(run_dir, error)}; "
            "what was committed is safe: fix the disk and run the same command to continue"
        ) from error


def _shortage(run_dir: RunDir, error: OSError) -> str:
    """What a full file system is short of, where `df` misleads because it shows free space."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return ""
    with contextlib.suppress(OSError):
        system = os.statvfs(run_dir.path)
        # A total of 0 means that the file system creates inodes on demand. "Few" rather than none: removing the
        # unfinished files has freed some since the error.
        if system.f_files and system.f_favail < _FEW_FILES and system.f_bavail * system.f_frsize > _SOME_BYTES:
            return " (it has free space, but no free inodes, so it cannot hold more files; see `df -i`)"
    return ""


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Keep the driver's log in the run directory.

    Args:
        path: The log.

    Yields:
        Nothing.
    """
    file = io.TextIOWrapper(open_to_append(path), encoding="utf-8", errors="replace", line_buffering=True)
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("sweeper")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    _log.info("driver starts: pid %d, %s", os.getpid(), " ".join(sys.argv))
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        file.close()
