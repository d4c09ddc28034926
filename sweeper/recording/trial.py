"""One loop as a trial of a run directory: its rows become parts, then lines of the journal, then tables."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from sweeper.errors import ClipsweepError, RunDirectoryError, error_line
from sweeper.planning.environment import conditions, provenance
from sweeper.protocol.messages import SegmentFacts
from sweeper.recording.directory import Session, session
from sweeper.recording.names import arm_name, checked_values, digest, require_options, swept_by
from sweeper.store.driver_files import HeldError
from sweeper.store.journal import RunState
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.recorded import RECORDER
from sweeper.store.records import Committed, CommittedSegment, Failed, Opened, Planned, Retried
from sweeper.store.run_dir import RunDir
from sweeper.tables.parts import measurement_rows, write_table
from sweeper.tables.schemas import METRICS

__all__ = ["RecordedTrial", "Rows", "open_trial"]

_log = logging.getLogger(__name__)

_OPEN_S, _FLUSH_S = 60.0, 0.2
"""How long other processes are waited for: where nothing else can be done, and where the rows can wait."""

_REFRESH_SHARE = 20
"""Readable tables are not written again before this many times what writing them took has passed."""

Outcome = Literal["done", "diverged", "stopped"]


class Rows(Protocol):
    """What is written of consecutive steps; ``estimators.monitor.writer.Block`` says what each of these is."""

    start: int
    stop: int
    metrics: list[dict[str, Any]]
    measurements: dict[str, list[dict[str, Any]]]
    num_clipped: int
    num_snapshots: int
    unmeasured: dict[str, int]
    diverged_step: int | None
    last_finite_loss: float | None
    started_at: float
    ended_at: float
    loop_s: float
    own_s: float
    measured_s: float
    data: str | None


class RecordedTrial:
    """Writes the rows of one loop; made by :func:`open_trial`.

    Parts are published before the line of the journal that names them, under the directory's lock, so that a process
    that is killed at any moment loses what it has not written and nothing else.

    Args:
        run_dir: The run directory.
        trial: The trial's id.
        driver_epoch: Which process of the run this is, counted from 1.
        attempt: Which attempt of the trial.
        measurement: Id of what is measured.
        committed: The step up to which rows of the trial are known already.
    """

    def __init__(
        self, run_dir: RunDir, trial: str, *, driver_epoch: int, attempt: int, measurement: str, committed: int
    ) -> None:
        self._run_dir = run_dir
        self._trial = trial
        self._driver_epoch = driver_epoch
        self._attempt = attempt
        self._measurement = measurement
        self._committed = committed
        self._num_commits = 0
        self._refresh_at = 0.0

    @property
    def trial_id(self) -> str:
        """The trial's id, as in the tables."""
        return self._trial

    def write(self, block: Rows) -> bool:
        """Make rows durable, unless others are writing: then they can wait.

        Args:
            block: The rows.

        Returns:
            Whether they are; False to be given them again, with the next ones.
        """
        try:
            with session(self._run_dir, wait_s=_FLUSH_S) as held:
                self._commit(held, block, None)
                if time.monotonic() >= self._refresh_at:
                    self._refresh(held)
        except HeldError:
            return False
        except (OSError, ClipsweepError) as error:
            # A full disk must not end somebody's training; at the end it is said again.
            _log.warning("%s: rows could not be written, and will be tried again: %s", self._run_dir.path, error)
            return False
        return True

    def end(self, block: Rows, *, outcome: Outcome, error: str | None = None) -> None:
        """Make the last rows durable, and say how the loop ended.

        Args:
            block: The rows.
            outcome: ``done``, ``diverged``, or ``stopped`` where it was left early.
            error: What it raised; None where it did not.

        Raises:
            RunDirectoryError: They cannot be written.
        """
        try:
            with session(self._run_dir, wait_s=_OPEN_S) as held:
                self._commit(held, block, outcome)
                if error is not None:
                    held.append(
                        Failed(
                            trial=self._trial,
                            driver_epoch=self._driver_epoch,
                            attempt=self._attempt,
                            kind="raised",
                            error=error_line(RuntimeError(error)).partition(": ")[2],
                            final=True,
                        )
                    )
                self._refresh(held)
        except OSError as failure:
            raise RunDirectoryError(
                f"{failure.filename or self._run_dir.path}: {failure.strerror or failure}; the rows of steps "
                f"{max(block.start, self._committed)} to {block.stop} are lost, what was written before is safe"
            ) from failure

    def _commit(self, held: Session, block: Rows, outcome: Outcome | None) -> None:
        """Publish parts, then name them."""
        start = max(block.start, self._committed)
        if start >= block.stop and outcome is None:
            return
        self._num_commits += 1
        suffix = f"{self._driver_epoch:04d}-{self._num_commits:06d}"
        metrics = self._own(block.metrics, start)
        tables = {"metrics": pa.Table.from_pylist(metrics, schema=METRICS)} if metrics else {}
        for name, rows in block.measurements.items():
            tagged = [{**row, "measurement_id": self._measurement} for row in self._own(rows, start)]
            if tagged:
                tables[f"measurements/{name}"] = measurement_rows(name, tagged)
        parts = tuple(write_table(self._run_dir, name, table, suffix=suffix) for name, table in tables.items())
        held.append(Committed(parts=parts, segments=(self._segment(block, start, outcome),)))
        self._committed = max(block.stop, start)

    def _own(self, rows: Sequence[Mapping[str, Any]], start: int) -> list[dict[str, Any]]:
        return [{"trial_id": self._trial, **row} for row in rows if row["step"] >= start]

    def _segment(self, block: Rows, start: int, outcome: Outcome | None) -> CommittedSegment:
        return CommittedSegment(
            trial=self._trial,
            driver_epoch=self._driver_epoch,
            attempt=self._attempt,
            start=start,
            stop=max(block.stop, start),
            outcome=outcome,
            checkpoint=None,
            measurement=self._measurement,
            facts=SegmentFacts(
                num_steps=max(0, block.stop - start),
                num_clipped=block.num_clipped,
                diverged_step=block.diverged_step,
                last_finite_loss=block.last_finite_loss,
                started_at=block.started_at,
                ended_at=block.ended_at,
                train_s=block.loop_s,
                evaluate_s=0.0,
                waited_s=block.own_s,
                estimate_s=block.measured_s,
                num_snapshots=block.num_snapshots,
                unmeasured=block.unmeasured,
                host=socket.gethostname(),
                pid=os.getpid(),
                data=block.data,
            ),
        )

    def _refresh(self, held: Session) -> None:
        begun = time.monotonic()
        held.refresh()
        ended = time.monotonic()
        self._refresh_at = ended + _REFRESH_SHARE * (ended - begun)


def open_trial(
    out: Path,
    *,
    optimizer: str,
    options: Sequence[str],
    settings: Mapping[str, Any],
    learning_rate: float | None,
    clip_norm: float | None,
    values: Mapping[str, Any],
    seed: int,
    first_step: int,
    steps: int | None,
    measure: Mapping[str, Any],
    threads: int,
    gpus: bool,
    repeat: Literal["refuse", "replace"] = "refuse",
) -> RecordedTrial:
    """Begin a trial in a run directory, or go on with it.

    Args:
        out: The directory; created if it is missing.
        optimizer: Its name.
        options: Its options that take a step away from the gradient, in use.
        settings: Its options that are not torch's defaults, by name.
        learning_rate: Its learning rate; None where parameter groups differ.
        clip_norm: The threshold; None for no clipping.
        values: What else tells this loop from others in the directory.
        seed: Which repetition this is.
        first_step: The first step that is recorded; above 0 to go on with a trial.
        steps: Steps to train; None where that is not known.
        measure: What is measured.
        threads: Threads of each numerical kernel.
        gpus: Whether the loop trains on a GPU.
        repeat: What happens where the same was recorded before: ``refuse``, or ``replace``, which leaves the earlier
            trial out of answers.

    Returns:
        The trial, to be given rows.

    Raises:
        RunDirectoryError: The directory is a sweep's, something else, or cannot be written; other settings measured
            what is in it; or the trial was recorded before.
        ClipsweepError: A value is no value, or an estimator does not take an option.
        IntegrityError: The journal is damaged.
    """
    if repeat not in {"refuse", "replace"}:
        raise ClipsweepError(f"repeat={repeat!r}: must be 'refuse' or 'replace'")
    own = checked_values(values)
    require_options(measure)
    arm = arm_name(optimizer, options, clips=clip_norm is not None)
    cell = {"arm": arm, "learning_rate": learning_rate, "clip_norm": clip_norm, "values": own}
    cell |= {"settings": dict(settings)} if settings else {}
    measurement = digest({"measure": measure})
    run_dir = RunDir(out.resolve())
    with session(run_dir, wait_s=_OPEN_S, opening=True) as held:
        state = held.state
        _require_same_measure(run_dir, state, measurement, measure)
        name, replaced = _name_of(run_dir, state, cell, seed=seed, first_step=first_step, repeat=repeat)
        epoch = state.driver_epoch + 1
        environment = conditions(trainer_threads=threads, estimator_threads=threads, gpus=gpus)
        held.append(Opened(driver_epoch=epoch, environment=environment, started_at=time.time(), recorder=RECORDER))
        known = state.trials.get(name)
        if known is None:
            others = (trial.record for key, trial in state.trials.items() if key not in state.superseded | replaced)
            record = TrialRecord(
                trial_id=name,
                cell_id=digest(cell),
                arm=arm,
                seed=seed,
                swept=swept_by(
                    own,
                    optimizer=optimizer,
                    settings=settings,
                    learning_rate=learning_rate,
                    clip_norm=clip_norm,
                    others=others,
                ),
                learning_rate=learning_rate,
                clip_norm=clip_norm,
                steps=steps,
            )
            held.append(
                Planned(
                    measurement=measurement,
                    measure=dict(measure),
                    trials=(record,),
                    superseded=state.superseded | replaced if replaced else None,
                )
            )
        elif known.given_up:
            held.append(Retried(trials=(name,)))
        run_dir.publish_json(run_dir.environment, {**environment, **provenance(Path.cwd())})
        held.refresh()
    return RecordedTrial(
        run_dir,
        name,
        driver_epoch=epoch,
        attempt=1 + max((attempt for _, attempt in known.attempts), default=0) if known is not None else 1,
        measurement=measurement,
        committed=known.step if known is not None else 0,
    )


def _require_same_measure(run_dir: RunDir, state: RunState, measurement: str, measure: Mapping[str, Any]) -> None:
    """Refuse to put values of another f, or of other estimators, beside those in a directory."""
    for known, section in state.measurements.items():
        if known != measurement:
            before = {} if section is None else section
            differing = [key for key in {**before, **measure} if before.get(key) != measure.get(key)]
            lines = [f"  {key}: {before.get(key)} -> {measure.get(key)}" for key in differing]
            raise RunDirectoryError(
                "\n".join([f"{run_dir.path}: the loops in it were measured in another way:", *lines])
                + "\ntheir values would not be comparable: measure alike, or choose another directory with out"
            )


def _name_of(
    run_dir: RunDir,
    state: RunState,
    cell: Mapping[str, Any],
    *,
    seed: int,
    first_step: int,
    repeat: Literal["refuse", "replace"],
) -> tuple[str, frozenset[str]]:
    """The trial's id, and the ids of those that it replaces."""
    earlier: list[str] = []
    while (name := digest({**cell, "seed": seed, "repeat": len(earlier)})) in state.trials:
        earlier.append(name)
    current = [known for known in earlier if known not in state.superseded]
    if not current:
        return name, frozenset()
    if first_step > 0:
        return current[-1], frozenset()
    if repeat == "replace":
        return name, frozenset(current)
    known = state.trials[current[-1]]
    raise RunDirectoryError(
        f"{run_dir.path}: a loop with these values and seed={seed} was recorded before ({state.labels()[current[-1]]}: "
        f"{known.status()}, {known.step} steps): hand over another seed or other values, repeat='replace' to record it "
        "anew, or first_step to go on with it"
    )
