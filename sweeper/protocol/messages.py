"""What travels between the driver and its workers; plain data, so that either side can be tested without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from sweeper.protocol.events import SegmentId, SnapshotId

if TYPE_CHECKING:
    # Only for types: the journal's records hold facts about segments, and reading a journal must not load NumPy.
    import numpy as np

__all__ = [
    "OWN_TABLE",
    "Assignment",
    "EstimatorBeat",
    "EstimatorDown",
    "EstimatorUp",
    "FromTrainer",
    "KeptSnapshot",
    "Lost",
    "Message",
    "ProgressItem",
    "Raised",
    "RaisedItem",
    "RepeatedItem",
    "Rows",
    "SegmentFacts",
    "SegmentItem",
    "SnapshotHeader",
    "SnapshotItem",
    "TrainerDown",
    "TrainerItem",
    "TrainerUp",
    "Verdict",
    "WorkerFacts",
    "ends_attempt",
    "ends_work",
]


OWN_TABLE = "own"
"""The table of all estimators of the user's own, and the name of their row among those of the others."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One attempt of one trial.

    Attributes:
        trial: Trial id.
        driver_epoch: Which driver of the run, counted from 1; part of every file name that the trainer writes.
        attempt: Attempt number under this driver.
        seed: Seed of weights, batches and dropout.
        problem: The resolved problem section.
        update_rule: The resolved update rule.
        train: The resolved train section.
        measure: When to take snapshots and which estimators measure them; None for never.
        checkpoints: Files and hashes to resume from, newest first; a damaged one is skipped.
        fingerprint: Hash of the data that the trial began with; None for a new trial.
        committed_step: The step up to which rows are committed; if the trainer has to begin earlier, its rows up to
            this step are only compared with the committed ones.
        until: The step at which a search wants it held; None for its end.
        together: Whether it takes its steps together with the others that were handed out with it.
    """

    trial: str
    driver_epoch: int
    attempt: int
    seed: int
    problem: Mapping[str, Any]
    update_rule: Mapping[str, Any]
    train: Mapping[str, Any]
    measure: Mapping[str, Any] | None
    checkpoints: tuple[tuple[str, str], ...] = ()
    fingerprint: str | None = None
    committed_step: int = 0
    until: int | None = None
    together: bool = False


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """What an estimator needs besides the parameters.

    Attributes:
        trial: Trial id.
        seed: The trial's seed.
        step: k of x_k.
        epoch: Passes over the training data before step k.
        problem: The resolved problem section.
        measure: The resolved measure section.
        nbytes: Size of the parameters.
        data: Fingerprint of the data that it was trained on; None if it does not matter.
        grad_norm: Norm of the gradient that training computed at x_k; None if it is not known.
        learning_rate: eta of step k; None if it is not known.
        clip_norm: The threshold c, where step k is eta times a vector clipped to c and nothing more; None elsewhere.
        stability_threshold: What eta times a curvature must not exceed for step k to be stable; None where there is no
            such number, or it is not known.
        preconditioned: Whether step k was divided by a diagonal, which the payload then may have as its third row;
            None if it is not known.
        batches_per_step: How many batches of the problem step k is the mean of.
    """

    trial: str
    seed: int
    step: int
    epoch: float
    problem: Mapping[str, Any]
    measure: Mapping[str, Any]
    nbytes: int
    data: str | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    clip_norm: float | None = None
    stability_threshold: float | None = None
    preconditioned: bool | None = None
    batches_per_step: int = 1


@dataclass(frozen=True, kw_only=True)
class KeptSnapshot:
    """A snapshot in the run directory, whose file says what it belongs to.

    Attributes:
        trial: Trial id.
        step: k of x_k.
        use: The user's own problem that the file may name; None if it may only name registered ones. The driver has
            checked its code, so a file cannot make a worker import anything else.
        measure: What to measure on it: ``data_fraction``, ``probe``, ``audit`` and ``estimators``.
    """

    trial: str
    step: int
    use: str | None
    measure: Mapping[str, Any]


# What a trainer sends. Every item names the segment that it belongs to.


@dataclass(frozen=True, kw_only=True)
class SnapshotItem:
    """A snapshot; ``payload`` is the array of shape (2, n), or Ray's reference to it."""

    segment: SegmentId
    header: SnapshotHeader
    payload: Any

    @property
    def snapshot(self) -> SnapshotId:
        """Its id."""
        return SnapshotId(trial=self.segment.trial, attempt=self.segment.attempt, step=self.header.step)


@dataclass(frozen=True, kw_only=True)
class ProgressItem:
    """A sign of life: the step reached, its loss, and the share of clipped steps so far."""

    segment: SegmentId
    step: int
    loss: float
    clipped_fraction: float


@dataclass(frozen=True, kw_only=True)
class SegmentFacts:
    """What is known about a segment besides its rows: counts, times, and where it was trained.

    Attributes:
        num_steps: Steps taken.
        num_clipped: How many of them were clipped.
        diverged_step: The first step whose loss or gradient was not finite; None if there was none.
        last_finite_loss: The loss before it.
        started_at: Seconds since 1970.
        ended_at: The same.
        train_s: Seconds of training.
        evaluate_s: Seconds of evaluating metrics.
        waited_s: Seconds for which the trainer waited for estimators; None if an earlier version did not record it.
        estimate_s: Seconds that estimators took for its snapshots, added up.
        num_snapshots: Snapshots taken; None if an earlier version did not record it.
        unmeasured: Error to the number of snapshots that could not be measured because of it.
        host: Host name.
        pid: The trainer's process.
        node: Ray's id of the node; None in one process.
        data: Fingerprint of the data.
        metrics: Metric to ``min`` or ``max``, as the problem declares.
        tests: Names of the metrics of the problem's test data, evaluated at the end of the trial; none before.
        columns: Extra columns of the trial in the trials table, such as an analytic trial's hitting time.
        scores: Training loss and metrics, by column, to the first, last, smallest and largest finite value logged; what
            a search goes by. The last training loss is the mean over the last tenth. Nothing of the test data.
        hardware: The GPU that trained it, as in :class:`WorkerFacts`; empty for a CPU, or if it was not recorded.
        measured_on: Names of the GPUs that measured its snapshots.
    """

    num_steps: int
    num_clipped: int
    diverged_step: int | None = None
    last_finite_loss: float | None = None
    started_at: float
    ended_at: float
    train_s: float
    evaluate_s: float
    waited_s: float | None = 0.0
    estimate_s: float = 0.0
    num_snapshots: int | None = 0
    unmeasured: Mapping[str, int] = field(default_factory=dict)
    host: str
    pid: int | None = None
    node: str | None = None
    data: str | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    tests: Sequence[str] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    measured_on: Sequence[str] = ()

    @property
    def busy_s(self) -> float:
        """Seconds that it took a trainer, waiting included."""
        return self.train_s + self.evaluate_s + (self.waited_s or 0.0)


@dataclass(frozen=True, kw_only=True)
class SegmentItem:
    """A finished segment.

    Attributes:
        segment: Its id.
        start: First step.
        stop: One past the last.
        rows: Metric columns by name, equal lengths.
        checkpoint: File name and hash of the state at ``stop``; None at the end of a trial.
        outcome: None, ``done``, ``diverged``, ``stopped``, or ``held`` where a search wants no more of it for now.
        facts: Counts, times and the host, for the journal.
        damaged: Checkpoints that were found damaged and skipped when the attempt began.
        left_behind: At the end of an attempt, what its code changed in the trainer's process that cannot be put back.
        others: Attempts that the same trainer runs together with this one, and that have not ended.
    """

    segment: SegmentId
    start: int
    stop: int
    rows: Mapping[str, np.ndarray[Any, Any]]
    checkpoint: tuple[str, str] | None
    outcome: str | None
    facts: SegmentFacts
    damaged: tuple[str, ...] = ()
    left_behind: str | None = None
    others: int = 0


@dataclass(frozen=True, kw_only=True)
class RepeatedItem:
    """Rows of steps that are already committed and had to be trained again, because a later checkpoint was damaged.

    Attributes:
        segment: The segment that the attempt has reached.
        start: First step.
        stop: One past the last.
        rows: Metric columns by name, equal lengths.
        hardware: The GPU that trained them, as in :class:`SegmentFacts`.
    """

    segment: SegmentId
    start: int
    stop: int
    rows: Mapping[str, np.ndarray[Any, Any]]
    hardware: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RaisedItem:
    """The trial's code raised.

    Attributes:
        segment: The segment that the attempt had reached.
        error: Type and first line of the exception, for tables.
        traceback: The whole traceback, for the trial's log.
        disk: Number and path of the system's error, if the run directory could not be written.
        left_behind: As for :class:`SegmentItem`; or that a GPU's context is unusable after what was raised.
        short_of_memory: Whether the memory of a GPU ran out, which others use, too.
    """

    segment: SegmentId
    error: str
    traceback: str
    disk: tuple[int, str] | None = None
    left_behind: str | None = None
    short_of_memory: bool = False


def ends_attempt(item: object) -> bool:
    """Whether an item is the last one of its attempt."""
    return isinstance(item, RaisedItem) or (isinstance(item, SegmentItem) and item.outcome is not None)


def ends_work(item: object) -> bool:
    """Whether a trainer does not go on with the next attempt after an item: it was stopped, or no other may follow."""
    if isinstance(item, RaisedItem):
        return item.left_behind is not None
    if not isinstance(item, SegmentItem):
        return False
    # Where several are stopped, each says so.
    return (item.outcome == "stopped" and not item.others) or item.left_behind is not None


TrainerItem: TypeAlias = SnapshotItem | ProgressItem | SegmentItem | RepeatedItem | RaisedItem

# What the pools tell the driver


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """Where a worker runs and which hardware and software it computes with.

    Attributes:
        host: Host name.
        pid: Its process.
        torch: Version of torch.
        threads: Threads of each numerical kernel.
        device: ``cpu``, or the name of the GPU.
        hardware: Of a GPU: its name as ``device``, and the versions of ``driver``, ``cuda``, ``cudnn`` and ``torch``.
        node: Ray's id of the node; None in one process.
        outputs: The files on that host that it prints to.
    """

    host: str
    pid: int
    torch: str
    threads: int
    device: str
    hardware: Mapping[str, str] = field(default_factory=dict)
    node: str | None = field(default=None, repr=False)
    outputs: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class TrainerUp:
    """A trainer has started."""

    slot: int
    facts: WorkerFacts


@dataclass(frozen=True, kw_only=True)
class TrainerDown:
    """A trainer's process is gone; ``printed`` are the last lines that it printed in its last attempt, if known."""

    slot: int
    error: str
    printed: str = ""


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
    """An estimator's process is gone; ``printed`` as for a trainer."""

    slot: int
    error: str
    printed: str = ""


@dataclass(frozen=True, kw_only=True)
class EstimatorBeat:
    """An estimator's answer to whether it makes progress: a number that grows while it does."""

    slot: int
    beats: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A snapshot was measured.

    Attributes:
        slot: Slot of the estimator worker.
        snapshot: Which snapshot.
        rows: Estimator name to row; that of one that failed says why in ``error``.
        estimate_s: Seconds it took.
        tracebacks: Estimator name to traceback, for those that failed.
        left_behind: What the problem's code changed in the worker's process that cannot be put back.
        device: Where it was measured: ``cpu``, or the name of the GPU.
    """

    slot: int
    snapshot: SnapshotId
    rows: Mapping[str, Mapping[str, Any]]
    estimate_s: float
    tracebacks: Mapping[str, str] = field(default_factory=dict)
    left_behind: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Raised:
    """Measuring a snapshot raised; the estimator is still alive.

    Attributes:
        slot: Slot of the estimator worker.
        snapshot: Which snapshot.
        error: Type and first line of the exception.
        traceback: The whole traceback.
        left_behind: As for :class:`Rows`.
    """

    slot: int
    snapshot: SnapshotId
    error: str
    traceback: str
    left_behind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A snapshot's bytes could not be fetched; the estimator is still alive.

    Attributes:
        slot: Slot of the estimator worker.
        snapshot: Which snapshot.
        error: What happened to its bytes.
    """

    slot: int
    snapshot: SnapshotId
    error: str


Verdict: TypeAlias = Rows | Raised | Lost
"""What became of a snapshot that was given to an estimator."""

Message: TypeAlias = TrainerUp | TrainerDown | FromTrainer | EstimatorUp | EstimatorDown | EstimatorBeat | Verdict
