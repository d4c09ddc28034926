"""Evaluations that are NaN or infinite: said, counted and ranked last."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.report.answers import build_answers
from sweeper.report.render.summary import render
from sweeper.report.summary import build_report
from sweeper.tables.run import Run

RATE = "update_rule.learning_rate"
NAN, INF = math.nan, math.inf


def _evaluated(made_run: Callable[..., Run], path: Path, *of_seeds: list[float]) -> Run:
    """A run of one cell per list of evaluations, one seed each, at steps 0, 10, 20, 30 and 40."""
    values = iter(of_seeds)
    return made_run(
        path, [{RATE: 0.3 + number} for number, _ in enumerate(of_seeds)], seeds=1, evaluations=lambda: next(values)
    )


@pytest.fixture
def run(made_run: Callable[..., Run], tmp_path: Path) -> Run:
    return _evaluated(
        made_run,
        tmp_path / "run",
        [0.5, 0.25, NAN, NAN, NAN],
        [0.9, 0.8, 0.7, 0.6, 0.4],
        [NAN] * 5,
        [INF, INF, INF, INF, INF],
        [0.9, 0.8, -INF, 0.7, 0.7],
    )


def test_final_is_the_last_evaluation_and_best_the_best_of_the_finite_ones(run: Run) -> None:
    trials = run.trials
    np.testing.assert_array_equal(trials["final_valid_loss"], [NAN, 0.4, NAN, INF, 0.7])
    np.testing.assert_array_equal(trials["best_valid_loss"], [0.25, 0.4, NAN, NAN, 0.7])
    np.testing.assert_array_equal(trials["not_finite_valid_loss"].astype(float), [3, NAN, 5, 5, 1])


def test_an_evaluation_that_gave_nan_is_not_a_step_without_one(run: Run) -> None:
    table = pd.read_parquet(run.path / "metrics.parquet", dtype_backend="pyarrow")
    first = table[table["trial_id"] == "trial-0-0"]["valid_loss"]
    assert first.isna().sum() == 36
    assert sum(value != value for value in first.dropna()) == 3


def test_a_run_of_finite_evaluations_has_no_column_for_others(run_of_3: Run) -> None:
    assert not [name for name in run_of_3.trials.columns if name.startswith("not_finite")]


def test_the_report_says_counts_and_ranks_them_last(run: Run) -> None:
    report = build_report(run)
    (best,) = report.bests
    assert best.cell is not None
    assert best.cell.losses["best_valid_loss"].mean == 0.25
    assert [cell.not_finite for cell in report.cells] == [{}, {}, {"best_valid_loss": 1}, {"best_valid_loss": 1}, {}]
    shown = render(report, "table")
    assert "valid_loss is NaN or infinite in 14 evaluations of 4 trials" in shown
    assert "(5 cells tried, 2 of them without a finite best_valid_loss)" in shown
    assert "(0 of 1 finite)" in shown
    json.loads(render(report, "json"))


def test_a_cell_of_which_one_seed_is_not_finite_is_not_the_best(made_run: Callable[..., Run], tmp_path: Path) -> None:
    values = iter([[0.1] * 5, [NAN] * 5, [0.5] * 5, [0.6] * 5])
    run = made_run(tmp_path / "run", [{RATE: 0.3}, {RATE: 1.0}], seeds=2, evaluations=lambda: next(values))
    (best,) = build_report(run).bests
    assert best.cell is not None
    assert best.cell.values["learning_rate"] == 1.0
    assert "0.1 (1 of 2 finite)" in render(build_report(run), "table")


def test_where_no_cell_is_finite_the_reason_is_not_that_none_finished(
    made_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = _evaluated(made_run, tmp_path / "run", [INF] * 5, [-INF] * 5)
    shown = render(build_report(run), "table")
    assert "no cell finished" not in shown
    assert "valid_loss is NaN or infinite in 10 evaluations of 2 trials" in shown
    build_answers(run)


@pytest.mark.parametrize("values", [[-INF, 0.5, 0.5, 0.5, 0.5], [-INF] * 5, [NAN] * 5, [INF, NAN, -INF, 1.0, INF]])
def test_every_picture_and_answer_can_be_had(made_run: Callable[..., Run], tmp_path: Path, values: list[float]) -> None:
    run = _evaluated(made_run, tmp_path / "run", values, values)
    for command in (["report"], ["advise"], ["plot", "loss"], ["status"], ["times"]):
        done = CliRunner().invoke(app, [command[0], str(run.path), *command[1:]])
        assert done.exit_code == 0, done.output


def test_evaluations_near_the_largest_float_are_shown_without_a_warning(
    made_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = made_run(tmp_path / "run", [{RATE: 0.3}, {RATE: 1.0}], seeds=2, evaluations=lambda: [1e308] * 5)
    assert "1e+308" in render(build_report(run), "table")
    (best,) = build_report(run).bests
    assert best.cell is not None
    assert best.cell.losses["best_valid_loss"].mean == pytest.approx(1e308)


def test_trials_that_failed_are_not_said_to_go_on(made_run: Callable[..., Run], tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", [{RATE: 0.3}, {RATE: 1.0}], seeds=1)
    run.trials.loc[1, "status"] = "failed"
    assert not [note for note in build_answers(run).notes if "have not ended" in note]
    run.trials.loc[1, "status"] = "paused"
    assert "1 of 2 trials have not ended: the answers will change" in build_answers(run).notes
