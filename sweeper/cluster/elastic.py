"""A cluster whose nodes come and go: how many workers it has room for now, and when to stop waiting for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

from sweeper.cluster.waiting import Question, Waiting, in_background
from sweeper.errors import ClusterError
from sweeper.protocol.pools import PoolSize

__all__ = ["Answer", "Elastic", "RoomWatch"]

_log = logging.getLogger(__name__)

_ASK_EVERY_S = 2.0

_HEAD_PATIENCE_S = 20.0
"""How long a cluster's head may be silent. After 60 s Ray itself would end this process without a message."""

_SAFE = "what was committed is safe: run the same command to continue"


Answer: TypeAlias = tuple[bool, PoolSize | None]
"""Whether the head answers, and what there is room for if it does."""


class Elastic:
    """Asks from time to time what the cluster has room for.

    Args:
        room: How many workers there is room for, at most as many as the spec asks for; None if there is not even room
            for one of each kind. Called only while the head answers.
        head_answers: Whether the cluster's head can be reached within a second.
        size: What there was room for when the workers were started.
        patience_s: How long the cluster may have no room at all, in seconds.
        clock: Returns seconds.
        start: Runs a question in the background.
    """

    def __init__(
        self,
        *,
        room: Callable[[], PoolSize | None],
        head_answers: Callable[[], bool],
        size: PoolSize,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], Answer]], Future[Answer]] = in_background,
    ) -> None:
        self._room = room
        self._head_answers = head_answers
        self._size = size
        self._patience_s = patience_s
        self._clock = clock
        self._question = Question(self._ask, every_s=_ASK_EVERY_S, clock=clock, start=start)
        self._answered_at = self._had_room_at = clock()

    def look(self) -> PoolSize | None:
        """Ask, if it is time to, and process an answer that has arrived; never blocks on one.

        Returns:
            The new size; None if it has not changed, or is unknown.

        Raises:
            ClusterError: The head has been silent, or there has been no room for a worker, for too long.
        """
        answered = self._question.poll()
        if answered is None and not self._question.is_out:
            return None
        answers, room = (False, None) if answered is None else answered.result()
        if answers:
            return self._notice(room)
        silent_s = self._clock() - self._answered_at
        if silent_s > _HEAD_PATIENCE_S:
            raise ClusterError(f"the head of the Ray cluster has not answered for {silent_s:.0f} s; {_SAFE}")
        return None

    def _ask(self) -> Answer:
        answers = self._head_answers()
        return answers, self._room() if answers else None

    def _notice(self, room: PoolSize | None) -> PoolSize | None:
        now = self._clock()
        self._answered_at = now
        if room is None:
            if now - self._had_room_at > self._patience_s:
                raise ClusterError(
                    f"no node of the Ray cluster has had room for a worker for {now - self._had_room_at:.0f} s "
                    f"(cluster.patience_s); add nodes, then continue: {_SAFE}"
                )
            return None
        self._had_room_at = now
        if room == self._size:
            return None
        _log.info("room for %s, previously %s", room, self._size)
        self._size = room
        return room


class RoomWatch:
    """How many workers there is room for, and why requested ones do not start.

    Args:
        size: What there was room for when the workers were started.
        waiting: Asks why workers wait.
        elastic: Asks how the room changes; None for a local Ray, whose room does not.
    """

    def __init__(self, *, size: PoolSize, waiting: Waiting, elastic: Elastic | None = None) -> None:
        self._size = size
        self._waiting = waiting
        self._elastic = elastic

    @property
    def size(self) -> PoolSize:
        """The number of workers that there is room for, as far as is known."""
        return self._size

    @property
    def waiting_for(self) -> str | None:
        """Why requested workers do not start; None if all have a place."""
        return self._waiting.reason

    def look(self) -> bool:
        """Look again, if it is time to; never blocks on an answer.

        Returns:
            Whether the room has changed.

        Raises:
            ClusterError: The head has been silent, or there has been no room for a worker, for too long.
        """
        self._waiting.look()
        size = self._elastic.look() if self._elastic is not None else None
        if size is None:
            return False
        self._size = size
        return True
