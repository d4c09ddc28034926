"""The journal: what has happened to a run, one checked line per record; append, read, replay.

What the journal does not name does not exist. Only the driver that holds the run directory appends.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from sweeper.cell_labels import CellLabels
from sweeper.errors import IntegrityError
from sweeper.labels import counted, not_measured
from sweeper.store.guarded_paths import make_folder
from sweeper.store.planned_trials import TrialRecord, swept_values
from sweeper.store.records import (
    FORMAT,
    Committed,
    CommittedSegment,
    Damaged,
    Failed,
    Opened,
    Part,
    Planned,
    Record,
    Remeasured,
    Remeasuring,
    Retried,
    dump_record,
    parse_record,
)
from sweeper.store.run_dir import RunDir

__all__ = [
    "STATUSES",
    "Journal",
    "Line",
    "RunState",
    "TrialState",
    "Unmeasured",
    "apply",
    "given_up_words",
    "num_failed",
    "open_state",
    "read_journal",
    "read_state",
    "replay",
]

Line = dict[str, Any]
"""A line of the journal as parsed JSON, its hash checked."""


_REMEDY = "restore the journal from a backup, or move the run directory aside and run the spec again"


class Journal:
    """Appends records, each durable before :meth:`append` returns.

    Args:
        path: The journal file; created if it is missing. A torn last line, left by a crash, must have been removed
            before (:func:`repair_journal`).
        next_number: Number of the next record.
    """

    def __init__(self, path: Path, next_number: int) -> None:
        self._path = path
        self._number = next_number

    def append(self, record: Record) -> None:
        """Write one record and flush it to the disk.

        Args:
            record: What has happened.

        Raises:
            OSError: The disk is full or gone. The line may be torn; readers ignore it.
        """
        line = _seal({"n": self._number, **dump_record(record)})
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._number += 1


def read_journal(path: Path) -> tuple[list[Line], int]:
    """Read all whole lines.

    Args:
        path: The journal.

    Returns:
        The lines in order, and their total length in bytes: anything beyond that is a torn tail.

    Raises:
        IntegrityError: A damaged line comes *before* an intact one, or no line is whole though there are committed
            rows beside it: that is not a crash, but a damaged file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
        >>> Journal(path, 0).append(Retried(trials=("a",)))
        >>> whole = path.stat().st_size
        >>> _ = path.write_bytes(path.read_bytes() + b'{"n":1,"ty')
        >>> lines, length = read_journal(path)
        >>> [line["type"] for line in lines], length == whole
        (['retried'], True)
    """
    records: list[Line] = []
    whole = 0
    position = 0
    damaged: int | None = None
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        position += len(line)
        record = _unseal(line, len(records))
        if record is None:
            damaged = damaged or number
        elif damaged is not None:
            raise IntegrityError(f"{path}:{damaged}: damaged line before intact ones; {_REMEDY}")
        else:
            records.append(record)
            whole = position
    if not records:
        _refuse_without_a_beginning(path)
    written_as = records[0].get("format", 0) if records else 0
    if not isinstance(written_as, int):
        raise IntegrityError(
            f"{path}: its format is {written_as!r:.80}, which is not a number; this is not a clipsweep journal"
        )
    if written_as > FORMAT:
        raise IntegrityError(
            f"{path}: written by a newer clipsweep (format {written_as}, known: {FORMAT}); upgrade clipsweep"
        )
    return records, whole


def _refuse_without_a_beginning(path: Path) -> None:
    """Refuse a journal without a whole line beside parts: taken for a run's beginning, all of them would be deleted."""
    parts = RunDir(path.parent).parts
    count = sum(1 for _ in parts.iterdir()) if parts.is_dir() else 0
    if count:
        raise IntegrityError(
            f"{path}:1: cut off or damaged in its first line, and no other is left, but {counted(count, 'file')} of "
            f"committed rows {'is' if count == 1 else 'are'} in {parts}; {_REMEDY}; its *.parquet files can be read "
            "without the journal"
        )


def repair_journal(path: Path, whole: int, quarantine: Path) -> bool:
    """Cut off a torn tail, keeping its bytes in ``quarantine``. Only under the lock.

    Returns:
        Whether there was one.
    """
    data = path.read_bytes()
    if len(data) == whole:
        return False
    make_folder(quarantine)
    (quarantine / f"journal-tail-{whole}").write_bytes(data[whole:])
    with path.open("r+b") as file:
        file.truncate(whole)
        os.fsync(file.fileno())
    return True


def _seal(record: Line) -> bytes:
    """One line: the record and the hash of everything before it on the line."""
    body = json.dumps(record, separators=(",", ":"), ensure_ascii=False)[:-1].encode()
    return body + b',"xxh3":"' + xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n'


def _unseal(line: bytes, number: int) -> Line | None:
    """The record of a line, or None if the line is torn, damaged or out of order."""
    body, mark, seal = line.rpartition(b',"xxh3":"')
    if not mark or seal != xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n':
        return None
    try:
        record = json.loads(body + b"}")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("n") == number else None


# What the records add up to


STATUSES = ("queued", "paused", "running", "held", "done", "diverged", "failed", "lost")
"""What a trial can be, in the order in which it is shown."""


def num_failed(counts: Mapping[str, int]) -> int:
    """How many trials were given up.

    Args:
        counts: Status to number of trials.

    Returns:
        Those that failed, and those that were lost with their workers.
    """
    return counts.get("failed", 0) + counts.get("lost", 0)


def given_up_words(counts: Mapping[str, int]) -> str:
    """Which trials were given up, each kind by its own word.

    Args:
        counts: Status to number of trials.

    Returns:
        The beginning of a sentence; empty if there are none.

    Example:
        >>> given_up_words({"done": 1, "failed": 2, "lost": 1}), given_up_words({"lost": 1})
        ('2 trials failed and 1 was lost', '1 trial was lost')
    """
    verbs = {"failed": "failed", "lost": "was lost" if counts.get("lost") == 1 else "were lost"}
    found = [(counts[status], verb) for status, verb in verbs.items() if counts.get(status)]
    return " and ".join(f"{count if at else counted(count, 'trial')} {verb}" for at, (count, verb) in enumerate(found))


@dataclass
class TrialState:
    """What the journal says about one trial.

    Attributes:
        record: The trial as it was planned.
        segments: Its committed segments, in order.
        failures: (kind, error) of its failed attempts since the last retry.
        attempts: Distinct attempts that the journal mentions.
        given_up: Whether it has failed in all its attempts, or was lost in the last of them.
        until: The step at which a search wants it held; None for its end.
        asked_after: How many outcomes of the run were known when it was planned, or was to go on.
        ended_at: How many were known before its own; None while it is on its way.
    """

    record: TrialRecord
    segments: list[CommittedSegment] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    attempts: set[tuple[int, int]] = field(default_factory=set)
    given_up: bool = False
    until: int | None = None
    asked_after: int = 0
    ended_at: int | None = None

    @property
    def step(self) -> int:
        """The step up to which it is committed."""
        return self.segments[-1].stop if self.segments else 0

    @property
    def outcome(self) -> str | None:
        """``done`` or ``diverged``; None for a trial that has not finished."""
        outcome = self.segments[-1].outcome if self.segments else None
        return outcome if outcome in {"done", "diverged"} else None

    @property
    def steps(self) -> int | None:
        """Its number of steps; None for a recorded loop that has not ended, and did not say."""
        return self.step if self.record.steps is None and self.outcome is not None else self.record.steps

    @property
    def held(self) -> bool:
        """Whether a search wants no more of it for now."""
        return self.outcome is None and self.until is not None and self.step >= self.until

    @property
    def target(self) -> int | None:
        """The step up to which it is to be trained, as far as is known now."""
        return self.steps if self.until is None else self.until

    @property
    def resolved(self) -> bool:
        """Whether nothing is left to do, for now at least."""
        return self.given_up or self.outcome is not None or self.held

    def status(self, *, running: bool = False) -> str:
        """Its status, in one word.

        Args:
            running: Whether a trainer is working on it, which the journal cannot know.

        Returns:
            One of :data:`STATUSES`; an unfinished trial that no trainer is working on is paused if anything of it is
            committed, else queued.
        """
        if self.outcome is not None:
            return self.outcome
        if self.given_up:
            return "failed" if self.failures[-1][0] in {"raised", "differed"} else "lost"
        if running:
            return "running"
        if self.held:
            return "held"
        return "paused" if self.segments else "queued"


@dataclass
class RunState:
    """A run as its journal describes it.

    Attributes:
        trials: By id, in the order in which they were planned.
        parts: The committed parts, in order.
        driver_epoch: How many drivers have opened the run.
        measurements: Ids of the measure sections that the run has had, with the sections themselves.
        remeasurements: Ids under which kept snapshots were measured again, with what was measured.
        remeasured: By these ids, trial and step of every snapshot that is done.
        superseded: Trials that were replaced by others, with the user's consent, after spec or code had changed.
        metrics: Metric to ``min`` or ``max``, as the last spec declares.
        cases: Cell id to the name of its case, as the last spec that has the cell gives it.
        environment: What the last driver ran on, as far as results depend on it.
        environments: The same for every driver, by driver epoch.
        opened_at: When every driver started, in seconds since 1970, by driver epoch; None of an earlier version.
        recorder: What records the loops of others in this directory; None for the run of a sweep.
        num_ended: How many times a trial has ended, or was held.
        next_number: Number of the next record.
    """

    trials: dict[str, TrialState] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    driver_epoch: int = 0
    measurements: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    remeasurements: dict[str, Remeasuring] = field(default_factory=dict)
    remeasured: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    superseded: frozenset[str] = frozenset()
    metrics: Mapping[str, str] = field(default_factory=dict)
    cases: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    environments: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    opened_at: dict[int, float | None] = field(default_factory=dict)
    recorder: str | None = None
    num_ended: int = 0
    next_number: int = 0

    def labels(self) -> dict[str, str]:
        """What the trials are called.

        Returns:
            Trial id to label. Those that others stand in the place of, which may have the same values, are told apart
            from one another only.
        """
        found: dict[str, str] = {}
        for is_superseded in (False, True):
            records = [self.trials[name].record for name in self.trials if (name in self.superseded) == is_superseded]
            values = swept_values(records)
            labels = CellLabels({record.cell_id: values[record.trial_id] for record in records}, self.cases)
            found |= {record.trial_id: labels.trial(record.cell_id, record.seed) for record in records}
        return found

    def declared_metrics(self, trial: str, spec: Mapping[str, str] | None = None) -> Mapping[str, str]:
        """Which way the metrics of a trial get better, where its problem or the last spec says so; the spec overrides.

        Args:
            trial: Its id; one that is not known declares nothing.
            spec: What the spec declares, in place of the last one.

        Returns:
            Metric to ``min`` or ``max``.
        """
        known = self.trials.get(trial)
        by_problem = known.segments[-1].facts.metrics if known is not None and known.segments else {}
        return {**by_problem, **(self.metrics if spec is None else spec)}

    def unmeasured(self, trials: Collection[str] | None = None) -> Unmeasured:
        """Which snapshots could not be measured.

        Args:
            trials: Of these trials alone; by default of all that no others stand in the place of.

        Returns:
            How many, and why.
        """
        names = self.trials.keys() - self.superseded if trials is None else set(trials)
        total, errors = 0, Counter[str]()
        for name, trial in self.trials.items():
            for segment in trial.segments if name in names else ():
                total += segment.facts.num_snapshots or 0
                errors.update(segment.facts.unmeasured)
        return Unmeasured(total=total, errors=dict(errors.most_common()))


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """Snapshots that could not be measured, by all estimators or by one.

    Attributes:
        total: Snapshots that were taken in all.
        errors: Error to number of snapshots, the most frequent first; one of one estimator begins with its name.

    Example:
        >>> Unmeasured(total=960, errors={"RuntimeError: no": 960}).lines
        ('960 of 960 snapshots could not be measured: RuntimeError: no',)
        >>> Unmeasured(total=960, errors={"gradient_noise: RuntimeError: no": 7}).lines
        ('7 of 960 snapshots could not be measured by gradient_noise: RuntimeError: no',)
    """

    total: int
    errors: Mapping[str, int]

    @property
    def lines(self) -> tuple[str, ...]:
        """The same in words, one line per distinct error; none where all were measured."""
        total = counted(self.total, "snapshot")
        return tuple(f"{count} of {total} {not_measured(error)}" for error, count in self.errors.items())


def replay(lines: list[Line], path: Path | None = None) -> RunState:
    """Rebuild the state of a run from the lines of its journal.

    Args:
        lines: As :func:`read_journal` returns them.
        path: The journal, for messages.

    Returns:
        The state of the run.

    Raises:
        IntegrityError: A record is of an unknown kind, or about an unknown trial.
    """
    state = RunState()
    for line in lines:
        try:
            apply(state, parse_record(line))
        except (KeyError, TypeError, ValueError) as error:
            why = error if isinstance(error, ValueError) else repr(error)
            where = f"journal record {line.get('n')}" if path is None else f"{path}:{state.next_number + 1}"
            raise IntegrityError(f"{where}: not understood: {why}; {_REMEDY}") from error
        state.next_number += 1
    return state


def apply(state: RunState, record: Record) -> None:
    """Take one record into account.

    Args:
        state: The run so far; changed in place.
        record: The next record.

    Raises:
        KeyError: The record is about an unknown trial.
    """
    match record:
        case Opened():
            state.driver_epoch = record.driver_epoch
            state.environment = state.environments[record.driver_epoch] = record.environment
            state.opened_at[record.driver_epoch] = record.started_at
            state.recorder = record.recorder
        case Planned():
            state.measurements[record.measurement] = record.measure
            for planned in record.trials:
                state.trials.setdefault(planned.trial_id, TrialState(planned, asked_after=state.num_ended))
            for name, until in record.until.items():
                trial = state.trials[name]
                trial.until, trial.asked_after, trial.ended_at = until, state.num_ended, None
            if record.superseded is not None:
                state.superseded = record.superseded
            if record.metrics is not None:
                state.metrics = record.metrics
            if record.cases is not None:
                state.cases = record.cases
        case Committed():
            state.parts.extend(record.parts)
            for segment in record.segments:
                trial = state.trials[segment.trial]
                trial.segments.append(segment)
                trial.attempts.add((segment.driver_epoch, segment.attempt))
                _note_end(state, trial)
        case Remeasuring():
            state.remeasurements[record.measurement] = record
        case Remeasured():
            state.parts.extend(record.parts)
            state.remeasured.setdefault(record.measurement, set()).update(record.snapshots)
        case Failed():
            trial = state.trials[record.trial]
            trial.failures.append((record.kind, record.error))
            trial.attempts.add((record.driver_epoch, record.attempt))
            trial.given_up = record.final
            _note_end(state, trial)
        case Damaged():
            _forget(state, record)
        case Retried():
            for name in record.trials:
                state.trials[name].given_up = False
                state.trials[name].failures.clear()
                state.trials[name].ended_at = None


def _note_end(state: RunState, trial: TrialState) -> None:
    """Number the trials in the order in which they end, which is that of the journal."""
    if trial.resolved and trial.ended_at is None:
        trial.ended_at = state.num_ended
        state.num_ended += 1


def _forget(state: RunState, record: Damaged) -> None:
    """Take back what damaged parts held: their trials resume from before it, and later rows no longer count."""
    cut = {one.trial: one.step for one in record.trials}
    parts = [part for part in state.parts if part.file not in record.parts]
    state.parts[:] = [
        part if part.remeasurement is not None else replace(part, void=_earliest(part.void, cut)) for part in parts
    ]
    for one in record.trials:
        trial = state.trials[one.trial]
        trial.segments = [
            segment
            if segment.checkpoint is None or segment.checkpoint[0] in one.checkpoints
            else replace(segment, checkpoint=None)
            for segment in trial.segments
            if segment.stop <= one.step
        ]
        trial.given_up = False
        trial.failures.clear()
        trial.ended_at = None
    for measurement, name, step in record.snapshots:
        state.remeasured[measurement].discard((name, step))


def _earliest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The lower step of each trial."""
    return {trial: min(steps[trial] for steps in (one, other) if trial in steps) for trial in {**one, **other}}


def open_state(run_dir: RunDir) -> RunState:
    """The state of a run, read without changing it; a torn tail of the journal is ignored.

    Returns:
        The state; an empty one if no run was begun.

    Raises:
        IntegrityError: The journal is damaged.
    """
    run_dir.refuse_links()
    return read_state(run_dir.journal) if run_dir.exists else RunState()


def read_state(path: Path) -> RunState:
    """The state of a run, from its journal; a torn tail is ignored.

    Args:
        path: The journal.

    Returns:
        The state.

    Raises:
        IntegrityError: The journal is damaged.
    """
    lines, _ = read_journal(path)
    return replay(lines, path)
