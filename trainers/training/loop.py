"""The training loop: steps, evaluations, checkpoints and snapshots of one trial, from start or resume to its end.

What is yielded is a function of the problem, the rule, the settings and the seed alone. Where segments end, when
the loop is stopped and how many scalars are read at a time do not change it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from trainers.errors import CheckpointError, TrainerError
from trainers.problem import Problem
from trainers.training.arithmetic import require_arithmetic
from trainers.training.checkpoint import TrainingState
from trainers.training.graphed import Recorder
from trainers.training.ledger import Ledger, Rows
from trainers.training.snapshot import Snapshot, SnapshotSchedule
from trainers.training.stepper import Stepper
from trainers.update.rule import UpdateRule

__all__ = [
    "Due",
    "Outcome",
    "Progress",
    "Segment",
    "Snapshot",
    "SnapshotSchedule",
    "TrainSettings",
    "never",
    "train",
    "train_in_step",
]

Outcome = Literal["done", "diverged", "stopped", "held"]

# Long enough that reading scalars costs nothing, short enough that a diverged trial soon stops.
_BLOCK_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long a trial trains, and what is recorded on the way.

    Attributes:
        steps: Number of steps of the whole trial.
        log_every: Log a row every this many steps. Evaluated steps and the last one are always logged.
        evaluate_every: Metrics at x_k for every positive multiple k; None for the last iterate only.
        checkpoint_every: A segment ends, with a training state, at every positive multiple; None for never.
        max_loss: A training loss above it is divergence; None for no limit.
        accumulate: Number of the problem's batches in a step, which is along the mean of their gradients.
        arithmetic: How steps compute float32: ``ieee``, ``tf32`` or ``bf16``.

    Raises:
        TrainerError: A count is not positive, or there is no such arithmetic.
    """

    steps: int
    log_every: int = 1
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    max_loss: float | None = None
    accumulate: int = 1
    arithmetic: str = "ieee"

    def __post_init__(self) -> None:
        require_arithmetic(self.arithmetic)
        for name in ("steps", "log_every", "evaluate_every", "checkpoint_every", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainerError(f"{name} must be at least 1, not {value!r}")

    def evaluates(self, step: int) -> bool:
        """Whether x_k is evaluated before step k."""
        return self.evaluate_every is not None and step > 0 and step % self.evaluate_every == 0

    def ends_segment(self, step: int) -> bool:
        """Whether a segment ends before step k."""
        return self.checkpoint_every is not None and step < self.steps and step % self.checkpoint_every == 0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A heartbeat.

    Attributes:
        step: Number of steps taken since the trial began.
        loss: Training loss of the last of them.
        clipped_fraction: Share of them that were clipped.
    """

    step: int
    loss: float
    clipped_fraction: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """What happened from one checkpoint to the next.

    Attributes:
        start: First step.
        stop: The step after the last one; the diverged step is the last.
        rows: Columns of equal length, as :meth:`~trainers.training.ledger.Ledger.take_rows` describes them; row k
            is about x_k.
        state: From which training goes on at ``stop``; None when nothing is left to do.
        outcome: None if training continues with the next segment.
        num_clipped: Number of clipped steps in this segment, not counting the diverged step.
        num_steps: Number of steps in this segment, not counting the diverged step.
        diverged_step: See :class:`trainers.training.ledger.Ledger`.
        last_finite_loss: Of the whole trial so far; None if no loss was finite.
        waited_s: Seconds for which the consumer of snapshots and progress held up the loop.
        train_s: Seconds spent on steps.
        evaluate_s: Seconds spent on evaluations.
        tests: Columns of the rows that are metrics of the test data; none before the end.
    """

    start: int
    stop: int
    rows: Rows = field(repr=False)
    state: TrainingState | None = field(repr=False)
    outcome: Outcome | None
    num_clipped: int
    num_steps: int
    diverged_step: int | None
    last_finite_loss: float | None
    waited_s: float
    train_s: float
    evaluate_s: float
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Due:
    """Another step is about to be taken, which others may prepare together with theirs.

    Attributes:
        step: k.
    """

    step: int


def never() -> bool:
    """False: the loop runs to its end."""
    return False


def train(
    problem: Problem,
    rule: UpdateRule,
    settings: TrainSettings,
    *,
    seed: int,
    resume: TrainingState | None = None,
    snapshots: SnapshotSchedule | None = None,
    keep_preconditioner: bool = False,
    should_stop: Callable[[], bool] = never,
    until: int | None = None,
    heartbeat_s: float = 1.0,
    recorder: Recorder | None = None,
) -> Iterator[Snapshot | Progress | Segment]:
    """Train a problem, step by step.

    Args:
        problem: Freshly built; its model is trained in place. The global generators of torch are seeded again before
            every step, with a function of ``seed`` and the step.
        rule: The update rule.
        settings: How long, and what is recorded.
        seed: The trial's seed.
        resume: Where to continue; None for the start.
        snapshots: The steps at which iterates are handed over; None for never.
        keep_preconditioner: Whether snapshots hold what an adaptive optimiser divided their step by.
        should_stop: Called before every step; once it returns True the loop ends with a state.
        until: The step before which the loop ends with a state, held there; None for the last. What it yields before is
            the same.
        heartbeat_s: Seconds between two heartbeats.
        recorder: As for :class:`~trainers.training.stepper.Stepper`.

    Yields:
        Snapshots of steps that are known to be finite, heartbeats, and segments; the last item is a segment with an
        outcome.

    Raises:
        TrainerError: The problem and the settings do not fit together.
        CheckpointError: ``resume`` is of another model or lies beyond the end.
    """
    _require_evaluations(rule, settings)
    stepper = Stepper(
        problem,
        rule,
        total_steps=settings.steps,
        seed=seed,
        keep_preconditioner=keep_preconditioner,
        batches_per_step=settings.accumulate,
        arithmetic=settings.arithmetic,
        recorder=recorder,
    )
    for item in _walk(
        stepper,
        problem,
        rule,
        settings,
        resume=resume,
        snapshots=snapshots,
        should_stop=should_stop,
        until=until,
        heartbeat_s=heartbeat_s,
    ):
        assert not isinstance(item, Due)
        yield item


def train_in_step(
    stepper: Stepper,
    problem: Problem,
    rule: UpdateRule,
    settings: TrainSettings,
    *,
    share_s: Callable[[], float],
    resume: TrainingState | None = None,
    snapshots: SnapshotSchedule | None = None,
    should_stop: Callable[[], bool] = never,
    until: int | None = None,
    heartbeat_s: float = 1.0,
) -> Iterator[Snapshot | Progress | Segment | Due]:
    """The same as :func:`train`, by a given stepper, halting before every step: several trials take theirs together.

    Args:
        stepper: Of the problem and the rule.
        problem: See :func:`train`; so are the others.
        rule: See there.
        settings: See there.
        share_s: Asked after every halt: this trial's share of the seconds that preparing the step took.
        resume: See there.
        snapshots: See there.
        should_stop: See there.
        until: See there.
        heartbeat_s: See there.

    Yields:
        What :func:`train` does, and before every step that it is due.

    Raises:
        TrainerError: See there.
        CheckpointError: See there.
    """
    _require_evaluations(rule, settings)
    yield from _walk(
        stepper,
        problem,
        rule,
        settings,
        resume=resume,
        snapshots=snapshots,
        should_stop=should_stop,
        until=until,
        heartbeat_s=heartbeat_s,
        share_s=share_s,
    )


def _require_evaluations(rule: UpdateRule, settings: TrainSettings) -> None:
    if rule.average is not None and rule.average["use"] == "non_monotone" and settings.evaluate_every is None:
        raise TrainerError("average: non_monotone needs evaluations, but evaluate_every is not set")


def _walk(
    stepper: Stepper,
    problem: Problem,
    rule: UpdateRule,
    settings: TrainSettings,
    *,
    resume: TrainingState | None,
    snapshots: SnapshotSchedule | None,
    should_stop: Callable[[], bool],
    until: int | None,
    heartbeat_s: float,
    share_s: Callable[[], float] | None = None,
) -> Iterator[Snapshot | Progress | Segment | Due]:
    """From start or resume to the end; with ``share_s`` halting before every step."""
    first = 0
    if resume is not None:
        first = resume.step
        if first > settings.steps:
            raise CheckpointError(f"the checkpoint is of step {first}, but the trial has {settings.steps} steps")
        stepper.restore(resume)
    ledger = Ledger(
        steps=settings.steps,
        log_every=settings.log_every,
        steps_per_epoch=problem.steps_per_epoch,
        batches_per_step=settings.accumulate,
        max_loss=settings.max_loss,
        clips=rule.clips,
        start=first,
        num_clipped=resume.num_clipped if resume else 0,
        last_finite_loss=resume.last_finite_loss if resume else None,
    )
    book = _Segments(stepper, ledger, first)
    watch = book.watch
    heartbeat = time.monotonic()

    for step in range(first, settings.steps):
        if should_stop() or step == until:
            if not ledger.read():
                break
            yield book.close(step, "held" if step == until else "stopped")
            return
        if settings.evaluates(step):
            if not ledger.read():
                break
            with watch.evaluating():
                ledger.evaluated(step, stepper.evaluate(step))
        wanted = snapshots is not None and snapshots.due(
            step, settings.steps, problem.steps_per_epoch, batches_per_step=settings.accumulate
        )
        if share_s is not None:
            with watch.elsewhere():
                yield Due(step=step)
            watch.add(share_s())
        try:
            ledger.append(*stepper.take(step, keep_iterates=wanted))
        except Exception:
            # Infinite parameters can make a problem raise before the block that shows them is read.
            if not ledger.read():
                break
            raise
        ends = settings.ends_segment(step + 1)
        beats = time.monotonic() - heartbeat >= heartbeat_s
        full = ledger.num_unread >= _BLOCK_STEPS or step + 1 == settings.steps
        if (wanted or ends or beats or full) and not ledger.read():
            break
        if wanted:
            assert stepper.iterates is not None
            with watch.waiting():
                yield Snapshot(
                    step=step,
                    epoch=step * settings.accumulate / problem.steps_per_epoch,
                    loss=ledger.last_loss,
                    grad_norm=ledger.last_grad_norm,
                    learning_rate=ledger.last_learning_rate,
                    iterates=stepper.iterates,
                )
        if beats:
            clipped_fraction = ledger.total_clipped / (step + 1)
            with watch.waiting():
                yield Progress(step=step + 1, loss=ledger.last_loss, clipped_fraction=clipped_fraction)
            heartbeat = time.monotonic()
        if ends:
            yield book.close(step + 1, None)
            # The time for which a consumer held a segment is not counted.
            watch.restart()
    else:
        with watch.evaluating():
            evaluated, tested = stepper.evaluate(settings.steps), stepper.test(settings.steps)
            ledger.evaluated(settings.steps, _of_both(evaluated, tested))
        yield book.close(settings.steps, "done", tests=tuple(tested))
        return
    assert ledger.diverged_step is not None
    yield book.close(ledger.diverged_step + 1, "diverged")


def _of_both(evaluated: Mapping[str, float], tested: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the last iterate."""
    if twice := evaluated.keys() & tested.keys():
        raise TrainerError(f"the problem's evaluate and test both return {min(twice)!r}: rename that of evaluate")
    return {**evaluated, **tested}


class _Stopwatch:
    """Where the time of a segment went."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()
        self._waited_s = 0.0
        self._evaluate_s = 0.0
        self._elsewhere_s = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - started

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._evaluate_s += time.perf_counter() - started

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Others' time, of which this trial has only what is added."""
        started = time.perf_counter()
        yield
        self._elsewhere_s += time.perf_counter() - started

    def add(self, seconds: float) -> None:
        """Its share of what it has in common with others."""
        self._elsewhere_s -= seconds

    def split(self) -> dict[str, float]:
        """Seconds by activity."""
        spent = time.perf_counter() - self._started
        train_s = spent - self._waited_s - self._evaluate_s - self._elsewhere_s
        return {"waited_s": self._waited_s, "train_s": train_s, "evaluate_s": self._evaluate_s}


class _Segments:
    """Closes one segment and opens the next."""

    def __init__(self, stepper: Stepper, ledger: Ledger, start: int) -> None:
        self._stepper = stepper
        self._ledger = ledger
        self._start = start
        self.watch = _Stopwatch()

    def close(self, stop: int, outcome: Outcome | None, *, tests: tuple[str, ...] = ()) -> Segment:
        ledger = self._ledger
        state = None
        if outcome in {None, "stopped", "held"}:
            state = self._stepper.state(
                stop, num_clipped=ledger.total_clipped, last_finite_loss=ledger.last_finite_loss
            )
        num_clipped, num_steps = ledger.num_clipped, ledger.num_steps
        segment = Segment(
            start=self._start,
            stop=stop,
            rows=ledger.take_rows(),
            state=state,
            outcome=outcome,
            num_clipped=num_clipped,
            num_steps=num_steps,
            diverged_step=ledger.diverged_step,
            last_finite_loss=ledger.last_finite_loss,
            tests=tests,
            **self.watch.split(),
        )
        self._start = stop
        return segment
