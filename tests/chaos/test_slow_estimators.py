"""Estimators far slower than trainers, on a real Ray whose store would hold a fifth of the snapshots."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow]

Cli = Any

PROBLEM = """
import time
import torch
from torch import nn
from trainers.problem import Problem

def wide(*, seed, device):
    def loss(model, batch, carry):
        # f is what estimators evaluate.
        time.sleep(0.2 if batch < 0 else 0)
        return (model.weight - 1.0).square().mean(), carry
    return Problem(
        model=nn.Linear(4_000_000, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""

SPEC = """
problem: {use: "wide_lines:wide"}
update_rule: {learning_rate: 1.0}
train: {steps: 30, checkpoint_every: 10}
measure: {every: 1, data_fraction: 1}
resources: {trainers: {count: 1}, estimators: {count: 1}}
"""

PROGRAM = """
import json, sys, time
from pathlib import Path
import psutil
from sweeper.cluster.ray_environment import prepare

prepare("local")
from sweeper.cluster import ray_session
from sweeper.driver.driver import Driver
from sweeper.run import run_sweep
from sweeper.spec import load_spec

ray_session._local_store_bytes = lambda: 200 * 2**20
seen = {"most": 0, "held_back": 0, "rss": [], "stores": []}
commit, asked = Driver._commit, 0.0

def watching(self, *, force):
    global asked
    seen["most"] = max(seen["most"], len(self._trainers._segments._snapshots))
    seen["held_back"] += not self._schedule.takes_snapshots
    if time.monotonic() - asked > 1:
        import ray
        from ray._private.internal_api import memory_summary
        asked = time.monotonic()
        seen["rss"].append([self._estimators.measured, psutil.Process().memory_info().rss])
        seen["stores"].append(memory_summary(ray.get_runtime_context().gcs_address, stats_only=True))
    commit(self, force=force)

Driver._commit = watching

class Silent:
    def show(self, view): pass
    def say(self, text): print(text, file=sys.stderr)

outcome = run_sweep(load_spec(Path("slow.yaml")), listener=Silent())
print(json.dumps({**seen, "exit_code": outcome.exit_code}))
"""


def test_snapshots_of_a_trainer_that_outruns_its_estimators_are_bounded_nothing_is_spilled_and_memory_is_flat(
    make_cli: Callable[[], Cli],
) -> None:
    cli = make_cli()
    (cli.folder / "wide_lines.py").write_text(PROBLEM)
    (cli.folder / "slow.yaml").write_text(SPEC)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["exit_code"] == 0
    # 32 MB each, 960 MB in all.
    rows = pd.read_parquet(cli.folder / "runs" / "slow" / "measurements" / "directional_smoothness.parquet")
    assert len(rows) == 30
    assert rows["error"].isna().all()
    assert seen["held_back"] > 10, "the trainer had to wait"
    assert 2 <= seen["most"] <= 3, "two per estimator, and one that arrived in the same batch"
    assert all("Plasma memory usage" in store for store in seen["stores"])
    assert not any("Spilled" in store for store in seen["stores"])
    early = [rss for measured, rss in seen["rss"] if 3 <= measured <= 10]
    late = [rss for measured, rss in seen["rss"] if measured >= 20]
    assert early
    assert late
    assert max(late) - min(early) < 100 * 2**20, "a fifth of what was handed over meanwhile"
