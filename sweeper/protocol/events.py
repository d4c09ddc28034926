"""What the schedule and the driver exchange: events (what happened) and commands (what to do)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

__all__ = [
    "Abandon",
    "Command",
    "Commit",
    "Committed",
    "Discard",
    "EstimatorDied",
    "EstimatorReady",
    "Event",
    "GiveUp",
    "Measure",
    "MeasureFailed",
    "MeasureRaised",
    "Measured",
    "NoteFailure",
    "ReplaceEstimator",
    "ReplaceTrainer",
    "RetireEstimator",
    "RetireTrainer",
    "RoomChanged",
    "SegmentEnded",
    "SegmentId",
    "SnapshotId",
    "SnapshotLost",
    "SnapshotTaken",
    "Start",
    "StartTrials",
    "StopRequested",
    "StopTrainer",
    "TrainerDied",
    "TrainerReady",
    "TrialDiffered",
    "TrialRaised",
    "TrialsAdded",
]


class SegmentId(NamedTuple):
    """The number-th segment, counted from 0, of one attempt."""

    trial: str
    attempt: int
    number: int

    @property
    def following(self) -> SegmentId:
        """The segment after the next checkpoint."""
        return self._replace(number=self.number + 1)


class SnapshotId(NamedTuple):
    """The snapshot that one attempt took at a step."""

    trial: str
    attempt: int
    step: int


# Events


@dataclass(frozen=True, kw_only=True)
class TrainerReady:
    """A trainer has started and waits for a trial."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class EstimatorReady:
    """An estimator has started and waits for a snapshot."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class SnapshotTaken:
    """A trainer handed over a snapshot of ``nbytes`` bytes; ``trial`` None means the only one that it works on."""

    slot: int
    step: int
    nbytes: int = 0
    trial: str | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentEnded:
    """A trainer reached a checkpoint (outcome None) or the end: done, diverged or stopped.

    ``seconds`` is what the segment took; it decides whether trials are so short that they are handed out in batches.
    A ``spoiled`` trainer must not train another trial: this one has changed its process for good.
    ``trial`` None means the only one that it works on.
    """

    slot: int
    stop: int
    outcome: str | None = None
    seconds: float = math.inf
    spoiled: bool = False
    trial: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialRaised:
    """The trial's own code raised; the trainer is still alive, but may be spoiled, as in :class:`SegmentEnded`.

    Being ``short_of_memory`` on a GPU may be a neighbour's fault, and is forgiven once.
    """

    slot: int
    error: str
    spoiled: bool = False
    short_of_memory: bool = False
    trial: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrialDiffered:
    """A trial gave different rows for steps that are committed; its trainer is still running it."""

    slot: int
    error: str
    trial: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainerDied:
    """A trainer's process is gone."""

    slot: int
    error: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An estimator finished a snapshot; a ``spoiled`` one must not measure another."""

    slot: int
    snapshot: SnapshotId
    spoiled: bool = False


@dataclass(frozen=True, kw_only=True)
class MeasureRaised:
    """An estimator's code raised on a snapshot; the estimator is still alive, but may be spoiled, too."""

    slot: int
    snapshot: SnapshotId
    error: str
    spoiled: bool = False


@dataclass(frozen=True, kw_only=True)
class EstimatorDied:
    """An estimator's process is gone."""

    slot: int
    error: str


@dataclass(frozen=True, kw_only=True)
class SnapshotLost:
    """The bytes of a snapshot are gone with the node that held them; the estimator is still alive."""

    slot: int
    snapshot: SnapshotId
    error: str


@dataclass(frozen=True, kw_only=True)
class Committed:
    """A segment is durable."""

    segment: SegmentId


@dataclass(frozen=True, kw_only=True)
class TrialsAdded:
    """A search has asked for trials, each from a step: 0, or where it was held; ``packs`` as for the schedule."""

    trials: Mapping[str, int]
    side_by_side: tuple[str, ...] = ()
    packs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StopRequested:
    """The user, or the machine, asks the sweep to stop early and cleanly."""


@dataclass(frozen=True, kw_only=True)
class RoomChanged:
    """The cluster now has room for this many workers: sent at the start, and when nodes join or leave.

    Attributes:
        trainers: Workers that train.
        estimators: Workers that measure.
        snapshot_bytes: Bound on the bytes of snapshots in flight; None leaves it as it is.
    """

    trainers: int
    estimators: int
    snapshot_bytes: int | None = None


Event: TypeAlias = (
    TrainerReady
    | EstimatorReady
    | SnapshotTaken
    | SegmentEnded
    | TrialRaised
    | TrialDiffered
    | TrainerDied
    | Measured
    | MeasureRaised
    | EstimatorDied
    | SnapshotLost
    | Committed
    | TrialsAdded
    | StopRequested
    | RoomChanged
)

# Commands


class Start(NamedTuple):
    """One attempt, starting from ``step``, the last committed one."""

    trial: str
    attempt: int
    step: int


@dataclass(frozen=True, kw_only=True)
class StartTrials:
    """Train these, one after the other, or all of them step by step together."""

    slot: int
    starts: tuple[Start, ...]
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Let an estimator measure a snapshot."""

    slot: int
    snapshot: SnapshotId


@dataclass(frozen=True, kw_only=True)
class MeasureFailed:
    """Record a snapshot as not measurable."""

    snapshot: SnapshotId
    error: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Make a segment durable, and answer with :class:`Committed`."""

    segment: SegmentId


@dataclass(frozen=True, kw_only=True)
class Discard:
    """Forget a segment that will not be committed, with its snapshots."""

    segment: SegmentId


@dataclass(frozen=True, kw_only=True)
class NoteFailure:
    """Record a failed attempt of a trial that will be tried again."""

    trial: str
    attempt: int
    kind: str
    error: str


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Record a trial that failed in all its attempts."""

    trial: str
    attempt: int
    kind: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Abandon:
    """End a trainer that must not go on, with its trial or with another, and start a new one in its place."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class ReplaceTrainer:
    """Start a trainer in a slot that is new, or whose trainer is dead."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class ReplaceEstimator:
    """Start an estimator in a slot that is new, or whose estimator is dead."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class RetireTrainer:
    """End a trainer, whether it is up or not: there is no longer room for it."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class RetireEstimator:
    """End an estimator, whether it is up or not: there is no longer room for it."""

    slot: int


@dataclass(frozen=True, kw_only=True)
class StopTrainer:
    """Ask a trainer to checkpoint at its next step and return."""

    slot: int


Command: TypeAlias = (
    StartTrials
    | Measure
    | MeasureFailed
    | Commit
    | Discard
    | NoteFailure
    | GiveUp
    | Abandon
    | ReplaceTrainer
    | ReplaceEstimator
    | RetireTrainer
    | RetireEstimator
    | StopTrainer
)
