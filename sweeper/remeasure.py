"""``clipsweep estimate``: kept snapshots measured again, in the pool, without training anything."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.cluster.capacity import num_estimators, worker_settings
from sweeper.driver.interrupts import listen_for_interrupts
from sweeper.driver.session import Driving, driving
from sweeper.errors import ClipsweepError, IntegrityError, RunDirectoryError
from sweeper.labels import counted, duration
from sweeper.planning.environment import check_drift, environment_of
from sweeper.planning.plan import remeasurement_id
from sweeper.protocol.consent import Consent
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.pools import PoolSize
from sweeper.protocol.view import Listener, Silent
from sweeper.requirements import require_installed
from sweeper.schedule.kept_queue import KeptQueue
from sweeper.spec import check_measure
from sweeper.spec.sections.estimators import ESTIMATOR_OPTIONS
from sweeper.spec.sections.settings import Cluster, Resources
from sweeper.spec.syntax.diagnostics import choices
from sweeper.spec.user_code import UserCode, shipped, user_code
from sweeper.store.journal import Journal, RunState, open_state
from sweeper.store.recorded import refuse_recorded
from sweeper.store.records import Opened, Remeasuring
from sweeper.store.recovery import recover
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir
from sweeper.workers.snapshots import kept_steps

if TYPE_CHECKING:
    from sweeper.driver.commit import Committer

__all__ = ["Remeasured", "code_of", "estimate_run", "kept_snapshots", "remeasure_section", "uses_of"]


@dataclass(frozen=True, kw_only=True)
class Remeasured:
    """How measuring again ended.

    Attributes:
        table: The readable table.
        measurement: The id in its column ``measurement_id``.
        measured: Snapshots measured by this call.
        failed: How many of these could not be measured; their rows say why.
        before: Snapshots that were measured before.
        interrupted: Whether the user stopped it early.
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
        """The outcome in words."""
        unmeasured = f", {self.failed} of them without a result" if self.failed else ""
        return f"{self.measured} measured{unmeasured}, {self.before} measured before, in {duration(self.seconds)}"

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
    listener: Listener | None = None,
    address: str | None = None,
    device: str | None = None,
    consent: Consent | None = None,
) -> Remeasured:
    """Measure the kept snapshots of a run with an estimator, except those it has already measured.

    Args:
        path: The run directory.
        estimator: Name of the estimator.
        options: ``option=value`` for the estimator, or for ``data_fraction``, ``probes``, ``probe`` and ``audit``.
        listener: Receives progress; by default it is not shown.
        address: Cluster address instead of the spec's.
        device: ``cpu`` or ``cuda`` instead of what the spec says; ``cuda`` is a whole GPU where that says none.
        consent: What the user agrees to that is otherwise refused: ``drift``, ``insecure_cluster``, and ``code`` that
            is neither in a folder above the run nor in the working directory. By default nothing.

    Returns:
        How it ended.

    Raises:
        ClipsweepError: Ray or PyTorch is not installed, the estimator or an option is unknown, or code would be
            imported without consent.
        RunDirectoryError: There is no run, another driver holds it, no snapshots were kept, or conditions changed.
        ClusterError: Ray cannot be started or joined.
        IntegrityError: The journal is damaged.
    """
    require_installed("measuring", "ray", "torch")
    started, started_at = time.monotonic(), time.time()
    consent = consent or Consent()
    run_dir = RunDir(path.resolve()).require()
    refuse_recorded(run_dir, open_state(run_dir), "be measured again, since no snapshots are kept")
    section = remeasure_section(run_dir, estimator, options)
    settings = resolved_settings(run_dir)
    resources, cluster = _checked(run_dir, settings)
    resources = _on_device(resources, device)
    with driving(run_dir, listener or Silent()) as held:
        say = held.listener.say
        state = recover(run_dir, say)
        kept = kept_snapshots(run_dir, state)
        measurement = remeasurement_id(section)
        done = state.remeasured.get(measurement, set())
        todo = [snapshot for snapshot in kept if (snapshot.trial, snapshot.step) not in done]
        environment = environment_of(resources)
        known = state.remeasurements.get(measurement)
        before = known.environment if known is not None else environment
        check_drift(run_dir, before, environment, begun=bool(done), accepted=consent.drift)
        code = code_of(run_dir, state, {snapshot.trial for snapshot in todo}, allow_code=consent.code)
        say(f"{counted(len(kept), 'snapshot')} kept: {len(kept) - len(todo)} measured, {len(todo)} to measure")
        from sweeper.driver.commit import Committer

        committer = Committer(run_dir, Journal(run_dir.journal, state.next_number), state, measurement=measurement)
        # The recorded environment of training is left unchanged: resuming a trial is checked against it.
        committer.record(
            Opened(driver_epoch=state.driver_epoch + 1, environment=state.environment, started_at=started_at)
        )
        if known is None:
            committer.record(Remeasuring(measurement=measurement, measure=section, environment=environment))
        num_done, failed, interrupted = len(done), 0, False
        if todo:
            try:
                failed, interrupted = _on_ray(
                    todo,
                    section,
                    uses=uses_of(state, todo),
                    held=held,
                    committer=committer,
                    resources=resources,
                    code=code,
                    address=address or cluster.address,
                    gpus=cluster.gpus,
                    insecure=consent.insecure_cluster,
                )
            finally:
                run_dir.live.unlink(missing_ok=True)
        committer.refresh()
        measured = len(state.remeasured.get(measurement, set())) - num_done
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


def _on_device(resources: Resources, device: str | None) -> Resources:
    """The same, with estimators on another device."""
    pool = resources.estimators
    match device:
        case None:
            return resources
        case "cpu":
            pool = pool.model_copy(update={"gpus": 0.0, "cuda_graphs": False})
        case "cuda":
            pool = pool.model_copy(update={"gpus": pool.gpus or 1.0})
        case _:
            raise ClipsweepError(f"--device: unknown device {device!r}; known: cpu, cuda, of which Ray chooses one")
    return resources.model_copy(update={"estimators": pool})


def _checked(run_dir: RunDir, settings: Mapping[str, Any]) -> tuple[Resources, Cluster]:
    """What workers get and where they run, according to the run's own spec."""
    try:
        resources = {name: _of_one_gpu(section) for name, section in settings["resources"].items()}
        return Resources.model_validate(resources), Cluster.model_validate(settings["cluster"])
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"{run_dir.resolved}: its resources or its cluster are not what a run writes; `clipsweep run` with the "
            "run's spec rewrites it"
        ) from error


def _of_one_gpu(section: Any) -> Any:
    """A part of ``resources``; runs of earlier versions may give a worker several GPUs, of which it used one."""
    if isinstance(section, dict) and isinstance(gpus := section.get("gpus"), int | float) and gpus > 1:
        return {**section, "gpus": 1}
    return section


def _on_ray(
    todo: Sequence[SnapshotId],
    section: Mapping[str, Any],
    *,
    uses: Mapping[str, str],
    held: Driving,
    committer: Committer,
    resources: Resources,
    code: Sequence[UserCode],
    address: str,
    gpus: int | None,
    insecure: bool,
) -> tuple[int, bool]:
    """Start estimators and measure; returns how many snapshots failed, and whether the user stopped it early."""
    from sweeper.cluster.ray_environment import prepare

    say = held.listener.say
    address, notes = prepare(address, insecure=insecure)
    for note in notes:
        say(note)
    from sweeper.cluster.elastic import RoomWatch
    from sweeper.cluster.pools import RayPools
    from sweeper.cluster.ray_session import connect
    from sweeper.cluster.waiting import Waiting
    from sweeper.driver.driver import driver_of_kept

    with (
        shipped(code) as folder,
        listen_for_interrupts(say) as interrupts,
        connect(address, logs=held.run_dir.logs, code=folder, gpus=gpus, say=say) as cluster,
    ):
        settings = worker_settings(resources.estimators)
        count = num_estimators(cluster, settings, count=resources.estimators.count, num_snapshots=len(todo))
        size = PoolSize(trainers=0, estimators=count)
        say(f"{counted(count, 'estimator')} on {counted(cluster.cpus, 'CPU')}")
        pool = RayPools(run_dir=held.run_dir.path, trainer=settings, estimator=settings, private=address == "local")
        driver = driver_of_kept(
            KeptQueue(todo, max_attempts=resources.max_attempts),
            section,
            uses,
            held=held,
            committer=committer,
            pool=pool,
            room=RoomWatch(size=size, waiting=Waiting(pool.held_up, say, private=address == "local")),
            stall_timeout_s=resources.stall_timeout_s,
        )
        interrupts.finish_first()
        interrupted = driver.run(lambda: interrupts.requested() or held.lock.asked_to_stop())
        return driver.num_failed_snapshots, interrupted


_OF_F = ("data_fraction", "probe", "probes", "audit")


def remeasure_section(run_dir: RunDir, estimator: str, options: Sequence[str]) -> dict[str, Any]:
    """What to measure: the run's own f, unless an option says otherwise, and one estimator.

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
    places = [_place(option) for option in options]
    checked = check_measure(measure, places, name=f"{run_dir.path.name}: estimate")
    full = checked.model_dump(mode="json")
    return {key: full[key] for key in (*_OF_F, "estimators") if key in full}


def _place(option: str) -> str:
    """The place of an option in a measure section."""
    of_f = option.partition("=")[0].partition(".")[0].strip() in _OF_F
    return f"measure.{option}" if of_f else f"measure.estimators[0].{option}"


def kept_snapshots(run_dir: RunDir, state: RunState) -> list[SnapshotId]:
    """The kept snapshots of committed steps.

    Args:
        run_dir: The run.
        state: Its state according to its journal.

    Returns:
        Their ids, trial by trial; attempts are not distinguished.

    Raises:
        RunDirectoryError: There are none.
    """
    found = [
        SnapshotId(trial=name, attempt=0, step=step)
        for name, trial in state.trials.items()
        for step in kept_steps(run_dir, name)
        # Not uncommitted steps: an attempt may still overwrite the file, or a changed problem may have written it.
        if step < trial.step
    ]
    if not found:
        raise RunDirectoryError(
            f"{run_dir.path}: no snapshots were kept, so there is nothing to measure again; "
            "they are kept if the spec says `measure: {keep: true}`"
        )
    return found


def code_of(run_dir: RunDir, state: RunState, trials: Collection[str], *, allow_code: bool) -> list[UserCode]:
    """The user's own code that trials were trained with, if it is still the same and may be imported.

    Args:
        run_dir: The run.
        state: Its state according to its journal.
        trials: Those whose snapshots will be measured.
        allow_code: Import code that is neither in a folder above the run nor in the working directory.

    Returns:
        The code of each problem once.

    Raises:
        RunDirectoryError: It is no longer what they were trained with.
        ClipsweepError: It needs ``allow_code``.
    """
    found: dict[str, UserCode] = {}
    for name in trials:
        wanted = state.trials[name].record.code
        if wanted is None:
            continue
        code = user_code(wanted.use, wanted.root.parent)
        if code is None or code.sha256 != wanted.sha256:
            raise RunDirectoryError(
                f"{run_dir.path}: {wanted.root} is no longer what trial {name} was trained with; "
                "restore it, since otherwise another problem would be measured"
            )
        found[wanted.use] = code
    # That the journal names the code is not enough: like a spec, a run directory may come from anybody. Code in a
    # folder above it came with it, like code next to a spec, and the working directory is the user's own choice.
    near = {Path.cwd(), *run_dir.path.parents}
    far = [code for code in found.values() if not (code.beside and code.root.parent in near)]
    if far and not allow_code:
        what = ", ".join(f"{code.use} from {code.place}" for code in far)
        raise ClipsweepError(
            f"{run_dir.path}: its problem would run code that is neither in a folder above the run nor in the "
            f"working directory: {what}; continue with --allow-code if you trust it"
        )
    return list(found.values())


def uses_of(state: RunState, todo: Iterable[SnapshotId]) -> dict[str, str]:
    """Which code the file of each snapshot may name: only its trial's.

    Args:
        state: The run as its journal describes it.
        todo: The snapshots.

    Returns:
        Trial to the user's own problem that it was trained with, if it was.
    """
    codes = {one.trial: state.trials[one.trial].record.code for one in todo}
    return {trial: code.use for trial, code in codes.items() if code is not None}
