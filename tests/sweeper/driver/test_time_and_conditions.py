"""Trainers that hang, clocks that jump, machines that change under a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from sweeper.errors import RunDirectoryError
from sweeper.planning.environment import check_drift, environment_of
from sweeper.spec.sections.settings import Resources, TrainerPool
from sweeper.store.journal import replay
from sweeper.store.run_dir import RunDir
from sweeper.workers import worker
from sweeper.workers.estimator import EstimatorWorker

SPEC = """
name: small
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 23, log_every: 2, evaluate_every: 10, checkpoint_every: 5}
sweep: {seeds: 2}
"""

InlineRun = Callable[..., Any]


class Clock:
    """Seconds that pass only when a test says so, in place of ``time.monotonic``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


def test_a_trainer_that_hangs_is_ended_and_its_trial_goes_on_in_another(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = inline_run(SPEC, name="reference")()
    clock = Clock()
    monkeypatch.setattr("sweeper.driver.driver.time.monotonic", clock)
    run = inline_run(SPEC, name="hanging")
    stuck = {0}

    def hangs(slot: int) -> bool:
        clock.now += 1.0
        return slot in stuck

    real = run.pools.kill_trainer

    def kill_trainer(slot: int) -> None:
        stuck.discard(slot)
        real(slot)

    run.pools.hangs, run.pools.kill_trainer = hangs, kill_trainer
    run(stall_timeout_s=30)
    assert stuck == set(), "it was killed"
    (line,) = [line for line in run.listener.lines if "no sign of life for 3" in line]
    assert "attempt 1" in line, "the line of its trial says it"
    assert "resources.stall_timeout_s" in line
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet")
    assert trials["status"].tolist() == ["done", "done"]
    # The attempt that hung left no segment, but it is counted.
    assert sorted(trials["attempts"]) == [1, 2]
    for table in ("metrics",):
        left, right = (pd.read_parquet(r.run_dir.path / f"{table}.parquet") for r in (run, reference))
        pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_trial_that_always_hangs_is_given_up_after_its_attempts(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("sweeper.driver.driver.time.monotonic", clock)
    run = inline_run(SPEC.replace("seeds: 2", "seeds: 1"))

    def hangs(slot: int) -> bool:
        clock.now += 1.0
        return True

    run.pools.hangs = hangs
    run(max_attempts=3, stall_timeout_s=30)
    (trial,) = pd.read_parquet(run.run_dir.path / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["attempts"]) == ("lost", 3)
    assert "no sign of life" in trial["error"]


MEASURED = SPEC + "measure: {every: 4, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.5}]}\n"


def measured(run: Any) -> pd.DataFrame:
    return pd.read_parquet(run.run_dir.path / "measurements" / "directional_smoothness.parquet")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Clock]:
    """``ticking(run)``: of the driver's clock a second passes at each poll of the run's workers."""

    def make(run: Any) -> Clock:
        clock = Clock()
        monkeypatch.setattr("sweeper.driver.driver.time.monotonic", clock)

        def tick() -> None:
            clock.now += 1.0

        run.pools.before_poll = tick
        return clock

    return make


def test_an_estimator_that_hangs_is_ended_and_another_measures_its_snapshot(
    inline_run: InlineRun, ticking: Callable[[Any], Clock]
) -> None:
    reference = inline_run(MEASURED, name="reference")()
    run = inline_run(MEASURED, name="hanging")
    ticking(run)
    stuck = {0}
    real = run.pools.kill_estimator

    def kill_estimator(slot: int) -> None:
        stuck.discard(slot)
        real(slot)

    run.pools.hangs_measuring, run.pools.kill_estimator = stuck.__contains__, kill_estimator
    run(stall_timeout_s=30)
    assert stuck == set(), "it was killed"
    (line,) = [line for line in run.listener.lines if line.startswith("estimator 0 died")]
    assert "no sign of life for 3" in line
    assert "resources.stall_timeout_s" in line
    assert run.pools.asked, "it was asked before it was ended"
    pd.testing.assert_frame_equal(measured(run), measured(reference), check_exact=True)


def test_a_snapshot_at_which_every_estimator_hangs_is_given_up_and_its_trial_goes_on(
    inline_run: InlineRun, ticking: Callable[[Any], Clock]
) -> None:
    run = inline_run(MEASURED.replace("seeds: 2", "seeds: 1"))
    ticking(run)

    def hangs(slot: int) -> bool:
        (job,) = [job for job in run.pools.jobs if job[0] == slot]
        return bool(job[1].step == 8)

    run.pools.hangs_measuring = hangs
    run(max_attempts=3, stall_timeout_s=30)
    assert len([line for line in run.listener.lines if "no sign of life" in line and "died" in line]) == 3
    (trial,) = pd.read_parquet(run.run_dir.path / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["attempts"]) == ("done", 1)
    errors = measured(run).set_index("step")["error"]
    assert "no sign of life" in errors[8]
    assert errors.drop(8).isna().all()


@pytest.mark.parametrize("timeout_s", [30, None])
def test_an_estimator_that_takes_long_but_gets_on_is_left_alone(
    inline_run: InlineRun, ticking: Callable[[Any], Clock], monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    run = inline_run(MEASURED.replace("seeds: 2", "seeds: 1"))
    clock = ticking(run)
    beats = iter(range(1_000_000))
    monkeypatch.setattr(EstimatorWorker, "beats", lambda self: next(beats))
    until = clock.now + 200
    run.pools.hangs_measuring = lambda slot: clock.now < until
    run(stall_timeout_s=timeout_s)
    assert clock.now > until
    assert not [line for line in run.listener.lines if "died" in line]
    assert bool(run.pools.asked) == (timeout_s is not None)


def test_every_evaluation_of_the_loss_is_a_sign_of_life(inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[EstimatorWorker] = []
    real = EstimatorWorker.measure

    def measure(worker: EstimatorWorker, *arguments: Any) -> Any:
        before = worker.beats()
        verdict = real(worker, *arguments)
        # Two batches, each at two points at the least.
        assert worker.beats() - before >= 4
        workers.append(worker)
        return verdict

    monkeypatch.setattr(EstimatorWorker, "measure", measure)
    inline_run(MEASURED)()
    assert workers


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_an_hour_back_or_forth_ends_nothing(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    reference = inline_run(SPEC, name="reference")()
    real = time.time
    run = inline_run(SPEC, name="jumping")
    offset = 0.0

    def jump() -> None:
        nonlocal offset
        offset = jump_s if run.pools.polls > 5 else 0.0

    run.pools.before_poll = jump
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    run(stall_timeout_s=60)
    assert offset == jump_s, "the clock was set while the sweep ran"
    assert not [line for line in run.listener.lines if "died" in line]
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet")
    assert trials["attempts"].tolist() == [1, 1]
    left, right = (pd.read_parquet(r.run_dir.path / "metrics.parquet") for r in (run, reference))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [("torch", "1.0", None), ("trainer_threads", 1, 2), ("processor", "another", None)],
)
def test_other_conditions_are_refused_by_name_unless_they_are_accepted(
    tmp_path: Path, key: str, old: Any, new: Any
) -> None:
    now = environment_of(Resources(trainers=TrainerPool(threads=new or 1)))
    before = {**environment_of(Resources()), key: old}
    with pytest.raises(RunDirectoryError, match=rf"{key}: {old} -> .*\n.*continue with --accept-drift"):
        check_drift(RunDir(tmp_path), before, now, begun=True, accepted=False)
    check_drift(RunDir(tmp_path), before, now, begun=True, accepted=True)
    check_drift(RunDir(tmp_path), before, now, begun=False, accepted=False)
    check_drift(RunDir(tmp_path), now, now, begun=True, accepted=False)


def test_rows_of_a_run_whose_conditions_changed_are_marked(inline_run: InlineRun) -> None:
    stopped = inline_run(SPEC.replace("seeds: 2", "seeds: 3"))
    stopped.environment = {"torch": "1"}
    stopped.stop_requested = lambda: stopped.pools.polls >= 8
    stopped()
    resumed = inline_run(SPEC.replace("seeds: 2", "seeds: 3"))
    resumed.environment = {"torch": "2"}
    resumed()
    trials = pd.read_parquet(resumed.run_dir.path / "trials.parquet")
    telemetry = pd.read_parquet(resumed.run_dir.path / "telemetry.parquet")
    assert telemetry["environment_id"].nunique() == 2
    mixed = telemetry.groupby("trial_id")["environment_id"].nunique() > 1
    assert trials.set_index("trial_id")["drift"].to_dict() == mixed.to_dict()
    assert mixed.nunique() == 2, "some trials were under way when torch changed, others had not begun"


def test_the_conditions_of_every_driver_are_known() -> None:
    opened = [{"n": n, "type": "opened", "epoch": n + 1, "environment": {"torch": str(n)}} for n in range(2)]
    assert replay(opened).environments == {1: {"torch": "0"}, 2: {"torch": "1"}}


@pytest.mark.parametrize(
    ("error", "fix"), [(MemoryError(), "resources.*.cpus"), (torch.OutOfMemoryError("CUDA"), "resources.*.gpus")]
)
def test_out_of_memory_in_one_trial_fails_that_trial_alone_with_the_mend(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, error: Exception, fix: str
) -> None:
    real = worker.build_problem

    def build(*arguments: Any, seed: int, **options: Any) -> Any:
        if seed == 1:
            raise error
        return real(*arguments, seed=seed, **options)

    monkeypatch.setattr(worker, "build_problem", build)
    run = inline_run(SPEC)(max_attempts=3)
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet").set_index("seed")
    assert trials["status"].to_dict() == {0: "done", 1: "failed"}
    assert trials.loc[1, "error"].startswith(type(error).__name__)
    assert fix in trials.loc[1, "error"]
    # The first time that a GPU's memory ran out is forgiven.
    assert len([a for a in run.pools.assignments if a.seed == 1]) == 3 + (fix == "resources.*.gpus")
