"""What a run directory says about its driver: who it is, whether it is alive, what it does, how the last one ended."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

from sweeper.errors import RunDirectoryError
from sweeper.store.run_dir import RunDir
from sweeper.store.shapes import check_driver, check_live

__all__ = [
    "JOB",
    "SAID",
    "STALE_AFTER_S",
    "Ending",
    "HeldError",
    "Holder",
    "driver_of",
    "ending_of",
    "holder_of",
    "live_document",
    "refusal",
]

JOB = "CLIPSWEEP_JOB"
"""Environment variable with the id of the Ray job that a driver runs as."""

SAID = "sweeper.said"
"""The logger of a driver's messages to the user; ``clipsweep attach`` finds them in the driver's log by this name."""

STALE_AFTER_S = 30.0
"""A driver on another host without a heartbeat for this long is considered dead."""

_SAME_PROCESS_S = 1.0
"""How much two readings of the creation time of the same process may differ."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Which driver holds a run directory, or held it when it was killed.

    Attributes:
        host: Its host.
        pid: Its process there.
        job: The Ray job it runs as; None if it was started directly.
        created: When its process was created, in seconds since 1970; None if an earlier version did not record it.
        beat_at: Its last heartbeat, by the clock of the file system.
    """

    host: str
    pid: int
    job: str | None
    created: float | None
    beat_at: float

    @property
    def words(self) -> str:
        """The driver in words."""
        return f"pid {self.pid} on {self.host}"


def holder_of(run_dir: RunDir) -> Holder | None:
    """The driver that a run directory names as its holder, dead or alive.

    Args:
        run_dir: The run.

    Returns:
        The driver; None if there is none, or if the file is not what a driver writes.
    """
    try:
        document = json.loads(run_dir.driver.read_bytes())
        check_driver(document)
        return Holder(
            host=document["host"],
            pid=document["pid"],
            job=document.get("job"),
            created=document.get("created"),
            beat_at=run_dir.driver.stat().st_mtime,
        )
    except (OSError, ValueError, RecursionError):
        return None


def driver_of(run_dir: RunDir) -> dict[str, Any] | None:
    """The driver that is running the sweep now.

    Args:
        run_dir: The run.

    Returns:
        ``host``, ``pid``, ``job`` if it is a Ray job, and ``quiet_s``, the seconds since its last heartbeat; None if
        there is none.
    """
    holder = holder_of(run_dir)
    if holder is None:
        return None
    quiet_s = max(0.0, time.time() - holder.beat_at)
    if holder.host == socket.gethostname() and not _is_running(holder, quiet_s):
        return None
    job = {} if holder.job is None else {"job": holder.job}
    return {"host": holder.host, "pid": holder.pid, **job, "quiet_s": round(quiet_s, 1)}


def _is_running(holder: Holder, quiet_s: float) -> bool:
    """Whether a driver of this host is alive: its own process, not another one that was given the same id."""
    import psutil  # takes 25 ms, and most inspected runs have no driver

    try:
        process = psutil.Process(holder.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        created = process.create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # it exists, but only its owner may see more
    if holder.created is None:
        return True
    # Creation times shift when this machine's clock is set, so a mismatch alone does not make a driver dead while its
    # heartbeat is recent.
    return abs(holder.created - created) < _SAME_PROCESS_S or quiet_s < STALE_AFTER_S


class HeldError(RunDirectoryError):
    """Another process holds the directory."""


def refusal(run_dir: RunDir) -> HeldError:
    """The error for a second driver.

    Args:
        run_dir: The run, which another driver holds.

    Returns:
        The error to raise; it names the other driver's host and pid.
    """
    holder = holder_of(run_dir)
    who = holder.words if holder is not None else "another process"
    return HeldError(
        f"{run_dir.path}: {who} is running this sweep; follow it with `clipsweep attach {run_dir.path}`, or choose "
        "another directory with --out"
    )


def live_document(run_dir: RunDir) -> dict[str, Any] | None:
    """What the driver is doing, as it last reported.

    Args:
        run_dir: The run.

    Returns:
        The view that it showed, as a document; None if there is none, or if it is not what a driver writes.
    """
    try:
        document: dict[str, Any] = json.loads(run_dir.live.read_bytes())
        check_live(document)
    except (OSError, ValueError, RecursionError):
        return None
    return document


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a driver ended.

    Attributes:
        exit_code: What its command returned.
        text: Why, or with which result, in words.
        job: The Ray job it ran as; None if it was started directly.
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
        The record; None while a driver is at work, or if it was killed.
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
