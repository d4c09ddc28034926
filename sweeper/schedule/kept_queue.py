"""Which kept snapshot is measured where: the pure half of ``clipsweep estimate``, events in and commands out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sweeper.protocol.events import (
    Command,
    EstimatorDied,
    EstimatorReady,
    Event,
    Measure,
    Measured,
    MeasureFailed,
    MeasureRaised,
    ReplaceEstimator,
    RetireEstimator,
    RoomChanged,
    SnapshotId,
    SnapshotLost,
    StopRequested,
)
from sweeper.schedule.limits import Slots

__all__ = ["KeptQueue"]


class KeptQueue:
    """Hands snapshots to estimators until all are measured or given up.

    An estimator stays with a trial while that has snapshots left, in the order of their steps: it has already built the
    trial's probe, and can reuse the gradient at x_{k+1} for the next step's snapshot. Rows do not depend on this.

    Args:
        snapshots: The snapshots to measure.
        max_attempts: How often a snapshot may fail before it is given up.

    Example:
        >>> queue = KeptQueue([SnapshotId("a", 0, 0)], max_attempts=2)
        >>> queue.handle(EstimatorReady(slot=0))
        [Measure(slot=0, snapshot=SnapshotId(trial='a', attempt=0, step=0))]
        >>> queue.finished
        False
        >>> queue.handle(Measured(slot=0, snapshot=SnapshotId("a", 0, 0)))
        []
        >>> queue.finished
        True
    """

    def __init__(self, snapshots: Iterable[SnapshotId], *, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._waiting: dict[str, deque[SnapshotId]] = {}
        for snapshot in snapshots:
            self._waiting.setdefault(snapshot.trial, deque()).append(snapshot)
        self._slots = Slots()
        self._measuring: dict[int, SnapshotId] = {}
        self._idle: list[int] = []
        self._trial_of: dict[int, str] = {}
        self._failures: dict[SnapshotId, int] = {}
        self._stopping = False

    @property
    def finished(self) -> bool:
        """Whether everything is done."""
        return not self._measuring and (self._stopping or not any(self._waiting.values()))

    @property
    def takes_snapshots(self) -> bool:
        """Always False: nothing is trained, so there are no new snapshots."""
        return False

    @property
    def num_waiting(self) -> int:
        """Snapshots that no estimator has yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def num_measuring(self) -> int:
        """Snapshots that are being measured."""
        return len(self._measuring)

    def handle(self, event: Event) -> list[Command]:
        """Process one event.

        Args:
            event: One about an estimator, about the number of estimators, or a request to stop.

        Returns:
            What to do, in order.

        Raises:
            AssertionError: The event is about training.
        """
        match event:
            case RoomChanged(estimators=estimators):
                return self._resize(estimators)
            case EstimatorReady(slot=slot):
                self._slots.add(slot)
                self._idle.append(slot)
                return self._fill()
            case Measured(slot=slot, spoiled=spoiled):
                return self._free(slot, spoiled=spoiled) + self._fill()
            case MeasureRaised(slot=slot, snapshot=snapshot, error=error, spoiled=spoiled):
                again = self._again(snapshot, error)
                return again + self._free(slot, spoiled=spoiled) + self._fill()
            case SnapshotLost(slot=slot, snapshot=snapshot, error=error):
                again = self._again(snapshot, error)
                return again + self._free(slot, spoiled=False) + self._fill()
            case EstimatorDied(slot=slot, error=error):
                interrupted = self._measuring.pop(slot, None)
                self._idle = [idle for idle in self._idle if idle != slot]
                again = [] if interrupted is None else self._again(interrupted, error)
                replace: list[Command] = [] if self.finished else [ReplaceEstimator(slot=slot)]
                return [*again, *replace, *self._fill()]
            case StopRequested():
                self._stopping = True
                return []
        raise AssertionError(f"not an event of estimators: {event!r}")

    def _resize(self, estimators: int) -> list[Command]:
        """Grow or shrink to this many estimators; idle ones go first, and what the others measured waits again."""
        new, surplus = self._slots.resize(estimators, cost=lambda slot: slot in self._measuring)
        for slot in surplus:
            interrupted = self._measuring.pop(slot, None)
            if interrupted is not None:
                self._put_back(interrupted)
        self._idle = [idle for idle in self._idle if idle not in surplus]
        retire: list[Command] = [RetireEstimator(slot=slot) for slot in surplus]
        return [*retire, *(ReplaceEstimator(slot=slot) for slot in new), *self._fill()]

    def _free(self, slot: int, *, spoiled: bool) -> list[Command]:
        """An estimator has done its snapshot, and takes another unless it must be replaced."""
        self._measuring.pop(slot, None)
        if not spoiled:
            self._idle.append(slot)
            return []
        replace: list[Command] = [] if self.finished else [ReplaceEstimator(slot=slot)]
        return [RetireEstimator(slot=slot), *replace]

    def _fill(self) -> list[Command]:
        commands: list[Command] = []
        while self._idle and not self._stopping and (trial := self._choose(self._idle[0])) is not None:
            slot = self._idle.pop(0)
            snapshot = self._waiting[trial].popleft()
            self._measuring[slot] = snapshot
            self._trial_of[slot] = trial
            commands.append(Measure(slot=slot, snapshot=snapshot))
        return commands

    def _choose(self, slot: int) -> str | None:
        """The estimator's own trial, else one without an estimator, else the one with the most snapshots left."""
        left = {trial: waiting for trial, waiting in self._waiting.items() if waiting}
        if self._trial_of.get(slot) in left:
            return self._trial_of[slot]
        taken = {snapshot.trial for snapshot in self._measuring.values()}
        free = next((trial for trial in left if trial not in taken), None)
        return free or max(left, key=lambda trial: len(left[trial]), default=None)

    def _again(self, snapshot: SnapshotId, error: str) -> list[Command]:
        self._failures[snapshot] = self._failures.get(snapshot, 0) + 1
        if self._failures[snapshot] >= self._max_attempts:
            return [MeasureFailed(snapshot=snapshot, error=error)]
        self._put_back(snapshot)
        return []

    def _put_back(self, snapshot: SnapshotId) -> None:
        """A snapshot waits again, at the front of its trial's queue."""
        self._waiting.setdefault(snapshot.trial, deque()).appendleft(snapshot)
