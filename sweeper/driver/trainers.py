"""The trainers' side of a driver: turns their messages into events and carries out the schedule's commands."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sweeper.driver.commit import Committer
from sweeper.driver.open_segments import OpenSegments
from sweeper.driver.progress import TrainingProgress, ending, last_values
from sweeper.driver.replacements import Replacements
from sweeper.errors import IntegrityError, error_line, error_text, with_last_lines
from sweeper.planning.expectation import Expectation
from sweeper.planning.packing import Packing
from sweeper.planning.plan import Trial
from sweeper.protocol import events
from sweeper.protocol.events import (
    Abandon,
    Commit,
    Discard,
    Event,
    GiveUp,
    NoteFailure,
    ReplaceTrainer,
    RetireTrainer,
    StartTrials,
    StopTrainer,
)
from sweeper.protocol.messages import (
    Assignment,
    FromTrainer,
    ProgressItem,
    RaisedItem,
    RepeatedItem,
    SegmentItem,
    SnapshotItem,
    TrainerDown,
    TrainerItem,
    TrainerUp,
)
from sweeper.protocol.notices import SegmentCommitted, Tell, TrialDiverged, TrialDone, TrialFailed, TrialStarted
from sweeper.protocol.pools import Pools
from sweeper.schedule.liveness import TrainerTimeouts
from sweeper.schedule.schedule import Schedule
from sweeper.store.journal import TrialState
from sweeper.store.run_dir import RunDir

__all__ = ["Command", "Message", "Trainers", "Training"]

_log = logging.getLogger(__name__)

Message: TypeAlias = TrainerUp | TrainerDown | FromTrainer
Command: TypeAlias = (
    StartTrials | Commit | Discard | NoteFailure | GiveUp | Abandon | ReplaceTrainer | RetireTrainer | StopTrainer
)

_KINDS = {"raised": "failed", "died": "lost its trainer", "lost": "lost a snapshot"}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The trials to train.

    Attributes:
        trials: Every unfinished trial of the plan, by id.
        measure: The resolved measure section; None to measure nothing.
        expectation: How long they are expected to take; None if that was not asked.
        packing: Which of them run step by step together.
        started: When the driver started, by the monotonic clock; None for now.
    """

    trials: Mapping[str, Trial]
    measure: Mapping[str, Any] | None
    expectation: Expectation | None = None
    packing: Packing = field(default_factory=Packing)
    started: float | None = None


class Trainers:
    """Handles a driver's trainers.

    Args:
        run_dir: The run directory.
        training: The trials to train.
        schedule: Knows which trainer works on what.
        committer: Knows what is committed, and records failures.
        pools: The workers.
        segments: Collects what trainers deliver.
        progress: Receives how far they are, and shows it.
        tell: Tells machines what happens.
        stall_timeout_s: A trainer that sends nothing for this long is ended; None to wait forever.
    """

    def __init__(
        self,
        *,
        run_dir: RunDir,
        training: Training,
        schedule: Schedule,
        committer: Committer,
        pools: Pools,
        segments: OpenSegments,
        progress: TrainingProgress,
        tell: Tell,
        stall_timeout_s: float | None,
    ) -> None:
        self._run_dir = run_dir
        self._training = training
        self._trials = dict(training.trials)
        self._schedule = schedule
        self._committer = committer
        self._pools = pools
        self._segments = segments
        self._progress = progress
        self._tell = tell
        self._timeouts = TrainerTimeouts(stall_timeout_s)
        self._replacements = Replacements("trainer", say=progress.say, label=progress.label)
        self._attempts: dict[str, int] = {}
        self._numbers: dict[str, dict[int, int]] = {}

    @property
    def idle(self) -> bool:
        """Whether no trainer is at work and no snapshot waits for its rows, so nothing more will become complete."""
        return not self._schedule.at_work and not self._segments.waits_for_rows

    @property
    def running(self) -> frozenset[str]:
        """Trials that a trainer is working on."""
        return self._schedule.under_way

    def notice(self, message: Message) -> Event | None:
        """Process a message from a trainer.

        Args:
            message: From or about a trainer.

        Returns:
            The event for the schedule; None if there is none.

        Raises:
            OSError: A trainer cannot write to the run directory, so no other can.
        """
        match message:
            case TrainerUp(slot=slot, facts=facts):
                _log.info("trainer %d is up: %s", slot, facts)
                return events.TrainerReady(slot=slot)
            case TrainerDown(slot=slot, error=error, printed=printed):
                # One line is enough: with a trial, the failed attempt says the same.
                if not (trials := self._schedule.trials_on(slot)):
                    self._progress.say(f"trainer {slot} died: {error}; starting another")
                told = with_last_lines(error, printed)
                for trial in trials:
                    self._run_dir.log_trial(trial, f"attempt {self._number(trial, self._attempts[trial])}", told)
                return events.TrainerDied(slot=slot, error=error)
            case FromTrainer(slot=slot, item=item):
                self._timeouts.hear(slot, now=time.monotonic())
                if slot not in self._schedule.at_work:
                    # Ended a moment ago; this arrived in the same batch.
                    return None
                return self._take_in(slot, item)

    def _take_in(self, slot: int, item: TrainerItem) -> Event | None:
        trial = item.segment.trial
        attempt = f"attempt {self._number(trial, item.segment.attempt)}"
        match item:
            case SnapshotItem():
                self._segments.take(item)
                return events.SnapshotTaken(slot=slot, step=item.header.step, nbytes=item.header.nbytes, trial=trial)
            case ProgressItem():
                self._progress.hear(trial, item)
                return None
            case SegmentItem():
                self._segments.end(item)
                for name in item.damaged:
                    self._progress.say(
                        f"{self._progress.label(trial)}: checkpoint {name} was damaged; resumed from an earlier one"
                    )
                    self._run_dir.set_aside(self._run_dir.checkpoints / trial / name)
                return events.SegmentEnded(
                    slot=slot,
                    stop=item.stop,
                    outcome=item.outcome,
                    seconds=item.facts.busy_s,
                    spoiled=self._replacements.tell(slot, trial, item.left_behind),
                    trial=trial,
                )
            case RepeatedItem():
                return self._compare(slot, item, attempt)
            case RaisedItem(disk=(number, path)):
                # Otherwise every trial would fail because of it, one after another.
                raise OSError(number, os.strerror(number), path)
            case RaisedItem():
                self._run_dir.log_trial(trial, attempt, item.traceback)
                spoiled = self._replacements.tell(slot, trial, item.left_behind)
                return events.TrialRaised(
                    slot=slot, error=item.error, spoiled=spoiled, short_of_memory=item.short_of_memory, trial=trial
                )

    def _number(self, trial: str, attempt: int) -> int:
        """Which execution of the trial it is: one that was handed to a trainer which never began it does not count."""
        numbers = self._numbers.setdefault(trial, {})
        return numbers.setdefault(attempt, len(numbers) + 1)

    def _compare(self, slot: int, item: RepeatedItem, attempt: str) -> Event | None:
        trial = item.segment.trial
        try:
            self._committer.compare(trial, item)
        except IntegrityError as error:
            self._run_dir.log_trial(trial, attempt, error_text(error))
            return events.TrialDiffered(slot=slot, error=error_line(error), trial=trial)
        return None

    def do(self, command: Command) -> None:
        """Carry out a command of the schedule.

        Args:
            command: About a trainer or a trial.
        """
        match command:
            case StartTrials(slot=slot, starts=starts, together=together):
                self._timeouts.hear(slot, now=time.monotonic())
                assigned = [self._assignment(start.trial, start.attempt, together=together) for start in starts]
                self._pools.train(slot, assigned)
                for start in starts:
                    self._attempts[start.trial] = start.attempt
                    self._progress.begin(start.trial)
                    _log.info("trainer %d is given %s", slot, start)
                    self._tell(TrialStarted(**self._named(start.trial), attempt=start.attempt, step=start.step))
            case Commit(segment=segment):
                self._segments.hand_over(segment, self._committer.add)
            case Discard(segment=segment):
                self._segments.discard(segment)
            case NoteFailure(trial=trial, attempt=attempt, kind=kind, error=error):
                told = f"{self._progress.label(trial)}: attempt {self._number(trial, attempt)} {_KINDS[kind]}"
                self._progress.say(f"{told}: {error}; it will be tried again")
                self._committer.note_failure(trial, attempt, kind, error, final=False)
            case GiveUp(trial=trial, attempt=attempt, kind=kind, error=error):
                label = self._progress.label(trial)
                self._progress.say(f"{label} failed: {error}; see `clipsweep logs {self._run_dir.path} {trial}`")
                self._committer.note_failure(trial, attempt, kind, error, final=True)
                # After the journal has it, like every ending: what it does not name has not happened.
                status = self._committer.state.trials[trial].status()
                self._tell(TrialFailed(**self._named(trial), status=status, error=error))
            case Abandon(slot=slot):
                self._pools.kill_trainer(slot)
                self._pools.start_trainer(slot)
            case ReplaceTrainer(slot=slot):
                self._pools.start_trainer(slot)
            case RetireTrainer(slot=slot):
                self._pools.kill_trainer(slot)
            case StopTrainer(slot=slot):
                self._pools.stop_trainer(slot)

    def add(self, trials: Sequence[Trial]) -> Event:
        """Take in trials that a search has asked for, and that the journal names.

        Args:
            trials: The new ones.

        Returns:
            The event for the schedule.
        """
        self._trials |= {trial.trial_id: trial for trial in trials}
        self._progress.add(trials, self._committer.state.labels())
        states = self._committer.state.trials
        return events.TrialsAdded(
            trials={trial.trial_id: states[trial.trial_id].step for trial in trials},
            side_by_side=tuple(trial.trial_id for trial in trials if trial.problem["use"] == "analytic"),
            packs=self._training.packing.shapes(trials),
        )

    def committed(self, item: SegmentItem) -> Event:
        """A segment has become durable.

        Args:
            item: The segment as its trainer sent it.

        Returns:
            The event for the schedule.
        """
        trial, outcome = item.segment.trial, item.outcome
        if outcome is not None:
            self._progress.say(f"{self._progress.label(trial)} {ending(item)}")
        named, attempt = self._named(trial), item.segment.attempt
        self._tell(SegmentCommitted(**named, attempt=attempt, start=item.start, stop=item.stop, outcome=outcome))
        if outcome == "done":
            self._tell(TrialDone(**named, step=item.stop, values=last_values(item.rows)))
        elif outcome == "diverged":
            self._tell(TrialDiverged(**named, step=item.facts.diverged_step, values=last_values(item.rows)))
        return events.Committed(segment=item.segment)

    def _named(self, trial: str) -> dict[str, Any]:
        """Which trial something is about."""
        record = self._committer.state.trials[trial].record
        label = self._progress.label(trial)
        return {"trial_id": trial, "cell_id": record.cell_id, "trial": label, "seed": record.seed}

    def end_stalled(self, *, now: float, listening: bool) -> list[TrainerDown]:
        """End trainers that hang.

        Args:
            now: Seconds of the monotonic clock.
            listening: Whether trainers' messages are being read: while not, they wait, as intended.

        Returns:
            A message for each trainer ended, to be processed like any other.
        """
        ended = []
        for slot, error in self._timeouts.hanging(self._schedule.at_work, now=now, listening=listening):
            self._pools.kill_trainer(slot)
            ended.append(TrainerDown(slot=slot, error=error))
        return ended

    def _assignment(self, trial: str, attempt: int, *, together: bool) -> Assignment:
        planned = self._trials[trial]
        state = self._committer.state.trials[trial]
        return Assignment(
            trial=trial,
            driver_epoch=self._committer.state.driver_epoch,
            attempt=attempt,
            seed=planned.seed,
            problem=planned.problem,
            update_rule=planned.update_rule,
            train=planned.train,
            measure=self._training.measure,
            checkpoints=_checkpoints_of(state),
            fingerprint=state.segments[0].facts.data if state.segments else None,
            committed_step=state.step,
            until=state.until,
            together=together,
        )


def _checkpoints_of(state: TrialState) -> tuple[tuple[str, str], ...]:
    """File and hash of the checkpoints from which a trial can resume, newest first; at most the two that are kept."""
    return tuple(dict.fromkeys(s.checkpoint for s in reversed(state.segments) if s.checkpoint is not None))[:2]
