"""What every command does that opens a run to add to it: mend what a crash left, log, ship the user's own code."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import RunDirectoryError
from sweeper.journal import RunState, read_journal, repair_journal, replay
from sweeper.run_dir import RunDir
from sweeper.spec.user_code import UserCode

__all__ = ["disk_errors", "logging_to", "recover", "shipped"]

_log = logging.getLogger(__name__)


def recover(run_dir: RunDir) -> RunState:
    """The state of the run, after mending what a crash left behind. Only under the lock.

    Args:
        run_dir: The run.

    Returns:
        The state; an empty one where no run was begun.

    Raises:
        IntegrityError: The journal is damaged.
    """
    if not run_dir.exists:
        return RunState()
    records, whole = read_journal(run_dir.journal)
    if repair_journal(run_dir.journal, whole, run_dir.quarantine):
        _log.warning("cut a torn line off the journal; its bytes are in %s", run_dir.quarantine)
    state = replay(records)
    keep = {run_dir.parts / part.file for part in state.parts}
    for name, trial in state.trials.items():
        keep |= {run_dir.checkpoints / name / s.checkpoint[0] for s in trial.segments if s.checkpoint is not None}
    run_dir.clean(keep=keep)
    return state


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
            f"{error.filename or run_dir.path}: {error.strerror or error}; what was committed is safe: "
            "mend the disk and run the same command to go on"
        ) from error


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Keep the driver's log in the run directory.

    Args:
        path: The log.

    Yields:
        Nothing.
    """
    handler = logging.FileHandler(path)
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
