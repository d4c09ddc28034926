"""The workers, plain classes: one trains, one measures. ``pools`` runs them as Ray actors, tests call them directly."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from estimators import ESTIMATORS, Probe, ProbePolicy
from sweeper.errors import IntegrityError, mend_of_memory
from sweeper.events import SnapshotId
from sweeper.messages import (
    Assignment,
    ProgressItem,
    RaisedItem,
    RepeatedItem,
    SegmentItem,
    SnapshotHeader,
    SnapshotItem,
    Verdict,
    WorkerFacts,
)
from sweeper.run_dir import RunDir, file_hash
from sweeper.side_by_side import train_side_by_side
from sweeper.snapshots import keep_snapshot, read_header, read_iterates
from trainers.checkpoint import TrainingState, dump, load
from trainers.loop import Progress, Segment, Snapshot, SnapshotSchedule, TrainSettings, train
from trainers.problem import Batch, Carry, Loss, Problem
from trainers.problems import build_problem
from trainers.update_rules import UpdateRule

__all__ = ["EstimatorWorker", "TrainerWorker", "build_probe"]

TrainerOutput = SnapshotItem | ProgressItem | SegmentItem | RepeatedItem | RaisedItem


class _DiskError(Exception):
    """The run directory cannot be written: number of the system's error, and path. Not the fault of any trial."""


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell the run directory's troubles from those of users' code, which may raise the same."""
    try:
        yield
    except OSError as error:
        raise _DiskError(error.errno or 0, str(error.filename or path)) from error


class _Worker:
    """What both kinds share: threads, device, and where the user's own code lies.

    Args:
        run_dir: The run directory, on a file system that every node sees.
        threads: Threads of each numerical kernel.
        device: ``cpu`` or ``cuda``; Ray has already chosen which one is visible.
        search: Folders in which the user's own modules lie.
    """

    def __init__(self, *, run_dir: str, threads: int, device: str, search: Sequence[str] = ()) -> None:
        self._run_dir = RunDir(Path(run_dir))
        self._threads = threads
        self._device = device
        self._search = tuple(search)
        self._settle_thread()

    def facts(self) -> WorkerFacts:
        """Where this worker runs and what it computes with."""
        return WorkerFacts(
            host=socket.gethostname(),
            pid=os.getpid(),
            torch=str(torch.__version__),  # a plain string: its own type would have the driver import torch
            threads=torch.get_num_threads(),
            device=torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
        )

    def _settle_thread(self) -> None:
        """Set the thread count; OpenMP keeps it per calling thread, and a method may run in any."""
        torch.set_num_threads(self._threads)

    def _build(self, problem: Mapping[str, Any], seed: int) -> Problem:
        options = {key: value for key, value in problem.items() if key != "use"}
        return build_problem(problem["use"], options, seed=seed, device=self._device, search=self._search)


class TrainerWorker(_Worker):
    """Trains one trial after the other."""

    def __init__(self, *, run_dir: str, threads: int, device: str, search: Sequence[str] = ()) -> None:
        super().__init__(run_dir=run_dir, threads=threads, device=device, search=search)
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the trial that is running, and any later one, at its next step, with a checkpoint."""
        self._stop.set()

    def train(self, assignments: Sequence[Assignment]) -> Iterator[TrainerOutput]:
        """Run attempts one after the other, each from its last committed step to its end.

        Args:
            assignments: The attempts; those behind one that is stopped are not begun.

        Yields:
            Snapshots, signs of life, and segments, of which the last of an attempt has an outcome; or, as an attempt's
            last item, what the trial's code raised.
        """
        self._settle_thread()
        if assignments and assignments[0].problem["use"] == "analytic":
            # The schedule hands trials that run side by side out among themselves.
            yield from train_side_by_side(assignments, should_stop=self._stop.is_set)
            return
        for assignment in assignments:
            try:
                for item in self._attempt(assignment):
                    yield item
                    if isinstance(item, SegmentItem) and item.outcome == "stopped":
                        return
            except _DiskError as error:
                yield RaisedItem(error=_last_line(error), traceback=traceback.format_exc(), disk=error.args)
                return
            except Exception as error:
                yield RaisedItem(error=_last_line(error), traceback=traceback.format_exc())

    def _attempt(self, assignment: Assignment) -> Iterator[TrainerOutput]:
        started = time.time()
        problem = self._build(assignment.problem, assignment.seed)
        if assignment.fingerprint not in {None, problem.fingerprint}:
            raise IntegrityError(
                f"the data changed since this trial began (then {assignment.fingerprint}, now {problem.fingerprint}); "
                "restore it, or start a new run with --out"
            )
        state, damaged = self._resume(assignment)
        measure = assignment.measure
        num_snapshots = 0
        repeated: list[Segment] = []
        for item in train(
            problem,
            _update_rule(assignment.update_rule),
            _train_settings(assignment.train),
            seed=assignment.seed,
            resume=state,
            snapshots=None if measure is None else _snapshot_schedule(measure),
            should_stop=self._stop.is_set,
        ):
            match item:
                case Progress():
                    yield ProgressItem(step=item.step, loss=item.loss, clipped_fraction=item.clipped_fraction)
                case Snapshot() if item.step >= assignment.committed_step:
                    assert measure is not None
                    num_snapshots += 1
                    yield self._hand_over(assignment, measure, item, problem.fingerprint)
                case Segment():
                    if item.start < assignment.committed_step:
                        repeated.append(item)
                    if item.stop < assignment.committed_step and item.outcome is None:
                        continue
                    # A GPU may add in another order, and promises nothing.
                    if repeated and self._device == "cpu":
                        yield _repeated(repeated, assignment.committed_step)
                    repeated = []
                    if item.stop == assignment.committed_step and item.outcome is None:
                        continue
                    segment = self._close(assignment, item)
                    now = time.time()
                    facts = {
                        **segment.facts,
                        "started_at": started,
                        "ended_at": now,
                        "num_snapshots": num_snapshots,
                        "data": problem.fingerprint,
                        **({"damaged": damaged} if damaged else {}),
                    }
                    yield replace(segment, facts=facts)
                    started, num_snapshots, damaged = now, 0, []

    def _resume(self, assignment: Assignment) -> tuple[TrainingState | None, list[str]]:
        """The newest training state that is whole, and the names of those that are not."""
        damaged: list[str] = []
        folder = self._run_dir.checkpoints / assignment.trial
        for name, expected in assignment.checkpoints:
            try:
                return load(self._run_dir.read_checked(folder / name, expected)), damaged
            except IntegrityError:
                damaged.append(name)
        return None, damaged

    def _hand_over(
        self, assignment: Assignment, measure: Mapping[str, Any], snapshot: Snapshot, data: str
    ) -> SnapshotItem:
        header = SnapshotHeader(
            trial=assignment.trial,
            seed=assignment.seed,
            step=snapshot.step,
            epoch=snapshot.epoch,
            problem=assignment.problem,
            measure=measure,
            nbytes=snapshot.iterates.nbytes,
            data=data,
        )
        if measure["keep"]:
            with _writing(self._run_dir.snapshot(header.trial, header.step)):
                keep_snapshot(self._run_dir, header, snapshot.iterates)
        return SnapshotItem(header=header, payload=snapshot.iterates)

    def _close(self, assignment: Assignment, segment: Segment) -> SegmentItem:
        """Make the checkpoint durable and put the rows into the form in which they travel."""
        checkpoint = None
        if segment.state is not None and segment.outcome in {None, "stopped"}:
            path = self._run_dir.checkpoint(
                assignment.trial, segment.stop, epoch=assignment.epoch, attempt=assignment.attempt
            )
            data = dump(segment.state)
            with _writing(path):
                self._run_dir.publish(path, data)
            checkpoint = (path.name, file_hash(data))
        fresh = segment.rows["step"] >= assignment.committed_step
        return SegmentItem(
            start=max(segment.start, assignment.committed_step),
            stop=segment.stop,
            rows={name: column[fresh] for name, column in segment.rows.items()},
            checkpoint=checkpoint,
            outcome=segment.outcome,
            facts={
                "num_clipped": segment.num_clipped,
                "num_steps": segment.num_steps,
                "diverged_step": segment.diverged_step,
                "last_finite_loss": segment.last_finite_loss,
                "waited_s": segment.waited_s,
                "train_s": segment.train_s,
                "evaluate_s": segment.evaluate_s,
                "host": socket.gethostname(),
                "pid": os.getpid(),
            },
        )


class EstimatorWorker(_Worker):
    """Measures one snapshot after the other; what it says depends on the snapshot alone."""

    def __init__(self, *, run_dir: str, threads: int, device: str, search: Sequence[str] = ()) -> None:
        super().__init__(run_dir=run_dir, threads=threads, device=device, search=search)
        self._probe = lru_cache(maxsize=4)(self._build_probe)
        self._beats = 0

    def beats(self) -> int:
        """How often the loss was evaluated, or an estimator begun, so far: while that grows, this worker gets on."""
        return self._beats

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> Verdict:
        """Let every estimator of the spec measure one snapshot.

        Args:
            slot: This worker's slot, given back in the verdict.
            snapshot: The snapshot's id, given back too.
            header: What it belongs to.
            payload: The iterates, float32, shape (2, n); None for a snapshot that is kept in the run directory, whose
                file says the rest of the header; of its problem the header holds ``use`` alone, where it is code.

        Returns:
            A row per estimator, or what was raised.
        """
        self._settle_thread()
        started = time.perf_counter()
        try:
            if payload is None:
                header, payload = self._kept(header)
            rows = self._rows(header, np.asarray(payload))
        except Exception as error:
            return Verdict(slot=slot, snapshot=snapshot, error=_last_line(error), traceback=traceback.format_exc())
        return Verdict(slot=slot, snapshot=snapshot, rows=rows, estimate_s=time.perf_counter() - started)

    def _kept(self, asked: SnapshotHeader) -> tuple[SnapshotHeader, np.ndarray[Any, Any]]:
        """A kept snapshot; its file names the problem, but of code none that the driver has not named too."""
        path = self._run_dir.snapshot(asked.trial, asked.step)
        header = read_header(path, asked.measure)
        use = header.problem["use"]
        if ":" in use and use != asked.problem.get("use"):
            raise IntegrityError(f"{path}: would run {use}, which its trial was not trained with")
        return header, read_iterates(path)

    def _rows(self, header: SnapshotHeader, payload: np.ndarray[Any, Any]) -> dict[str, dict[str, Any]]:
        measure = header.measure
        key = json.dumps(dict(header.problem), sort_keys=True)
        probe, fingerprint = self._probe(key, header.seed, _definition_of_f(measure))
        if header.data not in {None, fingerprint}:
            raise IntegrityError(
                f"the data changed since the trial was trained (then {header.data}, now {fingerprint}); restore it"
            )
        # A copy: Ray's arrays are read-only memory that the object store may want back.
        iterates = torch.from_numpy(payload.copy()).to(self._device)
        described = {"trial_id": header.trial, "step": header.step, "epoch": header.epoch}
        conditions = {
            "data_fraction": measure["data_fraction"],
            "probe": probe.policy.words,
            "arithmetic": probe.arithmetic,
        }
        rows = {}
        for entry in measure["estimators"]:
            options = {key: value for key, value in entry.items() if key != "use"}
            self._beats += 1
            rows[entry["use"]] = described | ESTIMATORS[entry["use"]](probe, iterates, **options) | conditions
        return rows

    def _build_probe(self, problem_json: str, seed: int, definition_json: str) -> tuple[Probe, str]:
        built = self._build(json.loads(problem_json), seed)
        measured = built.measured_loss
        problem = replace(
            built, loss=self._beating(built.loss), measured_loss=None if measured is None else self._beating(measured)
        )
        return build_probe(problem, json.loads(definition_json)), problem.fingerprint

    def _beating(self, loss: Loss) -> Loss:
        """A loss whose every evaluation is a sign of life."""

        def beating(model: nn.Module, batch: Batch, carry: Carry) -> tuple[torch.Tensor, Carry]:
            self._beats += 1
            return loss(model, batch, carry)

        return beating


def build_probe(problem: Problem, measure: Mapping[str, Any]) -> Probe:
    """The function that a measure section defines on a problem.

    Args:
        problem: The problem, its model with the initial weights.
        measure: ``data_fraction``, ``probe`` and ``audit`` of the resolved section.

    Returns:
        f, ready to be measured.
    """
    fraction, audit = measure["data_fraction"], measure["audit"]
    policy = ProbePolicy(**measure["probe"])
    # What f is without penalties; a problem that trains without any has one loss.
    bare = problem.measured_loss or problem.loss

    def training_batches(count: int) -> Iterator[Any]:
        count = min(count, problem.steps_per_epoch)
        return (problem.batch(k * problem.steps_per_epoch // count) for k in range(count))

    return Probe(
        problem.model,
        bare if policy.regulariser == "out" else problem.loss,
        problem.probe(fraction),
        audit=problem.probe(fraction * audit["share"]) if audit["share"] < 1 else None,
        audit_at=audit["at"],
        initial_carry=problem.initial_carry,
        policy=policy,
        training_batches=training_batches,
        training_loss=problem.loss,
    )


def _repeated(segments: Sequence[Segment], committed_step: int) -> RepeatedItem:
    """What segments say of steps that are committed."""
    pieces = [segment.rows for segment in segments]
    # A segment without an evaluation has no column for it.
    rows = {
        name: np.concatenate([piece.get(name, np.full(len(piece["step"]), np.nan)) for piece in pieces])
        for name in dict.fromkeys(name for piece in pieces for name in piece)
    }
    again = rows["step"] < committed_step
    return RepeatedItem(
        start=segments[0].start,
        stop=min(segments[-1].stop, committed_step),
        rows={name: column[again] for name, column in rows.items()},
    )


def _definition_of_f(measure: Mapping[str, Any]) -> str:
    """What of a measure section decides f and its audit, as a key."""
    return json.dumps({key: measure[key] for key in ("data_fraction", "probe", "audit")}, sort_keys=True)


def _update_rule(section: Mapping[str, Any]) -> UpdateRule:
    options: dict[str, Any] = {**section, "betas": tuple(section["betas"])}
    del options["from_theory"]  # of analytic functions alone
    return UpdateRule(**options)


def _train_settings(section: Mapping[str, Any]) -> TrainSettings:
    return TrainSettings(**{**section, "log_every": section["log_every"] or 1})


def _snapshot_schedule(measure: Mapping[str, Any]) -> SnapshotSchedule:
    keys = ("every", "first", "last", "epochs", "steps", "from_step", "to_step")
    return SnapshotSchedule(**{key: measure[key] for key in keys})


def _last_line(error: BaseException) -> str:
    """What a table shows of an exception: its type and the first line of its text."""
    text = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        line += f"; {mend_of_memory('gpus')}"
    elif isinstance(error, MemoryError) or "can't allocate memory" in line:
        # The latter is a bare RuntimeError of torch's allocator on the host.
        line += f"; {mend_of_memory('cpus')}"
    return line
