"""Wait, take notice, do what the schedule says, commit in groups; no policy of its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from sweeper.driver.commit import Committer
from sweeper.driver.open_segments import OpenSegments, failed_rows
from sweeper.driver.showing import Showing, ending
from sweeper.errors import IntegrityError
from sweeper.planning.plan import Trial
from sweeper.protocol import events
from sweeper.protocol.events import Command, Event, SegmentId
from sweeper.protocol.messages import (
    Assignment,
    EstimatorBeat,
    EstimatorDown,
    EstimatorUp,
    FromTrainer,
    Message,
    ProgressItem,
    RaisedItem,
    RepeatedItem,
    SegmentItem,
    SnapshotItem,
    TrainerDown,
    TrainerUp,
    Verdict,
)
from sweeper.protocol.pools import Pools, PoolSize, WorkersWaiting
from sweeper.protocol.view import Listener
from sweeper.schedule.liveness import Pulses, Silences
from sweeper.schedule.schedule import Schedule
from sweeper.store.journal import TrialState
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir

__all__ = ["Driver"]

_log = logging.getLogger(__name__)

_TICK_S = 0.25


class Driver:
    """Runs a schedule against pools of workers until it is finished.

    Args:
        run_dir: The run directory, under ``lock``.
        lock: Kept alive while running.
        committer: Makes segments durable.
        trials: Every trial of the plan by id.
        measure: The resolved measure section; None to measure nothing.
        schedule: Decides.
        pools: The workers.
        num_trainers: Trainer slots to fill.
        num_estimators: Estimator slots to fill.
        listener: Is told how it goes.
        stop_requested: Whether the user wants the sweep to end early.
        stall_timeout_s: A worker that does not get on with its work for so long is ended; None to wait for ever.
        waiting: Why workers that were asked for do not start, as far as that is asked at all.
        look_for_room: How many workers there is room for now; None where that has not changed.
    """

    def __init__(
        self,
        *,
        run_dir: RunDir,
        lock: DriverLock,
        committer: Committer,
        trials: Mapping[str, Trial],
        measure: Mapping[str, Any] | None,
        schedule: Schedule,
        pools: Pools,
        num_trainers: int,
        num_estimators: int,
        listener: Listener,
        stop_requested: Callable[[], bool] = lambda: False,
        stall_timeout_s: float | None = None,
        waiting: WorkersWaiting | None = None,
        look_for_room: Callable[[], PoolSize | None] = lambda: None,
    ) -> None:
        self._run_dir = run_dir
        self._lock = lock
        self._committer = committer
        self._trials = trials
        self._measure = measure
        self._schedule = schedule
        self._pools = pools
        self._num_trainers = num_trainers
        self._num_estimators = num_estimators
        self._say = listener.say
        self._stop_requested = stop_requested
        self._waiting = waiting
        self._look_for_room = look_for_room
        self._stopping = False
        self._silences = Silences(stall_timeout_s)
        self._pulses = Pulses(stall_timeout_s)
        self._open = OpenSegments(steps={name: trial.train["steps"] for name, trial in trials.items()})
        self._showing = Showing(
            run_dir=run_dir, trials=trials, states=committer.state.trials, schedule=schedule, listener=listener
        )
        self._measured = 0

    def run(self) -> None:
        """Drive until every trial is resolved, or until a requested stop is complete.

        Raises:
            ClusterError: Workers cannot be started, or the cluster is gone.
            OSError: The run directory cannot be written; what is committed stands.
        """
        self._handle(events.RoomChanged(trainers=self._num_trainers, estimators=self._num_estimators))
        while not self._schedule.finished:
            if self._stop_requested() and not self._stopping:
                self._stopping = True
                self._say("stopping: trials checkpoint at their next step; interrupt again to stop at once")
                self._handle(events.StopRequested())
            read = self._schedule.takes_snapshots
            for message in self._pools.poll(timeout_s=self._committer.due_in_s(_TICK_S), read_trainers=read):
                self._take_in(message)
            self._end_stalled(heard=read)
            if self._waiting is not None:
                self._waiting.look()
            room = self._look_for_room()
            if room is not None:
                self._say(f"the cluster has room for {room} now")
                self._handle(events.RoomChanged(trainers=room.trainers, estimators=room.estimators))
            self._commit()
            self._lock.beat()
            self._show()
        self._show(force=True)

    # What workers say

    def _take_in(self, message: Message) -> None:
        event = self._notice(message)
        if event is not None:
            self._handle(event)

    def _end_stalled(self, *, heard: bool) -> None:
        """End workers that hang. Not by the time of day, which people and daemons set."""
        now = time.monotonic()
        for slot, error in self._silences.hanging(self._open.current, now=now, listening=heard):
            self._pools.kill_trainer(slot)
            self._take_in(TrainerDown(slot=slot, error=error))
        for slot, error in self._pulses.hanging(now=now):
            self._pools.kill_estimator(slot)
            self._take_in(EstimatorDown(slot=slot, error=error))
        for slot in self._pulses.to_ask(now=now):
            self._pools.ask_estimator(slot)

    def _notice(self, message: Message) -> Event | None:
        if isinstance(message, FromTrainer):
            self._silences.hear(message.slot, now=time.monotonic())
        match message:
            case TrainerUp(slot=slot, facts=facts):
                _log.info("trainer %d is up: %s", slot, facts)
                return events.TrainerReady(slot=slot)
            case EstimatorUp(slot=slot, facts=facts):
                _log.info("estimator %d is up: %s", slot, facts)
                return events.EstimatorReady(slot=slot)
            case TrainerDown(slot=slot, error=error):
                self._say(f"trainer {slot} died: {error}; starting another")
                self._drop_current(slot)
                return events.TrainerDied(slot=slot, error=error)
            case EstimatorDown(slot=slot, error=error):
                self._pulses.end(slot)
                self._say(f"estimator {slot} died: {error}; starting another")
                return events.EstimatorDied(slot=slot, error=error)
            case FromTrainer(slot=slot) if slot not in self._open.current:
                return None  # abandoned a moment ago; this came on the same wind
            case FromTrainer(slot=slot, item=SnapshotItem() as item):
                snapshot = self._open.take(slot, item)
                return events.SnapshotTaken(slot=slot, step=snapshot.step, nbytes=item.header.nbytes)
            case FromTrainer(slot=slot, item=ProgressItem() as item):
                self._showing.hear(self._open.current[slot].trial, item)
                return None
            case FromTrainer(slot=slot, item=SegmentItem() as item):
                return self._segment_ended(slot, item)
            case FromTrainer(slot=slot, item=RepeatedItem() as item):
                return self._compare(slot, item)
            case FromTrainer(item=RaisedItem(disk=(number, path))):
                # Every trial would fail of it, one after the other.
                raise OSError(number, os.strerror(number), path)
            case FromTrainer(slot=slot, item=RaisedItem() as item):
                segment = self._open.current[slot]
                self._log_trial(segment, item.traceback)
                self._showing.forget(segment.trial)
                self._open.begin_next(slot)
                return events.TrialRaised(slot=slot, error=item.error)
            case EstimatorBeat(slot=slot, beats=beats):
                self._pulses.hear(slot, beats, now=time.monotonic())
                return None
            case Verdict(slot=slot):
                self._pulses.end(slot)
                return self._judge(message)
        raise AssertionError(f"no such message: {message!r}")

    def _segment_ended(self, slot: int, item: SegmentItem) -> Event:
        segment = self._open.end(slot, item)
        self._showing.forget(segment.trial)
        for name in item.facts.get("damaged", ()):
            self._say(f"{self._label(segment.trial)}: checkpoint {name} was damaged; resumed from an earlier one")
            self._run_dir.set_aside(self._run_dir.checkpoints / segment.trial / name)
        seconds = sum(item.facts[key] for key in ("train_s", "evaluate_s", "waited_s"))
        return events.SegmentEnded(slot=slot, stop=item.stop, outcome=item.outcome, seconds=seconds)

    def _compare(self, slot: int, item: RepeatedItem) -> Event | None:
        segment = self._open.current[slot]
        try:
            self._committer.compare(segment.trial, item)
        except IntegrityError as error:
            self._log_trial(segment, str(error))
            return events.TrialDiffered(slot=slot, error=f"{type(error).__name__}: {error}")
        return None

    def _judge(self, verdict: Verdict) -> Event:
        snapshot, slot = verdict.snapshot, verdict.slot
        if verdict.lost:
            self._say(f"snapshot of {self._label(snapshot.trial)} at step {snapshot.step} was lost: {verdict.error}")
            return events.SnapshotLost(slot=slot, snapshot=snapshot, error=verdict.error)
        if verdict.rows is None:
            self._log_trial(SegmentId(snapshot.trial, snapshot.attempt, 0), verdict.traceback)
            return events.MeasureRaised(slot=slot, snapshot=snapshot, error=verdict.error)
        self._measured += self._open.add_rows(snapshot, verdict.rows, verdict.estimate_s)
        return events.Measured(slot=slot, snapshot=snapshot)

    # What the schedule says

    def _handle(self, event: Event) -> None:
        for command in self._schedule.handle(event):
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case events.StartTrials(slot=slot, starts=starts):
                self._open.hand_out(slot, starts)
                self._silences.hear(slot, now=time.monotonic())
                self._pools.train(slot, [self._assignment(start.trial, start.attempt) for start in starts])
                for start in starts:
                    _log.info("trainer %d is given %s", slot, start)
            case events.Measure(slot=slot, snapshot=snapshot):
                item = self._open.snapshot(snapshot)
                self._pulses.begin(slot, now=time.monotonic())
                self._pools.measure(slot, snapshot, item.header, item.payload)
            case events.MeasureFailed(snapshot=snapshot, error=error):
                self._say(f"{self._label(snapshot.trial)}: step {snapshot.step} could not be measured: {error}")
                self._open.add_rows(snapshot, failed_rows(self._open.snapshot(snapshot).header, error))
            case events.Commit(segment=segment):
                self._committer.add(segment, self._open.close(segment))
            case events.Discard(segment=segment):
                self._open.discard(segment)
            case events.NoteFailure(trial=trial, attempt=attempt, kind=kind, error=error):
                self._say(f"{self._label(trial)}: attempt {attempt} {_KINDS[kind]}: {error}; it will be tried again")
                self._committer.note_failure(trial, attempt, kind, error, final=False)
            case events.GiveUp(trial=trial, attempt=attempt, kind=kind, error=error):
                self._say(f"{self._label(trial)} failed: {error}; see `clipsweep logs {self._run_dir.path} {trial}`")
                self._committer.note_failure(trial, attempt, kind, error, final=True)
            case events.Abandon(slot=slot):
                self._drop_current(slot)
                self._pools.kill_trainer(slot)
                self._pools.start_trainer(slot)
            case events.ReplaceTrainer(slot=slot):
                self._pools.start_trainer(slot)
            case events.ReplaceEstimator(slot=slot):
                self._pools.start_estimator(slot)
            case events.RetireTrainer(slot=slot):
                self._drop_current(slot)
                self._pools.kill_trainer(slot)
            case events.RetireEstimator(slot=slot):
                self._pulses.end(slot)
                self._pools.kill_estimator(slot)
            case events.StopTrainer(slot=slot):
                self._pools.stop_trainer(slot)

    def _drop_current(self, slot: int) -> None:
        """Forget what a trainer left unfinished, and what it has not begun."""
        segment = self._open.drop(slot)
        if segment is not None:
            self._showing.forget(segment.trial)

    def _assignment(self, trial: str, attempt: int) -> Assignment:
        planned = self._trials[trial]
        state = self._committer.state.trials[trial]
        return Assignment(
            trial=trial,
            epoch=self._committer.state.epoch,
            attempt=attempt,
            seed=planned.seed,
            problem=planned.problem,
            update_rule=planned.update_rule,
            train=planned.train,
            measure=self._measure,
            checkpoints=_checkpoints_of(state),
            fingerprint=state.segments[0].facts["data"] if state.segments else None,
            committed_step=state.step,
        )

    # What becomes of it

    def _commit(self) -> None:
        # Where nothing is on its way, what is ready is all there will be.
        for segment, item in self._committer.commit(force=self._open.idle, running=frozenset(self._running())):
            if item.outcome is not None:
                self._say(f"{self._label(segment.trial)} {ending(item)}")
            self._handle(events.Committed(segment=segment))

    def _show(self, *, force: bool = False) -> None:
        self._showing.show(
            self._running(),
            measured=self._measured,
            stopping=self._stopping,
            waiting_for=self._waiting.reason if self._waiting is not None else None,
            force=force,
        )

    def _running(self) -> list[str]:
        """The trials that trainers are at, trainer by trainer."""
        return [segment.trial for _, segment in sorted(self._open.current.items())]

    def _label(self, trial: str) -> str:
        return self._showing.label(trial)

    def _log_trial(self, segment: SegmentId, text: str) -> None:
        with self._run_dir.append_to(self._run_dir.trial_log(segment.trial)) as log:
            log.write(f"--- {time.strftime('%F %T')} attempt {segment.attempt}\n{text}\n".encode(errors="replace"))


_KINDS = {"raised": "failed", "died": "lost its trainer", "lost": "lost a snapshot"}


def _checkpoints_of(state: TrialState) -> tuple[tuple[str, str], ...]:
    """File and hash of the checkpoints from which a trial can go on, newest first; at most the two that are kept."""
    return tuple(dict.fromkeys(s.checkpoint for s in reversed(state.segments) if s.checkpoint is not None))[:2]
