"""The test data are evaluated once per trial, and no cell is chosen by them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.report.render.summary import render
from sweeper.report.summary import build_report
from sweeper.tables.run import Run

OWN = """
import torch
from torch import nn
from trainers.problem import Problem

ROWS = torch.linspace(-1, 1, 8)[:, None]

def own(*, seed, without=(), infinite=()):
    model = nn.Linear(1, 1)
    def loss(model, batch, carry):
        return (model(batch) - batch).square().mean(), carry
    def test(model):
        value = float("inf") if seed in infinite else float(model.weight.sum()) + 100
        return {"test_loss": value, "test_accuracy": 0.5}
    return Problem(
        model=model, loss=loss, batch=lambda step: ROWS, probe=lambda share: [ROWS], steps_per_epoch=1, fingerprint="8",
        evaluate=lambda model: {"valid_loss": float(loss(model, ROWS, None)[0])},
        test=None if seed in without else test,
    )
"""

SPEC = """
name: tested
problem: {use: "own_tested:own"OPTIONS}
train: {steps: 6, evaluate_every: 2, checkpoint_every: 2}
update_rule: {optimizer: sgd}
sweep: {grid: {update_rule.learning_rate: [0.01, 0.3]}, seeds: [0, 1, 2]}
"""

Inline = Callable[..., Any]


def finished(inline_run: Inline, tmp_path: Path, options: str = "", *, name: str = "here", **chaos: Any) -> Run:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "own_tested.py").write_text(OWN)
    return Run(inline_run(SPEC.replace("OPTIONS", options), name=name, **chaos)().run_dir.path)


def test_a_trial_has_one_test_loss_of_its_last_weights_and_no_best(inline_run: Inline, tmp_path: Path) -> None:
    run = finished(inline_run, tmp_path)
    trials = run.trials
    assert {"test_loss", "test_accuracy", "best_valid_loss", "final_valid_loss"} <= {*trials.columns}
    assert not {name for name in trials.columns if name.startswith(("best_test", "final_test"))}
    rows = run.metrics
    asked = rows[rows["test_loss"].notna()]
    assert asked.groupby("trial_id").size().tolist() == [1] * 6, "once each"
    assert set(asked["step"]) == {6}
    assert rows[rows["valid_loss"].notna()].groupby("trial_id").size().tolist() == [3] * 6
    by_trial = asked.set_index("trial_id")["test_loss"]
    assert trials.set_index("trial_id")["test_loss"].to_dict() == by_trial.to_dict()


def test_the_table_is_the_same_whatever_died_on_the_way(inline_run: Inline, tmp_path: Path) -> None:
    quiet = finished(inline_run, tmp_path, name="quiet")
    troubled = finished(inline_run, tmp_path, name="troubled", chaos=0.2, seed=3)
    columns = ["trial_id", "status", "test_loss", "test_accuracy"]
    assert troubled.trials[columns].equals(quiet.trials[columns])


def test_the_report_shows_the_test_loss_and_chooses_by_the_validation_loss(inline_run: Inline, tmp_path: Path) -> None:
    report = build_report(finished(inline_run, tmp_path))
    slow, fast = report.cells
    assert report.primary == "best_valid_loss"
    assert [cell.is_best for cell in report.cells] == [False, True]
    assert fast.losses["test_loss"].mean > slow.losses["test_loss"].mean, "by the test loss it would be the other"
    assert list(fast.test_losses) == [0, 1, 2]
    assert np.mean(list(fast.test_losses.values())) == pytest.approx(fast.losses["test_loss"].mean)
    assert "test loss" in render(report, "table", width=None)
    (_, row) = csv.DictReader(io.StringIO(render(report, "csv")))
    assert float(row["test_loss"]) == pytest.approx(fast.losses["test_loss"].mean)
    document = json.loads(render(report, "json"))
    assert document["cells"][1]["losses"]["test_loss"]["mean"] == pytest.approx(fast.losses["test_loss"].mean)
    assert "test_loss" not in document["directions"]


def test_a_cell_of_which_a_trial_has_no_test_loss_has_none(inline_run: Inline, tmp_path: Path) -> None:
    for cell in build_report(finished(inline_run, tmp_path, ", without: [1]")).cells:
        assert cell.test_losses == {}
        assert cell.losses["test_loss"].count == 0
        assert cell.losses["best_valid_loss"].count == 3


def test_a_test_loss_that_is_not_finite_is_counted_and_not_averaged_away(inline_run: Inline, tmp_path: Path) -> None:
    run = finished(inline_run, tmp_path, ", infinite: [2]")
    assert run.trials["not_finite_test_loss"].fillna(0).tolist() == [0, 0, 1] * 2
    assert np.isinf(run.trials["test_loss"]).tolist() == [False, False, True] * 2
    for cell in build_report(run).cells:
        assert (cell.test_losses, cell.losses["test_loss"].count) == ({}, 0)
