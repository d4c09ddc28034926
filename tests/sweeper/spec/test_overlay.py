"""One spec laid over another: what wins, what stays, and whose line an error shows."""

import pytest

from sweeper.errors import SpecError
from sweeper.spec import load_spec

BELOW = """\
name: below
problem: {use: deep_linear, layers: 3, width: 4}
update_rule: {learning_rate: 0.1, momentum: 0.9}
train: {steps: 100}
measure: {every: 10, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid: {update_rule.clip_norm: [null, 1]}
  seeds: 3
"""


@pytest.fixture
def write(tmp_path):
    def put(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    put("below.yaml", BELOW)
    return put


def test_what_is_not_said_stays_and_what_is_said_wins(write):
    sweep = load_spec(write("above.yaml", "overlay: below.yaml\nname: above\nproblem: {width: 8}\nsweep: {seeds: 1}\n"))
    assert sweep.name == "above"
    assert (sweep.problem.layers, sweep.problem.width) == (3, 8)
    assert sweep.update_rule.momentum == 0.9
    assert sweep.sweep.seeds == (0,)
    assert len(sweep.cells) == 2
    assert sweep.measure.every == 10


def test_lists_and_null_replace_as_a_whole(write):
    text = "overlay: below.yaml\nmeasure: null\nsweep: {grid: {update_rule.clip_norm: [2, 3, 4]}}\n"
    sweep = load_spec(write("above.yaml", text))
    assert sweep.measure is None
    assert [cell.update_rule["clip_norm"] for cell in sweep.cells] == [2, 3, 4]


def test_another_use_replaces_the_section_with_its_options(write):
    text = "overlay: below.yaml\nproblem: {use: language_modeling, batch_size: 4}\nmeasure: null\n"
    assert load_spec(write("above.yaml", text)).problem.use == "language_modeling"


def test_specs_can_be_laid_over_several_and_paths_are_relative_to_each(write):
    write("inner/middle.yaml", "overlay: ../below.yaml\ntrain: {steps: 50}\n")
    sweep = load_spec(write("top.yaml", "overlay: inner/middle.yaml\nproblem: {width: 5}\n"))
    assert (sweep.train.steps, sweep.problem.width, sweep.problem.layers) == (50, 5, 3)


def test_the_command_line_wins_over_all(write):
    file = write("above.yaml", "overlay: below.yaml\ntrain: {steps: 50}\n")
    assert load_spec(file, ["train.steps=7"]).train.steps == 7


def test_the_trials_are_those_of_the_same_spec_written_in_one(write):
    laid = load_spec(write("above.yaml", "overlay: below.yaml\nproblem: {width: 8}\n"))
    whole = load_spec(write("whole.yaml", BELOW.replace("width: 4", "width: 8")))
    assert laid.resolved() == whole.resolved()
    assert "overlay" not in laid.resolved()


def test_an_error_shows_the_line_of_the_file_it_stands_in(write):
    write("wrong.yaml", BELOW.replace("width: 4", "widht: 4"))
    with pytest.raises(SpecError, match=r"wrong\.yaml:2:\d+: problem\.widht: unknown key"):
        load_spec(write("above.yaml", "overlay: wrong.yaml\n"))
    with pytest.raises(SpecError, match=r"above\.yaml:2:\d+: problem\.widht: unknown key"):
        load_spec(write("above.yaml", "overlay: below.yaml\nproblem: {widht: 4}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("overlay: nowhere.yaml\n", "no such file"),
        ("overlay: 3\n", "must be a path, found 3"),
        ("overlay: above.yaml\n", "is circular"),
        ("overlay: empty.yaml\n", "holds no sections"),
        ("overlay: torn.yaml\n", r"cannot be laid over torn\.yaml"),
        ("overlay: .\n", "is a folder"),
        ("overlays: below.yaml\n", "did you mean 'overlay'"),
    ],
)
def test_what_cannot_be_laid_over_says_why(write, text, message):
    write("empty.yaml", "")
    write("torn.yaml", "problem: {use: [\n")
    with pytest.raises(SpecError, match=message):
        load_spec(write("above.yaml", text))
