"""Signals: the first asks a sweep to stop cleanly, or ends it at once if it has not begun; the second always does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Interrupts", "listen_for_interrupts"]


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """While there is something to finish first, one signal is a request to stop; before that, and again, it stops now.

    Args:
        say: Receives a line as soon as a signal has been taken.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._requested = False
        self._finish_first = False

    def finish_first(self) -> None:
        """From now on there is work whose end is worth waiting for."""
        self._finish_first = True

    def requested(self) -> bool:
        """Whether the sweep should stop early."""
        return self._requested

    def take(self, number: int, _frame: object) -> None:
        """Handle a signal.

        Args:
            number: The signal's number.

        Raises:
            KeyboardInterrupt: It is the second, or nothing has begun that could be finished.
        """
        if self._requested or not self._finish_first:
            if not self._requested:
                self._requested = True
                # A handler runs between two steps of the program, which may be printing at this moment.
                with suppress(RuntimeError):
                    self._say("stopping before anything has begun: Ray is shut down")
            raise KeyboardInterrupt(signal.Signals(number).name)
        self._requested = True


@contextmanager
def listen_for_interrupts(say: Callable[[str], object]) -> Iterator[Interrupts]:
    """Handle signals for the duration of a ``with`` block; elsewhere than in the main thread, leave them alone.

    Args:
        say: Receives a line as soon as a signal has been taken.

    Yields:
        What has been asked for.
    """
    # Python lets no other thread handle signals: there, those of the whole program stay as they are.
    handled = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before: dict[int, Callable[..., Any] | int | None] = {number: signal.getsignal(number) for number in handled}
    interrupts = Interrupts(say)
    for taken in handled:
        signal.signal(taken, interrupts.take)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
