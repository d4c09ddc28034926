"""Users' problems that misbehave, on a real Ray: they fail by themselves, clearly, and take nothing else with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

Cli = Any

PROBLEM = """
import os, resource, signal, time
import torch
from torch import nn
from trainers.problem import Problem

def line(*, seed, device, fault):
    # Another target in every attempt.
    target = int.from_bytes(os.urandom(2), "big") / 2**16 if fault == "random" else 0.5

    def loss(model, batch, carry):
        if batch >= 0:
            misbehave(int(batch))
        elif fault == "hangs" and not os.path.exists(os.environ["HUNG"]):
            open(os.environ["HUNG"], "w").close()
            time.sleep(10_000)
        return (model.weight - target).square().mean(), carry

    def misbehave(step):
        time.sleep(0.02)
        if step < 5:
            return
        if fault == "killed":
            # As the system does to the process that takes the most.
            os.kill(os.getpid(), signal.SIGKILL)
        if fault in {"tensors", "bytes"}:
            there = 4096 * int(open("/proc/self/statm").read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (there + 2**28, resource.RLIM_INFINITY))
            try:
                hoard = []
                while True:
                    hoard.append(torch.ones(2**22) if fault == "tensors" else bytes(2**24))
            finally:
                del hoard
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""

SPEC = """
problem: {{use: "misbehaving:line", fault: none}}
update_rule: {{learning_rate: 0.01}}
train: {{steps: {steps}, checkpoint_every: 10}}
measure: {{every: 5, data_fraction: 1}}
sweep: {{grid: {{problem.fault: [{faults}]}}}}
resources: {{stall_timeout_s: 15, trainers: {{count: 2}}, estimators: {{count: 1}}, max_attempts: 3}}
"""


def write(cli: Cli, *, faults: str, steps: int) -> Path:
    """``faults.yaml`` with its problem; returns its run directory."""
    (cli.folder / "misbehaving.py").write_text(PROBLEM)
    (cli.folder / "faults.yaml").write_text(SPEC.format(faults=faults, steps=steps))
    return Path(cli.folder / "runs" / "faults")


def trials_of(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "trials.parquet").set_index("problem.fault")


@pytest.mark.slow
def test_a_problem_that_is_not_deterministic_is_found_out_after_a_kill_and_both_copies_are_kept(
    make_cli: Callable[[], Cli],
) -> None:
    cli = make_cli()
    run = write(cli, faults="none, random", steps=300)
    process = cli.start("run", "faults.yaml")
    cli.wait_for(lambda: len(list(run.glob("checkpoints/*/*"))) == 4, process, "two checkpoints of each")
    cli.wait_for(lambda: cli.num_commits("runs/faults") >= 3, process, "commits")
    process.kill()
    process.communicate()
    # The machine went down with it, and its disk has kept no checkpoint whole.
    for checkpoint in run.glob("checkpoints/*/*"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    failed = cli("run", "faults.yaml", code=1)
    assert "Traceback" not in failed.stderr
    trials = trials_of(run)
    assert trials["status"].to_dict() == {"none": "done", "random": "failed"}
    error = trials.loc["random", "error"]
    assert error.startswith(f"IntegrityError: trial {trials.loc['random', 'trial_id']} does not give the same")
    assert "metrics, step 0, train_loss was" in error
    assert "does not give the same rows twice" in failed.stderr
    names = re.search(r"kept: (\S+) and (\S+);", error)
    assert names is not None
    first, second = (pd.read_parquet(run / "quarantine" / Path(name).name) for name in names.groups())
    assert len(first) == len(second) == trials.loc["random", "committed_step"] > 0
    metrics = pd.read_parquet(run / "metrics.parquet")
    assert not metrics.duplicated(["trial_id", "step"]).any()
    assert (metrics["trial_id"] == trials.loc["random", "trial_id"]).sum() == len(first)


def test_trials_that_run_out_of_memory_or_are_killed_for_it_fail_after_their_attempts_and_the_others_are_done(
    make_cli: Callable[[], Cli],
) -> None:
    cli = make_cli()
    run = write(cli, faults="none, tensors, bytes, killed", steps=60)
    failed = cli("run", "faults.yaml", code=1)
    assert "Traceback" not in failed.stderr
    trials = trials_of(run)
    assert trials["status"].to_dict() == {"none": "done", "tensors": "failed", "bytes": "failed", "killed": "lost"}
    assert trials["attempts"].to_dict() == {"none": 1, "tensors": 3, "bytes": 3, "killed": 3}
    errors = trials["error"].to_dict()
    assert pd.isna(errors["none"])
    assert "can't allocate memory" in errors["tensors"]
    assert errors["bytes"].startswith("MemoryError")
    assert errors["killed"].startswith("the trainer's process exited, crashed or was killed")
    for fault in ("tensors", "bytes", "killed"):
        assert "have fewer workers share the memory" in errors[fault]
        assert errors[fault] in cli("logs", "runs/faults", trials.loc[fault, "trial_id"]).stdout
    assert failed.stderr.count("will be tried again") == 6


@pytest.mark.slow
def test_a_machine_that_is_short_of_memory_for_rays_taste_ends_the_sweep_with_the_cause(
    make_cli: Callable[[], Cli],
) -> None:
    cli = make_cli()
    # What the memory monitor of Ray allows to be used: less than there is already.
    cli.environment |= {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "500"}
    write(cli, faults="none", steps=600)
    failed = cli("run", "faults.yaml", code=3)
    assert "Traceback" not in failed.stderr
    assert "because its node ran short of memory" in failed.stderr
    assert "have fewer workers share the memory" in failed.stderr


def test_an_estimator_that_hangs_is_ended_and_another_measures_its_snapshot(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    cli.environment["HUNG"] = str(cli.folder / "hung")
    run = write(cli, faults="none, hangs", steps=60)
    done = cli("run", "faults.yaml")
    assert (cli.folder / "hung").exists()
    (line,) = [line for line in done.stderr.splitlines() if "estimator 0 died" in line]
    assert "no sign of life for 1" in line
    trials = trials_of(run)
    assert trials["status"].to_dict() == {"none": "done", "hangs": "done"}
    assert trials["attempts"].to_dict() == {"none": 1, "hangs": 1}
    rows = pd.read_parquet(run / "measurements" / "directional_smoothness.parquet")
    assert rows["error"].isna().all()
    # Both are the same trial, but for what the second did to its estimator.
    by_trial = [of.drop(columns="trial_id").reset_index(drop=True) for _, of in rows.groupby("trial_id", sort=False)]
    pd.testing.assert_frame_equal(*by_trial, check_exact=True)
