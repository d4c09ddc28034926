"""What a run directory says of its driver: who it is, whether it lives, and how the last one ended."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.errors import RunDirectoryError
from sweeper.store.run_dir import RunDir
from sweeper.store.shapes import check_driver

__all__ = ["JOB", "SAID", "STALE_AFTER_S", "Ending", "driver_of", "ending_of", "refusal"]


SAID = "sweeper.said"
"""The logger of what a driver tells its user; ``clipsweep attach`` finds it in the driver's log."""


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


JOB = "CLIPSWEEP_JOB"
"""Environment variable with the id of the Ray job that a driver runs as."""


STALE_AFTER_S = 30.0
"""A driver of another host that has shown no sign of life for so long is taken for dead."""


def driver_of(run_dir: RunDir) -> dict[str, Any] | None:
    """Who is running the sweep now.

    Args:
        run_dir: The run.

    Returns:
        ``host``, ``pid``, ``job`` where it is a Ray job, and ``quiet_s``, the seconds since its last sign of life; None
        where nobody is.
    """
    try:
        holder = json.loads(run_dir.driver.read_bytes())
        check_driver(holder)
        quiet = max(0.0, time.time() - run_dir.driver.stat().st_mtime)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(holder.get("job", ""), str):
        return None
    if holder["host"] == socket.gethostname() and not _is_running(holder, quiet):
        return None
    known = {key: value for key, value in holder.items() if key != "created"}
    return {**known, "quiet_s": round(quiet, 1)}


_SAME_PROCESS_S = 1.0
"""How far two readings of the time at which one process was created may lie apart."""


def _is_running(holder: Mapping[str, Any], quiet_s: float) -> bool:
    """Whether a driver of this host is there: its process, and not another that was given its id."""
    import psutil  # takes 25 ms, and most runs that are looked at have no driver

    try:
        process = psutil.Process(holder["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        created = process.create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # it is there, and its owner alone may know more
    # The time moves where this machine's clock is set, so that it does not count against a driver that still beats.
    recorded = holder.get("created", created)
    return abs(recorded - created) < _SAME_PROCESS_S or quiet_s < STALE_AFTER_S


def refusal(run_dir: RunDir) -> RunDirectoryError:
    """What to say to a second driver.

    Args:
        run_dir: The run, which another holds.

    Returns:
        The error to raise; it names the other's host and pid.
    """
    try:
        holder = json.loads(run_dir.driver.read_bytes())
        who = f"pid {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        who = "another process"
    return RunDirectoryError(
        f"{run_dir.path}: {who} is running this sweep; follow it with `clipsweep attach {run_dir.path}`, or choose "
        "another directory with --out"
    )
