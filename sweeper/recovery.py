"""What every command does that opens a run to add to it: mend what a crash left, log, ship the user's own code."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import IntegrityError, RunDirectoryError
from sweeper.guarded_paths import open_to_append
from sweeper.journal import Journal, Record, RunState, apply, read_journal, repair_journal, replay
from sweeper.run_dir import RunDir
from sweeper.spec.user_code import UserCode

__all__ = ["disk_errors", "logging_to", "recover", "shipped"]

_FEW_FILES = 64
_SOME_BYTES = 2**20

_log = logging.getLogger(__name__)


def recover(run_dir: RunDir, say: Callable[[str], None] = _log.warning) -> RunState:
    """The state of the run, after mending what a crash or a bad disk left behind. Only under the lock.

    A torn line is cut off the journal. Parts that are missing or hold other bytes than were written are set aside, and
    the journal is told that their trials go on from before them: training is deterministic, so the same rows come back.

    Args:
        run_dir: The run.
        say: Is told what was mended.

    Returns:
        The state; an empty one where no run was begun.

    Raises:
        IntegrityError: The journal is damaged before its end.
    """
    if not run_dir.exists:
        return RunState()
    records, whole = read_journal(run_dir.journal)
    if repair_journal(run_dir.journal, whole, run_dir.quarantine):
        say(f"cut a torn line off the journal; its bytes are in {run_dir.quarantine}")
    state = replay(records)
    _set_damaged_parts_aside(run_dir, records, state, say)
    keep = {run_dir.parts / part.file for part in state.parts}
    for name, trial in state.trials.items():
        keep |= {run_dir.checkpoints / name / s.checkpoint[0] for s in trial.segments if s.checkpoint is not None}
    run_dir.clean(keep=keep)
    return state


def _set_damaged_parts_aside(
    run_dir: RunDir, records: Sequence[Record], state: RunState, say: Callable[[str], None]
) -> None:
    """Quarantine parts that are not what was written, and journal what must be trained or measured again."""
    damaged: dict[str, str] = {}
    for part in state.parts:
        try:
            run_dir.read_checked(run_dir.parts / part.file, part.xxh3)
        except IntegrityError as error:
            damaged[part.file] = str(error)
    if not damaged:
        return
    first: dict[str, int] = {}
    snapshots: list[list[object]] = []
    parts = set(damaged)
    for record in records:
        named = {part["file"] for part in record.get("parts", ()) if isinstance(part, dict)}
        if not named & parts:
            continue
        if record["type"] == "committed":
            for segment in record["segments"]:
                first[segment["trial"]] = min(segment["start"], first.get(segment["trial"], segment["start"]))
        else:
            # All that came with it is measured again, so the whole of its parts goes too.
            parts |= named
            snapshots += [[record["measurement"], trial, step] for trial, step in record["snapshots"]]
    trials = [[name, step, _checkpoints_there(run_dir, name)] for name, step in first.items()]
    record = {"type": "damaged", "parts": sorted(parts), "trials": trials, "snapshots": snapshots}
    for name, why in damaged.items():
        say(f"damaged: {why}; {_consequence(len(first), len(snapshots))}")
        run_dir.set_aside(run_dir.parts / name)
    Journal(run_dir.journal, state.next_number).append(record)
    apply(state, record)
    state.next_number += 1


def _checkpoints_there(run_dir: RunDir, trial: str) -> list[str]:
    """Of a trial that had ended there are none, of others the last two."""
    return sorted(path.name for path in (run_dir.checkpoints / trial).glob("*"))


def _consequence(num_trials: int, num_snapshots: int) -> str:
    """What a run loses for now."""
    again = [f"{num_trials} trials go on from before it"] if num_trials else []
    again += [f"{num_snapshots} snapshots are to be measured again"] if num_snapshots else []
    return " and ".join(again)


@contextmanager
def shipped(code: Sequence[UserCode]) -> Iterator[tuple[Path | None, tuple[str, ...]]]:
    """The user's own code in a folder of its own, as it is sent to every worker.

    Args:
        code: What is needed.

    Yields:
        The folder, None where nothing is needed; and more folders in which workers are to look.
    """
    if not code:
        yield None, ()
        return
    with tempfile.TemporaryDirectory(prefix="clipsweep-code-") as name:
        folder = Path(name)
        for found in code:
            target = folder / found.root.name
            if found.root.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(found.root, target, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copyfile(found.root, target)
        yield folder, ()


@contextmanager
def disk_errors(run_dir: RunDir) -> Iterator[None]:
    """Say what a full or vanished disk means for the run.

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
            "what was committed is safe: mend the disk and run the same command to go on"
        ) from error


def _shortage(run_dir: RunDir, error: OSError) -> str:
    """What a full file system is short of; `df` shows space, and people wonder."""
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return ""
    with contextlib.suppress(OSError):
        system = os.statvfs(run_dir.path)
        # Some file systems make inodes as they are wanted, and say that they have none at all. A few have become free
        # since, of what was being written.
        if system.f_files and system.f_favail < _FEW_FILES and system.f_bavail * system.f_frsize > _SOME_BYTES:
            return " (it has space, but holds as many files as it can: no inode is free; `df -i` shows them)"
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
