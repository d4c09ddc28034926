"""What to do next: a pure state machine, events in, commands out; no clock, disk, torch or Ray.

A trial runs in *attempts*, an attempt in *segments* that end at checkpoints. A segment is committed once its rows
and all measurements of its snapshots are there; segments of a trial commit in order. After a failure the trial
waits until what it finished is committed, goes to the back of the queue, and starts again from its last committed
segment, at most ``max_attempts`` times.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sweeper.events import (
    Abandon,
    Command,
    Commit,
    Committed,
    Discard,
    EstimatorDied,
    EstimatorReady,
    Event,
    GiveUp,
    Measure,
    Measured,
    MeasureFailed,
    MeasureRaised,
    NoteFailure,
    ReplaceEstimator,
    ReplaceTrainer,
    RetireEstimator,
    RetireTrainer,
    RoomChanged,
    SegmentEnded,
    SegmentId,
    SnapshotId,
    SnapshotLost,
    SnapshotTaken,
    Start,
    StartTrials,
    StopRequested,
    StopTrainer,
    TrainerDied,
    TrainerReady,
    TrialDiffered,
    TrialRaised,
)
from sweeper.slots import Slots
from sweeper.snapshot_queue import SnapshotQueue

__all__ = ["Progress", "Schedule"]

Commands: TypeAlias = list[Command]

_BATCH_S = 0.25
"""Trials shorter than this are handed out several at a time: sending one costs some milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a trial stands when the schedule takes it over.

    Attributes:
        committed_step: The step from which it goes on; 0 for a new one.
        failures: Attempts that ended in a failure so far.
    """

    committed_step: int = 0
    failures: int = 0


@dataclass
class _Segment:
    """A stretch of one attempt between two checkpoints, on its way to being committed."""

    id: SegmentId
    unmeasured: set[SnapshotId] = field(default_factory=set)
    stop: int = -1
    outcome: str | None = None
    ended: bool = False
    handed_over: bool = False


@dataclass
class _Trial:
    """One trial that is not resolved."""

    committed_step: int
    failures: int
    attempt: int = 0
    slot: int | None = None
    segments: deque[_Segment] = field(default_factory=deque)
    failed: tuple[str, str] | None = None
    """Kind and error of an attempt that failed while earlier segments still wait to be committed."""
    withdrawn: bool = False
    """Whether its trainer was retired under it: it waits like a failed one, and nothing is held against it."""


@dataclass
class _Snapshot:
    """A snapshot that waits for an estimator or is with one."""

    id: SnapshotId
    nbytes: int
    failures: int = 0
    slot: int | None = None


class Schedule:
    """Decides which trial runs where, which snapshot is measured where, and what may be committed.

    Args:
        waiting: Unresolved trials in the order in which they are to run, with where each stands.
        max_attempts: How often a trial may fail before it is given up; and a snapshot, before it counts as
            unmeasurable.
        max_snapshots: Bound on the snapshots in flight, queued or being measured.
        max_snapshot_bytes: Bound on their bytes; one snapshot is always let through.
        side_by_side: Trials that one trainer runs all at once, and that are therefore handed out in large shares.
        share: How many of them a trainer is given at a time.

    Example:
        >>> schedule = Schedule({"a": Progress()}, max_attempts=2)
        >>> schedule.handle(TrainerReady(slot=0))
        [StartTrials(slot=0, starts=(Start(trial='a', attempt=1, step=0),))]
        >>> schedule.handle(SegmentEnded(slot=0, stop=100, outcome='done'))
        [Commit(segment=SegmentId(trial='a', attempt=1, number=0))]
        >>> schedule.finished
        False
        >>> schedule.handle(Committed(segment=SegmentId(trial='a', attempt=1, number=0)))
        []
        >>> schedule.finished
        True
    """

    def __init__(
        self,
        waiting: Mapping[str, Progress],
        *,
        max_attempts: int = 3,
        max_snapshots: int = 4,
        max_snapshot_bytes: int = 2**62,
        side_by_side: Collection[str] = (),
        share: int = 1,
    ) -> None:
        self._side_by_side = frozenset(side_by_side)
        self._share = share
        self._max_attempts = max_attempts
        self._max_snapshots = max_snapshots
        self._max_snapshot_bytes = max_snapshot_bytes
        self._waiting: deque[str] = deque(waiting)
        self._trials = {
            trial: _Trial(committed_step=at.committed_step, failures=at.failures) for trial, at in waiting.items()
        }
        self._trainers: dict[int, deque[str]] = {}
        self._trainer_slots, self._estimator_slots = Slots(), Slots()
        self._snapshots_an_estimator: float | None = None
        self._trial_s = math.inf
        self._snapshots: dict[SnapshotId, _Snapshot] = {}
        self._queue = SnapshotQueue()
        self._stopping = False

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to wait for: all resolved, or stopped and everything ended is committed."""
        if self._stopping:
            return not any(t.slot is not None or t.segments for t in self._trials.values())
        return not self._trials

    @property
    def takes_snapshots(self) -> bool:
        """Whether trainers may hand over more; while not, their streams are left unread and they wait."""
        in_flight = len(self._snapshots)
        nbytes = sum(snapshot.nbytes for snapshot in self._snapshots.values())
        return in_flight == 0 or (in_flight < self._max_snapshots and nbytes < self._max_snapshot_bytes)

    @property
    def num_waiting(self) -> int:
        """Trials that wait for a trainer."""
        return len(self._waiting)

    @property
    def num_queued_snapshots(self) -> int:
        """Snapshots that wait for an estimator."""
        return self._queue.num_waiting

    @property
    def num_measuring(self) -> int:
        """Snapshots that are with an estimator."""
        return self._queue.num_measuring

    @property
    def unresolved(self) -> frozenset[str]:
        """Trials that are neither committed to their end nor given up."""
        return frozenset(self._trials)

    def trial_on(self, slot: int) -> str | None:
        """The trial that a trainer works on; None for an idle or unknown trainer."""
        queue = self._trainers.get(slot)
        return queue[0] if queue else None

    def handle(self, event: Event) -> Commands:
        """Take notice of one event.

        Returns:
            What is to be done, in order.
        """
        match event:
            case TrainerReady(slot=slot):
                self._trainers[slot] = deque()
                self._trainer_slots.add(slot)
                return self._fill_trainers()
            case EstimatorReady(slot=slot):
                self._queue.free(slot)
                self._estimator_slots.add(slot)
                return self._fill_estimators()
            case SnapshotTaken():
                return self._take_snapshot(event)
            case SegmentEnded():
                return self._end_segment(event)
            case TrialRaised(slot=slot, error=error):
                return self._fail_attempt(self._next_trial(slot), "raised", error) + self._fill_trainers()
            case TrialDiffered(slot=slot, error=error):
                return self._give_up(slot, error)
            case TrainerDied(slot=slot, error=error):
                trial = self.trial_on(slot)
                self._take_back(slot)
                self._trainers.pop(slot, None)
                failed = [] if trial is None else self._fail_attempt(trial, "died", error)
                self._trainer_slots.add(slot)
                return [*failed, *([ReplaceTrainer(slot=slot)] if self._wants_trainers else [])]
            case Measured(slot=slot, snapshot=snapshot):
                self._queue.free(slot)
                return self._settle(snapshot) + self._fill_estimators()
            case MeasureRaised(slot=slot, snapshot=snapshot, error=error):
                self._queue.free(slot)
                return self._measure_again(snapshot, error) + self._fill_estimators()
            case EstimatorDied(slot=slot, error=error):
                interrupted = self._queue.lose(slot)
                again = [] if interrupted is None else self._measure_again(interrupted, error)
                return [*again, ReplaceEstimator(slot=slot), *self._fill_estimators()]
            case SnapshotLost(slot=slot, snapshot=snapshot, error=error):
                self._queue.free(slot)
                return self._lose(snapshot, error) + self._fill_estimators()
            case Committed(segment=segment):
                return self._committed(segment)
            case RoomChanged(trainers=trainers, estimators=estimators):
                return self._resize(trainers, estimators)
            case StopRequested():
                self._stopping = True
                return [StopTrainer(slot=slot) for slot, queue in self._trainers.items() if queue]

    # Room

    def _resize(self, trainers: int, estimators: int) -> Commands:
        """Grow and shrink both pools; those that are not up go first, then idle ones."""
        if self._stopping:
            return []
        if self._snapshots_an_estimator is None:
            self._snapshots_an_estimator = self._max_snapshots / max(1, estimators)
        self._max_snapshots = max(1, round(self._snapshots_an_estimator * max(1, estimators)))
        # More than there are trials for would idle.
        wanted = min(trainers, len(self._trainer_slots) + len(self._waiting))
        new, surplus = self._trainer_slots.resize(wanted, cost=self._cost_of_trainer)
        commands: Commands = []
        for slot in surplus:
            commands += self._retire_trainer(slot)
        commands += [ReplaceTrainer(slot=slot) for slot in new]
        new, surplus = self._estimator_slots.resize(estimators, cost=self._cost_of_estimator)
        for slot in surplus:
            commands.append(RetireEstimator(slot=slot))
            interrupted = self._queue.lose(slot)
            if interrupted is not None and interrupted in self._snapshots:
                self._snapshots[interrupted].slot = None
                self._queue.put_back(interrupted)
        commands += [ReplaceEstimator(slot=slot) for slot in new]
        return [*commands, *self._fill_trainers(), *self._fill_estimators()]

    def _cost_of_trainer(self, slot: int) -> int:
        return 0 if slot not in self._trainers else 2 if self._trainers[slot] else 1

    def _cost_of_estimator(self, slot: int) -> int:
        return 2 if self._queue.is_measuring(slot) else 1 if self._queue.is_idle(slot) else 0

    def _retire_trainer(self, slot: int) -> Commands:
        """End a trainer; its trial waits again, in front, and goes on from its last committed segment."""
        name = self.trial_on(slot)
        self._take_back(slot)
        self._trainers.pop(slot, None)
        if name is None:
            return [RetireTrainer(slot=slot)]
        self._trials[name].withdrawn = True
        return [RetireTrainer(slot=slot), *self._fail_attempt(name, "withdrawn", "")]

    # Trainers

    @property
    def _wants_trainers(self) -> bool:
        """Whether another trainer would find work now or later."""
        return not self._stopping and bool(self._trials)

    def _fill_trainers(self) -> Commands:
        """Start waiting trials on idle trainers."""
        commands: Commands = []
        for slot, queue in self._trainers.items():
            if self._stopping or not self._waiting:
                break
            if not queue:
                starts = tuple(self._start(slot) for _ in range(self._batch_size()))
                commands.append(StartTrials(slot=slot, starts=starts))
        return commands

    def _batch_size(self) -> int:
        """How many trials to hand out at once: one, unless they are very short; fewer as the end comes near."""
        alike = self._waiting[0] in self._side_by_side
        # A batch is of one kind: trials that run side by side, or one after the other.
        run = itertools.takewhile(lambda trial: (trial in self._side_by_side) == alike, self._waiting)
        if alike:
            return min(sum(1 for _ in run), self._share)
        fair = len(self._waiting) // (2 * len(self._trainers))
        most = max(1, min(fair, int(_BATCH_S / max(self._trial_s, 1e-3))))
        return sum(1 for _ in itertools.islice(run, most))

    def _start(self, slot: int) -> Start:
        name = self._waiting.popleft()
        trial = self._trials[name]
        trial.attempt += 1
        trial.slot = slot
        trial.segments.append(_Segment(SegmentId(trial=name, attempt=trial.attempt, number=0)))
        self._trainers[slot].append(name)
        return Start(trial=name, attempt=trial.attempt, step=trial.committed_step)

    def _current(self, slot: int) -> str:
        """The trial that a trainer reports on."""
        queue = self._trainers[slot]
        assert queue, f"trainer {slot} reported without a trial"
        return queue[0]

    def _next_trial(self, slot: int) -> str:
        """Take the trial that has ended off a trainer's queue; it goes on with the next by itself."""
        name = self._current(slot)
        self._trainers[slot].popleft()
        return name

    def _take_back(self, slot: int) -> None:
        """Trials of a trainer's queue that it has not begun wait again, in front; nothing has happened to them."""
        queue = self._trainers.get(slot, deque())
        while len(queue) > 1:
            name = queue.pop()
            trial = self._trials[name]
            trial.slot = None
            trial.segments.pop()
            self._waiting.appendleft(name)

    def _end_segment(self, event: SegmentEnded) -> Commands:
        name = self._current(event.slot)
        trial = self._trials[name]
        segment = trial.segments[-1]
        segment.stop, segment.outcome, segment.ended = event.stop, event.outcome, True
        if event.outcome is None:
            following = SegmentId(trial=name, attempt=trial.attempt, number=segment.id.number + 1)
            trial.segments.append(_Segment(following))
            return self._hand_over(trial)
        if event.outcome == "stopped":
            self._take_back(event.slot)
        # The longest of late: one slow trial among quick ones ends the batches for a while.
        self._trial_s = max(event.seconds, 0.0 if self._trial_s == math.inf else 0.5 * self._trial_s)
        self._next_trial(event.slot)
        trial.slot = None
        return self._hand_over(trial) + self._fill_trainers()

    def _fail_attempt(self, name: str, kind: str, error: str) -> Commands:
        """Drop what the attempt left unfinished; try again once the rest is committed."""
        trial = self._trials[name]
        trial.slot = None
        trial.failed = (kind, error)
        unfinished = trial.segments and not trial.segments[-1].ended
        discards = self._drop(trial.segments.pop()) if unfinished else []
        return discards + self._requeue_when_drained(name)

    def _give_up(self, slot: int, error: str) -> Commands:
        """A trial whose rows cannot be trusted: another attempt would only add a third version."""
        name = self._current(slot)
        commands = self._abandon(slot)
        self._trials[name].failures = self._max_attempts
        return commands + self._fail_attempt(name, "differed", error)

    def _abandon(self, slot: int) -> Commands:
        """End a trainer in the middle of its trial, for another in its place."""
        self._trials[self._current(slot)].slot = None
        self._take_back(slot)
        del self._trainers[slot]
        return [Abandon(slot=slot)]

    def _requeue_when_drained(self, name: str) -> Commands:
        trial = self._trials[name]
        if trial.failed is None or trial.segments:
            return []
        kind, error = trial.failed
        trial.failed = None
        if trial.withdrawn:
            trial.withdrawn = False
            self._waiting.appendleft(name)
            return self._fill_trainers()
        trial.failures += 1
        if trial.failures >= self._max_attempts:
            del self._trials[name]
            return [GiveUp(trial=name, attempt=trial.attempt, kind=kind, error=error)]
        self._waiting.append(name)
        note = NoteFailure(trial=name, attempt=trial.attempt, kind=kind, error=error)
        return [note, *self._fill_trainers()]

    # Snapshots

    def _take_snapshot(self, event: SnapshotTaken) -> Commands:
        name = self._current(event.slot)
        trial = self._trials[name]
        snapshot = SnapshotId(trial=name, attempt=trial.attempt, step=event.step)
        trial.segments[-1].unmeasured.add(snapshot)
        self._snapshots[snapshot] = _Snapshot(snapshot, event.nbytes)
        self._queue.add(snapshot)
        return self._fill_estimators()

    def _fill_estimators(self) -> Commands:
        """Hand waiting snapshots to idle estimators."""
        commands = self._queue.hand_out()
        for command in commands:
            assert isinstance(command, Measure)
            self._snapshots[command.snapshot].slot = command.slot
        return commands

    def _settle(self, snapshot: SnapshotId) -> Commands:
        """A snapshot needs no estimator any more."""
        self._snapshots.pop(snapshot, None)
        trial = self._trials.get(snapshot.trial)
        if trial is None:
            return []
        for segment in trial.segments:
            segment.unmeasured.discard(snapshot)
        return self._hand_over(trial)

    def _measure_again(self, snapshot: SnapshotId, error: str) -> Commands:
        held = self._snapshots.get(snapshot)
        if held is None:
            return []  # dropped with its attempt in the meantime
        held.failures += 1
        held.slot = None
        if held.failures >= self._max_attempts:
            return [MeasureFailed(snapshot=snapshot, error=error), *self._settle(snapshot)]
        self._queue.put_back(snapshot)
        return []

    def _lose(self, snapshot: SnapshotId, error: str) -> Commands:
        """A snapshot's bytes are gone: its segment and all later ones of the attempt must be run again."""
        trial = self._trials.get(snapshot.trial)
        if trial is None or snapshot not in self._snapshots:
            return []
        affected = next(i for i, segment in enumerate(trial.segments) if snapshot in segment.unmeasured)
        commands: Commands = []
        while len(trial.segments) > affected:
            commands += self._drop(trial.segments.pop())
        if trial.slot is not None:
            # Its trainer is past the segment that is lost, and cannot be called back: end it.
            commands += self._abandon(trial.slot)
        trial.failed = ("lost", error)
        return commands + self._requeue_when_drained(snapshot.trial)

    def _drop(self, segment: _Segment) -> Commands:
        """Forget a segment's snapshots; one that is with an estimator is ignored when it comes back."""
        for snapshot in segment.unmeasured:
            if self._snapshots.pop(snapshot).slot is None:
                self._queue.withdraw(snapshot)
        return [Discard(segment=segment.id)]

    # Commits

    def _hand_over(self, trial: _Trial) -> Commands:
        """Commit the segments at the head that are complete, in order."""
        commands: Commands = []
        for segment in trial.segments:
            if not segment.ended or segment.unmeasured:
                break
            if not segment.handed_over:
                segment.handed_over = True
                commands.append(Commit(segment=segment.id))
        return commands

    def _committed(self, committed: SegmentId) -> Commands:
        trial = self._trials[committed.trial]
        segment = trial.segments.popleft()
        assert segment.id == committed, f"{committed} was committed before {segment.id}"
        trial.committed_step = segment.stop
        if segment.outcome in {"done", "diverged"}:
            del self._trials[committed.trial]
            return []
        return self._requeue_when_drained(committed.trial)
