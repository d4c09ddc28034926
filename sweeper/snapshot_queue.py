"""Which estimator measures which snapshot while trials are trained; part of the schedule, and as pure."""

from __future__ import annotations

from collections import deque

from sweeper.events import Command, Measure, SnapshotId

__all__ = ["SnapshotQueue"]

_MOST_PASSED = 3
"""How often the oldest snapshot may be passed over before it is next whatever happens."""


class SnapshotQueue:
    """Snapshots that wait, and the estimators that have none.

    The oldest snapshot comes first, unless one follows the snapshot that the estimator has just measured: then x_k and
    its gradient are at hand. The oldest is not passed over for ever, since its segment waits for it.

    Example:
        >>> queue = SnapshotQueue()
        >>> queue.add(SnapshotId("a", 1, 0))
        >>> queue.free(7)
        >>> queue.hand_out()
        [Measure(slot=7, snapshot=SnapshotId(trial='a', attempt=1, step=0))]
        >>> queue.add(SnapshotId("b", 1, 0))
        >>> queue.add(SnapshotId("a", 1, 1))
        >>> queue.free(7)
        >>> queue.hand_out()
        [Measure(slot=7, snapshot=SnapshotId(trial='a', attempt=1, step=1))]
    """

    def __init__(self) -> None:
        self._waiting: deque[SnapshotId] = deque()
        self._idle: deque[int] = deque()
        self._measuring: dict[int, SnapshotId] = {}
        self._last: dict[int, SnapshotId] = {}
        self._passed = 0

    @property
    def num_waiting(self) -> int:
        """Snapshots that wait for an estimator."""
        return len(self._waiting)

    @property
    def num_measuring(self) -> int:
        """Snapshots that are with an estimator."""
        return len(self._measuring)

    def is_idle(self, slot: int) -> bool:
        """Whether an estimator is up and has nothing to measure."""
        return slot in self._idle

    def is_measuring(self, slot: int) -> bool:
        """Whether an estimator has a snapshot."""
        return slot in self._measuring

    def add(self, snapshot: SnapshotId) -> None:
        """A snapshot waits, behind the others."""
        self._waiting.append(snapshot)

    def put_back(self, snapshot: SnapshotId) -> None:
        """A snapshot that could not be measured waits again, in front."""
        self._waiting.appendleft(snapshot)

    def withdraw(self, snapshot: SnapshotId) -> None:
        """A snapshot is not to be measured any more; an estimator that has it goes on with it."""
        if snapshot in self._waiting:
            self._waiting.remove(snapshot)

    def free(self, slot: int) -> None:
        """An estimator is ready for the next snapshot."""
        self._measuring.pop(slot, None)
        self._idle.append(slot)

    def lose(self, slot: int) -> SnapshotId | None:
        """An estimator is gone; returns what it was measuring."""
        self._last.pop(slot, None)
        if slot in self._idle:
            self._idle.remove(slot)
        return self._measuring.pop(slot, None)

    def hand_out(self) -> list[Command]:
        """Give waiting snapshots to idle estimators."""
        commands: list[Command] = []
        while self._waiting and self._idle:
            slot = self._idle.popleft()
            snapshot = self._choose(slot)
            self._waiting.remove(snapshot)
            self._measuring[slot] = self._last[slot] = snapshot
            commands.append(Measure(slot=slot, snapshot=snapshot))
        return commands

    def _choose(self, slot: int) -> SnapshotId:
        oldest, last = self._waiting[0], self._last.get(slot)
        following = None if last is None else last._replace(step=last.step + 1)
        if following is None or following == oldest or following not in self._waiting or self._passed >= _MOST_PASSED:
            self._passed = 0
            return oldest
        self._passed += 1
        return following
