"""``plot stability`` and what it is made of: from the optimiser's state to the ratio, also when measured again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import Rows
from sweeper.report.plots.draw import PLOTS, draw
from sweeper.report.select import select
from sweeper.spec.sections.measure import Measure
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run
from sweeper.workers.estimator import EstimatorWorker
from sweeper.workers.snapshots import keep_snapshot, read_header, read_iterates

SPEC = """
problem: {{use: deep_linear, layers: 2, width: 4, samples: 32, batch_size: 32}}
update_rule: {{learning_rate: 0.05}}
train: {{steps: 20}}
measure: {{every: 4, data_fraction: 1, keep: true, estimators: [{}]}}
sweep:
  cases:
    - {{name: sgd}}
    - {{name: momentum, update_rule.momentum: 0.5}}
    - {{name: adam, update_rule.optimizer: adam}}
    - {{name: rmsprop, update_rule.optimizer: rmsprop}}
  seeds: 2
"""
BOTH = "{use: preconditioned_sharpness}, {use: hessian_spectral_norm}"
THRESHOLDS = {"sgd": 2.0, "momentum": 3.0, "adam": 38.0, "rmsprop": 2.0}


@pytest.fixture
def run(inline_run: Callable[..., Any]) -> Run:
    return Run(inline_run(SPEC.format(BOTH))().run_dir.path)


def test_the_ratio_is_rate_times_eigenvalue_over_the_rules_own_threshold(run: Run) -> None:
    rows = run.measurements("preconditioned_sharpness").merge(run.trials[["trial_id", "case"]], on="trial_id")
    assert len(rows) == 4 * 2 * 5
    assert rows["error"].isna().all()
    assert rows["stability_threshold"].to_numpy() == pytest.approx(rows["case"].map(THRESHOLDS).to_numpy())
    ratios = rows["learning_rate"] * rows["preconditioned_sharpness"] / rows["stability_threshold"]
    assert rows["stability_ratio"].to_numpy() == pytest.approx(ratios.to_numpy())
    plain = rows[rows["case"].isin(["sgd", "momentum"])].merge(
        run.measurements("hessian_spectral_norm"), on=["trial_id", "step"]
    )
    positive = plain[plain["eigenvalue"] > 0]
    assert len(positive) > 10
    assert positive["preconditioned_sharpness"].to_numpy() == pytest.approx(positive["eigenvalue"].to_numpy(), rel=1e-2)


def test_every_median_over_the_seeds_is_in_the_numbers(run: Run, tmp_path: Path) -> None:
    drawn = pd.DataFrame(draw(run, "stability", tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    rows = run.measurements("preconditioned_sharpness").merge(run.trials[["trial_id", "case"]], on="trial_id")
    expected = rows[rows["stability_ratio"] > 0].groupby(["case", "step"])["stability_ratio"].median()
    assert len(drawn) == len(expected)
    for row in drawn.to_dict("records"):
        assert row["median"] == pytest.approx(expected[row["case"], row["step"]])


def test_cells_without_a_threshold_are_counted(inline_run: Callable[..., Any], tmp_path: Path) -> None:
    text = SPEC.format(BOTH).replace(
        "    - {name: rmsprop, update_rule.optimizer: rmsprop}", "    - {name: lion, update_rule.optimizer: lion}"
    )
    run = Run(inline_run(text)().run_dir.path)
    figure = PLOTS["stability"](run, select(run, []))
    assert {row["case"] for row in figure.drawn} == {"sgd", "momentum", "adam"}
    assert "1 cell without a threshold not shown" in figure.legends[0].get_title().get_text().replace("\n", " ")


def test_without_the_estimator_the_error_names_it(inline_run: Callable[..., Any], tmp_path: Path) -> None:
    run = Run(inline_run(SPEC.format("{use: hessian_spectral_norm}"))().run_dir.path)
    with pytest.raises(ClipsweepError, match="use: preconditioned_sharpness"):
        draw(run, "stability", tmp_path / "picture.png")


def measured_again(run: Run, case: str, tmp_path: Path, *, change: Callable[[Path], None] = lambda path: None) -> Any:
    """What a worker says of a kept snapshot, and what the run said of it."""
    trial = str(run.trials.loc[run.trials["case"] == case, "trial_id"].iloc[0])
    path = RunDir(run.path).snapshot(trial, 8)
    change(path)
    estimators = [{"use": "preconditioned_sharpness"}]
    measure = Measure(every=4, data_fraction=1, estimators=estimators).model_dump(mode="json")
    header = read_header(path, measure)
    worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu")
    verdict = worker.measure(0, SnapshotId(trial=trial, attempt=1, step=8), header, read_iterates(path))
    rows = run.measurements("preconditioned_sharpness")
    return verdict, rows[(rows["trial_id"] == trial) & (rows["step"] == 8)].iloc[0]


@pytest.mark.parametrize("case", ["sgd", "adam"])
def test_a_kept_snapshot_gives_the_same_row_again(run: Run, case: str, tmp_path: Path) -> None:
    verdict, before = measured_again(run, case, tmp_path)
    assert isinstance(verdict, Rows)
    row = verdict.rows["preconditioned_sharpness"]
    for name in ("preconditioned_sharpness", "stability_ratio", "residual", "learning_rate"):
        assert row[name] == before[name]


def test_a_snapshot_without_the_preconditioner_says_which_runs_have_it(run: Run, tmp_path: Path) -> None:
    def without(path: Path) -> None:
        header, iterates = read_header(path, {"keep": True}), read_iterates(path)
        assert iterates.shape[0] == 3
        keep_snapshot(RunDir(run.path), header, np.ascontiguousarray(iterates[:2]))

    verdict, _ = measured_again(run, "adam", tmp_path, change=without)
    assert "kept without what its step was divided by" in verdict.error


def test_snapshots_are_no_larger_where_nothing_needs_the_preconditioner(inline_run: Callable[..., Any]) -> None:
    run = Run(inline_run(SPEC.format("{use: hessian_spectral_norm}"))().run_dir.path)
    trial = str(run.trials.loc[run.trials["case"] == "adam", "trial_id"].iloc[0])
    assert read_iterates(RunDir(run.path).snapshot(trial, 8)).shape[0] == 2
