"""Sweeps over accumulation, groups of weight decay and Muon, from the spec to tables, labels and answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from sweeper.report.render.summary import render
from sweeper.report.summary import build_report
from sweeper.tables.run import Run

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")

SPEC = """
problem: {use: deep_linear, layers: 3, width: 4, samples: 24, batch_size: 4}
update_rule: {learning_rate: 0.02, weight_decay: 0.01, clip_norm: 0.5}
train: {steps: 24, checkpoint_every: 5}
measure:
  every: 4
  data_fraction: 1
  estimators: [{use: directional_smoothness, delta: 0.5}, {use: gradient_noise, num_batches: 3}]
sweep:
  cases:
    - {}
    - {train.accumulate: 2}
    - {train.accumulate: 2, update_rule.clip_each_micro_batch: true}
    - {update_rule.no_decay: [weights.0]}
    - {update_rule.optimizer: muon, update_rule.rest: {learning_rate: 0.003}}
"""
PLAIN, ACCUMULATED, EACH, GROUPS, MUON = range(5)
REST = "optimizer=muon rest=(0.003)"


@pytest.fixture(scope="module")
def run(module_inline_run: Callable[[str], Any]) -> Run:
    return Run(module_inline_run(SPEC).run_dir.path)


def metrics_of(run: Run, cell: int) -> pd.DataFrame:
    trial = pd.read_parquet(run.path / "trials.parquet")["trial_id"].iloc[cell]
    metrics = pd.read_parquet(run.path / "metrics.parquet")
    return metrics[metrics["trial_id"] == trial].reset_index(drop=True)


def test_reports_call_such_cells_by_what_was_chosen(run: Run) -> None:
    plain = "accumulate=1 clip_each_micro_batch=false no_decay=none optimizer=sgd rest=none"
    assert [cell.label for cell in build_report(run).cells] == [
        plain,
        plain.replace("accumulate=1", "accumulate=2"),
        plain.replace("accumulate=1", "accumulate=2").replace("false", "true"),
        plain.replace("no_decay=none", "no_decay=[weights.0]"),
        plain.replace("optimizer=sgd rest=none", REST),
    ]
    arms = pd.read_parquet(run.path / "trials.parquet")["arm"]
    assert arms.tolist() == [
        "sgd(weight_decay) + clip_norm",
        "sgd(weight_decay) + clip_norm",
        "sgd(weight_decay) + clip_norm(each micro-batch)",
        "sgd(weight_decay, no_decay) + clip_norm",
        "muon(momentum, nesterov, weight_decay) + clip_norm",
    ]
    shown = render(build_report(run), "md")
    # The mistake is compared with what it is a mistake of, on the same batches.
    assert "clip_norm(each micro-batch) against sgd(weight_decay) + clip_norm [accumulate=2]" in shown


def test_epochs_and_steps_of_a_trial_that_accumulates(run: Run) -> None:
    plain, accumulated = metrics_of(run, PLAIN), metrics_of(run, ACCUMULATED)
    assert plain["step"].tolist() == accumulated["step"].tolist() == list(range(25))
    assert plain["epoch"].tolist() == [step / 6 for step in range(25)]
    assert accumulated["epoch"].tolist() == [step / 3 for step in range(25)]


def test_the_noise_of_a_step_is_that_of_the_batches_that_it_takes(run: Run) -> None:
    noise = pd.read_parquet(run.path / "measurements" / "gradient_noise.parquet")
    trials = pd.read_parquet(run.path / "trials.parquet")["trial_id"]
    at_start = noise[noise["step"] == 0].set_index("trial_id")
    assert noise["error"].isna().all()
    assert (noise["num_batches"] == 3).all()
    # The same three steps' batches at the same weights, twice.
    one, other = (at_start.loc[trials[cell], "noise_variance"] for cell in (ACCUMULATED, EACH))
    assert one == other
    assert one < at_start.loc[trials[PLAIN], "noise_variance"]


def test_deaths_of_workers_change_nothing(run: Run, inline_run: Callable[..., Any]) -> None:
    disturbed = inline_run(SPEC, name="disturbed", chaos=0.05, seed=3)()
    assert disturbed.pools.deaths > 0
    for table in ("metrics.parquet", "measurements/directional_smoothness.parquet"):
        left, right = (pd.read_parquet(path / table) for path in (disturbed.run_dir.path, run.path))
        pd.testing.assert_frame_equal(left, right, check_exact=True)
