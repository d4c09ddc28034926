"""Signals: the first asks the sweep to stop cleanly, the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupts", "listen_for_interrupts"]


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """The first SIGINT, SIGTERM or SIGUSR1 is a request to stop; the second stops at once."""

    def __init__(self) -> None:
        self._requested = False

    def requested(self) -> bool:
        """Whether the sweep should stop early."""
        return self._requested

    def take(self, number: int, _frame: object) -> None:
        """Handle a signal.

        Args:
            number: The signal's number.

        Raises:
            KeyboardInterrupt: It is the second.
        """
        if self._requested:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self._requested = True


@contextmanager
def listen_for_interrupts() -> Iterator[Interrupts]:
    """Handle signals for the duration of a ``with`` block."""
    before: dict[int, Callable[..., Any] | int | None] = {number: signal.getsignal(number) for number in _SIGNALS}
    interrupts = Interrupts()
    for taken in _SIGNALS:
        signal.signal(taken, interrupts.take)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
