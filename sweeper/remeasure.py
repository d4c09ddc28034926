"""``clipsweep estimate``: kept snapshots measured again, in the pool, without training anything."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sweeper import events
from sweeper.driver_lock import DriverLock
from sweeper.driving import driving
from sweeper.environment import check_drift, environment_of
from sweeper.errors import ClipsweepError, IntegrityError, RunDirectoryError
from sweeper.events import SnapshotId
from sweeper.interrupts import listen_for_interrupts
from sweeper.journal import Journal, RunState
from sweeper.labels import duration
from sweeper.measure_queue import MeasureQueue
from sweeper.messages import EstimatorBeat, EstimatorDown, EstimatorUp, Message, SnapshotHeader, Verdict
from sweeper.open_segments import failed_rows
from sweeper.plan import remeasurement_id
from sweeper.pool_protocols import EstimatorPool
from sweeper.pulse import Pulses
from sweeper.recovery import recover, shipped
from sweeper.resolved import resolved_settings
from sweeper.run_dir import RunDir
from sweeper.snapshots import kept_steps
from sweeper.spec import loads_spec
from sweeper.spec.diagnostics import choices
from sweeper.spec.estimator_options import ESTIMATOR_OPTIONS
from sweeper.spec.settings import Cluster, Resources
from sweeper.spec.user_code import UserCode, user_code
from sweeper.view import Listener
from sweeper.waiting import Waiting

if TYPE_CHECKING:
    from sweeper.commit import Committer

__all__ = ["Remeasured", "estimate_run", "measure_again", "remeasure_section"]

_log = logging.getLogger(__name__)

_GROUP_S = 1.0
"""How long a measured snapshot waits for others to share its part."""

_SAY_EVERY_S = 10.0
_TICK_S = 0.25
_OF_F = ("data_fraction", "probe", "audit")


@dataclass(frozen=True, kw_only=True)
class Remeasured:
    """How measuring again ended.

    Attributes:
        table: The readable table.
        measurement: The id in its column ``measurement_id``.
        measured: Snapshots measured by this call.
        failed: Of these, those that could not be; their rows say why.
        before: Snapshots that were measured before.
        interrupted: Whether the user ended it early.
        seconds: Wall time.
    """

    table: Path
    measurement: str
    measured: int
    failed: int
    before: int
    interrupted: bool
    seconds: float

    @property
    def text(self) -> str:
        """The same in words."""
        unmeasured = f", {self.failed} of them without a result" if self.failed else ""
        return f"{self.measured} measured{unmeasured}, {self.before} before, in {duration(self.seconds)}"

    @property
    def exit_code(self) -> int:
        """0 all measured, 1 some could not be, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.failed else 0


def estimate_run(
    path: Path,
    estimator: str,
    options: Sequence[str] = (),
    *,
    listener: Listener,
    address: str | None = None,
    accept_drift: bool = False,
    insecure_cluster: bool = False,
    allow_code: bool = False,
) -> Remeasured:
    """Measure the kept snapshots of a run with an estimator, as far as that has not been done.

    Args:
        path: The run directory.
        estimator: Name of the estimator.
        options: ``option=value`` of the estimator, or of ``data_fraction``, ``probe`` and ``audit``.
        listener: Is told how it goes.
        address: Cluster address in place of the spec's.
        accept_drift: Go on although torch, Python, the processor or the thread count changed.
        insecure_cluster: Join a cluster without a token that others can reach.
        allow_code: Import code that lies neither in a folder above the run nor in the working directory.

    Returns:
        How it ended.

    Raises:
        ClipsweepError: The estimator or an option is unknown, or code would be imported that ``allow_code`` is for.
        RunDirectoryError: There is no run, another driver holds it, no snapshots were kept, or conditions changed.
        ClusterError: Ray cannot be started or joined.
        IntegrityError: The journal is damaged.
    """
    started = time.monotonic()
    run_dir = RunDir(path.resolve()).require()
    section = remeasure_section(run_dir, estimator, options)
    settings = resolved_settings(run_dir)
    resources, cluster = _checked(run_dir, settings)
    with driving(run_dir, listener) as held:
        listener = held.listener
        state = recover(run_dir, listener.say)
        kept = _kept(run_dir, state)
        measurement = remeasurement_id(section)
        done = state.remeasured.get(measurement, set())
        todo = [snapshot for snapshot in kept if (snapshot.trial, snapshot.step) not in done]
        environment = environment_of(resources)
        before = state.remeasurements.get(measurement, {}).get("environment", environment)
        check_drift(run_dir, before, environment, begun=bool(done), accepted=accept_drift)
        code = _code_of(run_dir, state, {snapshot.trial for snapshot in todo}, allow_code=allow_code)
        listener.say(f"{len(kept)} snapshots kept: {len(kept) - len(todo)} measured, {len(todo)} to measure")
        from sweeper.commit import Committer

        committer = Committer(run_dir, Journal(run_dir.journal, state.next_number), state, measurement=measurement)
        # The environment of training is left as it was: what resumes a trial is checked against that.
        opened = {"type": "opened", "format": 1, "epoch": state.epoch + 1, "environment": state.environment}
        committer.record(opened)
        if measurement not in state.remeasurements:
            committer.record({
                "type": "remeasuring",
                "measurement": measurement,
                "estimator": estimator,
                "measure": section,
                "environment": environment,
            })
        failed, interrupted = 0, False
        if todo:
            failed, interrupted = _on_ray(
                run_dir,
                todo,
                section,
                uses=_uses(state, todo),
                committer=committer,
                resources=resources,
                code=code,
                lock=held.lock,
                listener=listener,
                address=address or cluster.address,
                insecure_cluster=insecure_cluster,
            )
        committer.refresh()
        measured = len(state.remeasured.get(measurement, set())) - len(done)
        remeasured = Remeasured(
            table=run_dir.table(f"measurements/{estimator}"),
            measurement=measurement,
            measured=measured,
            failed=failed,
            before=len(kept) - len(todo),
            interrupted=interrupted,
            seconds=time.monotonic() - started,
        )
        held.exit_code, held.text = remeasured.exit_code, remeasured.text
        return remeasured


def _checked(run_dir: RunDir, settings: Mapping[str, Any]) -> tuple[Resources, Cluster]:
    """What workers get and where they run, by the words of the run's own spec."""
    try:
        return Resources.model_validate(settings["resources"]), Cluster.model_validate(settings["cluster"])
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"{run_dir.resolved}: its resources or its cluster are not what a run writes; `clipsweep run` with the "
            "run's spec writes it anew"
        ) from error


def remeasure_section(run_dir: RunDir, estimator: str, options: Sequence[str]) -> dict[str, Any]:
    """What is measured: the run's own f, unless an option says otherwise, and one estimator.

    Args:
        run_dir: The run.
        estimator: Name of the estimator.
        options: ``option=value`` each.

    Returns:
        ``data_fraction``, ``probe``, ``audit`` and ``estimators`` of a resolved measure section.

    Raises:
        ClipsweepError: The estimator or an option is unknown, or a value is wrong.
    """
    if estimator not in ESTIMATOR_OPTIONS:
        raise ClipsweepError(f"--estimator {estimator!r}: unknown; {choices(estimator, tuple(ESTIMATOR_OPTIONS))}")
    own = resolved_settings(run_dir).get("measure") or {}
    measure = {key: own[key] for key in _OF_F if key in own}
    measure |= {"every": 1, "estimators": [{"use": estimator}]}
    text = yaml.safe_dump({
        "problem": {"use": "deep_linear"},
        "update_rule": {"learning_rate": 1},
        "train": {"steps": 1},
        "measure": measure,
    })
    paths = [_place(option) for option in options]
    checked = loads_spec(text, name=f"{run_dir.path.name}: estimate", folder=Path.cwd(), overrides=paths).measure
    assert checked is not None
    full = checked.model_dump(mode="json")
    return {key: full[key] for key in (*_OF_F, "estimators")}


def _place(option: str) -> str:
    """Where in a measure section an option stands."""
    of_f = option.partition("=")[0].partition(".")[0].strip() in _OF_F
    return f"measure.{option}" if of_f else f"measure.estimators[0].{option}"


def _kept(run_dir: RunDir, state: RunState) -> list[SnapshotId]:
    """The kept snapshots of committed steps, trial after trial."""
    found = [
        SnapshotId(trial=name, attempt=0, step=step)
        for name, trial in state.trials.items()
        for step in kept_steps(run_dir, name)
        # Of a step that is not committed an attempt may still write another file, or a changed problem have written
        # one.
        if step < trial.step
    ]
    if not found:
        raise RunDirectoryError(
            f"{run_dir.path}: no snapshots were kept, so there is nothing to measure again; "
            "a run whose spec says `measure: {keep: true}` keeps them"
        )
    return found


def _code_of(run_dir: RunDir, state: RunState, trials: set[str], *, allow_code: bool) -> list[UserCode]:
    """The user's own code that the trials were trained with, if it is still the same and may be imported."""
    found: dict[str, UserCode] = {}
    for name in trials:
        wanted = state.trials[name].record.get("code")
        if wanted is None:
            continue
        use, root, sha256 = wanted["use"], Path(wanted["root"]), wanted["sha256"]
        code = user_code(use, root.parent)
        if code is None or code.sha256 != sha256:
            raise RunDirectoryError(
                f"{run_dir.path}: {root} is not what trial {name} was trained with any more; "
                "restore it, since another problem would be measured"
            )
        found[use] = code
    # The journal's word alone does not allow it: a run directory may come from anybody, as a spec may. Code in a folder
    # above it came with it, as code beside a spec does, and what lies in the working directory is at hand.
    near = {Path.cwd(), *run_dir.path.parents}
    far = [code for code in found.values() if not (code.beside and code.root.parent in near)]
    if far and not allow_code:
        what = ", ".join(f"{code.use} from {code.place}" for code in far)
        raise ClipsweepError(
            f"{run_dir.path}: its problem would run code that lies neither in a folder above the run nor in the "
            f"working directory: {what}; go on with --allow-code if you trust it"
        )
    return list(found.values())


def _uses(state: RunState, todo: Sequence[SnapshotId]) -> dict[str, str]:
    """Trial to the problem of the user's own that it was trained with: a snapshot's file may name no other code."""
    codes = {one.trial: state.trials[one.trial].record.get("code") for one in todo}
    return {trial: code["use"] for trial, code in codes.items() if code is not None}


def _on_ray(
    run_dir: RunDir,
    todo: Sequence[SnapshotId],
    section: Mapping[str, Any],
    *,
    uses: Mapping[str, str],
    committer: Committer,
    resources: Resources,
    code: Sequence[UserCode],
    lock: DriverLock,
    listener: Listener,
    address: str,
    insecure_cluster: bool,
) -> tuple[int, bool]:
    """Start estimators and measure; how many failed, and whether the user ended it early."""
    from sweeper.ray_environment import prepare

    address, notes = prepare(address, insecure=insecure_cluster)
    for note in notes:
        listener.say(note)
    from sweeper.cluster import connect, num_estimators, worker_settings
    from sweeper.pools import RayPools

    with (
        shipped(code) as (folder, search),
        listen_for_interrupts() as interrupts,
        connect(address, logs=run_dir.logs, code=folder) as cluster,
    ):
        settings = worker_settings(resources.estimators)
        count = num_estimators(cluster, settings, count=resources.estimators.count, num_snapshots=len(todo))
        listener.say(f"{count} estimators on {cluster.cpus:g} CPUs")
        pool = RayPools(run_dir=run_dir.path, trainer=settings, estimator=settings, search=search)
        waiting = Waiting(pool.held_up, listener.say)

        def beat() -> None:
            lock.beat()
            waiting.look()

        return measure_again(
            todo,
            section,
            uses=uses,
            committer=committer,
            pool=pool,
            num_estimators=count,
            max_attempts=resources.max_attempts,
            stall_timeout_s=resources.stall_timeout_s,
            beat=beat,
            say=listener.say,
            stop_requested=lambda: interrupts.requested() or lock.asked_to_stop(),
        )


def measure_again(
    todo: Sequence[SnapshotId],
    section: Mapping[str, Any],
    *,
    committer: Committer,
    pool: EstimatorPool,
    num_estimators: int,
    uses: Mapping[str, str] | None = None,
    max_attempts: int = 3,
    stall_timeout_s: float | None = None,
    beat: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = lambda text: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[int, bool]:
    """Wait, take notice, do what the queue says, commit in groups.

    Args:
        todo: What is to be measured.
        section: As :func:`remeasure_section` gives it.
        committer: Makes rows durable.
        pool: The workers.
        num_estimators: Slots to fill.
        uses: Trial to the problem of the user's own that its snapshots may name.
        max_attempts: How often a snapshot may fail.
        stall_timeout_s: An estimator that does not get on for so long is ended; None to wait for ever.
        beat: Called now and then, to show that this driver lives.
        say: Is told how it goes.
        stop_requested: Whether the user wants to end early.

    Returns:
        How many snapshots could not be measured, and whether the user ended it early.
    """
    queue = MeasureQueue(todo, max_attempts=max_attempts)
    pulses = Pulses(stall_timeout_s)
    rows: dict[SnapshotId, Mapping[str, Mapping[str, Any]]] = {}
    failed, count, stopping = 0, 0, False
    commit_at = said_at = time.monotonic()
    for slot in range(num_estimators):
        pool.start_estimator(slot)
    while not queue.finished:
        news: list[events.Event] = []
        for message in pool.poll(timeout_s=_TICK_S, read_trainers=False):
            if isinstance(message, EstimatorBeat):
                pulses.hear(message.slot, message.beats, now=time.monotonic())
                continue
            if isinstance(message, Verdict) and message.rows is not None:
                rows[message.snapshot] = message.rows
            if isinstance(message, (Verdict, EstimatorDown)):
                pulses.end(message.slot)
            news.append(_event(message, say))
        for slot, error in pulses.hanging(now=time.monotonic()):
            pool.kill_estimator(slot)
            pulses.end(slot)
            news.append(_event(EstimatorDown(slot=slot, error=error), say))
        for slot in pulses.to_ask(now=time.monotonic()):
            pool.ask_estimator(slot)
        if stop_requested() and not stopping:
            stopping = True
            news.append(events.StopRequested())
        for command in [command for event in news for command in queue.handle(event)]:
            match command:
                case events.Measure(slot=slot, snapshot=snapshot):
                    pulses.begin(slot, now=time.monotonic())
                    pool.measure(slot, snapshot, _header(snapshot, section, uses or {}), None)
                case events.MeasureFailed(snapshot=snapshot, error=error):
                    say(f"{snapshot.trial}: step {snapshot.step} could not be measured: {error}")
                    rows[snapshot] = failed_rows(_header(snapshot, section, uses or {}), error)
                    failed += 1
                case events.ReplaceEstimator(slot=slot):
                    pool.start_estimator(slot)
        now = time.monotonic()
        if rows and (queue.finished or now - commit_at > _GROUP_S):
            committer.commit_measured(rows)
            count += len(rows)
            rows, commit_at = {}, now
        if now - said_at > _SAY_EVERY_S:
            say(f"{count} of {len(todo)} measured")
            said_at = now
        beat()
    return failed, stopping


def _header(snapshot: SnapshotId, section: Mapping[str, Any], uses: Mapping[str, str]) -> SnapshotHeader:
    """Which snapshot is meant; what it is of, the file says to the worker that opens it."""
    return SnapshotHeader(
        trial=snapshot.trial,
        seed=0,
        step=snapshot.step,
        epoch=math.nan,
        problem={"use": uses[snapshot.trial]} if snapshot.trial in uses else {},
        measure=section,
        nbytes=0,
    )


def _event(message: Message, say: Callable[[str], object]) -> events.Event:
    match message:
        case EstimatorUp(slot=slot, facts=facts):
            _log.info("estimator %d is up: %s", slot, facts)
            return events.EstimatorReady(slot=slot)
        case EstimatorDown(slot=slot, error=error):
            say(f"estimator {slot} died: {error}; starting another")
            return events.EstimatorDied(slot=slot, error=error)
        case Verdict(slot=slot, snapshot=snapshot, rows=None, error=error, traceback=traceback):
            _log.warning("%s: %s", snapshot, traceback or error)
            return events.MeasureRaised(slot=slot, snapshot=snapshot, error=error)
        case Verdict(slot=slot, snapshot=snapshot):
            return events.Measured(slot=slot, snapshot=snapshot)
    raise AssertionError(f"no message of an estimator: {message!r}")
