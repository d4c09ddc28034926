"""What travels between the driver and its workers; plain data, so that either side can be tested without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from sweeper.protocol.events import SnapshotId

__all__ = [
    "Assignment",
    "EstimatorBeat",
    "EstimatorDown",
    "EstimatorUp",
    "FromTrainer",
    "Message",
    "ProgressItem",
    "RaisedItem",
    "RepeatedItem",
    "SegmentItem",
    "SnapshotHeader",
    "SnapshotItem",
    "TrainerDown",
    "TrainerItem",
    "TrainerUp",
    "Verdict",
    "WorkerFacts",
    "ends_attempt",
]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One attempt of one trial.

    Attributes:
        trial: Trial id.
        epoch: The driver's epoch; part of every file name that the trainer writes.
        attempt: Attempt number under this driver.
        seed: Seed of weights, batches and dropout.
        problem: The resolved problem section.
        update_rule: The resolved update rule.
        train: The resolved train section.
        measure: When to take snapshots and which estimators measure them; None for never.
        checkpoints: Files and hashes to resume from, newest first; a damaged one is passed over.
        fingerprint: Hash of the data that the trial began with; None to begin.
        committed_step: The step up to which rows are committed; where the trainer has to begin earlier, its rows up
            to here are only compared with them.
    """

    trial: str
    epoch: int
    attempt: int
    seed: int
    problem: Mapping[str, Any]
    update_rule: Mapping[str, Any]
    train: Mapping[str, Any]
    measure: Mapping[str, Any] | None
    checkpoints: tuple[tuple[str, str], ...] = ()
    fingerprint: str | None = None
    committed_step: int = 0


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """What an estimator needs besides the parameters.

    Attributes:
        trial: Trial id.
        seed: The trial's seed.
        step: k of x_k.
        epoch: k over the steps of an epoch.
        problem: The resolved problem section.
        measure: The resolved measure section.
        nbytes: Size of the parameters.
        data: Fingerprint of the data that it was trained on; None where it does not matter.
    """

    trial: str
    seed: int
    step: int
    epoch: float
    problem: Mapping[str, Any]
    measure: Mapping[str, Any]
    nbytes: int
    data: str | None = None


# What a trainer sends


@dataclass(frozen=True, kw_only=True)
class SnapshotItem:
    """A snapshot; ``payload`` is the array of shape (2, n), or Ray's reference to it."""

    header: SnapshotHeader
    payload: Any


@dataclass(frozen=True, kw_only=True)
class ProgressItem:
    """A sign of life: the step reached, its loss, and the share of clipped steps so far."""

    step: int
    loss: float
    clipped_fraction: float


@dataclass(frozen=True, kw_only=True)
class SegmentItem:
    """A finished segment.

    Attributes:
        start: First step.
        stop: One past the last.
        rows: Metric columns by name, equal lengths.
        checkpoint: File name and hash of the state at ``stop``; None at the end of a trial.
        outcome: None, ``done``, ``diverged`` or ``stopped``.
        facts: Counts, times and the host, for the journal.
    """

    start: int
    stop: int
    rows: Mapping[str, np.ndarray[Any, Any]]
    checkpoint: tuple[str, str] | None
    outcome: str | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RepeatedItem:
    """Rows of steps that are committed already and had to be trained again, since a later checkpoint was damaged.

    Attributes:
        start: First step.
        stop: One past the last.
        rows: Metric columns by name, equal lengths.
    """

    start: int
    stop: int
    rows: Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class RaisedItem:
    """The trial's code raised.

    Attributes:
        error: The last line, for tables.
        traceback: All of it, for the trial's log.
        disk: Number and path of the system's error, where it was the run directory that could not be written.
    """

    error: str
    traceback: str
    disk: tuple[int, str] | None = None


def ends_attempt(item: object) -> bool:
    """Whether nothing follows an item of the attempt that it belongs to."""
    return isinstance(item, RaisedItem) or (isinstance(item, SegmentItem) and item.outcome is not None)


TrainerItem: TypeAlias = SnapshotItem | ProgressItem | SegmentItem | RepeatedItem | RaisedItem

# What the pools tell the driver


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """Where a worker runs and what it computes with."""

    host: str
    pid: int
    torch: str
    threads: int
    device: str


@dataclass(frozen=True, kw_only=True)
class TrainerUp:
    """A trainer has started."""

    slot: int
    facts: WorkerFacts


@dataclass(frozen=True, kw_only=True)
class TrainerDown:
    """A trainer's process is gone."""

    slot: int
    error: str


@dataclass(frozen=True, kw_only=True)
class FromTrainer:
    """A trainer sent something."""

    slot: int
    item: TrainerItem


@dataclass(frozen=True, kw_only=True)
class EstimatorUp:
    """An estimator has started."""

    slot: int
    facts: WorkerFacts


@dataclass(frozen=True, kw_only=True)
class EstimatorDown:
    """An estimator's process is gone."""

    slot: int
    error: str


@dataclass(frozen=True, kw_only=True)
class EstimatorBeat:
    """An estimator's answer to whether it gets on: a number that grows while it does."""

    slot: int
    beats: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a snapshot.

    Attributes:
        slot: The estimator.
        snapshot: Which.
        rows: Estimator name to row; None where it failed.
        estimate_s: Seconds it took.
        error: The last line of what was raised.
        traceback: All of it.
        lost: Whether the snapshot's bytes could not be had.
    """

    slot: int
    snapshot: SnapshotId
    rows: Mapping[str, Mapping[str, Any]] | None = None
    estimate_s: float = 0.0
    error: str = ""
    traceback: str = ""
    lost: bool = False


Message: TypeAlias = TrainerUp | TrainerDown | FromTrainer | EstimatorUp | EstimatorDown | EstimatorBeat | Verdict
