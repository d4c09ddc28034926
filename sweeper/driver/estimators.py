"""The estimators' side of a driver: turns their messages into events and carries out the schedule's commands."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from sweeper.driver.replacements import Replacements
from sweeper.errors import with_last_lines
from sweeper.labels import not_measured
from sweeper.protocol import events
from sweeper.protocol.events import Event, Measure, MeasureFailed, ReplaceEstimator, RetireEstimator, SnapshotId
from sweeper.protocol.messages import OWN_TABLE, EstimatorBeat, EstimatorDown, EstimatorUp, Lost, Raised, Rows
from sweeper.protocol.pools import EstimatorPool
from sweeper.schedule.liveness import EstimatorHeartbeats
from sweeper.store.run_dir import RunDir

__all__ = ["Command", "Estimators", "Message", "Snapshots", "failed_rows"]

_log = logging.getLogger(__name__)

Message: TypeAlias = EstimatorUp | EstimatorDown | EstimatorBeat | Rows | Raised | Lost
Command: TypeAlias = Measure | MeasureFailed | ReplaceEstimator | RetireEstimator


class Snapshots(Protocol):
    """The snapshots behind the ids, and where their rows go."""

    def hand_out(self, pool: EstimatorPool, slot: int, snapshot: SnapshotId) -> None:
        """Give a snapshot to an idle estimator."""

    def add_rows(
        self, snapshot: SnapshotId, rows: Mapping[str, Mapping[str, Any]], estimate_s: float, device: str = "cpu"
    ) -> bool:
        """Take in the rows of a snapshot; returns whether they were still wanted."""

    def add_failed(self, snapshot: SnapshotId, error: str) -> None:
        """Record that a snapshot cannot be measured; its rows say why."""


class Estimators:
    """Handles a driver's estimators.

    Args:
        run_dir: Where the trials' logs are.
        pool: The workers.
        snapshots: The snapshots they measure.
        say: Receives messages for the user.
        label: Returns a trial's readable name.
        stall_timeout_s: An estimator that makes no progress for this long is ended; None to wait forever.

    Attributes:
        measured: Snapshots measured so far.
        failed: Snapshots that could not be measured, by one estimator at least.
    """

    def __init__(
        self,
        *,
        run_dir: RunDir,
        pool: EstimatorPool,
        snapshots: Snapshots,
        say: Callable[[str], object],
        label: Callable[[str], str],
        stall_timeout_s: float | None,
    ) -> None:
        self.measured = 0
        self.failed = 0
        self._errors: set[str] = set()
        self._replacements = Replacements("estimator", say=say, label=label)
        self._at_work: dict[int, SnapshotId] = {}
        self._run_dir = run_dir
        self._pool = pool
        self._snapshots = snapshots
        self._say = say
        self._label = label
        self._heartbeats = EstimatorHeartbeats(stall_timeout_s)

    def notice(self, message: Message) -> Event | None:
        """Process a message from an estimator.

        Args:
            message: From or about an estimator.

        Returns:
            The event for the schedule; None if there is none.
        """
        match message:
            case EstimatorUp(slot=slot, facts=facts):
                _log.info("estimator %d is up: %s", slot, facts)
                return events.EstimatorReady(slot=slot)
            case EstimatorDown(slot=slot, error=error, printed=printed):
                snapshot = self._end_work(slot)
                self._say(f"estimator {slot} died: {error}; starting another")
                if snapshot is not None:
                    told = with_last_lines(error, printed)
                    self._run_dir.log_trial(snapshot.trial, f"measuring step {snapshot.step}", told)
                return events.EstimatorDied(slot=slot, error=error)
            case EstimatorBeat(slot=slot, beats=beats):
                self._heartbeats.hear(slot, beats, now=time.monotonic())
                return None
            case Rows(slot=slot, snapshot=snapshot):
                self._end_work(slot)
                self._tell_failed(message)
                self.measured += self._snapshots.add_rows(snapshot, message.rows, message.estimate_s, message.device)
                spoiled = self._replacements.tell(slot, snapshot.trial, message.left_behind)
                return events.Measured(slot=slot, snapshot=snapshot, spoiled=spoiled)
            case Raised(slot=slot, snapshot=snapshot, error=error):
                self._end_work(slot)
                self._run_dir.log_trial(snapshot.trial, f"measuring step {snapshot.step}", message.traceback)
                spoiled = self._replacements.tell(slot, snapshot.trial, message.left_behind)
                return events.MeasureRaised(slot=slot, snapshot=snapshot, error=error, spoiled=spoiled)
            case Lost(slot=slot, snapshot=snapshot, error=error):
                self._end_work(slot)
                self._say(f"snapshot of {self._label(snapshot.trial)} at step {snapshot.step} was lost: {error}")
                return events.SnapshotLost(slot=slot, snapshot=snapshot, error=error)

    def _end_work(self, slot: int) -> SnapshotId | None:
        """An estimator is at work no longer; returns what it was measuring, if anything."""
        self._heartbeats.end(slot)
        return self._at_work.pop(slot, None)

    def _tell_failed(self, message: Rows) -> None:
        """Log and say which estimators failed on a snapshot that others have measured."""
        snapshot = message.snapshot
        for estimator, traceback in message.tracebacks.items():
            self._run_dir.log_trial(snapshot.trial, f"measuring step {snapshot.step}: {estimator}", traceback)
            self._say_unmeasured(snapshot, str(message.rows[_table_of(estimator)]["error"]))
        self.failed += bool(message.tracebacks)

    def _say_unmeasured(self, snapshot: SnapshotId, error: str) -> None:
        """Once for each distinct error: all snapshots of a sweep may fail alike."""
        if error not in self._errors:
            self._errors.add(error)
            self._say(f"{self._label(snapshot.trial)}: step {snapshot.step} {not_measured(error)}")

    def do(self, command: Command) -> None:
        """Carry out a command of the schedule.

        Args:
            command: About an estimator or a snapshot.
        """
        match command:
            case Measure(slot=slot, snapshot=snapshot):
                self._at_work[slot] = snapshot
                self._heartbeats.begin(slot, now=time.monotonic())
                self._snapshots.hand_out(self._pool, slot, snapshot)
            case MeasureFailed(snapshot=snapshot, error=error):
                self.failed += 1
                self._say_unmeasured(snapshot, error)
                self._snapshots.add_failed(snapshot, error)
            case ReplaceEstimator(slot=slot):
                self._pool.start_estimator(slot)
            case RetireEstimator(slot=slot):
                self._end_work(slot)
                self._pool.kill_estimator(slot)

    def end_stalled(self, *, now: float) -> list[EstimatorDown]:
        """End estimators that hang, and ask busy ones for a heartbeat when it is due.

        Args:
            now: Seconds of the monotonic clock.

        Returns:
            A message for each estimator ended, to be processed like any other.
        """
        ended = []
        for slot, error in self._heartbeats.hanging(now=now):
            self._pool.kill_estimator(slot)
            self._heartbeats.end(slot)
            ended.append(EstimatorDown(slot=slot, error=error))
        for slot in self._heartbeats.to_ask(now=now):
            self._pool.ask_estimator(slot)
        return ended


def failed_rows(
    snapshot: SnapshotId, measure: Mapping[str, Any], error: str, *, epoch: float | None
) -> dict[str, dict[str, Any]]:
    """Rows of nulls, which say why there are no values.

    Args:
        snapshot: The snapshot that could not be measured.
        measure: What should have been measured on it.
        error: What was raised.
        epoch: Its step divided by the steps per epoch; None if unknown.

    Returns:
        Estimator to row; those of the user's own have one together.
    """
    row = {
        "trial_id": snapshot.trial,
        "step": snapshot.step,
        "epoch": epoch,
        "error": error,
        "data_fraction": measure["data_fraction"],
    }
    return {_table_of(entry["use"]): dict(row) for entry in measure["estimators"]}


def _table_of(estimator: str) -> str:
    """The table that an estimator's rows are in."""
    return OWN_TABLE if ":" in estimator else estimator
