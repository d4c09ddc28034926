"""Questions to a cluster that may never be answered, asked where nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["Question", "in_background"]

Answer = TypeVar("Answer")


def in_background(ask: Callable[[], Answer]) -> Future[Answer]:
    """Ask in a thread of its own, which nobody waits for: a call of Ray's to a head that has just died does not return.

    Args:
        ask: The question.

    Returns:
        Its answer, sooner, later or never.
    """
    future: Future[Answer] = Future()

    def work() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="clipsweep-question", daemon=True).start()
    return future


class Question(Generic[Answer]):
    """A question that is asked now and then, never twice at once.

    Args:
        ask: The question.
        every_s: Seconds from an answer to the next asking, and to the first.
        clock: Seconds.
        start: How it is asked.
    """

    def __init__(
        self,
        ask: Callable[[], Answer],
        *,
        every_s: float,
        clock: Callable[[], float],
        start: Callable[[Callable[[], Answer]], Future[Answer]] = in_background,
    ) -> None:
        self._ask = ask
        self._every_s = every_s
        self._clock = clock
        self._start = start
        self._asked: Future[Answer] | None = None
        self._ask_at = clock() + every_s

    @property
    def is_out(self) -> bool:
        """Whether it is asked and not answered."""
        return self._asked is not None

    def poll(self) -> Future[Answer] | None:
        """Ask, if it is time to.

        Returns:
            An answer that has come, once; None where there is none. Never waits.
        """
        if self._asked is None:
            if self._clock() < self._ask_at:
                return None
            self._asked = self._start(self._ask)
        if not self._asked.done():
            return None
        answered, self._asked = self._asked, None
        self._ask_at = self._clock() + self._every_s
        return answered
