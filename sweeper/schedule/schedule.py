"""What to do next: a pure state machine, events in, commands out; no clock, disk, torch or Ray.

After a failure a trial waits until what it finished is committed, goes to the back of the queue, and starts again from
its last committed segment, at most ``max_attempts`` times. The first time that a GPU's memory ran out does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sweeper.protocol.events import (
    Abandon,
    Command,
    Commit,
    Committed,
    Discard,
    EstimatorDied,
    EstimatorReady,
    Event,
    GiveUp,
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
    StartTrials,
    StopRequested,
    StopTrainer,
    TrainerDied,
    TrainerReady,
    TrialDiffered,
    TrialRaised,
    TrialsAdded,
)
from sweeper.protocol.interleaving import interleaved
from sweeper.schedule.course import Course, Segment
from sweeper.schedule.limits import InFlight, Slots
from sweeper.schedule.queues import SnapshotQueue, TrialQueue

__all__ = ["Progress", "Schedule"]

Commands: TypeAlias = list[Command]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a trial stands when the schedule takes it over.

    Attributes:
        committed_step: The step from which it continues; 0 for a new one.
        failures: Attempts that ended in a failure so far.
    """

    committed_step: int = 0
    failures: int = 0


class Schedule:
    """Decides which trial runs where, which snapshot is measured where, and what may be committed.

    Args:
        waiting: Unresolved trials in the order in which they will run, each with its progress.
        max_attempts: How often a trial may fail before it is given up; and a snapshot, before it counts as
            unmeasurable.
        max_snapshots: Bound on the snapshots in flight, queued or being measured.
        max_snapshot_bytes: Bound on their bytes; a single snapshot is always accepted.
        side_by_side: Trials that one trainer runs simultaneously, and that are therefore handed out in large shares.
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
        self._max_attempts = max_attempts
        self._courses = {
            trial: Course(trial, committed_step=at.committed_step, failures=at.failures)
            for trial, at in waiting.items()
        }
        self._waiting = TrialQueue(waiting, side_by_side=side_by_side, share=share)
        self._trainers: dict[int, deque[str]] = {}
        self._trainer_slots, self._estimator_slots = Slots(), Slots()
        self._in_flight = InFlight(most=max_snapshots, most_bytes=max_snapshot_bytes)
        self._snapshots = SnapshotQueue()
        self._held: dict[str, int] = {}
        self._forgiven: set[str] = set()
        self._stopping = False

    @property
    def finished(self) -> bool:
        """Whether everything is done: all trials resolved, or stopped and every ended segment committed."""
        if self._stopping:
            return not any(course.under_way for course in self._courses.values())
        return not self._courses

    @property
    def takes_snapshots(self) -> bool:
        """Whether trainers may hand over more; while not, their messages are left unread and they wait."""
        return self._in_flight.room

    @property
    def num_waiting(self) -> int:
        """Trials that wait for a trainer."""
        return len(self._waiting)

    @property
    def num_queued_snapshots(self) -> int:
        """Snapshots that wait for an estimator."""
        return self._snapshots.num_waiting

    @property
    def num_measuring(self) -> int:
        """Snapshots that are with an estimator."""
        return self._snapshots.num_measuring

    @property
    def at_work(self) -> Mapping[int, str]:
        """The trial that each trainer works on; without those that are idle."""
        return {slot: queue[0] for slot, queue in self._trainers.items() if queue}

    def trial_on(self, slot: int) -> str | None:
        """The trial that a trainer works on; None for an idle or unknown trainer."""
        queue = self._trainers.get(slot)
        return queue[0] if queue else None

    def handle(self, event: Event) -> Commands:
        """Process one event.

        Returns:
            What to do, in order.
        """
        match event:
            case TrainerReady(slot=slot):
                self._trainers[slot] = deque()
                self._trainer_slots.add(slot)
                return self._fill_trainers()
            case EstimatorReady(slot=slot):
                self._snapshots.free(slot)
                self._estimator_slots.add(slot)
                return self._fill_estimators()
            case SnapshotTaken():
                return self._take_snapshot(event)
            case SegmentEnded():
                return self._end_segment(event)
            case TrialRaised(slot=slot, error=error, spoiled=spoiled, short_of_memory=short_of_memory):
                name = self._pop_trial(slot)
                if short_of_memory and name not in self._forgiven:
                    self._forgiven.add(name)
                    self._courses[name].withdrawn = True
                # First, so that no trial is given to it any more.
                replaced = self._replace_trainer(slot) if spoiled else []
                return replaced + self._fail_attempt(name, "raised", error) + self._fill_trainers()
            case TrialDiffered(slot=slot, error=error):
                return self._give_up(slot, error)
            case TrainerDied(slot=slot, error=error):
                trial = self.trial_on(slot)
                self._take_back(slot)
                self._trainers.pop(slot, None)
                failed = [] if trial is None else self._fail_attempt(trial, "died", error)
                self._trainer_slots.add(slot)
                return [*failed, *([ReplaceTrainer(slot=slot)] if self._wants_trainers else [])]
            case Measured(slot=slot, snapshot=snapshot, spoiled=spoiled):
                replaced = self._free_estimator(slot, spoiled=spoiled)
                return replaced + self._settle(snapshot) + self._fill_estimators()
            case MeasureRaised(slot=slot, snapshot=snapshot, error=error, spoiled=spoiled):
                replaced = self._free_estimator(slot, spoiled=spoiled)
                return replaced + self._measure_again(snapshot, error) + self._fill_estimators()
            case EstimatorDied(slot=slot, error=error):
                interrupted = self._snapshots.lose(slot)
                again = [] if interrupted is None else self._measure_again(interrupted, error)
                return [*again, ReplaceEstimator(slot=slot), *self._fill_estimators()]
            case SnapshotLost(slot=slot, snapshot=snapshot, error=error):
                self._snapshots.free(slot)
                return self._lose(snapshot, error) + self._fill_estimators()
            case Committed(segment=segment):
                return self._committed(segment)
            case TrialsAdded():
                return self._add(event)
            case RoomChanged(trainers=trainers, estimators=estimators, snapshot_bytes=snapshot_bytes):
                if snapshot_bytes is not None:
                    self._in_flight.limit(snapshot_bytes)
                return self._resize(trainers, estimators)
            case StopRequested():
                self._stopping = True
                return [StopTrainer(slot=slot) for slot, queue in self._trainers.items() if queue]

    # Room

    def _resize(self, trainers: int, estimators: int) -> Commands:
        """Grow and shrink both pools; workers that are not up go first, then idle ones."""
        if self._stopping:
            return []
        self._in_flight.scale(estimators)
        # Trainers beyond the number of trials would be idle.
        wanted = min(trainers, len(self._trainer_slots) + len(self._waiting))
        new_trainers, surplus = self._trainer_slots.resize(wanted, cost=self._cost_of_trainer)
        commands: Commands = []
        for slot in surplus:
            commands += self._retire_trainer(slot)
        new_estimators, surplus = self._estimator_slots.resize(estimators, cost=self._cost_of_estimator)
        for slot in surplus:
            commands.append(RetireEstimator(slot=slot))
            interrupted = self._snapshots.lose(slot)
            if interrupted is not None and interrupted in self._in_flight:
                self._snapshots.put_back(interrupted)
        kinds = interleaved(len(new_trainers), len(new_estimators))
        trainer_slots, estimator_slots = iter(new_trainers), iter(new_estimators)
        commands += [
            ReplaceTrainer(slot=next(trainer_slots))
            if kind == "trainer"
            else ReplaceEstimator(slot=next(estimator_slots))
            for kind in kinds
        ]
        return [*commands, *self._fill_trainers(), *self._fill_estimators()]

    def _cost_of_trainer(self, slot: int) -> int:
        return 0 if slot not in self._trainers else 2 if self._trainers[slot] else 1

    def _cost_of_estimator(self, slot: int) -> int:
        return 2 if self._snapshots.is_measuring(slot) else 1 if self._snapshots.is_idle(slot) else 0

    def _retire_trainer(self, slot: int) -> Commands:
        """End a trainer; its trial waits again, at the front, and continues from its last committed segment."""
        name = self.trial_on(slot)
        self._take_back(slot)
        self._trainers.pop(slot, None)
        if name is None:
            return [RetireTrainer(slot=slot)]
        self._courses[name].withdrawn = True
        return [RetireTrainer(slot=slot), *self._fail_attempt(name, "withdrawn", "")]

    # Trainers

    def _add(self, event: TrialsAdded) -> Commands:
        """More trials wait, behind the others."""
        for trial, step in event.trials.items():
            # A trial that was held goes on in its next attempt, whose files and segments have names of their own.
            attempt = self._held.pop(trial, 0)
            self._courses[trial] = Course(trial, committed_step=step, attempt=attempt)
            self._waiting.add(trial, side_by_side=trial in event.side_by_side)
        return self._fill_trainers()

    @property
    def _wants_trainers(self) -> bool:
        """Whether another trainer would find work now or later."""
        return not self._stopping and bool(self._courses)

    def _fill_trainers(self) -> Commands:
        """Start waiting trials on idle trainers."""
        commands: Commands = []
        for slot, queue in self._trainers.items():
            if self._stopping or not self._waiting:
                break
            if not queue:
                queue.extend(self._waiting.take(num_trainers=len(self._trainers)))
                starts = tuple(self._courses[name].start(slot) for name in queue)
                commands.append(StartTrials(slot=slot, starts=starts))
        return commands

    def _current(self, slot: int) -> str:
        """The trial that a trainer reports on."""
        queue = self._trainers[slot]
        assert queue, f"trainer {slot} reported without a trial"
        return queue[0]

    def _pop_trial(self, slot: int) -> str:
        """Remove the trial that has ended from a trainer's queue; the trainer starts the next one by itself."""
        name = self._current(slot)
        self._trainers[slot].popleft()
        return name

    def _take_back(self, slot: int) -> None:
        """Trials that a trainer has not begun wait again, at the front; their attempts are undone."""
        queue = self._trainers.get(slot, deque())
        while len(queue) > 1:
            name = queue.pop()
            self._courses[name].take_back()
            self._waiting.put_back(name)

    def _end_segment(self, event: SegmentEnded) -> Commands:
        course = self._courses[self._current(event.slot)]
        course.end_segment(event.stop, event.outcome)
        if event.outcome is None:
            return self._hand_over(course)
        if event.outcome == "stopped":
            self._take_back(event.slot)
        self._waiting.ran(event.seconds)
        self._pop_trial(event.slot)
        replaced = self._replace_trainer(event.slot) if event.spoiled else []
        return [*replaced, *self._hand_over(course), *self._fill_trainers()]

    def _fail_attempt(self, name: str, kind: str, error: str) -> Commands:
        """Drop what the attempt left unfinished; the trial is tried again once the rest is committed."""
        discards = self._drop(self._courses[name].fail(kind, error))
        return discards + self._requeue_when_drained(name)

    def _give_up(self, slot: int, error: str) -> Commands:
        """Give up a trial whose rows cannot be trusted: another attempt would only add a third version."""
        name = self._current(slot)
        self._courses[name].failures = self._max_attempts
        return [*self._abandon(slot), *self._fail_attempt(name, "differed", error)]

    def _abandon(self, slot: int) -> Commands:
        """End a trainer in the middle of its trial, and start another in its place."""
        self._courses[self._current(slot)].slot = None
        self._take_back(slot)
        del self._trainers[slot]
        return [Abandon(slot=slot)]

    def _replace_trainer(self, slot: int) -> Commands:
        """End a trainer between two trials; those that it was to train next wait again, at the front."""
        queue = self._trainers.pop(slot)
        while queue:
            name = queue.pop()
            self._courses[name].take_back()
            self._waiting.put_back(name)
        return [Abandon(slot=slot) if self._wants_trainers else RetireTrainer(slot=slot)]

    def _requeue_when_drained(self, name: str) -> Commands:
        course = self._courses[name]
        failed = course.take_failure()
        if failed is None:
            return []
        if course.withdrawn:
            course.withdrawn = False
            self._waiting.put_back(name)
            return self._fill_trainers()
        kind, error = failed
        course.failures += 1
        if course.failures >= self._max_attempts:
            del self._courses[name]
            return [GiveUp(trial=name, attempt=course.attempt, kind=kind, error=error)]
        self._waiting.add(name)
        note = NoteFailure(trial=name, attempt=course.attempt, kind=kind, error=error)
        return [note, *self._fill_trainers()]

    # Snapshots

    def _take_snapshot(self, event: SnapshotTaken) -> Commands:
        snapshot = self._courses[self._current(event.slot)].take_snapshot(event.step)
        self._in_flight.add(snapshot, nbytes=event.nbytes)
        self._snapshots.add(snapshot)
        return self._fill_estimators()

    def _free_estimator(self, slot: int, *, spoiled: bool) -> Commands:
        """An estimator has done its snapshot, and takes another unless it must be replaced."""
        if spoiled:
            self._snapshots.lose(slot)
            return [RetireEstimator(slot=slot), ReplaceEstimator(slot=slot)]
        self._snapshots.free(slot)
        return []

    def _fill_estimators(self) -> Commands:
        """Hand waiting snapshots to idle estimators."""
        return self._snapshots.hand_out()

    def _settle(self, snapshot: SnapshotId) -> Commands:
        """A snapshot is measured, or was given up: its segment no longer waits for it."""
        self._in_flight.remove(snapshot)
        course = self._courses.get(snapshot.trial)
        if course is None:
            return []
        course.settle(snapshot)
        return self._hand_over(course)

    def _measure_again(self, snapshot: SnapshotId, error: str) -> Commands:
        if snapshot not in self._in_flight:
            return []  # dropped with its attempt in the meantime
        if self._in_flight.fail(snapshot) >= self._max_attempts:
            return [MeasureFailed(snapshot=snapshot, error=error), *self._settle(snapshot)]
        self._snapshots.put_back(snapshot)
        return []

    def _lose(self, snapshot: SnapshotId, error: str) -> Commands:
        """A snapshot's bytes are gone: its segment and all later ones of the attempt must be run again."""
        course = self._courses.get(snapshot.trial)
        if course is None or snapshot not in self._in_flight:
            return []
        commands = self._drop(course.lose(snapshot, error))
        if course.slot is not None:
            # Its trainer is already past the lost segment and cannot go back: end it.
            commands += self._abandon(course.slot)
        return commands + self._requeue_when_drained(snapshot.trial)

    def _drop(self, segments: Sequence[Segment]) -> Commands:
        """Forget segments and their snapshots; if an estimator has one, its result will be ignored."""
        for snapshot in [snapshot for segment in segments for snapshot in segment.unmeasured]:
            self._in_flight.remove(snapshot)
            self._snapshots.withdraw(snapshot)
        return [Discard(segment=segment.id) for segment in segments]

    # Commits

    def _hand_over(self, course: Course) -> Commands:
        return [Commit(segment=segment) for segment in course.complete()]

    def _committed(self, segment: SegmentId) -> Commands:
        if self._courses[segment.trial].committed(segment):
            self._held[segment.trial] = self._courses.pop(segment.trial).attempt
            return []
        return self._requeue_when_drained(segment.trial)
