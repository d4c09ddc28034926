"""``clipsweep estimate``: kept snapshots measured again, in the pool, without training anything."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.driver_lock import DriverLock
from sweeper.driving import driving
from sweeper.environment import check_drift, environment_of
from sweeper.errors import IntegrityError
from sweeper.events import SnapshotId
from sweeper.interrupts import listen_for_interrupts
from sweeper.journal import Journal
from sweeper.labels import duration
from sweeper.plan import remeasurement_id
from sweeper.recovery import recover
from sweeper.remeasure_loop import measure_again
from sweeper.remeasure_plan import code_of, kept_snapshots, remeasure_section, uses_of
from sweeper.resolved import resolved_settings
from sweeper.room import num_estimators, worker_settings
from sweeper.run_dir import RunDir
from sweeper.spec.settings import Cluster, Resources
from sweeper.spec.user_code import UserCode, shipped
from sweeper.view import Listener
from sweeper.waiting import Waiting

if TYPE_CHECKING:
    from sweeper.commit import Committer

__all__ = ["Remeasured", "estimate_run"]


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
        kept = kept_snapshots(run_dir, state)
        measurement = remeasurement_id(section)
        done = state.remeasured.get(measurement, set())
        todo = [snapshot for snapshot in kept if (snapshot.trial, snapshot.step) not in done]
        environment = environment_of(resources)
        before = state.remeasurements.get(measurement, {}).get("environment", environment)
        check_drift(run_dir, before, environment, begun=bool(done), accepted=accept_drift)
        code = code_of(run_dir, state, {snapshot.trial for snapshot in todo}, allow_code=allow_code)
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
                uses=uses_of(state, todo),
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
    from sweeper.cluster import connect
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
