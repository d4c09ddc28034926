"""Wait, take notice, do what the schedule says, commit in groups; no policy of its own."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sweeper import events
from sweeper.commit import Committer, OpenSegment
from sweeper.driver_lock import DriverLock
from sweeper.elastic import PoolSize
from sweeper.errors import IntegrityError
from sweeper.events import Command, Event, SegmentId, SnapshotId
from sweeper.journal import TrialState
from sweeper.labels import describe
from sweeper.messages import (
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
    SnapshotHeader,
    SnapshotItem,
    TrainerDown,
    TrainerUp,
    Verdict,
)
from sweeper.plan import Trial
from sweeper.pulse import Pulses
from sweeper.run_dir import RunDir
from sweeper.schedule import Schedule
from sweeper.tables import METRICS
from sweeper.view import Active, Listener, View
from sweeper.waiting import Waiting

__all__ = ["Driver", "Pools"]

_log = logging.getLogger(__name__)

_TICK_S = 0.25
_SHOW_EVERY_S = 0.2


class Pools(Protocol):
    """What the driver asks of its workers."""

    def start_trainer(self, slot: int) -> None:
        """Start a trainer in an empty slot; ``TrainerUp`` or ``TrainerDown`` follows."""

    def start_estimator(self, slot: int) -> None:
        """Start an estimator in an empty slot; ``EstimatorUp`` or ``EstimatorDown`` follows."""

    def train(self, slot: int, assignments: Sequence[Assignment]) -> None:
        """Let an idle trainer run attempts, one after the other; their items follow."""

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> None:
        """Let an idle estimator measure a snapshot; a ``Verdict`` follows."""

    def ask_estimator(self, slot: int) -> None:
        """Ask a measuring estimator whether it gets on; an ``EstimatorBeat`` follows, unless it hangs."""

    def stop_trainer(self, slot: int) -> None:
        """Ask a trainer to checkpoint and return."""

    def kill_trainer(self, slot: int) -> None:
        """End a trainer's process; nothing more comes from it."""

    def kill_estimator(self, slot: int) -> None:
        """End an estimator's process; nothing more comes from it."""

    def poll(self, *, timeout_s: float, read_trainers: bool) -> list[Message]:
        """Wait for what workers say, at most ``timeout_s`` seconds."""


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
        held_up: Why workers that were asked for do not start; None where they do.
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
        held_up: Callable[[], str | None] = lambda: None,
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
        self._listener = listener
        self._say = listener.say
        self._stop_requested = stop_requested
        self._stall_timeout_s = stall_timeout_s
        self._held_up = Waiting(held_up, self._say)
        self._look_for_room = look_for_room
        self._stopping = False
        self._heard_at: dict[int, float] = {}
        self._pulses = Pulses(stall_timeout_s)
        self._open: dict[SegmentId, OpenSegment] = {}
        self._queues: dict[int, deque[SegmentId]] = {}
        self._current: dict[int, SegmentId] = {}
        self._segment_of: dict[SnapshotId, SegmentId] = {}
        self._snapshots: dict[SnapshotId, SnapshotItem] = {}
        self._progress: dict[str, ProgressItem] = {}
        self._measured = 0
        self._live_at = 0.0
        self._show_at = 0.0

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
                self._listener.say("stopping: trials checkpoint at their next step; interrupt again to stop at once")
                self._handle(events.StopRequested())
            read = self._schedule.takes_snapshots
            for message in self._pools.poll(timeout_s=self._committer.due_in_s(_TICK_S), read_trainers=read):
                event = self._notice(message)
                if event is not None:
                    self._handle(event)
            self._end_stalled(heard=read)
            self._end_stalled_estimators()
            self._held_up.look()
            room = self._look_for_room()
            if room is not None:
                self._say(f"the cluster has room for {room} now")
                self._handle(events.RoomChanged(trainers=room.trainers, estimators=room.estimators))
            self._commit()
            self._lock.beat()
            self._show()
        self._show(force=True)

    # What workers say

    def _end_stalled(self, *, heard: bool) -> None:
        """End trainers that hang. Not by the time of day, which people and daemons set."""
        now = time.monotonic()
        for slot in list(self._current):
            since = self._heard_at.setdefault(slot, now)
            if not heard:
                # It waits for the estimators, as it should.
                self._heard_at[slot] = now
            elif self._stall_timeout_s is not None and now - since > self._stall_timeout_s:
                self._pools.kill_trainer(slot)
                error = f"no sign of life for {now - since:.0f} s (resources.stall_timeout_s)"
                event = self._notice(TrainerDown(slot=slot, error=error))
                assert event is not None
                self._handle(event)

    def _end_stalled_estimators(self) -> None:
        """Ask estimators now and then whether they get on, and end those that do not."""
        now = time.monotonic()
        for slot, error in self._pulses.hanging(now=now):
            self._pools.kill_estimator(slot)
            event = self._notice(EstimatorDown(slot=slot, error=error))
            assert event is not None
            self._handle(event)
        for slot in self._pulses.to_ask(now=now):
            self._pools.ask_estimator(slot)

    def _notice(self, message: Message) -> Event | None:
        if isinstance(message, FromTrainer):
            self._heard_at[message.slot] = time.monotonic()
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
            case FromTrainer(slot=slot) if slot not in self._current:
                return None  # abandoned a moment ago; this came on the same wind
            case FromTrainer(slot=slot, item=SnapshotItem() as item):
                return self._snapshot_taken(slot, item)
            case FromTrainer(slot=slot, item=ProgressItem() as item):
                self._progress[self._current[slot].trial] = item
                return None
            case FromTrainer(slot=slot, item=SegmentItem() as item):
                return self._segment_ended(slot, item)
            case FromTrainer(slot=slot, item=RepeatedItem() as item):
                return self._compare(slot, item)
            case FromTrainer(item=RaisedItem(disk=(number, path))):
                # Every trial would fail of it, one after the other.
                raise OSError(number, os.strerror(number), path)
            case FromTrainer(slot=slot, item=RaisedItem() as item):
                self._log_trial(self._current[slot], item.traceback)
                self._progress.pop(self._current[slot].trial, None)
                self._begin_next(slot)
                return events.TrialRaised(slot=slot, error=item.error)
            case EstimatorBeat(slot=slot, beats=beats):
                self._pulses.hear(slot, beats, now=time.monotonic())
                return None
            case Verdict(slot=slot):
                self._pulses.end(slot)
                return self._judge(message)
        raise AssertionError(f"no such message: {message!r}")

    def _snapshot_taken(self, slot: int, item: SnapshotItem) -> Event:
        segment = self._current[slot]
        snapshot = SnapshotId(trial=segment.trial, attempt=segment.attempt, step=item.header.step)
        self._snapshots[snapshot] = item
        self._segment_of[snapshot] = segment
        return events.SnapshotTaken(slot=slot, step=item.header.step, nbytes=item.header.nbytes)

    def _segment_ended(self, slot: int, item: SegmentItem) -> Event:
        segment = self._current[slot]
        self._open[segment].item = item
        self._progress.pop(segment.trial, None)
        if item.outcome is None:
            self._begin(slot, segment._replace(number=segment.number + 1))
        elif item.outcome == "stopped":
            self._drop_current(slot)
        else:
            self._begin_next(slot)
        for name in item.facts.get("damaged", ()):
            self._say(f"{self._label(segment.trial)}: checkpoint {name} was damaged; resumed from an earlier one")
            self._run_dir.set_aside(self._run_dir.checkpoints / segment.trial / name)
        seconds = sum(item.facts[key] for key in ("train_s", "evaluate_s", "waited_s"))
        return events.SegmentEnded(slot=slot, stop=item.stop, outcome=item.outcome, seconds=seconds)

    def _compare(self, slot: int, item: RepeatedItem) -> Event | None:
        segment = self._current[slot]
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
        segment = self._open.get(self._segment_of.get(snapshot, _NO_SEGMENT))
        if segment is not None:
            segment.add(verdict.rows, verdict.estimate_s)
            self._measured += 1
        self._forget_snapshot(snapshot)
        return events.Measured(slot=slot, snapshot=snapshot)

    # What the schedule says

    def _handle(self, event: Event) -> None:
        for command in self._schedule.handle(event):
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case events.StartTrials(slot=slot, starts=starts):
                self._queues[slot] = deque(SegmentId(start.trial, start.attempt, 0) for start in starts)
                self._heard_at[slot] = time.monotonic()
                self._begin_next(slot)
                self._pools.train(slot, [self._assignment(start.trial, start.attempt) for start in starts])
                for start in starts:
                    _log.info("trainer %d is given %s", slot, start)
            case events.Measure(slot=slot, snapshot=snapshot):
                item = self._snapshots[snapshot]
                self._pulses.begin(slot, now=time.monotonic())
                self._pools.measure(slot, snapshot, item.header, item.payload)
            case events.MeasureFailed(snapshot=snapshot, error=error):
                self._say(f"{self._label(snapshot.trial)}: step {snapshot.step} could not be measured: {error}")
                self._open[self._segment_of[snapshot]].add_failed(self._snapshots[snapshot].header, error)
                self._forget_snapshot(snapshot)
            case events.Commit(segment=segment):
                self._committer.add(segment, self._open.pop(segment))
            case events.Discard(segment=segment):
                self._open.pop(segment, None)
                for snapshot in [s for s, of in self._segment_of.items() if of == segment]:
                    self._forget_snapshot(snapshot)
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

    def _begin_next(self, slot: int) -> None:
        """A trainer goes on to the next trial of its batch, or is idle."""
        self._current.pop(slot, None)
        if self._queues[slot]:
            self._begin(slot, self._queues[slot].popleft())

    def _begin(self, slot: int, segment: SegmentId) -> None:
        self._current[slot] = segment
        self._open[segment] = OpenSegment(steps=self._trials[segment.trial].train["steps"])

    def _drop_current(self, slot: int) -> None:
        """Forget what a trainer left unfinished, and what it has not begun."""
        self._queues.pop(slot, None)
        segment = self._current.pop(slot, None)
        if segment is not None:
            self._progress.pop(segment.trial, None)

    def _forget_snapshot(self, snapshot: SnapshotId) -> None:
        self._snapshots.pop(snapshot, None)
        self._segment_of.pop(snapshot, None)

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
            checkpoints=checkpoints_of(state),
            fingerprint=state.segments[0].facts["data"] if state.segments else None,
            committed_step=state.step,
        )

    # What people see

    def _commit(self) -> None:
        # Nothing to wait for: what is ready is all there will be.
        idle = not self._current and not self._snapshots
        for segment, item in self._committer.commit(force=idle, running=frozenset(self._running())):
            if item.outcome is not None:
                self._say(f"{self._label(segment.trial)} {_ending(item)}")
            self._handle(events.Committed(segment=segment))

    def _running(self) -> list[str]:
        return [segment.trial for segment in self._current.values()]

    def _show(self, *, force: bool = False) -> None:
        started = time.monotonic()
        if not force and started < self._show_at:
            return
        view = self._view()
        self._listener.show(view)
        now = time.monotonic()
        # A view of many trials costs some milliseconds: never more than a twentieth of the driver's time.
        self._show_at = now + max(_SHOW_EVERY_S, 20 * (now - started))
        if force or now - self._live_at > 1.0:
            self._live_at = now
            active = [vars(active) for active in view.active]
            document = {**vars(view), "counts": dict(view.counts), "active": active}
            self._run_dir.publish(self._run_dir.live, json.dumps(document).encode())

    def _view(self) -> View:
        states = self._committer.state.trials
        running = set(self._running())
        counts: dict[str, int] = {}
        done = 0
        for name, trial in self._trials.items():
            status = "running" if name in running else states[name].status
            status = "queued" if status == "running" and name not in running else status
            counts[status] = counts.get(status, 0) + 1
            at = self._progress.get(name)
            steps = trial.train["steps"]
            done += steps if states[name].resolved else max(states[name].step, at.step if at else 0)
        return View(
            counts=counts,
            total=len(self._trials),
            steps_done=done,
            steps_total=sum(trial.train["steps"] for trial in self._trials.values()),
            active=tuple(self._active(segment.trial) for _, segment in sorted(self._current.items())),
            waiting=self._schedule.num_waiting,
            queued_snapshots=self._schedule.num_queued_snapshots,
            measuring=self._schedule.num_measuring,
            measured=self._measured,
            held_back=not self._schedule.takes_snapshots,
            stopping=self._stopping,
            waiting_for=self._held_up.reason,
        )

    def _active(self, trial: str) -> Active:
        at = self._progress.get(trial)
        return Active(
            trial=self._label(trial),
            step=at.step if at else self._committer.state.trials[trial].step,
            steps=self._trials[trial].train["steps"],
            loss=at.loss if at else None,
            clipped_fraction=at.clipped_fraction if at else None,
        )

    def _label(self, trial: str) -> str:
        planned = self._trials[trial]
        return describe(planned.swept, planned.seed)

    def _log_trial(self, segment: SegmentId, text: str) -> None:
        with self._run_dir.append_to(self._run_dir.trial_log(segment.trial)) as log:
            log.write(f"--- {time.strftime('%F %T')} attempt {segment.attempt}\n{text}\n".encode(errors="replace"))


_NO_SEGMENT = SegmentId("", 0, 0)

_KINDS = {"raised": "failed", "died": "lost its trainer", "lost": "lost a snapshot"}


def _ending(item: SegmentItem) -> str:
    """How a trial ended, in words."""
    match item.outcome:
        case "diverged":
            return f"diverged at step {item.facts['diverged_step']}"
        case "stopped":
            return f"stopped at step {item.stop}, checkpointed"
        case _:
            return f"done after {item.stop} steps{_last_values(item.rows)}"


def _last_values(rows: Mapping[str, Any]) -> str:
    """The last finite value of every loss and metric."""
    found = []
    for name in [name for name in rows if name == "train_loss" or name not in METRICS.names]:
        finite = rows[name][np.isfinite(rows[name])]
        if len(finite):
            found.append(f"{name.replace('_', ' ')} {finite[-1]:.4g}")
    return ": " + ", ".join(found) if found else ""


def checkpoints_of(state: TrialState) -> tuple[tuple[str, str], ...]:
    """The checkpoints from which a trial can go on, newest first; at most the two that are kept.

    Args:
        state: The trial, as the journal tells it.

    Returns:
        File names and hashes.
    """
    return tuple(dict.fromkeys(s.checkpoint for s in reversed(state.segments) if s.checkpoint is not None))[:2]
