"""A search whose driver is really killed ends with the trials, rows and brackets of an undisturbed one."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

Cli = Any

SPEC = """
name: searched
problem: {use: deep_linear, layers: 3, width: 48, samples: 512, batch_size: 128}
update_rule: {optimizer: sgd}
train: {steps: 400, checkpoint_every: 40}
sweep:
  grid: {update_rule.clip_norm: [null, 0.25]}
  search:
    use: stability_frontier
    over: update_rule.learning_rate
    between: [1.0e-2, 1.0e3]
    within: 2
    points: 1
    decide_after: 200
  seeds: 2
"""


def answers(cli: Cli, run: str) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Trials and rows in an order that does not depend on who came first, and what the search knows."""
    path = cli.folder / run
    trials = pd.read_parquet(path / "trials.parquet").sort_values("trial_id").reset_index(drop=True)
    metrics = pd.read_parquet(path / "metrics.parquet").sort_values(["trial_id", "step"]).reset_index(drop=True)
    assert not metrics.duplicated(["trial_id", "step"]).any()
    known = json.loads(cli("status", run, "--json").stdout)["search"]["known"]
    return trials[["trial_id", "status", "final_train_loss"]], metrics, known


def test_a_search_killed_again_and_again_ends_as_an_undisturbed_one(
    make_cli: Callable[[], Cli],
) -> None:
    cli = make_cli()
    (cli.folder / "searched.yaml").write_text(SPEC)
    cli("run", "searched.yaml", "--out", "runs/quiet")
    moments = random.Random(5)
    for _ in range(3):
        process = cli.start("run", "searched.yaml")
        before = cli.num_commits("runs/searched")
        cli.wait_for(lambda before=before: cli.num_commits("runs/searched") > before, process, "a commit")
        time.sleep(moments.uniform(0, 1.0))
        process.kill()
        process.communicate()
    resumed = cli("run", "searched.yaml")
    assert "held" in resumed.stderr
    quiet, killed = answers(cli, "runs/quiet"), answers(cli, "runs/searched")
    pd.testing.assert_frame_equal(killed[0], quiet[0], check_exact=True)
    pd.testing.assert_frame_equal(killed[1], quiet[1], check_exact=True)
    assert killed[2] == quiet[2]
