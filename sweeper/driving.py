"""To hold a run directory as its driver: the lock, the log of what is said, and a record of how it ended."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sweeper.driver_lock import JOB, DriverLock
from sweeper.errors import ClipsweepError
from sweeper.recovery import disk_errors, logging_to
from sweeper.run_dir import RunDir
from sweeper.view import Listener, View

__all__ = ["SAID", "Driving", "Ending", "driving", "ending_of"]

SAID = "sweeper.said"
"""The logger of what a driver tells its user; ``clipsweep attach`` finds it in the driver's log."""

_log = logging.getLogger(__name__)
_said = logging.getLogger(SAID)


@dataclass
class Driving:
    """A run directory that is held.

    Attributes:
        lock: Keeps others out; its ``beat`` is to be called now and then.
        listener: Is told how it goes, and the driver's log with it.
        exit_code: How it ended; to be set before the end.
        text: The same in words.
    """

    lock: DriverLock
    listener: Listener
    exit_code: int = 0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a driver ended.

    Attributes:
        exit_code: What its command returned.
        text: Why, or what came of it, in words.
        job: The Ray job that it was; None where it was a command.
        ended_at: When, UTC in ISO 8601.
    """

    exit_code: int
    text: str
    job: str | None
    ended_at: str


def ending_of(run_dir: RunDir) -> Ending | None:
    """How the last driver of a run ended.

    Args:
        run_dir: The run.

    Returns:
        The record; None while a driver is at work, or where it was killed.
    """
    try:
        document = json.loads(run_dir.ended.read_bytes())
        return Ending(
            exit_code=int(document["exit_code"]),
            text=str(document["text"]),
            job=document["job"],
            ended_at=str(document["ended_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextmanager
def driving(run_dir: RunDir, listener: Listener, *, create: bool = False) -> Iterator[Driving]:
    """Be the driver of a run for the length of a ``with`` block.

    Args:
        run_dir: The run directory.
        listener: Who is told how it goes.
        create: Make the directory where it is missing; otherwise it must exist.

    Yields:
        What a driver needs.

    Raises:
        RunDirectoryError: Another driver holds the directory, it cannot be used, or its disk is full or gone.
    """
    lock_held = DriverLock(run_dir).hold(create=create)
    with disk_errors(run_dir), lock_held as lock, logging_to(run_dir.logs / "driver.log"):
        run_dir.ended.unlink(missing_ok=True)
        held = Driving(lock=lock, listener=_Recorded(listener))
        try:
            # Inside once more, so that the record says what the user is told.
            with disk_errors(run_dir):
                yield held
        except ClipsweepError as error:
            _record(run_dir, error.exit_code, str(error))
            raise
        except KeyboardInterrupt:
            _record(run_dir, 130, "interrupted at once; what was committed is safe")
            raise
        except BaseException as error:
            _record(run_dir, 3, f"internal error: {type(error).__name__}: {error}")
            raise
        _record(run_dir, held.exit_code, held.text)


def _record(run_dir: RunDir, exit_code: int, text: str) -> None:
    """Keep how it ended; on a full disk, it is only logged."""
    _log.info("driver ends with exit code %d: %s", exit_code, text)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"exit_code": exit_code, "text": text, "job": os.environ.get(JOB), "ended_at": now}
    with contextlib.suppress(OSError):
        run_dir.publish_json(run_dir.ended, document)


class _Recorded:
    """Passes on to a listener, and keeps in the driver's log what is said."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def show(self, view: View) -> None:
        self._listener.show(view)

    def say(self, text: str) -> None:
        _said.info("%s", text)
        self._listener.say(text)
