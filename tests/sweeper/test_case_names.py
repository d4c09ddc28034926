"""Names of cases from the spec to every place that shows cells; they are no part of what is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.monitor.status import run_status, trial_rows
from sweeper.planning.preview import plan_document, plan_text
from sweeper.report.answers import build_answers
from sweeper.report.fits import build_fits
from sweeper.report.plots.cells import drawn_cells, tell_apart
from sweeper.report.render.answers import render_answers
from sweeper.report.render.fits import render_fits
from sweeper.report.render.summary import render
from sweeper.report.select import select
from sweeper.report.summary import build_report
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 8}
update_rule: {learning_rate: 0.01}
train: {steps: 24}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid: {update_rule.learning_rate: [0.01, 0.02]}
  cases:
    - {NAMED}
    - {AGAIN update_rule.clip_norm: 0.5, update_rule.schedule: {use: cosine, final_fraction: 0.1}}
"""
PLAIN = SPEC.replace("NAMED", "").replace("AGAIN", "")
NAMED = SPEC.replace("NAMED", "name: plain").replace("AGAIN", "name: as published,")
LABELS = [f"{case} learning_rate={rate}" for rate in ("0.01", "0.02") for case in ("plain", "as published")]


@pytest.fixture(scope="module")
def named(module_inline_run: Callable[[str], Any]) -> Run:
    return Run(module_inline_run(NAMED).run_dir.path)


def test_every_answer_calls_cells_by_the_names_of_their_cases(named: Run) -> None:
    assert [cell.label for cell in build_report(named).cells] == LABELS
    assert [cell.label for cell in build_fits(named)] == LABELS
    assert [row.label for row in build_answers(named).activity] == LABELS
    assert tell_apart([cell.swept for cell in drawn_cells(named, select(named, []))]) == LABELS
    assert [row["trial"] for row in trial_rows(named.path)] == [f"{label} seed=0" for label in LABELS]


@pytest.mark.parametrize("style", ["table", "md"])
def test_tables_have_a_column_for_the_name_and_structured_values_in_short(named: Run, style: str) -> None:
    shown = render(build_report(named), style)
    assert "as published" in shown
    assert "cosine(0.1)" in shown
    assert '"use"' not in shown
    for text in (render_fits("here", build_fits(named), style), render_answers(build_answers(named), style)):
        assert "as published" in text
        assert '"use"' not in text


def test_data_has_the_name_and_the_values(named: Run) -> None:
    assert pd.read_parquet(named.path / "trials.parquet")["case"].tolist() == ["plain", "as published"] * 2
    assert render(build_report(named), "csv").startswith("case,learning_rate,clip_norm,schedule,arm")
    (first, *_) = json.loads(render(build_report(named), "json"))["cells"]
    assert (first["case"], first["label"], first["values"]["clip_norm"]) == ("plain", LABELS[0], None)
    fits = json.loads(render_fits("here", build_fits(named), "json"))["cells"]
    assert [(cell["case"], cell["label"]) for cell in fits][1] == ("as published", LABELS[1])
    assert "texts" not in fits[0]
    activity = json.loads(render_answers(build_answers(named), "json"))["activity"]
    assert [row["case"] for row in activity] == ["plain", "as published"] * 2


def test_rows_are_grouped_and_chosen_by_name_and_by_what_a_table_shows(named: Run) -> None:
    assert [cell.trials for cell in build_report(named, by=["case"]).cells] == [2, 2]
    assert [cell.label for cell in build_report(named, by=["case"]).cells] == ["plain", "as published"]
    assert [cell.case for cell in build_report(named, sort="case").cells] == ["as published"] * 2 + ["plain"] * 2
    (cell,) = build_report(named, where=["case=as published", "learning_rate=0.02"]).cells
    assert cell.values["clip_norm"] == 0.5
    assert len(build_report(named, where=["schedule=cosine(0.1)"]).cells) == 2
    with pytest.raises(ClipsweepError, match=r"no trial has this value; schedule is constant or cosine\(0\.1\)"):
        build_report(named, where=["schedule=cosine(0.2)"])
    with pytest.raises(ClipsweepError, match="no column 'colour'; known: case, learning_rate, clip_norm, schedule"):
        build_report(named, by=["colour"])


def test_a_name_that_comes_later_trains_nothing_and_is_shown_at_once(inline_run: Callable[..., Any]) -> None:
    inline_run(PLAIN)()
    path = inline_run(PLAIN).run_dir.path
    assert trial_rows(path)[0]["trial"] == "learning_rate=0.01 no clipping schedule=constant seed=0"
    before = Run(path).trials.drop(columns="case")
    again = inline_run(NAMED)()
    assert again.pools.assignments == []
    assert [row["trial"] for row in trial_rows(path)] == [f"{label} seed=0" for label in LABELS]
    assert [cell.label for cell in build_report(Run(path)).cells] == LABELS
    pd.testing.assert_frame_equal(Run(path).trials.drop(columns="case"), before)
    inline_run(PLAIN)()
    assert Run(path).trials["case"].isna().all(), "a name that is gone from the spec is gone from the run"


def test_a_run_of_an_earlier_version_has_no_names_and_every_answer(inline_run: Callable[..., Any]) -> None:
    path = inline_run(PLAIN)().run_dir.path
    table = path / "trials.parquet"
    pd.read_parquet(table).drop(columns="case").to_parquet(table)
    assert b'"cases"' not in (path / "journal.jsonl").read_bytes()
    run = Run(path)
    assert list(run.trials.columns)[:4] == ["trial_id", "cell_id", "case", "arm"]
    assert [cell.case for cell in build_report(run).cells] == [None] * 4
    assert render(build_report(run), "csv").startswith("learning_rate,clip_norm,schedule,arm")


def test_a_plan_and_a_status_show_the_names(inline_run: Callable[..., Any]) -> None:
    run = inline_run(NAMED)
    document = plan_document(run.sweep, run.run_dir.path)
    assert [row["cell"] for row in document["table"]] == LABELS
    assert "as published learning_rate=0.01" in plan_text(document)
    run()
    assert run_status(run.run_dir.path)["counts"] == {"done": 4}
    assert any("as published learning_rate=0.02 seed=0" in line for line in run.listener.lines) or any(
        active.trial in {f"{label} seed=0" for label in LABELS} for view in run.listener.views for active in view.active
    )


def test_an_option_of_ones_own_called_case_keeps_its_column(inline_run: Callable[..., Any]) -> None:
    path = inline_run(PLAIN)().run_dir.path
    run = Run(path)
    for trial in run.state.trials.values():
        trial.record.swept["problem.case"] = 7  # type: ignore[index]
    run.trials["problem.case"] = 7
    (cell, *_) = build_report(run).cells
    assert (cell.values["problem.case"], cell.case) == (7, None)
