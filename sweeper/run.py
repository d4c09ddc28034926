"""One sweep from spec to tables: what `clipsweep run` does between parsing its arguments and its exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sweeper.cluster.capacity import Wanted, pool_size, shares_of, worker_settings
from sweeper.cluster.machine import misfit
from sweeper.cluster.nodes import Layout
from sweeper.driver.interrupts import listen_for_interrupts
from sweeper.driver.session import Driving, driving
from sweeper.errors import ClipsweepError, ClusterError, error_line, error_text
from sweeper.labels import counted, duration
from sweeper.notify.hooks import called_on, require_hooks_allowed
from sweeper.planning.environment import check_drift, environment_of, provenance
from sweeper.planning.expectation import expected
from sweeper.planning.measurement_change import check_measurement, measurement_change
from sweeper.planning.packing import packing_of
from sweeper.planning.plan import Plan, Trial, expand, measurement_id, record_of, require_allowed
from sweeper.planning.searching import plan_of, search_code, searching_of
from sweeper.planning.spec_change import SpecChange, check_change, code_record, spec_change
from sweeper.planning.standing import Standing, default_run_dir, held_in, standing
from sweeper.protocol.consent import Consent
from sweeper.protocol.notices import Hears, Notice, RunEnded, RunStarted, document_of
from sweeper.protocol.pools import PoolSize
from sweeper.protocol.view import Listener, Silent
from sweeper.report.times import closing_line
from sweeper.requirements import require_installed
from sweeper.schedule.schedule import Progress, Schedule
from sweeper.spec import Sweep
from sweeper.spec.user_code import shipped
from sweeper.store.journal import Journal, RunState, Unmeasured, num_failed, open_state
from sweeper.store.recorded import refuse_recorded
from sweeper.store.records import Opened, Planned
from sweeper.store.recovery import recover
from sweeper.store.run_dir import RunDir
from sweeper.store.spans import worked_s

if TYPE_CHECKING:
    from sweeper.driver.commit import Committer
    from sweeper.driver.search import Search

__all__ = ["Outcome", "order", "run_sweep"]

_MAX_SIDE_BY_SIDE = 10_000
"""Analytic trials in one call of a trainer: the most that a crash of it can cost."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        run_dir: Where its tables are.
        counts: Trials of the plan by status.
        interrupted: Whether the user stopped it early.
        seconds: Wall time of this driver; None if nothing was left to do.
        earlier_s: Wall time of the run's earlier drivers, pauses between them left out.
        unmeasured: Which snapshots of the plan's trials could not be measured.
        spent: Where this driver's time went, in one line; None if it committed nothing.
        unfinished: Where a search stands that wants more and does not ask for it; None if there is none.
    """

    run_dir: Path
    counts: Mapping[str, int]
    interrupted: bool
    seconds: float | None
    earlier_s: float
    unmeasured: Unmeasured
    spent: str | None
    unfinished: str | None = None

    @property
    def text(self) -> str:
        """The outcome in words."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        if self.seconds is None:
            return f"{counts}; nothing was left to do"
        whole = f" ({duration(self.seconds + self.earlier_s)} with earlier runs)" if self.earlier_s >= 1 else ""
        return f"{counts} in {duration(self.seconds)}{whole}"

    @property
    def num_failed(self) -> int:
        """Trials that were given up."""
        return num_failed(self.counts)

    @property
    def exit_code(self) -> int:
        """0 all resolved, 1 some failed or were lost, or a search that has not finished, 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.num_failed or self.unfinished else 0


def run_sweep(
    sweep: Sweep,
    *,
    out: Path | None = None,
    listener: Listener | None = None,
    address: str | None = None,
    consent: Consent | None = None,
    hears: Sequence[Hears] = (),
) -> Outcome:
    """Run whatever is missing from a sweep.

    Args:
        sweep: The spec.
        out: The run directory; ``runs/<name>`` by default.
        listener: Receives progress; by default it is not shown.
        address: Cluster address instead of the spec's.
        consent: What the user agrees to that is otherwise refused; by default nothing.
        hears: Take every event of the run as a document, without ever blocking.

    Returns:
        How it ended.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: Ray or PyTorch is not installed; or it would import code or run commands from outside the spec's
            folder, without consent.
        RunDirectoryError: The directory is held by another driver, not a run directory or not writable, or its results
            were made under other conditions.
        ClusterError: Ray cannot be started or joined, or does not have the resources.
        IntegrityError: The journal is damaged.
    """
    require_installed("running a sweep", "ray", "torch")
    started, started_at = time.monotonic(), time.time()
    consent = consent or Consent()
    plan = expand(sweep)
    require_allowed([*plan.code, *search_code(sweep)], sweep.folder, allow_code=consent.code)
    if sweep.hooks is not None:
        require_hooks_allowed(sweep.hooks, sweep.folder, allow_code=consent.code)
    run_dir = RunDir((out or default_run_dir(sweep)).resolve())
    before = open_state(run_dir)
    refuse_recorded(run_dir, before, "be run, so choose another directory with --out")
    if sweep.sweep.search is not None:
        plan = plan_of(sweep, before)
    address = address or sweep.cluster.address
    _check_room(sweep, plan, before, address, insecure=consent.insecure_cluster)
    with (
        driving(run_dir, listener or Silent(), create=True) as held,
        _hooks_of(sweep, held) as hooks,
        _telling(held, [*hears, *hooks]),
    ):
        say = held.listener.say
        state = recover(run_dir, say)
        searching = searching_of(sweep, state)
        until: Mapping[str, int | None] = {}
        if searching is not None:
            until = searching.ask().until
            plan = searching.plan()
        else:
            until = held_in(plan, state)
        environment = environment_of(sweep.resources)
        begun = any(trial.segments for trial in state.trials.values())
        check_drift(run_dir, state.environment, environment, begun=begun, accepted=consent.drift)
        change = spec_change(run_dir, sweep, plan, state)
        check_change(run_dir, change, consent)
        check_measurement(run_dir, measurement_change(sweep, state), consent)
        measurement = measurement_id(sweep.measure, plan.code)
        now = standing(plan, state, go_on=until)
        _announce(say, plan, now, change)
        journal = Journal(run_dir.journal, state.next_number)
        from sweeper.driver.commit import Committer
        from sweeper.driver.search import Search

        committer = Committer(run_dir, journal, state, measurement=measurement)
        committer.record(Opened(driver_epoch=state.driver_epoch + 1, environment=environment, started_at=started_at))
        replaced = change.replaced if change else frozenset()
        _record_plan(run_dir, committer, plan, sweep, measurement, replaced=replaced, until=until)
        todo = [*now.paused, *now.new]
        held.tell(
            RunStarted(name=sweep.name, driver_epoch=state.driver_epoch, trials=len(plan.trials), to_train=len(todo))
        )
        interrupted = False
        search = Search(searching, committer, measurement=measurement) if searching is not None else None
        try:
            if not todo:
                committer.refresh()
            else:
                interrupted = _drive(
                    sweep,
                    plan,
                    todo,
                    held=held,
                    committer=committer,
                    address=address,
                    insecure=consent.insecure_cluster,
                    started=started,
                    search=search,
                )
        except BaseException:
            committer.refresh()
            raise
        finally:
            run_dir.live.unlink(missing_ok=True)
        if searching is not None:
            plan = searching.plan()
        counts: dict[str, int] = {}
        for trial in plan.trials:
            status = state.trials[trial.trial_id].status()
            counts[status] = counts.get(status, 0) + 1
        seconds = time.monotonic() - started if todo else None
        outcome = Outcome(
            run_dir=run_dir.path,
            counts=counts,
            interrupted=interrupted,
            seconds=seconds,
            earlier_s=worked_s(state, before=state.driver_epoch),
            unmeasured=state.unmeasured([trial.trial_id for trial in plan.trials]),
            spent=closing_line(state),
            unfinished=None if searching is None or interrupted else searching.unfinished(),
        )
        held.exit_code, held.text, held.did_nothing = outcome.exit_code, outcome.text, not todo
        held.tell(
            RunEnded(
                exit_code=outcome.exit_code,
                text=outcome.text,
                finished=not interrupted,
                did_nothing=not todo,
                counts=counts,
            )
        )
        return outcome


@contextmanager
def _hooks_of(sweep: Sweep, held: Driving) -> Iterator[Sequence[Hears]]:
    """The hooks of a spec; says at the end what went wrong with them."""
    problems: list[str] = []
    try:
        with called_on(sweep.hooks, sweep.folder) as (hooks, problems):
            yield hooks
    finally:
        for problem in problems:
            held.listener.say(problem)


@contextmanager
def _telling(held: Driving, hears: Sequence[Hears]) -> Iterator[None]:
    """Tell what happens during a ``with`` block, and if it ends early, how."""

    def tell(notice: Notice) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        document = document_of(notice, run=str(held.run_dir.path), at=at)
        for one in hears:
            one.hear(document)

    if hears:
        held.tell = tell
    try:
        yield
    except ClipsweepError as error:
        held.tell(RunEnded(exit_code=error.exit_code, text=error_text(error)))
        raise
    except KeyboardInterrupt:
        held.tell(RunEnded(exit_code=130, text="interrupted at once; what was committed is safe"))
        raise
    except BaseException as error:
        held.tell(RunEnded(exit_code=3, text=f"internal error: {error_line(error)}"))
        raise


def _check_room(sweep: Sweep, plan: Plan, state: RunState, address: str, *, insecure: bool) -> None:
    """Refuse at once, before anything is written, a local Ray without room for the workers, or a cluster not to be had.

    Raises:
        ClusterError: It would not fit, or cannot be joined.
    """
    left = sum(1 for trial in plan.trials if (known := state.trials.get(trial.trial_id)) is None or not known.resolved)
    if address == "local":
        measures = sweep.measure is not None
        why = misfit(sweep.resources, measures=measures, num_trials=left, gpus=sweep.cluster.gpus)
        if why is not None:
            raise ClusterError(why)
    elif left:
        from sweeper.cluster.ray_environment import prepare

        prepare(address, insecure=insecure)


def _drive(
    sweep: Sweep,
    plan: Plan,
    todo: list[Trial],
    *,
    held: Driving,
    committer: Committer,
    address: str,
    insecure: bool,
    started: float,
    search: Search | None,
) -> bool:
    """Start workers and drive the schedule; returns whether the user stopped it early."""
    from sweeper.cluster.ray_environment import prepare

    say = held.listener.say
    address, notes = prepare(address, insecure=insecure)
    for note in notes:
        say(note)
    from sweeper.cluster.elastic import Elastic, RoomWatch
    from sweeper.cluster.pools import RayPools
    from sweeper.cluster.ray_session import connect, head_answers, room_now
    from sweeper.cluster.waiting import Waiting
    from sweeper.driver.driver import driver_of_training
    from sweeper.driver.trainers import Training

    resources = sweep.resources
    measure = sweep.measure.model_dump(mode="json") if sweep.measure is not None else None
    trainer, estimator = worker_settings(resources.trainers), worker_settings(resources.estimators)
    wanted = Wanted(
        trainers=resources.trainers.count,
        estimators=resources.estimators.count if measure else 0,
        num_trials=len(todo) if search is None else max(len(todo), search.most),
    )
    with (
        shipped(plan.code) as code,
        listen_for_interrupts(say) as interrupts,
        connect(address, logs=held.run_dir.logs, code=code, gpus=sweep.cluster.gpus, say=say) as cluster,
    ):
        size = pool_size(cluster, trainer, estimator, wanted)
        say(f"{size} on {counted(cluster.cpus, 'CPU')}")
        layout = Layout()
        if address != "local":
            layout.shares = shares_of(cluster, trainer, estimator, measured=measure is not None)
        pools = RayPools(
            run_dir=held.run_dir.path,
            trainer=trainer,
            estimator=estimator,
            private=address == "local",
            layout=layout,
        )
        elastic = None
        if address != "local":
            # Nodes of a cluster come and go; a local Ray does not change.
            elastic = Elastic(
                room=lambda: room_now(trainer, estimator, wanted, layout),
                head_answers=head_answers,
                size=size,
                patience_s=sweep.cluster.patience_s,
            )
        driver = driver_of_training(
            Training(
                trials={trial.trial_id: trial for trial in todo},
                measure=measure,
                expectation=expected(sweep, plan, committer.state, num_left=len(todo)),
                packing=packing_of(resources.trainers),
                started=started,
            ),
            _schedule(todo, committer.state, sweep, size),
            held=held,
            committer=committer,
            pools=pools,
            room=RoomWatch(size=size, waiting=Waiting(pools.held_up, say, private=address == "local"), elastic=elastic),
            stall_timeout_s=resources.stall_timeout_s,
            search=search,
        )
        interrupts.finish_first()
        interrupted = driver.run(lambda: interrupts.requested() or held.lock.asked_to_stop())
        # Before Ray is shut down, which takes more than a second: the results are complete now.
        committer.refresh()
        return interrupted


def _schedule(todo: Sequence[Trial], state: RunState, sweep: Sweep, size: PoolSize) -> Schedule:
    """The schedule for the remaining trials; ``size`` bounds the bytes of its snapshots when the driver starts."""
    progress = {
        trial.trial_id: Progress(committed_step=known.step, failures=len(known.failures))
        for trial in todo
        if (known := state.trials[trial.trial_id])
    }
    side_by_side = [trial.trial_id for trial in todo if trial.problem["use"] == "analytic"]
    packing = packing_of(sweep.resources.trainers)
    return Schedule(
        order([trial.trial_id for trial in todo], progress),
        max_attempts=sweep.resources.max_attempts,
        max_snapshots=2 * max(1, size.estimators),
        side_by_side=side_by_side,
        packs=packing.shapes(todo),
        pack=packing.bounds,
        share=min(_MAX_SIDE_BY_SIDE, -(-len(side_by_side) // size.trainers)),
    )


def _record_plan(
    run_dir: RunDir,
    committer: Committer,
    plan: Plan,
    sweep: Sweep,
    measurement: str,
    *,
    replaced: frozenset[str] = frozenset(),
    until: Mapping[str, int | None] | None = None,
) -> None:
    """Record in the journal the trials that are new to this run and those they replace, and store the spec."""
    state: RunState = committer.state
    unknown = [trial for trial in plan.trials if trial.trial_id not in state.trials]
    superseded = (state.superseded | replaced) - {trial.trial_id for trial in plan.trials}
    metrics = None if sweep.metrics == state.metrics else sweep.metrics
    here = {trial.cell_id for trial in plan.trials}
    cases = {**{cell: name for cell, name in state.cases.items() if cell not in here}, **plan.cases}
    is_new = bool(unknown or until) or measurement not in state.measurements or superseded != state.superseded
    if is_new or metrics is not None or cases != state.cases:
        measure = sweep.measure.model_dump(mode="json") if sweep.measure is not None else None
        committer.record(
            Planned(
                measurement=measurement,
                measure=measure,
                trials=tuple(record_of(trial, plan.code) for trial in unknown),
                superseded=superseded if superseded != state.superseded else None,
                metrics=metrics,
                cases=cases if cases != state.cases else None,
                until=until or {},
            )
        )
    run_dir.publish(run_dir.spec, sweep.text.encode())
    resolved = yaml.safe_dump(sweep.resolved(), sort_keys=False, allow_unicode=True)
    run_dir.publish(run_dir.resolved, resolved.encode())
    code = [code_record(found) for found in plan.code]
    run_dir.publish_json(run_dir.environment, {**state.environment, **provenance(sweep.folder), "code": code})


def _announce(say: Callable[[str], object], plan: Plan, now: Standing, change: SpecChange | None) -> None:
    say(
        f"{counted(len(plan.trials), 'trial')}: {len(now.new)} new, {len(now.paused)} paused, "
        + (f"{len(now.held)} held, " if now.held else "")
        + f"{len(now.done)} done, {len(now.failed)} failed or lost"
    )
    if now.failed:
        say(f"{counted(len(now.failed), 'trial')} given up before, to be queued again with `clipsweep retry`")
    if now.foreign and change is None:
        say(f"{len(now.foreign)} unfinished trials of an earlier spec are not in this one: kept, not continued")
    if change is not None:
        say(f"{counted(change.new, 'new trial')} in place of {len(change.replaced)} of an earlier spec:\n{change.text}")


def order(trials: Iterable[str], progress: Mapping[str, Progress]) -> dict[str, Progress]:
    """Trials in the order in which to run them: unfinished ones first, so that an interrupted sweep closes its gaps.

    Args:
        trials: Unresolved trials in the order of the plan.
        progress: Progress of the trials that were begun.

    Returns:
        The trials with their progress, as :class:`Schedule` takes them.

    Example:
        >>> list(order(["a", "b"], {"b": Progress(committed_step=10)}))
        ['b', 'a']
    """
    standing = {trial: progress.get(trial, Progress()) for trial in trials}
    return dict(sorted(standing.items(), key=lambda item: item[1].committed_step == 0))
