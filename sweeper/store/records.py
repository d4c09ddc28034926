"""The journal's language: one frozen dataclass for each kind of record, and its form as a line of JSON.

``shapes`` says what a line must hold before it is trusted; this module turns such lines into typed records, and records
into lines. The keys of the lines are those of format 1, whatever the fields here are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from sweeper.protocol.messages import SegmentFacts
from sweeper.store.planned_trials import TrialRecord, dump_trial, parse_trial
from sweeper.store.shapes import check_record

__all__ = [
    "FORMAT",
    "Committed",
    "CommittedSegment",
    "Damaged",
    "DamagedTrial",
    "Failed",
    "Opened",
    "Part",
    "Planned",
    "Record",
    "Remeasured",
    "Remeasuring",
    "Retried",
    "dump_record",
    "parse_record",
]

FORMAT = 1
"""Version of the journal's language; a newer one is refused."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """An immutable file of committed rows.

    Attributes:
        table: Which table the rows belong to.
        file: Name within ``parts/``.
        rows: How many.
        xxh3: Hash of the file's bytes.
        remeasurement: The id under which kept snapshots were measured again; None for rows from training. Not in the
            line.
        void: Trial to the step from which its rows here no longer count, because it is trained again from there. Not in
            the line.
    """

    table: str
    file: str
    rows: int
    xxh3: str
    remeasurement: str | None = None
    void: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CommittedSegment:
    """A committed segment of one trial.

    Attributes:
        trial: Trial id.
        driver_epoch: Which driver of the run, counted from 1.
        attempt: Which attempt of that driver.
        start: First step.
        stop: One past the last step.
        outcome: None if it ended at a checkpoint; otherwise done, diverged, stopped or held.
        checkpoint: File below ``checkpoints/<trial>/`` and its hash, or None.
        measurement: Id of the measure section under which its snapshots were measured.
        facts: What is known about it besides its rows.
    """

    trial: str
    driver_epoch: int
    attempt: int
    start: int
    stop: int
    outcome: str | None
    checkpoint: tuple[str, str] | None
    measurement: str
    facts: SegmentFacts


# The kinds of record


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A driver has opened the run.

    Attributes:
        driver_epoch: Which one, counted from 1.
        environment: What results depend on besides the spec.
        started_at: When, in seconds since 1970; None in a run of an earlier version.
        recorder: What records the loops of others in this directory; None for the driver of a sweep.
    """

    driver_epoch: int
    environment: Mapping[str, Any]
    started_at: float | None = None
    recorder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Trials that are new to the run.

    Attributes:
        measurement: Id of the measure section in force.
        measure: The section; None if nothing is measured.
        trials: The new trials.
        superseded: All trials that have been replaced by others; None if unchanged.
        metrics: Metric to ``min`` or ``max``, as the spec declares; None where that is as before.
        cases: Cell id to the name that the spec gives its case, of all cells of the run that have one; None where
            that is as before. Names are no part of any id: a later spec may change them.
        until: Trial id to the step at which a search wants it held, None for its end; of new trials that are to be
            held, and of held ones that are to go on.
    """

    measurement: str
    measure: Mapping[str, Any] | None
    trials: tuple[TrialRecord, ...] = ()
    superseded: frozenset[str] | None = None
    metrics: Mapping[str, str] | None = None
    cases: Mapping[str, str] | None = None
    until: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Committed:
    """Segments that have become durable, with the parts that hold their rows."""

    parts: tuple[Part, ...]
    segments: tuple[CommittedSegment, ...]


@dataclass(frozen=True, kw_only=True)
class Remeasuring:
    """Kept snapshots begin to be measured again.

    Attributes:
        measurement: Id of what is measured.
        measure: ``data_fraction``, ``probe``, ``audit`` and ``estimators``.
        environment: What else the rows depend on; empty if an earlier version did not record it.
    """

    measurement: str
    measure: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Remeasured:
    """Kept snapshots, as (trial, step), whose new rows have become durable."""

    measurement: str
    parts: tuple[Part, ...]
    snapshots: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """An attempt has failed.

    Attributes:
        trial: Trial id.
        driver_epoch: Which driver of the run.
        attempt: Which attempt of that driver.
        kind: ``raised``, ``died``, ``lost`` or ``differed``.
        error: What happened, on one line.
        final: Whether the trial is given up.
    """

    trial: str
    driver_epoch: int
    attempt: int
    kind: str
    error: str
    final: bool


@dataclass(frozen=True, kw_only=True)
class DamagedTrial:
    """A trial that lost rows to a damaged part: committed up to ``step`` now, with the checkpoints that are left."""

    trial: str
    step: int
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """Parts that were found damaged and set aside, and what is trained or measured again because of it.

    Attributes:
        parts: File names.
        trials: What is trained again.
        snapshots: (measurement, trial, step) of what is measured again.
    """

    parts: frozenset[str]
    trials: tuple[DamagedTrial, ...] = ()
    snapshots: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Retried:
    """Failed trials that the user has queued again."""

    trials: tuple[str, ...]


Record: TypeAlias = Opened | Planned | Committed | Remeasuring | Remeasured | Failed | Damaged | Retried


def dump_record(record: Record) -> dict[str, Any]:
    """A record as a JSON-serialisable mapping, as in a line of the journal.

    Args:
        record: The record.

    Returns:
        ``type`` and the keys of format 1.

    Example:
        >>> dump_record(Retried(trials=("a",)))
        {'type': 'retried', 'trials': ['a']}
    """
    match record:
        case Opened():
            return {
                "type": "opened",
                "format": FORMAT,
                "epoch": record.driver_epoch,
                "environment": dict(record.environment),
                **({} if record.started_at is None else {"started_at": record.started_at}),
                **({} if record.recorder is None else {"recorder": record.recorder}),
            }
        case Planned():
            superseded = {} if record.superseded is None else {"superseded": sorted(record.superseded)}
            return {
                "type": "planned",
                "measurement": record.measurement,
                "measure": record.measure,
                "trials": [dump_trial(trial) for trial in record.trials],
                **superseded,
                **({} if record.metrics is None else {"metrics": dict(record.metrics)}),
                **({} if record.cases is None else {"cases": dict(record.cases)}),
                **({"until": dict(record.until)} if record.until else {}),
            }
        case Committed():
            return {
                "type": "committed",
                "parts": [_dump_part(part) for part in record.parts],
                "segments": [_dump_segment(segment) for segment in record.segments],
            }
        case Remeasuring():
            return {"type": "remeasuring", **_values(record)}
        case Remeasured():
            return {
                "type": "remeasured",
                "measurement": record.measurement,
                "parts": [_dump_part(part) for part in record.parts],
                "snapshots": [list(snapshot) for snapshot in record.snapshots],
            }
        case Failed():
            return {"type": "failed", **_with_epoch(_values(record))}
        case Damaged():
            return {
                "type": "damaged",
                "parts": sorted(record.parts),
                "trials": [[one.trial, one.step, list(one.checkpoints)] for one in record.trials],
                "snapshots": [list(snapshot) for snapshot in record.snapshots],
            }
        case Retried():
            return {"type": "retried", "trials": list(record.trials)}


def parse_record(section: Mapping[str, Any]) -> Record:
    """The record of a line.

    Args:
        section: As it was read; unknown keys are ignored.

    Returns:
        The record.

    Raises:
        ValueError: Its type is unknown, or a value is invalid; the text says where.

    Example:
        >>> parse_record({"type": "retried", "trials": ["a"]})
        Retried(trials=('a',))
    """
    check_record(section)
    return _PARSERS[section["type"]](section)


def _opened(section: Mapping[str, Any]) -> Opened:
    return Opened(
        driver_epoch=section["epoch"],
        environment=section["environment"],
        started_at=section.get("started_at"),
        recorder=section.get("recorder"),
    )


def _planned(section: Mapping[str, Any]) -> Planned:
    return Planned(
        measurement=section["measurement"],
        measure=section["measure"],
        trials=tuple(map(parse_trial, section["trials"])),
        superseded=frozenset(map(str, section["superseded"])) if "superseded" in section else None,
        metrics=section.get("metrics"),
        cases=section.get("cases"),
        until=section.get("until", {}),
    )


def _committed(section: Mapping[str, Any]) -> Committed:
    return Committed(
        parts=tuple(Part(**part) for part in section["parts"]), segments=tuple(map(_segment, section["segments"]))
    )


def _remeasuring(section: Mapping[str, Any]) -> Remeasuring:
    return Remeasuring(
        measurement=section["measurement"],
        measure=section["measure"],
        environment=section.get("environment") or {},
    )


def _remeasured(section: Mapping[str, Any]) -> Remeasured:
    measurement = section["measurement"]
    return Remeasured(
        measurement=measurement,
        parts=tuple(Part(**part, remeasurement=measurement) for part in section["parts"]),
        snapshots=tuple((trial, step) for trial, step in section["snapshots"]),
    )


def _failed(section: Mapping[str, Any]) -> Failed:
    return Failed(
        trial=section["trial"],
        driver_epoch=section["epoch"],
        attempt=section["attempt"],
        kind=section["kind"],
        error=section["error"],
        final=section["final"],
    )


def _damaged(section: Mapping[str, Any]) -> Damaged:
    return Damaged(
        parts=frozenset(section["parts"]),
        trials=tuple(
            DamagedTrial(trial=trial, step=step, checkpoints=tuple(checkpoints))
            for trial, step, checkpoints in section["trials"]
        ),
        snapshots=tuple((measurement, trial, step) for measurement, trial, step in section["snapshots"]),
    )


def _retried(section: Mapping[str, Any]) -> Retried:
    return Retried(trials=tuple(section["trials"]))


_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Record]] = {
    "opened": _opened,
    "planned": _planned,
    "committed": _committed,
    "remeasuring": _remeasuring,
    "remeasured": _remeasured,
    "failed": _failed,
    "damaged": _damaged,
    "retried": _retried,
}


# What records are made of


def _dump_part(part: Part) -> dict[str, Any]:
    return {"table": part.table, "file": part.file, "rows": part.rows, "xxh3": part.xxh3}


def _segment(section: Mapping[str, Any]) -> CommittedSegment:
    checkpoint = section["checkpoint"]
    return CommittedSegment(
        trial=section["trial"],
        driver_epoch=section["epoch"],
        attempt=section["attempt"],
        start=section["start"],
        stop=section["stop"],
        outcome=section["outcome"],
        checkpoint=tuple(checkpoint) if checkpoint else None,
        measurement=section["measurement"],
        facts=_facts(section["facts"]),
    )


def _dump_segment(segment: CommittedSegment) -> dict[str, Any]:
    return _with_epoch({**_values(segment), "facts": _dump_facts(segment.facts)})


def _facts(section: Mapping[str, Any]) -> SegmentFacts:
    """Facts of any version: what an earlier one did not record is None."""
    unsaid = {"waited_s": None, "num_snapshots": None}
    known = {name: section[name] for name in _FACTS_FIELDS if name in section}
    scores = {name: tuple(values) for name, values in known.get("scores", {}).items()}
    lists = {name: tuple(known.get(name, ())) for name in ("tests", "measured_on")}
    return SegmentFacts(**unsaid | known | lists | {"scores": scores})


_FACTS_FIELDS = tuple(one.name for one in fields(SegmentFacts))


def _dump_facts(facts: SegmentFacts) -> dict[str, Any]:
    """Facts without unknown values, and without columns if there are none."""
    values = _values(facts)
    optional = "columns metrics tests node pid data unmeasured scores hardware measured_on".split()
    return {name: value for name, value in values.items() if name not in optional or value}


def _values(record: Any) -> dict[str, Any]:
    """Field to value; unlike ``asdict``, this does not copy the values deeply."""
    return {one.name: getattr(record, one.name) for one in fields(record)}


def _with_epoch(section: dict[str, Any]) -> dict[str, Any]:
    """The same, with the driver epoch under its key in format 1, in its original position."""
    return {"epoch" if key == "driver_epoch" else key: value for key, value in section.items()}
