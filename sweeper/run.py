"""One sweep from spec to tables: what `clipsweep run` does between parsing its arguments and its exit code."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import RunDirectoryError
from sweeper.journal import Journal, RunState, TrialState, read_journal, repair_journal, replay
from sweeper.plan import Plan, Trial, expand, measurement_id
from sweeper.run_dir import DriverLock, RunDir
from sweeper.schedule import Progress, Schedule, order
from sweeper.spec import Sweep

__all__ = ["Outcome", "Standing", "default_run_dir", "open_state", "run_sweep", "standing"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        run_dir: Where its tables are.
        counts: Trials of the plan by status word.
        interrupted: Whether the user ended it early.
        seconds: Wall time.
    """

    run_dir: Path
    counts: Mapping[str, int]
    interrupted: bool
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 all resolved, 1 some failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.counts.get("failed", 0) or self.counts.get("lost", 0) else 0


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A plan against what a run directory already holds.

    Attributes:
        new: Trials never begun.
        under_way: Trials with a committed segment but no end.
        done: Trials that ended, diverged ones among them.
        failed: Trials given up; `clipsweep retry` queues them again.
        foreign: Unresolved trials of an earlier spec that this one does not have.
    """

    new: tuple[Trial, ...]
    under_way: tuple[Trial, ...]
    done: tuple[Trial, ...]
    failed: tuple[Trial, ...]
    foreign: tuple[str, ...]


def default_run_dir(sweep: Sweep) -> Path:
    """``runs/<name>`` below the current folder."""
    return Path("runs") / sweep.name


def open_state(run_dir: RunDir) -> RunState:
    """The state of a run, read without touching it; a torn tail of the journal is left out.

    Returns:
        The state; an empty one where no run was begun.

    Raises:
        IntegrityError: The journal is damaged.
    """
    if not run_dir.exists:
        return RunState()
    records, _ = read_journal(run_dir.journal)
    return replay(records)


def standing(plan: Plan, state: RunState) -> Standing:
    """Sort the trials of a plan by what is left to do.

    Args:
        plan: The plan.
        state: The run.

    Returns:
        The plan's trials by kind, each in the order of the plan.
    """
    kinds: dict[str, list[Trial]] = {"new": [], "under_way": [], "done": [], "failed": []}
    for trial in plan.trials:
        known = state.trials.get(trial.trial_id)
        kinds[_kind(known)].append(trial)
    planned = {trial.trial_id for trial in plan.trials}
    foreign = tuple(name for name, trial in state.trials.items() if name not in planned and not trial.resolved)
    return Standing(**{kind: tuple(trials) for kind, trials in kinds.items()}, foreign=foreign)


def _kind(known: TrialState | None) -> str:
    if known is None:
        return "new"
    if known.given_up:
        return "failed"
    if known.resolved:
        return "done"
    return "under_way" if known.segments else "new"


def run_sweep(
    sweep: Sweep,
    *,
    out: Path | None = None,
    listener: Any,
    address: str | None = None,
    accept_drift: bool = False,
    new_measurement: bool = False,
) -> Outcome:
    """Run what is missing of a sweep.

    Args:
        sweep: The spec.
        out: The run directory; ``runs/<name>`` by default.
        listener: Is told how it goes (``sweeper.driver.Listener``).
        address: Cluster address in place of the spec's.
        accept_drift: Go on although torch, Python, the processor or the thread count changed.
        new_measurement: Go on although the measure section changed.

    Returns:
        How it ended.

    Raises:
        SpecError: The sweep cannot be expanded.
        RunDirectoryError: The directory is held, foreign or unwritable, or was made under other conditions.
        ClusterError: Ray cannot be started or joined, or has not the resources.
        IntegrityError: The journal is damaged.
    """
    started = time.monotonic()
    plan = expand(sweep)
    run_dir = RunDir((out or default_run_dir(sweep)).resolve())
    run_dir.create()
    with _disk_errors(run_dir), DriverLock(run_dir).hold() as lock, _logging_to(run_dir.logs / "driver.log"):
        state = _recover(run_dir)
        environment = _environment(sweep)
        _check_drift(run_dir, state, environment, accepted=accept_drift)
        measurement = _check_measurement(run_dir, sweep, state, accepted=new_measurement)
        now = standing(plan, state)
        _announce(listener, plan, now)
        journal = Journal(run_dir.journal, state.next_number)
        from sweeper.commit import Committer

        committer = Committer(run_dir, journal, state, measurement=measurement)
        committer.record({"type": "opened", "format": 1, "epoch": state.epoch + 1, "environment": environment})
        _record_plan(run_dir, committer, plan, sweep, measurement)
        todo = [*now.under_way, *now.new]
        interrupted = False
        try:
            if not todo:
                committer.refresh()
            else:
                interrupted = _drive(
                    sweep,
                    plan,
                    todo,
                    run_dir=run_dir,
                    lock=lock,
                    committer=committer,
                    listener=listener,
                    address=address or sweep.cluster.address,
                )
        except BaseException:
            committer.refresh()
            raise
        finally:
            run_dir.live.unlink(missing_ok=True)
        counts: dict[str, int] = {}
        for trial in plan.trials:
            status = state.trials[trial.trial_id].status
            counts[status] = counts.get(status, 0) + 1
        return Outcome(run_dir=run_dir.path, counts=counts, interrupted=interrupted, seconds=time.monotonic() - started)


def _drive(
    sweep: Sweep,
    plan: Plan,
    todo: list[Trial],
    *,
    run_dir: RunDir,
    lock: DriverLock,
    committer: Any,
    listener: Any,
    address: str,
) -> bool:
    """Start workers and drive the schedule; returns whether the user ended it early."""
    from sweeper.ray_environment import prepare

    prepare(address)
    from sweeper.driver import Driver
    from sweeper.pools import RayPools, connect, pool_size, worker_settings

    measure = sweep.measure.model_dump(mode="json") if sweep.measure is not None else None
    progress = {
        trial.trial_id: Progress(committed_step=known.step, failures=len(known.failures))
        for trial in todo
        if (known := committer.state.trials[trial.trial_id])
    }
    with (
        _shipped(plan) as (code, search),
        _interrupts(listener) as interrupts,
        connect(address, logs=run_dir.logs, code=code) as cluster,
    ):
        interrupts.install()
        trainer = worker_settings(sweep.resources.trainers)
        estimator = worker_settings(sweep.resources.estimators)
        size = pool_size(
            cluster,
            trainer,
            estimator,
            trainers=sweep.resources.trainers.count,
            estimators=sweep.resources.estimators.count if measure else 0,
            num_trials=len(todo),
        )
        schedule = Schedule(
            order([trial.trial_id for trial in todo], progress),
            max_attempts=sweep.resources.max_attempts,
            max_snapshots=2 * max(1, size.estimators),
            max_snapshot_bytes=cluster.object_store_bytes // 3,
        )
        listener.say(f"{size.trainers} trainers and {size.estimators} estimators on {cluster.cpus:g} CPUs")
        Driver(
            run_dir=run_dir,
            lock=lock,
            committer=committer,
            trials={trial.trial_id: trial for trial in todo},
            measure=measure,
            schedule=schedule,
            pools=RayPools(run_dir=run_dir.path, trainer=trainer, estimator=estimator, search=search),
            num_trainers=size.trainers,
            num_estimators=size.estimators,
            listener=listener,
            stop_requested=interrupts.requested,
        ).run()
        # Before Ray is shut down, which takes more than a second: the results are there now.
        committer.refresh()
        return interrupts.requested()


def _recover(run_dir: RunDir) -> RunState:
    """The state of the run, after mending what a crash left behind. Only under the lock."""
    if not run_dir.exists:
        return RunState()
    records, whole = read_journal(run_dir.journal)
    if repair_journal(run_dir.journal, whole, run_dir.quarantine):
        _log.warning("cut a torn line off the journal; its bytes are in %s", run_dir.quarantine)
    state = replay(records)
    keep = {run_dir.parts / part.file for part in state.parts}
    for name, trial in state.trials.items():
        keep |= {run_dir.checkpoints / name / s.checkpoint[0] for s in trial.segments if s.checkpoint is not None}
    run_dir.clean(keep=keep)
    return state


def _record_plan(run_dir: RunDir, committer: Any, plan: Plan, sweep: Sweep, measurement: str) -> None:
    """Journal the trials that are new to this run, and keep the spec beside them."""
    state: RunState = committer.state
    unknown = [trial for trial in plan.trials if trial.trial_id not in state.trials]
    if unknown or measurement not in state.measurements:
        measure = sweep.measure.model_dump(mode="json") if sweep.measure is not None else None
        committer.record({
            "type": "planned",
            "measurement": measurement,
            "measure": measure,
            "trials": [_trial_record(trial) for trial in unknown],
        })
    run_dir.publish(run_dir.spec, sweep.text.encode())
    resolved = yaml.safe_dump(sweep.resolved(), sort_keys=False, allow_unicode=True)
    run_dir.publish(run_dir.resolved, resolved.encode())
    run_dir.publish_json(run_dir.environment, state.environment | _provenance())


def _trial_record(trial: Trial) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "cell_id": trial.cell_id,
        "arm": trial.arm,
        "seed": trial.seed,
        "swept": trial.swept,
        "learning_rate": trial.update_rule["learning_rate"],
        "clip_norm": trial.update_rule["clip_norm"],
        "steps": trial.train["steps"],
    }


def _environment(sweep: Sweep) -> dict[str, Any]:
    """What results depend on besides the spec: a resumed trial is bit-identical only where none of it changed."""
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "machine": platform.machine(),
        "processor": _processor(),
        "trainer_threads": sweep.resources.trainers.threads,
        "estimator_threads": sweep.resources.estimators.threads,
        "gpus": sweep.resources.trainers.gpus > 0,
    }


def _provenance() -> dict[str, Any]:
    """What is worth knowing later, but does not decide results."""
    return {
        "clipsweep": metadata.version("clipsweep"),
        "ray": metadata.version("ray"),
        "host": socket.gethostname(),
        "system": platform.platform(),
    }


def _processor() -> str:
    """The processor's model, on which the choice of kernels depends."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _check_drift(run_dir: RunDir, state: RunState, environment: Mapping[str, Any], *, accepted: bool) -> None:
    """Refuse to mix rows that differ only because the machine does."""
    begun = any(trial.segments for trial in state.trials.values())
    changed = {
        key: (old, environment.get(key)) for key, old in state.environment.items() if environment.get(key) != old
    }
    if not begun or not changed:
        return
    lines = [f"  {key}: {old} -> {new}" for key, (old, new) in changed.items()]
    text = "\n".join([f"{run_dir.path}: was begun under other conditions:", *lines])
    if not accepted:
        raise RunDirectoryError(
            f"{text}\nrows of the two would not be comparable bit for bit; go on with --accept-drift, "
            "or choose another directory with --out"
        )
    _log.warning("%s", text)


def _check_measurement(run_dir: RunDir, sweep: Sweep, state: RunState, *, accepted: bool) -> str:
    """The id of the measure section; a section new to a run that has measured needs the user's word."""
    measurement = measurement_id(sweep.measure)
    begun = sum(1 for trial in state.trials.values() if trial.segments)
    if measurement in state.measurements or not begun or accepted:
        return measurement
    known = ", ".join(state.measurements)
    raise RunDirectoryError(
        f"{run_dir.path}: the measure section changed (now {measurement}, before {known}).\n"
        f"  {begun} trials have rows measured under the earlier one; they stay, and are not trained again.\n"
        "  What is trained from now on would be measured under the new one; column measurement_id tells them apart.\n"
        "Go on with --new-measurement, restore the section, or choose another directory with --out."
    )


def _announce(listener: Any, plan: Plan, now: Standing) -> None:
    listener.say(
        f"{len(plan.trials)} trials: {len(now.new)} new, {len(now.under_way)} under way, "
        f"{len(now.done)} done, {len(now.failed)} failed"
    )
    if now.failed:
        listener.say(f"{len(now.failed)} failed trials stay as they are; queue them again with `clipsweep retry`")
    if now.foreign:
        listener.say(
            f"{len(now.foreign)} unfinished trials of an earlier spec are not in this one: kept, not continued"
        )


@contextmanager
def _shipped(plan: Plan) -> Iterator[tuple[Path | None, tuple[str, ...]]]:
    """The user's own code in a folder of its own, as it is sent to every worker."""
    if not plan.code:
        yield None, ()
        return
    with tempfile.TemporaryDirectory(prefix="clipsweep-code-") as name:
        folder = Path(name)
        for found in plan.code:
            target = folder / found.root.name
            if found.root.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(found.root, target, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copyfile(found.root, target)
        yield folder, ()


class _Interrupts:
    """First SIGINT, SIGTERM or SIGUSR1: a request. Second: now."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener
        self._requested = False

    def requested(self) -> bool:
        """Whether the sweep is to end early."""
        return self._requested

    def install(self) -> None:
        """Take over the signals; to be called again after Ray, which replaces them."""
        for number in _SIGNALS:
            signal.signal(number, self._take)

    def _take(self, number: int, _frame: object) -> None:
        if self._requested:
            raise KeyboardInterrupt(signal.Signals(number).name)
        self._requested = True


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def _interrupts(listener: Any) -> Iterator[_Interrupts]:
    """Listen to signals for the length of a ``with`` block."""
    before: dict[int, Callable[..., Any] | int | None] = {number: signal.getsignal(number) for number in _SIGNALS}
    interrupts = _Interrupts(listener)
    interrupts.install()
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _disk_errors(run_dir: RunDir) -> Iterator[None]:
    """Say what a full or vanished disk means for the run."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise RunDirectoryError(
            f"{error.filename or run_dir.path}: {error.strerror or error}; what was committed is safe: "
            "mend the disk and run the same command to go on"
        ) from error


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Keep the driver's log in the run directory."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("sweeper")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    _log.info("driver starts: pid %d, %s", os.getpid(), " ".join(sys.argv))
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
