"""Questions to a cluster that may never be answered, asked where nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_background"]

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
