"""Values of different types are different values, and an option may be called like any column."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.formats import json_text
from sweeper.labels import short_names
from sweeper.report.answers import build_answers, find_edges
from sweeper.report.fits import build_fits
from sweeper.report.plots.draw import PLOTS, draw
from sweeper.report.render.answers import render_answers
from sweeper.report.render.fits import render_fits
from sweeper.report.render.summary import render
from sweeper.report.select import labels_of, select
from sweeper.report.summary import build_report
from sweeper.tables.run import Run
from sweeper.tables.schemas import METRICS, TRIAL_TYPES
from sweeper.tables.trials import TRIALS
from sweeper.value_texts import key_of

RATE, NORM, OPT = "update_rule.learning_rate", "update_rule.clip_norm", "problem.opt"
ALIKE = [1, 1.0, "1", True, "true", None, "none", "null", "", "1e-3", 0.001, 2**53 + 1, float(2**53), 2**70]
ALIKE += [
    [1, 2],
    "[1, 2]",
    [1.0, 2],
    "[1,2]",
    ["a", None],
    {"use": "a", "n": 1},
    '{"use": "a", "n": 1}',
    [],
    "[]",
    {},
    "{}",
]
ALIKE += ["\u00e9", "e\u0301", ["\u00e9"], ["e\u0301"], "a\nb", "a\\nb", "\x7f", "\\x7f", "\u202ea", "\u202eb"]


@pytest.fixture(scope="module")
def alike(made_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Cells whose options differ in ways that one column of a table cannot hold."""
    return made_run(tmp_path_factory.mktemp("alike") / "run", [{RATE: 1.0, OPT: value} for value in ALIKE])


def test_every_value_is_a_row_of_its_own_with_a_text_of_its_own(alike: Run) -> None:
    report = build_report(alike)
    assert [cell.trials for cell in report.cells] == [2] * len(ALIKE)
    assert [key_of(cell.values["opt"]) for cell in report.cells] == list(map(key_of, ALIKE))
    assert len({cell.texts["opt"] for cell in report.cells}) == len({cell.label for cell in report.cells}) == len(ALIKE)
    assert [cell.trials for cell in build_report(alike, by=["opt"]).cells] == [2] * len(ALIKE)
    assert sum(cell.is_best for cell in report.cells) == len(report.bests) == len(ALIKE)


@pytest.mark.parametrize("at", range(len(ALIKE)))
def test_a_row_is_found_by_what_the_report_shows(alike: Run, at: int) -> None:
    shown = build_report(alike).cells[at].texts["opt"]
    (cell,) = build_report(alike, where=[f"opt={shown}"]).cells
    assert key_of(cell.values["opt"]) == key_of(ALIKE[at])
    (cell,) = build_report(alike, where=[f"{OPT}={json.dumps(ALIKE[at])}"]).cells
    assert key_of(cell.values["opt"]) == key_of(ALIKE[at])


@pytest.mark.parametrize(
    ("values", "condition", "found"),
    [
        ([True, False], "opt=true", True),
        ([True, False], "opt=True", True),
        ([1, "a"], "opt=1", 1),
        (["1e-3", "x"], "opt=1e-3", "1e-3"),
        ([0.001, 0.1], "opt=1e-3", 0.001),
        (["null", "x"], "opt=null", "null"),
        ([None, "x"], "opt=null", None),
        ([None, "x"], "opt=None", None),
        ([2**63 - 1, 2**63 - 2], f"opt={2**63 - 1}", 2**63 - 1),
        ([{"use": "a", "n": 1}, {"use": "a", "n": 2}], "opt={use: a, n: 2}", {"use": "a", "n": 2}),
        ([{"use": "a", "n": 1}, {"use": "a", "n": 2}], "opt={n: 2, use: a}", {"use": "a", "n": 2}),
        ([{"n": 2, "use": "a"}, '{"n": 2, "use": "a"}'], "opt={use: a, n: 2}", {"use": "a", "n": 2}),
        ([{"n": 2, "use": "a"}, '{"n": 2, "use": "a"}'], 'opt=\'{"n": 2, "use": "a"}\'', '{"n": 2, "use": "a"}'),
        ([[1, 2], "[1, 2]"], "opt=[1,2]", [1, 2]),
        ([[1, 2], "[1, 2]"], "opt='[1, 2]'", "[1, 2]"),
        (["a\nb", "c"], "opt=a\\nb", "a\nb"),
        (["x" * 300, "c"], "opt=" + "x" * 300, "x" * 300),
        ([10, 20.5], "opt=1e1", 10),
        ([-1, 3], "opt=-1", -1),
    ],
)
def test_a_condition_is_read_like_the_spec(
    run_of: Callable[..., Run], values: list[Any], condition: str, found: Any
) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in values])
    (cell,) = build_report(run, where=[condition]).cells
    assert key_of(cell.values["opt"]) == key_of(found)


def test_a_value_that_no_trial_has_is_an_error_that_says_what_there_is(run_of: Callable[..., Run]) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in (1, "1", None)])
    with pytest.raises(ClipsweepError, match='no trial has this value; opt is 1, "1" or n'):
        select(run, ["opt=2"])
    with pytest.raises(ClipsweepError, match=r"no trial satisfies opt=1 and seed=1 and opt=\"1\"$"):
        select(run, ["opt=1", "seed=1", 'opt="1"'])


def test_the_table_keeps_the_types_of_a_mixed_column_beside_it(alike: Run, run_of: Callable[..., Run]) -> None:
    table = pd.read_parquet(alike.path / "trials.parquet")
    exact = [json.loads(text) for text in table[f"{OPT}.json"][::2]]
    assert list(map(key_of, exact)) == list(map(key_of, ALIKE))
    assert table[OPT][::2].tolist()[:3] == ["1", "1.0", "1"]


@pytest.mark.parametrize("values", [[[1, 2], [3]], [{"k": 1}, None, [2]]])
def test_a_column_of_lists_and_sections_is_json_and_stands_alone(run_of: Callable[..., Run], values: list[Any]) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in values])
    assert not [name for name in run.trials.columns if name.endswith(".json")]
    assert [json.loads(text) if isinstance(text, str) else None for text in run.trials[OPT][::2]] == values


@pytest.mark.parametrize("values", [[1, 0.5], [None, 0.5], ["a", None], [True, False], [3, 4]])
def test_a_column_that_says_all_stands_alone(run_of: Callable[..., Run], values: list[Any]) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in values])
    assert not [name for name in run.trials.columns if name.endswith(".json")]
    assert [None if value != value else value for value in run.trials[OPT][::2]] == values


@pytest.mark.parametrize("values", [[2**53 + 1, 0.5], [2**53, float(2**53)], [2**63 + 1, 1], [10**400, 0.5]])
def test_integers_that_a_column_cannot_hold_are_texts_with_json_beside(
    run_of: Callable[..., Run], values: list[Any]
) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in values])
    exact = [json.loads(text) for text in run.trials[f"{OPT}.json"][::2]]
    assert list(map(key_of, exact)) == list(map(key_of, values))


def test_csv_tells_null_from_text_and_numbers_from_their_digits(run_of: Callable[..., Run]) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in (None, "", 1, "1", "none")])
    lines = render(build_report(run), "csv").splitlines()
    first = [line.split(",")[1] for line in lines]
    assert first == ["opt", "", '""""""', "1", '"""1"""', '"""none"""']


def test_csv_writes_json_with_letters_as_they_are(run_of: Callable[..., Run]) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in (True, "ü", ["ü", None], {"k": True})])
    rows = list(csv.DictReader(render(build_report(run), "csv").splitlines()))
    assert [row["opt"] for row in rows] == ["true", "ü", '["ü", null]', '{"k": true}']


def test_a_csv_column_whose_texts_look_like_other_values_is_json(run_of: Callable[..., Run]) -> None:
    run = run_of([{RATE: 1.0, OPT: value} for value in (True, "true", "ü", "a\x7f")])
    rows = list(csv.DictReader(render(build_report(run), "csv").splitlines()))
    assert [json.loads(row["opt"]) for row in rows] == [True, "true", "ü", "a\x7f"]
    assert rows[2]["opt"] == '"ü"'


def test_json_has_lists_and_sections_as_the_spec_has_them(run_of: Callable[..., Run]) -> None:
    values = [[1, 2], "[1, 2]", {"k": [None]}, True]
    run = run_of([{RATE: 1.0, OPT: value} for value in values])
    assert [cell["values"]["opt"] for cell in json.loads(render(build_report(run), "json"))["cells"]] == values


@pytest.mark.parametrize("kind", ["loss", "smoothness", "fit", "frontier"])
def test_figures_draw_values_of_every_type(run_of: Callable[..., Run], kind: str) -> None:
    values = [[1, 2], "[1, 2]", {"k": 1, "use": "a"}, 1]
    run = run_of([{RATE: rate, OPT: value} for value in values for rate in (0.1, 1)], measured=True)
    drawn = draw(run, kind, run.path / "plots" / f"{kind}.svg")
    assert {key_of(row["opt"]) for row in drawn} == set(map(key_of, values))


NAMES = sorted({
    *(column.name for column in TRIALS),
    *METRICS.names,
    *("best_of", "best_valid_loss", "final_train_loss", "final_word", "spearman", "slope", "L0_low", "points", "seeds"),
    *("is_best", "threshold", "transform", "optimizer", "drawn", "quantity", "mean", "rule", "left_out", "T", "run"),
    *("diverged", "unstable", "stable", "above_start", "correlation", "smoothness", "best_valid_loss_low", "clipped"),
})


def test_an_option_called_like_a_column_has_a_name_of_its_own() -> None:
    reserved = {*TRIAL_TYPES, *METRICS.names} - {"clipped", "epoch", "train_loss", "update_norm", "step_size"}
    for name in sorted(reserved):
        assert short_names([f"problem.{name}"])[f"problem.{name}"] in {f"problem.{name}"} | (
            {name} if name in {"noise", "epsilon"} else set()
        ), name
    assert short_names(["update_rule.learning_rate", "problem.learning_rate"]) == {
        "update_rule.learning_rate": "learning_rate",
        "problem.learning_rate": "problem.learning_rate",
    }


def test_answers_are_the_same_whatever_an_option_is_called(run_of: Callable[..., Run], tmp_path: Path) -> None:
    plain = _run_with(run_of, tmp_path / "plain", [f"depth{at:03}" for at, _ in enumerate(NAMES)])
    named = _run_with(run_of, tmp_path / "named", NAMES)
    for build in (_report, _answers, _fits, _drawn):
        assert build(named, NAMES) == build(plain, [f"depth{at:03}" for at, _ in enumerate(NAMES)])


def _run_with(run_of: Callable[..., Run], path: Path, options: list[str]) -> Run:
    cells = [
        {RATE: rate, NORM: norm} | {f"problem.{option}": value for option in options}
        for value in ("one", "two")
        for rate in (0.3, 1.0, 3.0)
        for norm in (None, 0.5)
    ]
    return run_of(cells, path=path, seeds=2, measured=True)


def _alike(document: Any, run: Run, options: list[str]) -> Any:
    """A document with the options under one name each, whatever they are called."""
    numbers = {short_names(run.swept)[f"problem.{option}"]: f"option {at}" for at, option in enumerate(options)}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {numbers.get(key, key) if part in ("one", "two") else key: walk(part) for key, part in value.items()}
        if isinstance(value, list):
            return [walk(part) for part in value]
        if isinstance(value, str) and "=" in value:
            for name in sorted(numbers, key=len, reverse=True):
                value = value.replace(f"{name}=one", f"{numbers[name]}=one").replace(
                    f"{name}=two", f"{numbers[name]}=two"
                )
        return value.replace(str(run.path), "RUN") if isinstance(value, str) else value

    return walk(document)


def _report(run: Run, options: list[str]) -> Any:
    return _alike(json.loads(render(build_report(run), "json")), run, options)


def _answers(run: Run, options: list[str]) -> Any:
    return _alike(json.loads(render_answers(build_answers(run), "json")), run, options)


def _fits(run: Run, options: list[str]) -> Any:
    return _alike(json.loads(render_fits(str(run.path), build_fits(run), "json")), run, options)


def _drawn(run: Run, options: list[str]) -> Any:
    kinds = ("loss", "smoothness", "fit", "frontier")
    assert set(kinds) <= set(PLOTS)
    rows = {kind: draw(run, kind, run.path / "plots" / f"{kind}.svg")[::97] for kind in kinds}
    return _alike(json.loads(json_text(rows)), run, options)


def test_edges_are_those_of_the_arm_s_own_option(run_of: Callable[..., Run]) -> None:
    cells = [{RATE: rate, "problem.learning_rate": other} for rate in (0.3, 1.0, 3.0) for other in (1, "1")]
    run = run_of(cells)
    trials = select(run, ())
    names = short_names(run.swept)
    edges = find_edges(build_report(run), trials, names, labels_of(run, trials))
    assert {(edge.path, edge.value) for edge in edges} == {(RATE, 3.0)}
    assert len({edge.context for edge in edges}) == 2


@pytest.mark.parametrize("sort", ["opt", "-opt", OPT, f"-{OPT}"])
def test_rows_can_be_sorted_by_path_or_short_name_and_by_values_of_several_types(alike: Run, sort: str) -> None:
    values = [cell.values["opt"] for cell in build_report(alike, sort=sort).cells]
    present = [value for value in values if value is not None]
    texts = [value for value in present if isinstance(value, str)]
    assert texts == sorted(texts, reverse=sort.startswith("-"))
    assert values[-1] is None


def test_a_metric_called_like_the_end_of_another_s_interval_keeps_its_column(
    made_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = made_run(tmp_path / "run", [{RATE: 0.3}], seeds=2, more={"valid_loss_low": 7.0, "valid_loss_direction": 8.0})
    (cell,) = csv.DictReader(render(build_report(run), "csv").splitlines())
    assert (cell["best_valid_loss_low"], cell["best_valid_loss_direction"]) == ("7.0", "8.0")
    assert float(cell["best_valid_loss:low"]) < float(cell["best_valid_loss"]) < float(cell["best_valid_loss_high"])
    assert cell["best_valid_loss:direction"] == "min"
