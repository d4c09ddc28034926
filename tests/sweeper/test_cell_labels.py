"""What cells are called: short, and never two alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cell_labels import TRANSFORMS, CellLabels, Labels, tell_apart
from sweeper.spec.sections import update_rule

RATE, NORM, OFFSET, THEORY = (
    f"update_rule.{name}" for name in ("learning_rate", "clip_norm", "normalize", "from_theory")
)
MODEL, SCHEDULE = "problem.model", "update_rule.schedule"


def labels_of(*cells: dict[str, Any], cases: dict[str, str] | None = None) -> list[str]:
    labels = CellLabels({str(at): cell for at, cell in enumerate(cells)}, cases)
    return [labels[str(at)] for at in range(len(cells))]


def section(use: str, **options: Any) -> dict[str, Any]:
    return {"use": use, **options}


def test_only_what_differs_is_said() -> None:
    cells = [{"train.steps": 100, RATE: rate, NORM: norm} for rate, norm in ((1.0, None), (1.0, 0.25), (20.0, 0.25))]
    assert labels_of(*cells) == [
        "learning_rate=1 no clipping",
        "learning_rate=1 clip_norm=0.25",
        "learning_rate=20 clip_norm=0.25",
    ]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([section("constant"), section("cosine", final_fraction=0.01)], ["constant", "cosine(0.01)"]),
        (
            [section("cosine", final_fraction=0.01), section("cosine", final_fraction=0.1)],
            ["cosine(0.01)", "cosine(0.1)"],
        ),
        (
            [section("lstm", layers=2, hidden=64, embedding=64), section("lstm", layers=2, hidden=128, embedding=128)],
            ["lstm(hidden=64)", "lstm(hidden=128)"],
        ),
        (
            [section("lstm", layers=n, hidden=hidden) for n, hidden in ((1, 64), (1, 128), (2, 64))],
            ["lstm(layers=1,hidden=64)", "lstm(layers=1,hidden=128)", "lstm(layers=2,hidden=64)"],
        ),
        ([section("lstm", layers=2, hidden=64), section("gpt", layers=4, heads=2)], ["lstm", "gpt"]),
        ([section("step_decay", milestones=[10, 20], factor=0.1), section("constant")], ["step_decay", "constant"]),
        (
            [section("step_decay", milestones=[10, 20], factor=0.1), section("step_decay", milestones=[5], factor=0.1)],
            ["step_decay(milestones=[10,20])", "step_decay(milestones=[5])"],
        ),
        ([[0.9, 0.999], [0.95, 0.999]], ["[0.9,0.999]", "[0.95,0.999]"]),
        ([None, {"halved": 0.05, "jitter": 5}], ["none", "(halved=0.05,jitter=5)"]),
        ([None, {}], ["none", "{}"]),
        (["{not json", "[either"], ["{not json", "[either"]),
    ],
)
def test_structured_values_are_shown_by_their_type_and_what_tells_them_apart(
    values: list[Any], labels: list[str]
) -> None:
    found = labels_of(*({"problem.part": value} for value in values))
    assert found == [f"part={label}" for label in labels]


def test_numbers_have_four_digits_unless_two_would_be_equal() -> None:
    assert labels_of({RATE: 0.0398107170553}, {RATE: 1.0}) == ["learning_rate=0.03981", "learning_rate=1"]
    assert labels_of({RATE: 1.00001}, {RATE: 1.00002}) == ["learning_rate=1.00001", "learning_rate=1.00002"]
    assert labels_of({NORM: 0.12345678}, {NORM: 0.12345679}) == ["clip_norm=0.12345678", "clip_norm=0.12345679"]


def test_one_entry_says_what_is_done_to_the_gradient() -> None:
    cells = [{NORM: None, OFFSET: None}, {NORM: 0.25, OFFSET: None}, {NORM: None, OFFSET: 0.5}]
    assert labels_of(*cells) == ["no clipping", "clip_norm=0.25", "normalize=0.5"]


def test_a_theorem_s_rule_is_not_called_unclipped() -> None:
    cells = [{THEORY: "vankov2024", RATE: None, NORM: None}, {THEORY: None, RATE: 0.1, NORM: None}]
    assert labels_of(*cells) == ["from_theory=vankov2024", "learning_rate=0.1 no clipping"]


def test_a_case_s_name_stands_for_whatever_is_the_same_in_all_its_cells() -> None:
    cells = [
        {RATE: rate, NORM: norm, SCHEDULE: schedule}
        for rate in (1.0, 2.0)
        for norm, schedule in ((None, section("constant")), (0.25, section("cosine", final_fraction=0.1)))
    ]
    named = {"0": "plain", "1": "as published", "2": "plain", "3": "as published"}
    assert labels_of(*cells, cases=named) == [
        "plain learning_rate=1",
        "as published learning_rate=1",
        "plain learning_rate=2",
        "as published learning_rate=2",
    ]
    some = {"1": "as published", "3": "as published"}
    assert labels_of(*cells, cases=some)[:2] == [
        "learning_rate=1 no clipping schedule=constant",
        "as published learning_rate=1",
    ]


def test_the_only_cell_is_called_by_all_its_values_or_that() -> None:
    alone = CellLabels({"a": {RATE: 0.5}})
    assert (alone["a"], alone.trial("a", 3)) == ("learning_rate=0.5", "learning_rate=0.5 seed=3")
    nothing = CellLabels({"a": {}})
    assert (nothing["a"], nothing.trial("a", 3)) == ("the only cell", "seed=3")


def test_cells_planned_before_a_path_was_swept_have_no_value_there() -> None:
    assert labels_of({RATE: 1.0}, {RATE: 1.0, "train.steps": 5}) == ["steps=none", "steps=5"]


def test_values_that_look_the_same_are_written_out() -> None:
    found = labels_of(*({"problem.depth": value} for value in (1, 1.0, "1", None, "none", True)))
    assert found == ["depth=1", "depth=1.0", 'depth="1"', "depth=null", 'depth="none"', "depth=true"]


def test_cells_that_differ_in_nothing_that_is_swept_are_numbered() -> None:
    assert labels_of({RATE: 1.0}, {RATE: 1.0}, {RATE: 2.0}) == [
        "learning_rate=1 (1)",
        "learning_rate=1 (2)",
        "learning_rate=2",
    ]
    assert tell_apart([{"a": "x"}, {"a": "x"}, {"a": "x (1)"}]) == ["a=x (2)", "a=x (3)", "a=x (1)"]


def test_part_of_a_cell_is_told_in_the_same_words() -> None:
    labels = CellLabels({
        str(at): {"problem.corpus": "a", RATE: rate, NORM: None} for at, rate in enumerate((1.0, 2.0))
    })
    assert labels.part({"learning_rate": 1.0, "clip_norm": None}) == "learning_rate=1"
    assert labels.part({"corpus": "a"}) == "", "all cells have it"
    assert labels.part({"seed": 3}) == "seed=3", "what is not swept is said"


def test_a_text_cannot_make_a_line_or_a_sequence_of_its_own() -> None:
    (first, _) = labels_of({"problem.name\x1b": "a\nb\x1b[2J"}, {"problem.name\x1b": "c"})
    assert first == "name\\x1b=a\\nb\\x1b[2J"


def test_the_transforms_are_those_of_the_spec() -> None:
    assert set(TRANSFORMS) == set(update_rule.TRANSFORMS)


def test_a_value_that_no_thing_has_is_shown_all_the_same() -> None:
    assert Labels([{"a": 1}]).text("a", 0.03981071) == "0.03981"


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "a b=1", "none", "1", "x" * 120 + "a" + "x" * 120, "x" * 120 + "b" + "x" * 120, "{", "[1]"]),
)
_SECTIONS = st.fixed_dictionaries(
    {"use": st.sampled_from(["lstm", "gpt"])},
    optional={"layers": _SCALARS, "hidden": _SCALARS, "part": st.dictionaries(st.sampled_from("xy"), _SCALARS)},
).map(json.dumps)
_CELL = st.fixed_dictionaries({
    MODEL: st.one_of(_SCALARS, _SECTIONS),
    SCHEDULE: st.one_of(_SCALARS, _SECTIONS),
    RATE: _SCALARS,
    NORM: st.one_of(st.none(), st.floats(1e-3, 10)),
})


@given(
    st.lists(_CELL, max_size=8), st.dictionaries(st.sampled_from("0123"), st.sampled_from(["a", "no clipping", "b"]))
)
def test_no_two_cells_have_equal_labels(cells: list[dict[str, Any]], cases: dict[str, str]) -> None:
    found = labels_of(*cells, cases={cell: name for cell, name in cases.items() if int(cell) < len(cells)})
    assert len(set(found)) == len(found)
    assert all(label.isprintable() and label for label in found)


@given(st.lists(st.one_of(_SCALARS, _SECTIONS), max_size=8))
def test_no_two_values_of_a_column_are_shown_alike(values: list[Any]) -> None:
    labels = Labels([{"a": value} for value in values])
    distinct = {(type(value), value): labels.text("a", value) for value in values}
    assert len(set(distinct.values())) == len(distinct)
