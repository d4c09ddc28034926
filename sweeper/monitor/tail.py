"""What is added to logs while somebody looks on: to a file, whatever becomes of it, or to what one trial has done."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from sweeper.monitor.status import find_trials, ran, state_of, trial_heading
from sweeper.store.run_dir import RunDir

__all__ = ["FileTail", "Tail", "TrialTail"]

_PATIENCE = 20
"""A journal is read again after this many times as long as reading it took: looking on takes 5 % of a core."""


class Tail(Protocol):
    """What grows line by line."""

    def read(self) -> list[str]:
        """The lines that are new."""

    def rest(self) -> list[str]:
        """The lines that are new, the last even if it is incomplete; after that, nothing is read any more."""


class FileTail:
    """The lines of a file from its start, also if it is made later, or replaced or emptied by a rotation.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._begun = b""

    def read(self) -> list[str]:
        """The lines that are new.

        Returns:
            Whole lines, without line breaks.
        """
        lines = self._added()
        if self._is_replaced():
            # Whatever was written to the old file before it was put aside has just been read.
            lines += self._last_line()
            self._close()
            with suppress(OSError):
                self._file = self._path.open("rb")
            lines += self._added()
        return lines

    def rest(self) -> list[str]:
        """The lines that are new, the last even if it is incomplete.

        Returns:
            Lines, without line breaks.
        """
        lines = [*self.read(), *self._last_line()]
        self._close()
        return lines

    def _added(self) -> list[str]:
        if self._file is None:
            return []
        whole, end, self._begun = (self._begun + self._file.read()).rpartition(b"\n")
        return whole.decode(errors="replace").split("\n") if end else []

    def _last_line(self) -> list[str]:
        begun, self._begun = self._begun, b""
        return [begun.decode(errors="replace")] if begun else []

    def _is_replaced(self) -> bool:
        if self._file is None:
            return True
        try:
            now, own = os.stat(self._path), os.fstat(self._file.fileno())
        except OSError:
            # Put aside, and the new one is not there yet.
            return False
        return (now.st_dev, now.st_ino) != (own.st_dev, own.st_ino) or now.st_size < self._file.tell()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


class TrialTail:
    """What becomes of one trial: its segments and failures from the journal, and the lines of its own log.

    Args:
        run_dir: The run.
        name: The trial's id, or a prefix of it.

    Raises:
        RunDirectoryError: There is no such run or trial.
    """

    def __init__(self, run_dir: RunDir, name: str) -> None:
        self._run_dir = run_dir
        state = state_of(run_dir)
        (self._trial,) = find_trials(state, [name], run_dir.path)
        self._log = FileTail(run_dir.trial_log(self._trial))
        self._heading = [trial_heading(run_dir, state, self._trial)]
        self._told = (0, 0)
        self._size = -1
        self._not_before = 0.0

    def read(self) -> list[str]:
        """The lines that are new.

        Returns:
            Lines, of the journal first.
        """
        return [*self._of_journal(at_once=False), *self._log.read()]

    def rest(self) -> list[str]:
        """The lines that are new, for the end.

        Returns:
            Lines, of the journal first.
        """
        return [*self._of_journal(at_once=True), *self._log.rest()]

    def _of_journal(self, *, at_once: bool) -> list[str]:
        heading, self._heading = self._heading, []
        size = self._run_dir.journal.stat().st_size
        began = time.monotonic()
        if size == self._size or (began < self._not_before and not at_once):
            return heading
        segments, failures = ran(state_of(self._run_dir), self._trial)
        ended = time.monotonic()
        self._size, self._not_before = size, ended + _PATIENCE * (ended - began)
        lines = [*segments[self._told[0] :], *failures[self._told[1] :]]
        self._told = len(segments), len(failures)
        return [*heading, *lines]
