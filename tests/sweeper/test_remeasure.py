"""Kept snapshots measured again: only what is missing, the same rows however often it is interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.driver.commit import Committer
from sweeper.driver.driver import driver_of_kept
from sweeper.driver.session import Driving
from sweeper.errors import ClipsweepError, IntegrityError, RunDirectoryError
from sweeper.planning.plan import remeasurement_id
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import KeptSnapshot
from sweeper.protocol.pools import PoolSize
from sweeper.remeasure import _checked, estimate_run, kept_snapshots, remeasure_section
from sweeper.schedule.kept_queue import KeptQueue
from sweeper.store.journal import Journal, read_journal, replay
from sweeper.store.lock import DriverLock
from sweeper.store.records import Opened, Remeasuring
from sweeper.store.recovery import recover
from sweeper.store.run_dir import RunDir
from sweeper.workers.snapshots import read_header, read_iterates

SPEC = """
name: small
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 12, checkpoint_every: 5}
measure: {every: 3, data_fraction: 0.5, keep: true, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {seeds: 2}
"""

InlineRun = Callable[..., Any]


class Crash(BaseException):
    """The driver's process ends here."""


def again(
    run: Any,
    estimator: str,
    options: Sequence[str] = (),
    *,
    crash_after: int | None = None,
    chaos: float = 0.0,
    prepare: Callable[[Any], object] = lambda pool: None,
    listener: Any = None,
    stall_timeout_s: float | None = None,
) -> pd.DataFrame:
    """``clipsweep estimate`` with the workers in this process."""
    run_dir: RunDir = run.run_dir
    pool = type(run.pools)(run_dir.path, chaos=chaos, seed=3)
    left = crash_after

    def count_down() -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                raise Crash

    pool.before_poll = count_down
    prepare(pool)
    section = remeasure_section(run_dir, estimator, options)
    measurement = remeasurement_id(section)
    with DriverLock(run_dir).hold() as lock:
        state = recover(run_dir)
        done = state.remeasured.get(measurement, set())
        todo = [one for one in kept_snapshots(run_dir, state) if (one.trial, one.step) not in done]
        committer = Committer(run_dir, Journal(run_dir.journal, state.next_number), state, measurement=measurement)
        committer.record(Opened(driver_epoch=state.driver_epoch + 1, environment={}))
        committer.record(Remeasuring(measurement=measurement, measure=section))
        run.asked = todo
        driver = driver_of_kept(
            KeptQueue(todo, max_attempts=1000),
            section,
            {},
            held=Driving(run_dir=run_dir, lock=lock, listener=listener or run.listener),
            committer=committer,
            pool=pool,
            room=run.make_room(PoolSize(trainers=0, estimators=2)),
            stall_timeout_s=stall_timeout_s,
        )
        driver.run(lambda: False)
        committer.refresh()
    table = pd.read_parquet(run_dir.table(f"measurements/{estimator}"))
    return table[table["measurement_id"] == measurement].reset_index(drop=True)


def test_another_estimator_measures_every_kept_snapshot(inline_run: InlineRun) -> None:
    run = inline_run(SPEC)()
    rows = again(run, "directional_curvature")
    assert rows.groupby("trial_id")["step"].apply(list).tolist() == [[0, 3, 6, 9]] * 2
    assert rows["smoothness"].gt(0).all()
    assert rows["error"].isna().all()
    assert rows["arithmetic"].eq("float32 ieee").all()


def test_an_estimator_that_hangs_is_ended_and_another_measures_its_snapshot(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = again(inline_run(SPEC, name="reference")(), "directional_curvature")
    run = inline_run(SPEC, name="hanging")()
    now, stuck = 0.0, {1}
    monkeypatch.setattr("sweeper.driver.driver.time.monotonic", lambda: now)

    def prepare(pool: Any) -> None:
        real = pool.kill_estimator

        def tick() -> None:
            nonlocal now
            now += 1.0

        def kill_estimator(slot: int) -> None:
            stuck.discard(slot)
            real(slot)

        pool.before_poll, pool.hangs_measuring, pool.kill_estimator = tick, stuck.__contains__, kill_estimator

    rows = again(run, "directional_curvature", prepare=prepare, stall_timeout_s=30)
    assert stuck == set(), "it was killed"
    assert len([line for line in run.listener.lines if "estimator 1 died: no sign of life for 3" in line]) == 1
    pd.testing.assert_frame_equal(rows, reference, check_exact=True)


def test_measured_again_with_the_same_settings_the_rows_are_those_of_the_sweep(inline_run: InlineRun) -> None:
    run = inline_run(SPEC)()
    before = pd.read_parquet(run.run_dir.table("measurements/directional_smoothness"))
    rows = again(run, "directional_smoothness", ["delta=0.5"])
    pd.testing.assert_frame_equal(
        rows.drop(columns="measurement_id"), before.drop(columns="measurement_id"), check_exact=True
    )
    both = pd.read_parquet(run.run_dir.table("measurements/directional_smoothness"))
    assert both["measurement_id"].nunique() == 2


@pytest.mark.parametrize("polls", [1, 3, 5, 7])
def test_after_a_crash_only_what_is_missing_is_measured(
    inline_run: InlineRun, polls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    reference = again(inline_run(SPEC, name="reference")(), "directional_curvature")
    run = inline_run(SPEC, name="crashing")()
    with pytest.raises(Crash):
        again(run, "directional_curvature", crash_after=polls)
    (run.run_dir.parts / "measurements-directional_curvature-9999-000001.parquet").write_bytes(b"unnamed")
    state = replay(read_journal(run.run_dir.journal)[0])
    done = {key for of in state.remeasured.values() for key in of}
    rows = again(run, "directional_curvature")
    assert {(one.trial, one.step) for one in run.asked} == {
        (trial, step) for trial in state.trials for step in (0, 3, 6, 9)
    } - done
    pd.testing.assert_frame_equal(rows, reference, check_exact=True)
    again(run, "directional_curvature")
    assert run.asked == [], "nothing is measured twice"


def test_under_random_deaths_the_rows_are_the_same(inline_run: InlineRun) -> None:
    run = inline_run(SPEC)()
    quiet = again(run, "gradient_noise", ["num_batches=2"])
    other = inline_run(SPEC, name="other")()
    pd.testing.assert_frame_equal(again(other, "gradient_noise", ["num_batches=2"], chaos=0.2), quiet, check_exact=True)


def test_other_options_are_another_measurement_and_f_can_be_changed(inline_run: InlineRun) -> None:
    run = inline_run(SPEC)()
    run_dir = run.run_dir
    plain = remeasure_section(run_dir, "directional_smoothness", [])
    assert plain["data_fraction"] == 0.5, "the run's own f"
    assert plain["estimators"] == [{"use": "directional_smoothness", "delta": 0.1, "method": "exact"}]
    changed = remeasure_section(
        run_dir, "directional_smoothness", ["method=chebyshev", "data_fraction=1", "audit.share=1"]
    )
    assert changed["estimators"][0]["method"] == "chebyshev"
    assert (changed["data_fraction"], changed["audit"]["share"]) == (1.0, 1.0)
    assert remeasurement_id(plain) != remeasurement_id(changed)


def test_a_damaged_snapshot_gets_a_row_that_says_so(inline_run: InlineRun) -> None:
    run = inline_run(SPEC)()
    path = sorted((run.run_dir.path / "snapshots").glob("*/*"))[0]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="holds other numbers than were written"):
        read_iterates(path)
    section = remeasure_section(run.run_dir, "directional_curvature", [])
    kept = KeptSnapshot(trial=path.parent.name, step=0, use=None, measure=section)
    pool = run.pools
    pool.start_estimator(9)
    verdict = pool.estimators[9].measure_kept(9, SnapshotId(path.parent.name, 0, 0), kept)
    assert "holds other numbers" in verdict.error


def test_a_snapshot_says_what_it_is_of(inline_run: InlineRun) -> None:
    run = inline_run(SPEC)()
    path = sorted((run.run_dir.path / "snapshots").glob("*/*"))[1]
    header = read_header(path, {})
    assert header.step == 3
    assert header.problem["use"] == "deep_linear"
    assert header.data is not None


def test_what_cannot_be_measured_again_is_refused_with_the_reason(inline_run: InlineRun) -> None:
    run = inline_run(SPEC.replace("keep: true, ", ""))()
    with pytest.raises(ClipsweepError, match="did you mean 'directional_curvature'"):
        estimate_run(run.run_dir.path, "directional_curvatur", listener=run.listener)
    with pytest.raises(ClipsweepError, match="thickness: unknown key"):
        estimate_run(run.run_dir.path, "directional_curvature", ["thickness=1"], listener=run.listener)
    with pytest.raises(ClipsweepError, match="must be greater than 0"):
        estimate_run(run.run_dir.path, "directional_smoothness", ["delta=0"], listener=run.listener)
    with pytest.raises(RunDirectoryError, match=r"no snapshots were kept.*keep: true"):
        estimate_run(run.run_dir.path, "directional_curvature", listener=run.listener)
    with pytest.raises(RunDirectoryError, match="nowhere: no such directory"):
        estimate_run(Path("nowhere"), "directional_curvature", listener=run.listener)


def test_workers_of_earlier_versions_that_took_several_gpus_take_one(tmp_path: Path) -> None:
    recorded = {"resources": {"trainers": {"gpus": 2}, "estimators": {"gpus": 1.5}, "max_attempts": 2}, "cluster": {}}
    resources, _ = _checked(RunDir(tmp_path), recorded)
    assert (resources.trainers.gpus, resources.estimators.gpus, resources.max_attempts) == (1, 1, 2)
