"""Trials in packs through the driver: whatever dies or stops, the tables are those of trials by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.protocol.messages import Lost, TrainerDown
from sweeper.tables.run import Run

SPEC = """
name: packed
problem: {use: deep_linear, layers: 3, width: 8, samples: 32, batch_size: 8}
update_rule: {learning_rate: 0.01, momentum: 0.5}
train: {steps: 23, log_every: 2, evaluate_every: 10, checkpoint_every: 5}
measure: {every: 4, last: 1, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid:
    update_rule.learning_rate: [0.01, 5.0]
    update_rule.clip_norm: [null, 0.25]
  seeds: 2
"""
PACKED = SPEC + "resources: {trainers: {pack: 4}}\n"

InlineRun = Callable[..., Any]

TIMINGS = ["attempts", "started_at", "ended_at", "train_s", "estimate_s"]


def assert_same(one: Path, other: Path) -> None:
    for name in ("trials.parquet", "metrics.parquet", "measurements/directional_smoothness.parquet"):
        left, right = (pd.read_parquet(path / name).drop(columns=TIMINGS, errors="ignore") for path in (one, other))
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)


def packs_of(run: Any) -> list[bool]:
    return [assignment.together for assignment in run.pools.assignments]


@pytest.fixture(scope="module")
def alone(module_inline_run: InlineRun) -> Path:
    """The run directory of the sweep one trial at a time, which tests only read."""
    path: Path = module_inline_run(SPEC).run_dir.path
    return path


def test_packed_trials_have_the_tables_of_trials_by_themselves_those_that_diverge_included(
    inline_run: InlineRun, alone: Path
) -> None:
    packed = inline_run(PACKED)()
    assert packs_of(packed) == [True] * 8
    assert_same(packed.run_dir.path, alone)
    trials = pd.read_parquet(packed.run_dir.path / "trials.parquet")
    assert trials["status"].value_counts().to_dict() == {"done": 6, "diverged": 2}
    assert (trials["attempts"] == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_under_random_deaths_all_of_a_pack_go_on_from_their_last_segments(
    inline_run: InlineRun, seed: int, alone: Path
) -> None:
    disturbed = inline_run(PACKED, name="disturbed", chaos=0.08, seed=seed)()
    assert disturbed.pools.deaths > 3
    assert_same(disturbed.run_dir.path, alone)


def test_what_has_failed_goes_on_by_itself(inline_run: InlineRun, alone: Path) -> None:
    killed = inline_run(PACKED)
    pools = killed.pools
    dead: list[int] = []

    def kill_one() -> None:
        if pools.polls > 40 and pools.streams and not dead:
            dead.extend(sorted(pools.streams)[:1])
            pools.kill_trainer(dead[0])
            pools.news.append(TrainerDown(slot=dead[0], error="killed"))

    pools.before_poll = kill_one
    killed()
    assert_same(killed.run_dir.path, alone)
    again = [one for one in pools.assignments if one.attempt == 2]
    assert len(again) > 1, "all of the pack were interrupted"
    assert not any(one.together for one in again)
    assert any(one.committed_step > 0 for one in again)


def test_a_stop_checkpoints_every_trial_of_a_pack_and_each_resumes_packed_or_not(
    inline_run: InlineRun, alone: Path
) -> None:
    stopped = inline_run(PACKED)
    stopped.stop_requested = lambda: stopped.pools.polls >= 40
    stopped()
    under_way = [trial.step for trial in Run(stopped.run_dir.path).state.trials.values() if 0 < trial.step < 23]
    assert len(under_way) > 2, "more trials than trainers have a checkpoint"
    resumed = inline_run(PACKED)
    resumed.stop_requested = lambda: resumed.pools.polls >= 20
    resumed()
    assert any(one.together and one.committed_step > 0 for one in resumed.pools.assignments)
    rest = inline_run(SPEC)()
    assert not any(one.together for one in rest.pools.assignments)
    assert_same(rest.run_dir.path, alone)


def test_a_snapshot_that_is_lost_costs_the_others_of_its_pack_no_failure(inline_run: InlineRun, alone: Path) -> None:
    run = inline_run(PACKED)
    lost: list[str] = []

    def lose_one() -> None:
        if run.pools.jobs and run.pools.streams and not lost:
            slot, snapshot, _ = run.pools.jobs.popleft()
            run.pools.news.append(Lost(slot=slot, snapshot=snapshot, error="gone"))
            lost.append(snapshot.trial)

    run.pools.before_poll = lose_one
    run()
    assert_same(run.run_dir.path, alone)
    failures = {name: len(trial.failures) for name, trial in Run(run.run_dir.path).state.trials.items()}
    assert {name for name, count in failures.items() if count} == set(lost)
