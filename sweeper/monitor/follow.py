"""Follow a run whose driver is elsewhere, through its directory alone: from any machine that sees it, without Ray."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from sweeper.errors import RunDirectoryError
from sweeper.protocol.view import Active, Listener, View
from sweeper.store.driver_files import SAID, STALE_AFTER_S, Ending, driver_of, ending_of, live_document
from sweeper.store.journal import open_state
from sweeper.store.recorded import refuse_recorded
from sweeper.store.run_dir import RunDir

__all__ = ["Reads", "Said", "cancel", "follow"]

_POLL_S = 0.5
_NUMBERS = ("total", "steps_done", "steps_total", "waiting", "queued_snapshots", "measuring", "measured")
_TIMES = ("elapsed_s", "left_s")
_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ (?P<logger>[\w.]+): (?P<text>.*)$")


class Reads(Protocol):
    """What there is to tell of a run."""

    def read(self) -> list[str]:
        """What is new: texts of one line or more."""


class Said:
    """A driver's messages to its user, read from its log, since this reader was created.

    Args:
        log: The driver's log, which may not exist yet.
        start: Byte from which to read; the log's end by default.
    """

    def __init__(self, log: Path, *, start: int | None = None) -> None:
        self._log = log
        self._at = _size(log) if start is None else start

    def read(self) -> list[str]:
        """The new messages.

        Returns:
            One text per message, of one line or more.
        """
        if _size(self._log) <= self._at:
            return []
        with self._log.open("rb") as file:
            file.seek(self._at)
            # The last line may be incomplete.
            whole, end, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(end)
        return list(_said(whole.decode(errors="replace").splitlines()))


def follow(
    run_dir: RunDir, listener: Listener, *, said: Reads | None = None, sleep: Callable[[float], object] = time.sleep
) -> Ending:
    """Pass on to a listener what the driver of a run does, until it ends.

    Args:
        run_dir: The run.
        listener: Receives what the driver's own listener receives.
        said: What is told; by default the driver's messages to its user, from now on.
        sleep: Waits between two checks.

    Returns:
        How it ended.

    Raises:
        RunDirectoryError: The driver disappeared without a record, for example because it was killed; or there never
            was one.
    """
    said = Said(run_dir.logs / "driver.log") if said is None else said
    refuse_recorded(run_dir, open_state(run_dir), "be attached to")
    holder = driver_of(run_dir)
    life = _Life(run_dir)
    while (driver := driver_of(run_dir)) is not None and life.beats(driver):
        holder = driver
        _tell(run_dir, said, listener)
        sleep(_POLL_S)
    _tell(run_dir, said, listener)
    ending = ending_of(run_dir)
    if ending is not None:
        return ending
    if holder is None:
        raise RunDirectoryError(f"{run_dir.path}: nobody is running this sweep; start it with `clipsweep run`")
    raise RunDirectoryError(
        f"{run_dir.path}: its driver, pid {holder['pid']} on {holder['host']}, disappeared without a message; what was "
        "committed is safe: run the same command to continue"
    )


def cancel(run_dir: RunDir) -> str:
    """Ask the driver of a run to stop cleanly, as Ctrl-C does: trials checkpoint, and can be continued.

    Args:
        run_dir: The run.

    Returns:
        Who was asked.

    Raises:
        RunDirectoryError: Nobody is running it.
    """
    refuse_recorded(run_dir.require(), open_state(run_dir), "be cancelled")
    driver = driver_of(run_dir)
    if driver is None:
        raise RunDirectoryError(f"{run_dir.path}: nobody is running this sweep, so there is nothing to cancel")
    run_dir.publish(run_dir.stop_request, b"")
    return f"pid {driver['pid']} on {driver['host']}"


class _Life:
    """Whether a driver on another host is alive, by this machine's monotonic clock: the hosts' clocks may differ."""

    def __init__(self, run_dir: RunDir) -> None:
        self._path = run_dir.driver
        self._last: float | None = None
        self._since = time.monotonic()

    def beats(self, driver: Mapping[str, Any]) -> bool:
        if driver["host"] == socket.gethostname():
            # Then its process exists: ``driver_of`` has seen it.
            return True
        now = time.monotonic()
        try:
            beat = self._path.stat().st_mtime
        except OSError:
            return False
        if beat != self._last:
            self._last, self._since = beat, now
        return now - self._since < STALE_AFTER_S


def _tell(run_dir: RunDir, said: Reads, listener: Listener) -> None:
    for text in said.read():
        listener.say(text)
    if (view := _view(run_dir)) is not None:
        listener.show(view)


def _view(run_dir: RunDir) -> View | None:
    """The driver's latest view; None if there is none, or if it is of another version."""
    document = live_document(run_dir)
    if document is None:
        return None
    try:
        # What has a default was added by a later version than the first.
        known = {field.name: document[field.name] for field in fields(View) if field.name in document}
        active = tuple(Active(**active) for active in known.pop("active"))
        known["counts"] = {str(word): int(count) for word, count in known["counts"].items()}
        known |= {name: int(known[name]) for name in _NUMBERS}
        known |= {name: None if known[name] is None else float(known[name]) for name in _TIMES if name in known}
        return View(**known, active=active)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _said(lines: list[str]) -> Iterator[str]:
    """The messages to the user; a line without a date belongs to the one before."""
    current: list[str] | None = None
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            if current is not None:
                current.append(line)
            continue
        if current is not None:
            yield "\n".join(current)
        current = [found["text"]] if found["logger"] == SAID else None
    if current is not None:
        yield "\n".join(current)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
