"""What to do next: a pure state machine, events in, commands out; no clock, disk, torch or Ray.

After a failure a trial waits until what it finished is committed, goes to the back of the queue, and starts again from
its last committed segment, at most ``max_attempts`` times. The first time that a GPU's memory ran out does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
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
        packs: The shape of those trials that one trainer may run step by step together with others of that shape. One
            that has failed no longer does: what ended it may have ended the others.
        pack: How many of these a trainer is given at most, and at least.

    Example:
        >>> schedule = Schedule({"a": Progress()}, max_attempts=2)
        >>> schedule.handle(TrainerReady(slot=0))
        [StartTrials(slot=0, starts=(Start(trial='a', attempt=1, step=0),), together=False)]
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
        packs: Mapping[str, str] = MappingProxyType({}),
        pack: tuple[int, int] = (1, 2),
    ) -> None:
        self._max_attempts = max_attempts
        self._courses = {
            trial: Course(trial, committed_step=at.committed_step, failures=at.failures)
            for trial, at in waiting.items()
        }
        sound = {trial: shape for trial, shape in packs.items() if trial in waiting and not waiting[trial].failures}
        self._waiting = TrialQueue(waiting, side_by_side=side_by_side, share=share, packs=sound, pack=pack)
        self._trainers: dict[int, deque[str]] = {}
        self._packed: set[int] = set()
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
        """The first of the trials that a trainer works on; None for an idle or unknown trainer."""
        return next(iter(self.trials_on(slot)), None)

    @property
    def under_way(self) -> frozenset[str]:
        """All trials that trainers work on: several of one trainer where they run together."""
        return frozenset(trial for slot in self._trainers for trial in self.trials_on(slot))

    def trials_on(self, slot: int) -> tuple[str, ...]:
        """The trials that a trainer works on; none for an idle or unknown trainer."""
        queue = self._trainers.get(slot, ())
        return tuple(queue) if slot in self._packed else tuple(queue)[:1]

    def handle(self, event: Event) -> Commands:
        """Process one event.

        Returns:
            What to do, in order.
        """
        match event:
            case TrainerReady(slot=slot):
                # One that was ended just when it died may have been started twice: what it has been given stays.
                self._trainers.setdefault(slot, deque())
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
            case TrialRaised(slot=slot, error=error, spoiled=spoiled, short_of_memory=short_of_memory, trial=trial):
                name = self._pop_trial(slot, trial)
                if short_of_memory and name not in self._forgiven:
                    self._forgiven.add(name)
                    self._courses[name].withdrawn = True
                # First, so that no trial is given to it any more.
                replaced = self._replace_trainer(slot) if spoiled else []
                return replaced + self._fail_attempt(name, "raised", error) + self._fill_trainers()
            case TrialDiffered(slot=slot, error=error, trial=trial):
                return self._give_up(slot, self._current(slot, trial), error)
            case TrainerDied(slot=slot, error=error):
                begun = self._forget_trainer(slot)
                failed = [command for name in begun for command in self._fail_attempt(name, "died", error)]
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
        return [RetireTrainer(slot=slot), *self._withdraw(self._forget_trainer(slot))]

    def _forget_trainer(self, slot: int) -> list[str]:
        """A trainer is no more: what it has not begun waits again; returns what it has begun."""
        self._take_back(slot)
        self._packed.discard(slot)
        return list(self._trainers.pop(slot, ()))

    def _withdraw(self, names: Sequence[str]) -> Commands:
        """Trials wait again, at the front, and continue from their last committed segments; no failure of theirs."""
        for name in names:
            self._courses[name].withdrawn = True
        # Each is put in front of the one before.
        return [command for name in reversed(names) for command in self._fail_attempt(name, "withdrawn", "")]

    # Trainers

    def _add(self, event: TrialsAdded) -> Commands:
        """More trials wait, behind the others."""
        for trial, step in event.trials.items():
            # A trial that was held goes on in its next attempt, whose files and segments have names of their own.
            attempt = self._held.pop(trial, 0)
            self._courses[trial] = Course(trial, committed_step=step, attempt=attempt)
            self._waiting.add(trial, side_by_side=trial in event.side_by_side, shape=event.packs.get(trial))
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
                # Those that are still starting count, so that the first does not take what all could share.
                idle = len(self._trainer_slots) - sum(1 for others in self._trainers.values() if others)
                pack = self._waiting.take_pack(num_trainers=max(1, idle))
                queue.extend(pack or self._waiting.take(num_trainers=len(self._trainers)))
                if pack:
                    self._packed.add(slot)
                starts = tuple(self._courses[name].start(slot) for name in queue)
                commands.append(StartTrials(slot=slot, starts=starts, together=bool(pack)))
        return commands

    def _current(self, slot: int, trial: str | None = None) -> str:
        """The trial that a trainer reports on; of several that run together it says which."""
        queue = self._trainers[slot]
        assert queue, f"trainer {slot} reported without a trial"
        if slot not in self._packed or trial is None:
            return queue[0]
        assert trial in queue, f"trainer {slot} reported on {trial}, which it does not run"
        return trial

    def _pop_trial(self, slot: int, trial: str | None) -> str:
        """Remove the trial that has ended from a trainer's queue; the trainer starts the next one by itself."""
        name = self._current(slot, trial)
        self._trainers[slot].remove(name)
        if not self._trainers[slot]:
            self._packed.discard(slot)
        return name

    def _take_back(self, slot: int) -> None:
        """Trials that a trainer has not begun wait again, at the front; their attempts are undone."""
        queue = self._trainers.get(slot, deque())
        while len(queue) > 1 and slot not in self._packed:
            name = queue.pop()
            self._courses[name].take_back()
            self._waiting.put_back(name)

    def _end_segment(self, event: SegmentEnded) -> Commands:
        course = self._courses[self._current(event.slot, event.trial)]
        course.end_segment(event.stop, event.outcome)
        if event.outcome is None:
            return self._hand_over(course)
        if event.outcome == "stopped":
            self._take_back(event.slot)
        if event.slot not in self._packed:
            self._waiting.ran(event.seconds)
        self._pop_trial(event.slot, event.trial)
        replaced = self._replace_trainer(event.slot) if event.spoiled else []
        return [*replaced, *self._hand_over(course), *self._fill_trainers()]

    def _fail_attempt(self, name: str, kind: str, error: str) -> Commands:
        """Drop what the attempt left unfinished; the trial is tried again once the rest is committed."""
        discards = self._drop(self._courses[name].fail(kind, error))
        return discards + self._requeue_when_drained(name)

    def _give_up(self, slot: int, name: str, error: str) -> Commands:
        """Give up a trial whose rows cannot be trusted: another attempt would only add a third version."""
        self._courses[name].failures = self._max_attempts
        return [*self._abandon(slot, name), *self._fail_attempt(name, "differed", error)]

    def _abandon(self, slot: int, name: str) -> Commands:
        """End a trainer in the middle of a trial, and start another in its place."""
        self._courses[name].slot = None
        others = [other for other in self._forget_trainer(slot) if other != name]
        return [Abandon(slot=slot), *self._withdraw(others)]

    def _replace_trainer(self, slot: int) -> Commands:
        """End a trainer between two trials; those that it was to train next wait again, at the front."""
        ended: Command = Abandon(slot=slot) if self._wants_trainers else RetireTrainer(slot=slot)
        if slot in self._packed:
            return [ended, *self._withdraw(self._forget_trainer(slot))]
        queue = self._trainers.pop(slot)
        while queue:
            name = queue.pop()
            self._courses[name].take_back()
            self._waiting.put_back(name)
        return [ended]

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
        self._waiting.unpack(name)
        if course.failures >= self._max_attempts:
            del self._courses[name]
            return [GiveUp(trial=name, attempt=course.attempt, kind=kind, error=error)]
        self._waiting.add(name)
        note = NoteFailure(trial=name, attempt=course.attempt, kind=kind, error=error)
        return [note, *self._fill_trainers()]

    # Snapshots

    def _take_snapshot(self, event: SnapshotTaken) -> Commands:
        snapshot = self._courses[self._current(event.slot, event.trial)].take_snapshot(event.step)
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
            commands += self._abandon(course.slot, snapshot.trial)
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
