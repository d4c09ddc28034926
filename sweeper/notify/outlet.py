"""A thread of its own for whoever may be slow, with a queue that has an end."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Document", "Outlet"]

Document = Mapping[str, Any]


class Outlet:
    """Hands documents on, one after the other, from a thread of its own.

    Args:
        send: Takes a document and how many were dropped before it; may be slow, and ends soon after ``stop`` is set.
        room: The most documents that wait.
        name: Name of the thread.

    Attributes:
        stop: Set when what is being sent must end.
        dropped: How many documents found no room, and were not told of yet.
    """

    def __init__(self, send: Callable[[Document, int], None], *, room: int, name: str) -> None:
        self.stop = threading.Event()
        self.dropped = 0
        self._send = send
        self._room = room
        self._waiting: deque[Document] = deque()
        self._changed = threading.Condition()
        self._closing = False
        # A daemon: one that is stuck in the system must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def hear(self, document: Document) -> None:
        """Take a document, at once; without room for it, it is dropped."""
        with self._changed:
            if self._closing or len(self._waiting) >= self._room:
                self.dropped += 1
                return
            self._waiting.append(document)
            self._changed.notify()

    def close(self, *, within_s: float, to_stop_s: float = 5.0) -> int:
        """Wait until everything is sent, but not longer than that.

        Args:
            within_s: How long to wait.
            to_stop_s: How long what is being sent may take to end after that.

        Returns:
            How many documents were not sent.
        """
        deadline = time.monotonic() + within_s
        try:
            with self._changed:
                self._closing = True
                self._changed.notify()
            self._thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            self.stop.set()
            self._thread.join(to_stop_s)
        return self.dropped + len(self._waiting)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting or self.stop.is_set():
                    return
                document = self._waiting.popleft()
                dropped, self.dropped = self.dropped, 0
            self._send(document, dropped)
