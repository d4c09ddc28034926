"""``run --events jsonl``: stdout as a stream of events, one JSON object per line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sweeper.notify.outlet import Document, Outlet
from sweeper.protocol.notices import Dropped, as_line, document_of

__all__ = ["Stream", "events_on_stdout"]

_ROOM = 100_000
_LAST_S = 10.0


class Stream:
    """Writes events to a file, a pipe or a terminal, each line at once.

    A reader that is slow loses events, and is told how many; one that goes away loses the rest. The sweep goes on.

    Args:
        descriptor: An open file.
        gone: Is told, once, why nothing can be written any more.
        room: The most events that wait for the reader.
    """

    def __init__(self, descriptor: int, *, gone: Callable[[str], None], room: int = _ROOM) -> None:
        self._descriptor = descriptor
        self._gone = gone
        self._is_open = True
        self._outlet = Outlet(self._write, room=room, name="events")

    def hear(self, document: Document) -> None:
        """Write an event, soon."""
        self._outlet.hear(document)

    def close(self, *, within_s: float = _LAST_S) -> None:
        """Wait for the reader, but not longer than that."""
        missed = self._outlet.close(within_s=within_s, to_stop_s=0.0)
        if missed and self._is_open:
            self._gone(f"events: the reader of stdout has not taken the last {missed}")

    def _write(self, document: Document, dropped: int) -> None:
        if not self._is_open:
            return
        lines = as_line(document)
        if dropped:
            lost = document_of(Dropped(count=dropped), run=str(document["run"]), at=str(document["at"]))
            lines = as_line(lost) + lines
        try:
            while lines:
                lines = lines[os.write(self._descriptor, lines) :]
        except OSError as error:
            self._is_open = False
            self._gone(f"events: stdout cannot be written any more ({error.strerror}); the sweep goes on")


@contextmanager
def events_on_stdout(gone: Callable[[str], None]) -> Iterator[Stream]:
    """Stdout for events alone: whatever else this process or a library prints goes to stderr meanwhile.

    Args:
        gone: As for :class:`Stream`.

    Yields:
        The stream.
    """
    sys.stdout.flush()
    events = os.dup(1)
    os.dup2(2, 1)
    stream = Stream(events, gone=gone)
    try:
        yield stream
    finally:
        stream.close()
        sys.stdout.flush()
        os.dup2(events, 1)
