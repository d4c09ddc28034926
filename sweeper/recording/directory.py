"""A run directory that several processes record into: each holds it for as long as a commit takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sweeper.errors import RunDirectoryError
from sweeper.store.driver_files import HeldError, holder_of
from sweeper.store.journal import Journal, RunState, apply, read_journal, repair_journal, replay
from sweeper.store.lock import DriverLock
from sweeper.store.recorded import RECORDER, recording_now
from sweeper.store.records import Record
from sweeper.store.recovery import recover
from sweeper.store.run_dir import RunDir
from sweeper.tables.readable import Compactor

__all__ = ["Session", "session"]

_log = logging.getLogger(__name__)


@dataclass
class Session:
    """The directory while this process holds it.

    Attributes:
        run_dir: The directory.
        state: The run as its journal tells it.
    """

    run_dir: RunDir
    state: RunState

    def append(self, record: Record) -> None:
        """Write a record to the journal, and take it into account."""
        Journal(self.run_dir.journal, self.state.next_number).append(record)
        apply(self.state, record)
        self.state.next_number += 1

    def refresh(self) -> None:
        """Write the readable tables as of now."""
        Compactor(self.run_dir).refresh(self.state, running=recording_now(self.state))


@contextmanager
def session(run_dir: RunDir, *, wait_s: float, opening: bool = False) -> Iterator[Session]:
    """Hold a directory, with what a crash of another process may have left behind repaired.

    Args:
        run_dir: The directory.
        wait_s: For how long other processes are waited for.
        opening: Create the directory if it is missing, and look at all of its files, not at the journal alone.

    Yields:
        The session.

    Raises:
        HeldError: Another process holds it for longer.
        RunDirectoryError: It is the run of a sweep, something else, or cannot be written.
        IntegrityError: Its journal is damaged.
    """
    if opening and run_dir.exists:
        _require_recorded(run_dir)
    with ExitStack() as stack:
        try:
            stack.enter_context(DriverLock(run_dir).hold(create=opening, wait_s=wait_s))
        except HeldError as error:
            holder = holder_of(run_dir)
            who = holder.words if holder is not None else "another process"
            raise HeldError(f"{run_dir.path}: {who} has been writing to it for {wait_s:g} s") from error
        if opening:
            state = recover(run_dir, _log.warning)
        else:
            lines, whole = read_journal(run_dir.journal)
            repair_journal(run_dir.journal, whole, run_dir.quarantine)
            state = replay(lines, run_dir.journal)
        yield Session(run_dir=run_dir, state=state)


def _require_recorded(run_dir: RunDir) -> None:
    """Refuse the run of a sweep, before anything in it is touched."""
    lines, _ = read_journal(run_dir.require().journal)
    state = replay(lines, run_dir.journal)
    if state.driver_epoch and state.recorder != RECORDER:
        raise RunDirectoryError(
            f"{run_dir.path}: holds the run of a sweep, which only `clipsweep run` adds to; choose another directory "
            "with out"
        )
