"""Signals: the first asks the sweep to end in order, the second ends it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupts", "listen_for_interrupts"]


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """First SIGINT, SIGTERM or SIGUSR1: a request. Second: now."""

    def __init__(self) -> None:
        self._requested = False

    def requested(self) -> bool:
        """Whether the sweep is to end early."""
        return self._requested

    def take(self, number: int, _frame: object) -> None:
        """Take notice of a signal.

        Args:
            number: Which.

        Raises:
            KeyboardInterrupt: It is the second.
        """
        if self._requested:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self._requested = True


@contextmanager
def listen_for_interrupts() -> Iterator[Interrupts]:
    """Listen to signals for the length of a ``with`` block."""
    before: dict[int, Callable[..., Any] | int | None] = {number: signal.getsignal(number) for number in _SIGNALS}
    interrupts = Interrupts()
    for taken in _SIGNALS:
        signal.signal(taken, interrupts.take)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
