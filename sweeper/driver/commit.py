"""Group commit: what finished within about a second becomes one immutable part per table and one journal line."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.driver.open_segments import OpenSegment
from sweeper.errors import IntegrityError
from sweeper.protocol.events import SegmentId, SnapshotId
from sweeper.protocol.messages import RepeatedItem, SegmentItem
from sweeper.store.journal import Journal, RunState, apply
from sweeper.store.records import Committed, CommittedSegment, Failed, Record, Remeasured
from sweeper.store.run_dir import RunDir
from sweeper.tables.parts import measurement_rows, metric_rows, refuse_other_rows, write_measurements, write_metrics
from sweeper.tables.readable import Compactor

__all__ = ["Committer"]

_log = logging.getLogger(__name__)

_EPOCH = re.compile(r"-e(\d+)-a\d+\.")
"""The driver epoch and attempt in a checkpoint's name."""

_GROUP_S = 1.0
"""How long a finished segment waits for others to share its files."""

_REFRESH_S = 30.0
"""How old the readable tables may get while the sweep runs; older if writing them takes long."""


class Committer:
    """Makes segments durable, in groups, and keeps the readable tables fresh.

    Args:
        run_dir: The run directory, under its lock.
        journal: Appends to it.
        state: The run as the journal describes it; kept up to date here.
        measurement: Id of the measure section in force.
    """

    def __init__(self, run_dir: RunDir, journal: Journal, state: RunState, *, measurement: str) -> None:
        self.state = state
        self._run_dir = run_dir
        self._journal = journal
        self._measurement = measurement
        self._compactor = Compactor(run_dir)
        self._pending: list[tuple[SegmentItem, OpenSegment]] = []
        self._measured: dict[SnapshotId, Mapping[str, Mapping[str, Any]]] = {}
        self._pending_since = 0.0
        self._num_commits = 0
        self._refresh_at = time.monotonic() + _REFRESH_S

    def add(self, segment: SegmentId, content: OpenSegment) -> None:
        """Take in a complete segment; it becomes durable with the next group."""
        assert content.item is not None, f"{segment} was to be committed without its rows"
        self._begin_group()
        self._pending.append((content.item, content))

    def add_measured(self, snapshot: SnapshotId, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in the rows, by estimator, of a kept snapshot that was measured again."""
        self._begin_group()
        self._measured[snapshot] = rows

    def _begin_group(self) -> None:
        if not self._has_group:
            self._pending_since = time.monotonic()

    @property
    def _has_group(self) -> bool:
        return bool(self._pending or self._measured)

    def due_in_s(self, at_most: float) -> float:
        """Seconds until the current group is due to be committed, or ``at_most``."""
        if not self._has_group:
            return at_most
        return min(at_most, max(0.0, self._pending_since + _GROUP_S - time.monotonic()))

    def note_failure(self, trial: str, attempt: int, kind: str, error: str, *, final: bool) -> None:
        """Record a failed attempt."""
        epoch = self.state.driver_epoch
        self.record(Failed(trial=trial, driver_epoch=epoch, attempt=attempt, kind=kind, error=error, final=final))

    def record(self, record: Record) -> None:
        """Append to the journal and take it into account."""
        self._journal.append(record)
        apply(self.state, record)

    def compare(self, trial: str, repeated: RepeatedItem) -> None:
        """Compare rows of committed steps that were trained again; if environment or GPU changed, they may differ.

        Args:
            trial: The trial they belong to.
            repeated: The rows.

        Raises:
            IntegrityError: They differ; both copies are kept.
        """
        stretches: list[tuple[int, int]] = []
        for segment in self.state.trials[trial].segments:
            start, stop = max(segment.start, repeated.start), min(segment.stop, repeated.stop)
            same = self.state.environments.get(segment.driver_epoch) == self.state.environment
            if start < stop and same and dict(segment.facts.hardware) == dict(repeated.hardware):
                if stretches and stretches[-1][1] == start:
                    start = stretches.pop()[0]
                stretches.append((start, stop))
        # -1: the last iterate, whose row has no batch, is never among them.
        again = metric_rows([(trial, repeated.rows, -1)])
        for start, stop in stretches:
            refuse_other_rows(self._run_dir, self.state.parts, "metrics", again, trial=trial, start=start, stop=stop)

    def _refuse_committed(self) -> None:
        """Never write a committed step twice; if the rows differ, both copies are kept."""
        reached: dict[str, int] = {}
        for item, content in self._pending:
            trial = item.segment.trial
            step = reached.get(trial, self.state.trials[trial].step)
            reached[trial] = item.stop
            if item.start >= step:
                continue
            tables = {"metrics": metric_rows([(trial, item.rows, self._last_step(item))])}
            for estimator, measured in content.measurements.items():
                tables[f"measurements/{estimator}"] = measurement_rows(estimator, self._tagged(measured))
            for table, rows in tables.items():
                refuse_other_rows(
                    self._run_dir, self.state.parts, table, rows, trial=trial, start=item.start, stop=step
                )
            raise IntegrityError(f"trial {trial}: steps {item.start} to {step} would be committed twice")

    def commit(self, *, force: bool = False, running: frozenset[str] = frozenset()) -> list[SegmentItem]:
        """Commit the current group if it is due, and refresh the readable tables if they are.

        Args:
            force: Commit now.
            running: Trials that a trainer is working on.

        Returns:
            The segments that became durable, in order.

        Raises:
            OSError: The disk is full or gone; what was committed before stands.
        """
        done: list[SegmentItem] = []
        if self._has_group and (force or self.due_in_s(_GROUP_S) == 0):
            if self._pending:
                done = self._commit_segments()
            if self._measured:
                self._commit_measured()
        if time.monotonic() > self._refresh_at:
            self.refresh(running=running)
        return done

    def _commit_measured(self) -> None:
        """Make the rows of snapshots that were measured again durable."""
        self._num_commits += 1
        measured: dict[str, list[Mapping[str, Any]]] = {}
        for of_snapshot in self._measured.values():
            for estimator, row in of_snapshot.items():
                measured.setdefault(estimator, []).append(row)
        written = [
            write_measurements(self._run_dir, name, self._tagged(rows), suffix=self._suffix)
            for name, rows in measured.items()
        ]
        parts = tuple(replace(part, remeasurement=self._measurement) for part in written)
        snapshots = tuple((snapshot.trial, snapshot.step) for snapshot in self._measured)
        self.record(Remeasured(measurement=self._measurement, parts=parts, snapshots=snapshots))
        self._measured.clear()

    def _tagged(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """An estimator's rows, each with the id of the measure section in force."""
        return [{**row, "measurement_id": self._measurement} for row in rows]

    @property
    def _suffix(self) -> str:
        """What the names of this commit's parts end with; unique to each commit of a run."""
        return f"{self.state.driver_epoch:04d}-{self._num_commits:06d}"

    def refresh(self, *, running: frozenset[str] = frozenset()) -> None:
        """Write the readable tables as of now."""
        started = time.monotonic()
        self._compactor.refresh(self.state, running=running)
        ended = time.monotonic()
        self._refresh_at = ended + max(_REFRESH_S, 20 * (ended - started))

    def _commit_segments(self) -> list[SegmentItem]:
        self._refuse_committed()
        self._num_commits += 1
        logged = [
            (item.segment.trial, item.rows, self._last_step(item))
            for item, _ in self._pending
            if len(item.rows["step"])
        ]
        parts = [write_metrics(self._run_dir, logged, suffix=self._suffix)] if logged else []
        measured: dict[str, list[Mapping[str, Any]]] = {}
        for _, content in self._pending:
            for estimator, rows in content.measurements.items():
                measured.setdefault(estimator, []).extend(sorted(rows, key=lambda row: int(row["step"])))
        parts += [
            write_measurements(self._run_dir, estimator, self._tagged(rows), suffix=self._suffix)
            for estimator, rows in measured.items()
        ]
        segments = tuple(self._describe(item, content) for item, content in self._pending)
        self.record(Committed(parts=tuple(parts), segments=segments))
        done = [item for item, _ in self._pending]
        self._pending.clear()
        for item in done:
            self._prune_checkpoints(item)
        return done

    def _describe(self, item: SegmentItem, content: OpenSegment) -> CommittedSegment:
        return CommittedSegment(
            trial=item.segment.trial,
            driver_epoch=self.state.driver_epoch,
            attempt=item.segment.attempt,
            start=item.start,
            stop=item.stop,
            outcome=item.outcome,
            checkpoint=item.checkpoint,
            measurement=self._measurement,
            facts=replace(
                item.facts,
                estimate_s=content.estimate_s,
                unmeasured=content.unmeasured,
                measured_on=tuple(content.measured_on),
            ),
        )

    def _last_step(self, item: SegmentItem) -> int:
        """The iterate from which no step is taken; an analytic trial ends where it hits its target."""
        steps = self.state.trials[item.segment.trial].record.steps
        return item.stop if item.outcome == "done" or steps is None else steps

    def _prune_checkpoints(self, item: SegmentItem) -> None:
        """Keep the last two checkpoints of an unfinished trial, the older in case the newer is damaged."""
        trial = item.segment.trial
        # If a trial was stopped exactly at a checkpoint, two segments name it.
        known = [s.checkpoint[0] for s in self.state.trials[trial].segments if s.checkpoint is not None]
        written = list(dict.fromkeys(known))
        folder = self._run_dir.checkpoints / trial
        self._reject_stale(folder, written)
        if not written:
            return
        if item.outcome in {"done", "diverged"}:
            shutil.rmtree(folder, ignore_errors=True)
            return
        # Only committed ones: the trainer may already have written the next one.
        for name in written[:-2]:
            (folder / name).unlink(missing_ok=True)

    def _reject_stale(self, folder: Path, written: Sequence[str]) -> None:
        """Remove what trainers of earlier drivers wrote and the journal does not name: the epoch fences them off.

        They may have died with their driver before it was committed, or have outlived it and still be working.
        """
        if self.state.driver_epoch == 1:
            return
        # A trainer that outlives its driver cannot be stopped from here: it may be cut off on another node. Its epoch
        # in every name makes its files harmless instead: they overwrite none of ours, and the journal names none of
        # them. Only older epochs, since a file of this epoch may be a checkpoint whose segment is not committed yet.
        for path in folder.glob("step-*"):
            of = _EPOCH.search(path.name)
            if of is not None and int(of[1]) < self.state.driver_epoch and path.name not in written:
                _log.warning(
                    "%s/%s: stale, written under driver epoch %s; the epoch is now %d: removed",
                    *path.parts[-2:],
                    of[1],
                    self.state.driver_epoch,
                )
                path.unlink(missing_ok=True)
