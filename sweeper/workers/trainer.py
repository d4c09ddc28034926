"""The worker that trains: turns attempts into segments, with snapshots and checkpoints along the way."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sweeper.errors import IntegrityError, error_line, error_traceback, left_on_gpu, out_of_memory
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import (
    Assignment,
    ProgressItem,
    RaisedItem,
    RepeatedItem,
    SegmentFacts,
    SegmentItem,
    SnapshotHeader,
    SnapshotItem,
    TrainerItem,
    ends_attempt,
    ends_work,
)
from sweeper.store.run_dir import file_hash
from sweeper.workers.analytic import train_side_by_side
from sweeper.workers.process_state import OwnState
from sweeper.workers.scores import scores_of
from sweeper.workers.snapshots import keep_snapshot
from sweeper.workers.step_facts import facts_of, needs_preconditioner
from sweeper.workers.worker import Worker, import_all, is_users, own_code_of, update_rule_of
from trainers.packed.pack import Ended, Pack, PackedStepper, in_step
from trainers.problem import Problem
from trainers.seeding import seed_other_generators
from trainers.training.checkpoint import TrainingState, dump, load
from trainers.training.graphed import CudaRecorder
from trainers.training.ledger import join_rows
from trainers.training.loop import (
    Due,
    Progress,
    Segment,
    Snapshot,
    SnapshotSchedule,
    TrainSettings,
    train,
    train_in_step,
)
from trainers.training.purity import require_pure_batches
from trainers.update.rule import UpdateRule

__all__ = ["TrainerWorker"]


class _DiskError(Exception):
    """The run directory cannot be written: number of the system's error, and path. No trial is at fault."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Mark errors of the run directory, since users' code may raise the same exceptions."""
    try:
        yield
    except OSError as error:
        raise _DiskError(error.errno or 0, str(error.filename or path)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """What an attempt begins with; ``damaged`` are the names of the checkpoints that could not be read."""

    problem: Problem
    rule: UpdateRule
    state: TrainingState | None
    damaged: tuple[str, ...]
    started: float


class TrainerWorker(Worker):
    """Trains one trial after another.

    Args:
        run_dir: As for every worker; so are ``threads`` and ``device``.
        threads: Threads of each numerical kernel.
        device: ``cpu`` or ``cuda``.
        cuda_graphs: Whether a GPU's training batches are recorded as CUDA graphs and replayed; ``auto`` for those of
            registered problems.
        options: As for every worker.
    """

    def __init__(
        self, *, run_dir: str, threads: int, device: str, cuda_graphs: bool | Literal["auto"] = False, **options: Any
    ) -> None:
        super().__init__(run_dir=run_dir, threads=threads, device=device, **options)
        self._cuda_graphs = cuda_graphs if self._hardware.is_cuda else False
        self._stop = threading.Event()

    def stop(self) -> None:
        """Stop the running trial, and any later one, at its next step, with a checkpoint."""
        self._stop.set()

    def train(self, assignments: Sequence[Assignment]) -> Iterator[TrainerItem]:
        """Run attempts one after another, each from its last committed step to its end.

        Args:
            assignments: The attempts; those after a stopped one are not begun, and neither are those after one that
                leaves this process unfit for them.

        Yields:
            Snapshots, heartbeats and segments; an attempt's last segment has an outcome. If the trial's code raises,
            the attempt's last item is what was raised.
        """
        self._set_num_threads()
        if assignments and assignments[0].problem["use"] == "analytic":
            # The schedule never mixes trials that run side by side with others.
            yield from train_side_by_side(assignments, should_stop=self._stop.is_set, device=self._device)
            return
        if assignments and assignments[0].together:
            self._begin(f"trials {', '.join(one.trial for one in assignments)}")
            yield from self._together(assignments)
            self._make_room()
            return
        for assignment in assignments:
            segment = SegmentId(assignment.trial, assignment.attempt, 0)
            handed_over = False
            own = OwnState()
            self._begin(f"trial {assignment.trial}, attempt {assignment.attempt}")
            try:
                for item in self._contained(own, assignment):
                    if isinstance(item, SegmentItem) and ends_attempt(item):
                        item = replace(item, left_behind=own.left_behind)
                    handed_over = True
                    yield item
                    handed_over = False
                    if ends_work(item):
                        return
                    segment = item.segment.following if isinstance(item, SegmentItem) else segment
            except _DiskError as error:
                yield _raised(segment, error, disk=error.args)
                return
            except BaseException as error:
                # What the consumer throws in ends the stream; the user's code may raise SystemExit and its like, too.
                if handed_over:
                    raise
                last = _raised(segment, error, left_behind=left_on_gpu(error) or own.left_behind)
                if last.short_of_memory:
                    # Without the frames, which hold the model and a graph.
                    error.__traceback__ = None
                yield last
                if ends_work(last):
                    return
            self._make_room()

    def _make_room(self) -> None:
        """Between two trials on a GPU, which others may share: what the first held is theirs."""
        if self._hardware.is_cuda:
            gc.collect()
            self._hardware.free()

    def _contained(self, own: OwnState, assignment: Assignment) -> Iterator[TrainerItem]:
        """An attempt that leaves the process as it was."""
        items = self._attempt(assignment)
        if not (uses := own_code_of(assignment.problem, assignment.update_rule)):
            return items  # the conformance tests hold the registered ones to it
        import_all(own, uses, self._search)
        return own.pieces(items, is_last=ends_attempt)

    def _attempt(self, assignment: Assignment) -> Generator[TrainerItem]:
        trial = self._prepare(assignment)
        measure = assignment.measure
        items = train(
            trial.problem,
            trial.rule,
            _train_settings(assignment.train),
            seed=assignment.seed,
            resume=trial.state,
            snapshots=None if measure is None else _snapshot_schedule(measure),
            keep_preconditioner=measure is not None and needs_preconditioner(measure),
            should_stop=self._stop.is_set,
            until=assignment.until,
            recorder=self._recorder(assignment),
        )
        for item in self._told(assignment, trial, items):
            assert not isinstance(item, Due)
            yield item

    def _together(self, assignments: Sequence[Assignment]) -> Iterator[TrainerItem]:
        """Attempts of trials of one shape, which take their steps together; each ends by itself."""
        pack = Pack()
        steppers: dict[int, PackedStepper] = {}
        streams: dict[int, Iterator[TrainerItem | Due]] = {}
        segments = {place: SegmentId(one.trial, one.attempt, 0) for place, one in enumerate(assignments)}
        left = set(segments)
        problems: list[Problem] = []
        for place, assignment in enumerate(assignments):
            try:
                trial = self._prepare(assignment)
                stepper = _packed_stepper(assignment, trial)
            except Exception as error:
                left.discard(place)
                yield _raised(segments[place], error)
                continue
            measure = assignment.measure
            items = train_in_step(
                stepper,
                trial.problem,
                trial.rule,
                _train_settings(assignment.train),
                share_s=lambda: pack.share_s,
                resume=trial.state,
                snapshots=None if measure is None else _snapshot_schedule(measure),
                should_stop=self._stop.is_set,
                until=assignment.until,
            )
            steppers[place] = stepper
            streams[place] = self._told(assignment, trial, items)
            problems.append(trial.problem)

        def prepare(due: Mapping[int, int]) -> None:
            pack.prepare([(steppers[place], step) for place, step in due.items()], problems[0])

        items_of_all: Iterator[tuple[int, TrainerItem | Ended]] = in_step(streams, prepare)
        for place, item in items_of_all:
            if isinstance(item, Ended):
                if item.error is None:
                    continue
                disk = item.error.args if isinstance(item.error, _DiskError) else None
                last = _raised(segments[place], item.error, disk=disk, left_behind=left_on_gpu(item.error))
                left.discard(place)
                yield last
                if disk is not None or ends_work(last):
                    return
                continue
            if isinstance(item, SegmentItem):
                segments[place] = item.segment.following
                if ends_attempt(item):
                    left.discard(place)
                    item = replace(item, others=len(left))
            yield item

    def _prepare(self, assignment: Assignment) -> _Trial:
        """Build an attempt's problem and rule, and read where it goes on."""
        started = time.time()
        if own_code_of(assignment.problem, assignment.update_rule):
            seed_other_generators(assignment.seed)
        rule = update_rule_of(assignment.update_rule, self._search)
        problem = self._build(assignment.problem, assignment.seed)
        if assignment.fingerprint not in {None, problem.fingerprint}:
            raise IntegrityError(
                f"the data changed since this trial began (then {assignment.fingerprint}, now {problem.fingerprint}); "
                "restore it, or start a new run with --out"
            )
        state, damaged = self._resume(assignment)
        if is_users(assignment.problem):
            # The registered ones are pure: the conformance tests hold them to it.
            per_step = int(assignment.train.get("accumulate", 1))
            require_pure_batches(
                problem,
                batch=0 if state is None else state.step * per_step,
                batches=int(assignment.train["steps"]) * per_step,
                seed=assignment.seed,
                device=torch.device(self._device),
            )
        return _Trial(problem=problem, rule=rule, state=state, damaged=tuple(damaged), started=started)

    def _told(
        self, assignment: Assignment, trial: _Trial, items: Iterator[Snapshot | Progress | Segment | Due]
    ) -> Generator[TrainerItem | Due]:
        """What the loop yields as a trainer says it, with everything durable that must be; halts stay as they are."""
        problem, rule, damaged, started = trial.problem, trial.rule, trial.damaged, trial.started
        measure = assignment.measure
        segment = SegmentId(assignment.trial, assignment.attempt, 0)
        num_snapshots = 0
        repeated: list[Segment] = []
        for item in items:
            match item:
                case Due():
                    yield item
                case Progress():
                    yield ProgressItem(
                        segment=segment, step=item.step, loss=item.loss, clipped_fraction=item.clipped_fraction
                    )
                case Snapshot() if item.step >= assignment.committed_step:
                    assert measure is not None
                    num_snapshots += 1
                    header = _header(assignment, measure, item, problem.fingerprint, rule)
                    self._keep(header, item.iterates)
                    yield SnapshotItem(segment=segment, header=header, payload=item.iterates)
                case Segment():
                    if item.start < assignment.committed_step:
                        repeated.append(item)
                    if item.stop < assignment.committed_step and item.outcome is None:
                        continue
                    if repeated:
                        again = _repeated(segment, repeated, assignment.committed_step)
                        yield replace(again, hardware=self._hardware.facts)
                    repeated = []
                    if item.stop == assignment.committed_step and item.outcome is None:
                        continue
                    checkpoint = self._checkpoint(assignment, item)
                    now = time.time()
                    fresh = item.rows["step"] >= assignment.committed_step
                    rows = {name: column[fresh] for name, column in item.rows.items()}
                    # Row k is logged where k is a multiple.
                    logged = -(-max(item.start, assignment.committed_step) // (assignment.train["log_every"] or 1))
                    yield SegmentItem(
                        segment=segment,
                        start=max(item.start, assignment.committed_step),
                        stop=item.stop,
                        rows=rows,
                        checkpoint=checkpoint,
                        outcome=item.outcome,
                        facts=SegmentFacts(
                            num_steps=item.num_steps,
                            num_clipped=item.num_clipped,
                            diverged_step=item.diverged_step,
                            last_finite_loss=item.last_finite_loss,
                            started_at=started,
                            ended_at=now,
                            train_s=item.train_s,
                            evaluate_s=item.evaluate_s,
                            waited_s=item.waited_s,
                            num_snapshots=num_snapshots,
                            host=socket.gethostname(),
                            pid=os.getpid(),
                            data=problem.fingerprint,
                            metrics=dict(problem.metrics),
                            tests=item.tests,
                            scores=scores_of(rows, tests=item.tests, logged_before=logged),
                            hardware=self._hardware.facts,
                        ),
                        damaged=damaged,
                    )
                    segment = segment.following
                    started, num_snapshots, damaged = now, 0, ()

    def _recorder(self, assignment: Assignment) -> CudaRecorder | None:
        """What records a trial's batches, of a problem of one's own only if asked to: it may count its calls."""
        wanted = self._cuda_graphs is True or (self._cuda_graphs == "auto" and not is_users(assignment.problem))
        return CudaRecorder(self._hardware.cuda) if wanted else None

    def _resume(self, assignment: Assignment) -> tuple[TrainingState | None, list[str]]:
        """The newest intact training state, and the names of the damaged ones."""
        damaged: list[str] = []
        folder = self._run_dir.checkpoints / assignment.trial
        for name, expected in assignment.checkpoints:
            try:
                return load(self._run_dir.read_checked(folder / name, expected)), damaged
            except IntegrityError:
                damaged.append(name)
        return None, damaged

    def _keep(self, header: SnapshotHeader, iterates: np.ndarray[Any, Any]) -> None:
        """Keep a snapshot in the run directory, if the spec says so."""
        if header.measure["keep"]:
            with _writing(self._run_dir.snapshot(header.trial, header.step)):
                keep_snapshot(self._run_dir, header, iterates)

    def _checkpoint(self, assignment: Assignment, segment: Segment) -> tuple[str, str] | None:
        """Make the state at the end of a segment durable; returns file name and hash, None if the trial has ended."""
        if segment.state is None or segment.outcome not in {None, "stopped", "held"}:
            return None
        path = self._run_dir.checkpoint(
            assignment.trial, segment.stop, driver_epoch=assignment.driver_epoch, attempt=assignment.attempt
        )
        data = dump(segment.state)
        with _writing(path):
            self._run_dir.publish(path, data)
        return path.name, file_hash(data)


def _packed_stepper(assignment: Assignment, trial: _Trial) -> PackedStepper:
    measure, settings = assignment.measure, _train_settings(assignment.train)
    return PackedStepper(
        trial.problem,
        trial.rule,
        total_steps=settings.steps,
        seed=assignment.seed,
        keep_preconditioner=measure is not None and needs_preconditioner(measure),
        batches_per_step=settings.accumulate,
        arithmetic=settings.arithmetic,
    )


def _raised(
    segment: SegmentId, error: BaseException, *, disk: tuple[int, str] | None = None, left_behind: str | None = None
) -> RaisedItem:
    return RaisedItem(
        segment=segment,
        error=error_line(error),
        traceback=error_traceback(error),
        disk=disk,
        left_behind=left_behind,
        short_of_memory=out_of_memory(error) == "gpus",
    )


def _header(
    assignment: Assignment, measure: Mapping[str, Any], snapshot: Snapshot, data: str, rule: UpdateRule
) -> SnapshotHeader:
    return SnapshotHeader(
        trial=assignment.trial,
        seed=assignment.seed,
        step=snapshot.step,
        epoch=snapshot.epoch,
        problem=assignment.problem,
        measure=measure,
        nbytes=snapshot.iterates.nbytes,
        data=data,
        grad_norm=snapshot.grad_norm,
        learning_rate=snapshot.learning_rate,
        batches_per_step=assignment.train.get("accumulate", 1),
        **facts_of(rule),
    )


def _repeated(segment: SegmentId, segments: Sequence[Segment], committed_step: int) -> RepeatedItem:
    """The rows of segments for steps that are already committed."""
    rows = join_rows([segment.rows for segment in segments])
    again = rows["step"] < committed_step
    return RepeatedItem(
        segment=segment,
        start=segments[0].start,
        stop=min(segments[-1].stop, committed_step),
        rows={name: column[again] for name, column in rows.items()},
    )


def _train_settings(section: Mapping[str, Any]) -> TrainSettings:
    return TrainSettings(**{**section, "log_every": section["log_every"] or 1})


def _snapshot_schedule(measure: Mapping[str, Any]) -> SnapshotSchedule:
    keys = ("every", "first", "last", "epochs", "steps", "from_step", "to_step")
    return SnapshotSchedule(**{key: measure[key] for key in keys})
