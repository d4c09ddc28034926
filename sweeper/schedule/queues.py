"""Which trials and snapshots wait for a worker, and how many trials a trainer is given at once; pure, too."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from sweeper.protocol.events import Command, Measure, SnapshotId

__all__ = ["SnapshotQueue", "TrialQueue"]

_BATCH_S = 0.25
"""Trials shorter than this are handed out several at a time: sending one costs a few milliseconds."""


class TrialQueue:
    """Trials that wait, in the order in which they will run.

    A trainer is given one at a time, unless they are very short: then as many as it runs in a quarter of a second, and
    fewer when not many are left. Trials that one trainer runs side by side go out in shares, never mixed with others.
    Trials of one shape go out in packs, wherever they wait, each trainer's no larger than its share of them.

    Args:
        trials: Those that wait.
        side_by_side: Trials that one trainer runs simultaneously.
        share: How many of these a trainer is given at a time.
        packs: The shape of those trials that may take their steps together with others of the same shape.
        pack: How many of these a trainer is given at most, and how many at least: fewer run one after the other.

    Example:
        >>> queue = TrialQueue("abcdefgh")
        >>> queue.take(num_trainers=1)
        ['a']
        >>> queue.ran(0.01)
        >>> queue.take(num_trainers=1)
        ['b', 'c', 'd']
        >>> queue.put_back("d")
        >>> queue.ran(3.0)
        >>> queue.take(num_trainers=1)
        ['d']
    """

    def __init__(
        self,
        trials: Iterable[str],
        *,
        side_by_side: Collection[str] = (),
        share: int = 1,
        packs: Mapping[str, str] = MappingProxyType({}),
        pack: tuple[int, int] = (1, 2),
    ) -> None:
        self._waiting = deque(trials)
        self._side_by_side = set(side_by_side)
        self._share = share
        self._packs = dict(packs)
        self._most, self._least = pack
        self._trial_s = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, trial: str, *, side_by_side: bool = False, shape: str | None = None) -> None:
        """A trial waits, at the back of the queue."""
        self._waiting.append(trial)
        if side_by_side:
            self._side_by_side.add(trial)
        if shape is not None:
            self._packs[trial] = shape

    def unpack(self, trial: str) -> None:
        """From now on a trial runs alone."""
        self._packs.pop(trial, None)

    def put_back(self, trial: str) -> None:
        """A trial waits again, at the front of the queue."""
        self._waiting.appendleft(trial)

    def ran(self, seconds: float) -> None:
        """A trial took this long."""
        # A decaying maximum: one slow trial among quick ones ends the batches for a while.
        self._trial_s = max(seconds, 0.0 if self._trial_s == math.inf else 0.5 * self._trial_s)

    def take_pack(self, *, num_trainers: int) -> list[str]:
        """Take a pack, if the next trial belongs to one that is worth it.

        Args:
            num_trainers: How many trainers have nothing to do.

        Returns:
            Trials of one shape, the next one first; none if the next one does not go out in a pack.

        Example:
            >>> queue = TrialQueue("abcde", packs=dict.fromkeys("abde", "small"), pack=(8, 2))
            >>> queue.take_pack(num_trainers=1), queue.take_pack(num_trainers=1), queue.take(num_trainers=1)
            (['a', 'b', 'd', 'e'], [], ['c'])
        """
        if not self._waiting or (shape := self._packs.get(self._waiting[0])) is None:
            return []
        alike = [trial for trial in self._waiting if self._packs.get(trial) == shape]
        size = min(self._most, -(-len(alike) // num_trainers))
        if size < self._least:
            return []
        taken = alike[:size]
        left = set(taken)
        self._waiting = deque(trial for trial in self._waiting if trial not in left)
        return taken

    def take(self, *, num_trainers: int) -> list[str]:
        """Take what a trainer is given next.

        Args:
            num_trainers: How many trainers share what waits.

        Returns:
            Trials, at least one; they no longer wait.
        """
        return [self._waiting.popleft() for _ in range(self._batch_size(num_trainers))]

    def _batch_size(self, num_trainers: int) -> int:
        alike = self._waiting[0] in self._side_by_side
        # A batch is of one kind: trials that run side by side, or one after the other.
        run = itertools.takewhile(lambda trial: (trial in self._side_by_side) == alike, self._waiting)
        if alike:
            return min(sum(1 for _ in run), self._share)
        fair = len(self._waiting) // (2 * num_trainers)
        most = max(1, min(fair, int(_BATCH_S / max(self._trial_s, 1e-3))))
        return sum(1 for _ in itertools.islice(run, most))


_MOST_PASSED = 3
"""How often the oldest snapshot may be passed over before it must be next."""


class SnapshotQueue:
    """Snapshots that wait, and idle estimators.

    The oldest snapshot comes first, unless one follows the snapshot that the estimator has just measured: then x_k and
    its gradient are already in its memory. The oldest is not passed over forever, since its segment waits for it.

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
        """A snapshot waits, at the back of the queue."""
        self._waiting.append(snapshot)

    def put_back(self, snapshot: SnapshotId) -> None:
        """A snapshot that could not be measured waits again, at the front."""
        self._waiting.appendleft(snapshot)

    def withdraw(self, snapshot: SnapshotId) -> None:
        """A snapshot is no longer wanted; an estimator that has it still finishes it."""
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
