"""The driver with real workers in one process: whatever dies, the tables are those of an uninterrupted run."""

from __future__ import annotations

import gc
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from torch import nn

from sweeper.protocol.pools import PoolSize
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run
from sweeper.workers import worker

SPEC = """
name: small
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 23, log_every: 2, evaluate_every: 10, checkpoint_every: 5}
measure: {every: 4, last: 1, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid:
    update_rule.learning_rate: [0.01, 5.0]
    update_rule.clip_norm: [null, 0.25]
  seeds: 2
"""

InlineRun = Callable[..., Any]

TIMINGS = ["attempts", "started_at", "ended_at", "train_s", "estimate_s"]


def tables(path: Path) -> dict[str, pd.DataFrame]:
    """The tables as anybody reads them, without what differs between two runs of the same trial."""
    return {
        "trials": pd.read_parquet(path / "trials.parquet").drop(columns=TIMINGS),
        "metrics": pd.read_parquet(path / "metrics.parquet"),
        "smoothness": pd.read_parquet(path / "measurements" / "directional_smoothness.parquet"),
    }


def assert_same(one: Path, other: Path) -> None:
    left, right = tables(one), tables(other)
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


@pytest.fixture(scope="module")
def undisturbed(module_inline_run: InlineRun) -> Path:
    """The run directory of the sweep when nothing happens, which tests only read."""
    path: Path = module_inline_run(SPEC).run_dir.path
    return path


def test_a_sweep_ends_with_every_trial_resolved_and_every_row_there(undisturbed: Path) -> None:
    found = tables(undisturbed)
    trials = found["trials"].set_index(["learning_rate", "clip_norm", "seed"])
    assert trials["status"].value_counts().to_dict() == {"done": 6, "diverged": 2}
    diverged = found["trials"][found["trials"]["status"] == "diverged"]
    assert set(diverged["learning_rate"]) == {5.0}
    assert diverged["clip_norm"].isna().all()
    assert diverged["last_finite_loss"].notna().all()
    assert diverged["final_train_loss"].isna().all(), "a diverged trial has no final loss"
    done = found["trials"][found["trials"]["status"] == "done"]
    steps = found["metrics"].groupby("trial_id")["step"].apply(list)
    assert all(steps[name] == [*range(0, 23, 2), 23] for name in done["trial_id"])
    measured = found["smoothness"].groupby("trial_id")["step"].apply(list)
    assert all(measured[name] == [0, 4, 8, 12, 16, 20, 22] for name in done["trial_id"])
    assert found["smoothness"]["noise_floor"].notna().all()
    assert not found["metrics"].duplicated(["trial_id", "step"]).any()


def test_the_last_iterate_has_metrics_but_no_batch(undisturbed: Path) -> None:
    metrics = tables(undisturbed)["metrics"]
    last = metrics[metrics["step"] == 23]
    assert last[["train_loss", "grad_norm", "clipped", "learning_rate"]].isna().all(axis=None)
    assert last["valid_loss"].notna().all()
    assert metrics[metrics["step"].isin([10, 20])]["valid_loss"].notna().all()
    assert metrics[metrics["step"] == 2]["valid_loss"].isna().all()


def test_cells_of_one_seed_start_from_the_same_weights_and_batches(undisturbed: Path) -> None:
    found = tables(undisturbed)
    first = found["metrics"][found["metrics"]["step"] == 0].merge(found["trials"][["trial_id", "seed"]])
    assert (first.groupby("seed")["train_loss"].nunique() == 1).all()
    assert (first.groupby("seed")["grad_norm"].nunique() == 1).all()
    assert first["train_loss"].nunique() == 2


@pytest.mark.parametrize("seed", range(6))
def test_under_random_deaths_the_tables_are_those_of_an_undisturbed_run(
    inline_run: InlineRun, seed: int, undisturbed: Path
) -> None:
    disturbed = inline_run(SPEC, name="disturbed", chaos=0.08, seed=seed)()
    assert disturbed.pools.deaths > 3
    assert_same(disturbed.run_dir.path, undisturbed)
    attempts = pd.read_parquet(disturbed.run_dir.path / "trials.parquet")["attempts"]
    assert attempts.max() > 1
    logs = "".join(path.read_text() for path in disturbed.run_dir.logs.glob("*.log"))
    assert re.search(r"--- [\d: -]* attempt 1\nkilled\nIts last lines:\nits last words\n", logs)
    measuring = re.findall(r"--- [\d: -]* measuring step \d+\nkilled\nIts last lines:\nits last words\n", logs)
    assert len(measuring) == disturbed.pools.dead_estimators


@pytest.mark.parametrize("seed", range(4))
def test_while_nodes_join_and_leave_the_tables_are_those_of_an_undisturbed_run(
    inline_run: InlineRun, seed: int, undisturbed: Path
) -> None:
    moving = inline_run(SPEC, name="moving", chaos=0.02, seed=seed)
    moves = random.Random(seed)
    sizes: list[PoolSize] = []

    def look() -> PoolSize | None:
        if moves.random() < 0.9:
            return None
        sizes.append(PoolSize(trainers=moves.randint(1, 4), estimators=moves.randint(1, 4)))
        return sizes[-1]

    moving.look_for_room = look
    moving()
    assert len(set(sizes)) > 3
    assert_same(moving.run_dir.path, undisturbed)


class Crash(BaseException):
    """The driver's process ends here."""


@pytest.mark.parametrize("polls", [1, 3, 10, 25, 40, 50, 65])
def test_after_a_crash_of_the_driver_the_next_run_does_only_what_is_missing(
    inline_run: InlineRun, polls: int, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    crashing = inline_run(SPEC, name="crashing")
    left = polls

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash

    crashing.pools.before_poll = count_down
    with pytest.raises(Crash):
        crashing()
    (crashing.run_dir.parts / "metrics-9999-000001.parquet").write_bytes(b"an unnamed part of a crashed commit")
    committed = {name: trial.step for name, trial in Run(crashing.run_dir.path).state.trials.items()}
    assert polls < 40 or max(committed.values()) > 0
    resumed = inline_run(SPEC, name="crashing")()
    starts = {assignment.trial: assignment.committed_step for assignment in resumed.pools.assignments}
    assert starts == {name: step for name, step in committed.items() if name in starts}
    assert_same(resumed.run_dir.path, undisturbed)
    again = inline_run(SPEC, name="crashing")()
    assert again.pools.assignments == [], "a finished trial is never trained again"
    assert_same(again.run_dir.path, undisturbed)


def test_a_stop_checkpoints_and_the_next_run_goes_on_to_the_same_tables(
    inline_run: InlineRun, undisturbed: Path
) -> None:
    stopped = inline_run(SPEC, name="stopped")
    polls = 0

    def stop_requested() -> bool:
        nonlocal polls
        polls += 1
        return polls > 12

    stopped.stop_requested = stop_requested
    stopped()
    states = Run(stopped.run_dir.path).state.trials.values()
    assert any(0 < trial.step < 23 for trial in states)
    resumed = inline_run(SPEC, name="stopped")()
    starts = [assignment.committed_step for assignment in resumed.pools.assignments]
    assert max(starts) > 0, "what was trained is not trained again"
    assert_same(resumed.run_dir.path, undisturbed)


def test_a_grown_grid_runs_only_its_new_trials(inline_run: InlineRun) -> None:
    inline_run(SPEC)()
    grown = inline_run(SPEC.replace("[0.01, 5.0]", "[0.01, 0.02, 5.0]"))()
    assert len(grown.pools.assignments) == 4
    assert {assignment.update_rule["learning_rate"] for assignment in grown.pools.assignments} == {0.02}
    assert len(tables(grown.run_dir.path)["trials"]) == 12


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(inline_run: InlineRun, undisturbed: Path) -> None:
    stopped = inline_run(SPEC, name="stopped")
    polls = 0

    def stop_requested() -> bool:
        nonlocal polls
        polls += 1
        return polls > 60

    stopped.stop_requested = stop_requested
    stopped()
    checkpoints = sorted(stopped.run_dir.checkpoints.glob("*/*"))
    assert checkpoints
    for path in {path.parent: path for path in checkpoints}.values():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    resumed = inline_run(SPEC, name="stopped")()
    assert any("was damaged; resumed from an earlier one" in line for line in resumed.listener.lines)
    assert list(resumed.run_dir.quarantine.iterdir())
    left, right = tables(resumed.run_dir.path), tables(undisturbed)
    for name in ("metrics", "smoothness"):
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def test_snapshots_in_flight_are_bounded(inline_run: InlineRun) -> None:
    run = inline_run(SPEC.replace("every: 4", "every: 1"), measure_every=4)(max_snapshots=3)
    assert run.pools.most_in_flight <= 3
    assert run.pools.held_back > 0


def test_checkpoints_are_gone_when_their_trial_is_resolved(undisturbed: Path) -> None:
    assert list(RunDir(undisturbed).checkpoints.glob("*")) == []


OWN = """
import torch
from torch import nn
from trainers.problem import Problem

def one(*, fail_at, seed, device):
    def loss(model, batch, carry):
        if int(batch) == fail_at:
            raise RuntimeError(f"cannot take step {fail_at}\\nsecond line")
        return (model.weight - 1).square().mean(), carry

    return Problem(
        model=nn.Linear(1, 1, bias=False),
        loss=loss,
        batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)],
        steps_per_epoch=5,
        fingerprint="one",
    )
"""


def test_an_exception_in_a_users_problem_fails_that_trial_alone(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = """
name: own
problem: {use: own_problem:one, fail_at: 3}
update_rule: {learning_rate: 0.1}
train: {steps: 6, checkpoint_every: 2}
sweep: {grid: {problem.fail_at: [3, 99]}}
"""
    run = inline_run.__call__  # the folder must hold the module before the spec is loaded
    folder = run(
        "name: x\nproblem: {use: deep_linear}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 1}"
    ).run_dir.path
    (folder.parent / "own_problem.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder.parent))
    own = inline_run(spec)(max_attempts=3)
    trials = pd.read_parquet(own.run_dir.path / "trials.parquet").set_index("problem.fail_at")
    assert trials["status"].to_dict() == {3: "failed", 99: "done"}
    assert trials.loc[3, "error"] == "RuntimeError: cannot take step 3"
    assert trials.loc[3, "attempts"] == 3
    assert trials.loc[3, "committed_step"] == 2, "what came before the failure is kept"
    log = own.run_dir.trial_log(trials.loc[3, "trial_id"]).read_text()
    assert "Traceback" in log
    assert "second line" in log


@pytest.mark.parametrize(
    ("exit_by", "told"),
    [
        ("sys.exit(0)", "SystemExit: 0"),
        ("quit()", "SystemExit: None"),
        ("argparse.ArgumentParser(prog='own').parse_args(['--no-such-option'])", "SystemExit: 2"),
        ("exec('raise KeyboardInterrupt')", "KeyboardInterrupt"),
        ("exec('raise GeneratorExit')", "GeneratorExit"),
    ],
)
def test_user_code_that_exits_fails_its_trial_alone_with_its_text(
    exit_by: str, told: str, inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_problem(inline_run, monkeypatch, exit_by)
    run = inline_run(
        "problem: {use: exiting_problem:one, fail_at: 3}\nupdate_rule: {learning_rate: 0.1}\n"
        "train: {steps: 6, checkpoint_every: 2}\nsweep: {grid: {problem.fail_at: [3, 99]}}"
    )(max_attempts=2)
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet").set_index("problem.fail_at")
    assert trials["status"].to_dict() == {3: "failed", 99: "done"}
    assert trials.loc[3, "error"] == told
    assert trials.loc[3, "attempts"] == 2
    log = run.run_dir.trial_log(trials.loc[3, "trial_id"]).read_text()
    assert "exiting_problem.py" in log


PATCHING = """
import torch
from torch import nn
from trainers.problem import Problem

def one(*, patches, seed, device):
    if patches == "factory":
        nn.functional.relu = nn.functional.gelu
    data = torch.linspace(-1, 1, 12).reshape(4, 3)

    def loss(model, batch, carry):
        return nn.functional.relu(model(batch)).square().mean(), carry

    return Problem(model=nn.Linear(3, 2), loss=loss, batch=lambda step: data, probe=lambda share: [data],
                   steps_per_epoch=5, fingerprint="patching")
"""


@pytest.fixture
def own_relu() -> Iterator[None]:
    """Put back what the test's problem replaces.

    Workers are in this process, so that new ones find it replaced; and a worker that is collected puts back what it
    found.
    """
    relu = nn.functional.relu
    yield
    gc.collect()
    nn.functional.relu = relu


@pytest.mark.usefixtures("own_relu")
def test_trials_that_leave_something_behind_cost_a_worker_each_which_is_said_once(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "patching_problem.py").write_text(PATCHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = (
        "problem: {{use: 'patching_problem:one', patches: 'no'}}\nupdate_rule: {{learning_rate: 0.1}}\n"
        "train: {{steps: 6, checkpoint_every: 2}}\nmeasure: {{every: 2, data_fraction: 1}}\n"
        "sweep: {{grid: {{problem.patches: [{}]}}, seeds: 2}}"
    )
    for name in ("alone", "mixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "patching_problem.py").write_text(PATCHING)
    alone = inline_run(spec.format("'no'"), name="alone")()
    mixed = inline_run(spec.format("factory, 'no'"), name="mixed")()
    assert alone.pools.started == {"trainer": 2, "estimator": 2}
    assert mixed.pools.started["trainer"] > 2
    assert mixed.pools.started["estimator"] > 2
    told = [line for line in mixed.listener.lines if "is replaced" in line]
    assert len(told) == 2, "once for trainers and once for estimators, not once for each trial"
    assert "leaves behind what cannot be put back for other trials (torch.nn.functional.relu)" in told[0]
    # Their rows are compared in tests/end_to_end: here, all workers are one process, and their trials alternate.
    assert (tables(mixed.run_dir.path)["trials"]["status"] == "done").all()


def _write_problem(inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, exit_by: str) -> None:
    """Put a module that exits at a step where runs look for it."""
    plain = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 1}"
    folder = Path(inline_run(plain).run_dir.path.parent)
    code = OWN.replace('raise RuntimeError(f"cannot take step {fail_at}\\nsecond line")', exit_by)
    assert exit_by in code
    (folder / "exiting_problem.py").write_text(f"import argparse, sys\n{code}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "exiting_problem", raising=False)


def test_a_disk_that_fills_up_ends_the_sweep_and_costs_nothing_that_was_committed(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    full = inline_run(SPEC, name="full")
    real = RunDir.publish
    left = 30

    def publish(self: RunDir, target: Path, write: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0 and self.path == full.run_dir.path:
            raise OSError(28, "No space left on device", str(target))
        real(self, target, write)

    monkeypatch.setattr(RunDir, "publish", publish)
    with pytest.raises(OSError, match="No space left on device"):
        full()
    committed = {name: trial.step for name, trial in Run(full.run_dir.path).state.trials.items()}
    assert max(committed.values()) > 0
    monkeypatch.setattr(RunDir, "publish", real)
    resumed = inline_run(SPEC, name="full")()
    assert_same(resumed.run_dir.path, undisturbed)


def test_two_workers_that_disagree_about_weights_would_be_seen(inline_run: InlineRun) -> None:
    # The comparison of tables that the tests above lean on does see a single changed bit.
    one, other = (
        inline_run(SPEC, name="one")(),
        inline_run(SPEC.replace("0.01, 5.0", "0.010000001, 5.0"), name="other")(),
    )
    with pytest.raises(AssertionError):
        assert_same(one.run_dir.path, other.run_dir.path)


def test_kept_snapshots_are_the_iterates_of_the_trajectory(inline_run: InlineRun) -> None:
    run = inline_run(SPEC.replace("data_fraction: 0.5,", "data_fraction: 0.5, keep: true,"))()
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet")
    trial = trials[trials["status"] == "done"].iloc[0]["trial_id"]
    kept = sorted((run.run_dir.path / "snapshots" / trial).glob("*"))
    assert [path.name for path in kept] == [f"step-{step:010d}.safetensors" for step in (0, 4, 8, 12, 16, 20, 22)]
    iterates = load_file(kept[0])["iterates"]
    smoothness = tables(run.run_dir.path)["smoothness"]
    first = smoothness[(smoothness["trial_id"] == trial) & (smoothness["step"] == 0)].iloc[0]
    assert np.linalg.norm((iterates[1] - iterates[0]).astype(float)) == pytest.approx(first["update_norm"], rel=1e-6)


def test_data_that_changed_under_a_trial_stops_it_with_the_mend(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = inline_run(SPEC)
    polls = 0

    def stop_requested() -> bool:
        nonlocal polls
        polls += 1
        return polls > 12

    stopped.stop_requested = stop_requested
    stopped()
    real = worker.build_problem
    changed = lambda *args, **options: replace(real(*args, **options), fingerprint="other data")  # noqa: E731
    monkeypatch.setattr(worker, "build_problem", changed)
    resumed = inline_run(SPEC)(max_attempts=1)
    trials = pd.read_parquet(resumed.run_dir.path / "trials.parquet")
    begun = trials[trials["error"].notna()]
    assert len(begun) == 2, "those under way; trials that had not begun are trained on the new data"
    assert begun["error"].str.contains("the data changed since this trial began").all()
    telemetry = pd.read_parquet(resumed.run_dir.path / "telemetry.parquet")
    assert telemetry["data"].nunique() == 2


@pytest.mark.usefixtures("own_relu")
def test_attempts_are_numbered_by_those_that_began(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trials that wait behind one that spoils their trainer are handed out again, which is no attempt."""
    monkeypatch.setattr("sweeper.schedule.queues._BATCH_S", 1e6)
    problem = PATCHING.replace("    data =", "    if patches == 'fails': raise ValueError('as asked')\n    data =")
    (tmp_path / "patching_or_failing.py").write_text(problem)
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds = ["'no'"] * 8 + ["'no'", "factory", "fails", "fails"] * 8
    rates = [round(0.01 * place, 2) for place in range(1, len(kinds) + 1)]
    spec = (
        "problem: {use: 'patching_or_failing:one', patches: 'no'}\nupdate_rule: {learning_rate: 0.1}\n"
        "train: {steps: 1}\nmeasure: {every: 1, data_fraction: 1}\n"
        f"sweep: {{zip: {{problem.patches: [{', '.join(kinds)}], update_rule.learning_rate: {rates}}}}}"
    )
    run = inline_run(spec)(max_attempts=2)
    handed = [assignment.attempt for assignment in run.pools.assignments]
    assert max(handed) > 2, "none was handed out in vain, so nothing is tested"
    trials = tables(run.run_dir.path)["trials"]
    failed = trials[trials["status"] == "failed"]["trial_id"]
    assert len(failed) == 16
    for trial in failed:
        numbers = re.findall(r"--- [\d: -]* attempt (\d)", run.run_dir.trial_log(trial).read_text())
        assert numbers == ["1", "2"]
    told = [re.search(r"attempt (\d).*; it will be tried again", line) for line in run.listener.lines]
    assert {found[1] for found in told if found} == {"1"}
