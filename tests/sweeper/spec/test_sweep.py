"""The sweep section: values, combinations, exclusions, bounds."""

import itertools
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import SpecError
from sweeper.planning.plan import expand
from sweeper.spec import Sweep, loads_spec
from sweeper.spec.sections.axes import Linear, Log, Random, Uniform, generated

BASE = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 5}\n"


def sweep_of(block: str, *, base: str = BASE) -> Sweep:
    return loads_spec(f"{base}sweep: {block}\n", name="s.yaml", folder=Path())


def swept(block: str, *, base: str = BASE) -> list[tuple[object, ...]]:
    return [tuple(cell.swept.values()) for cell in sweep_of(block, base=base).cells]


def assert_complains(block: str, message: str, *, base: str = BASE) -> None:
    with pytest.raises(SpecError, match=message):
        sweep_of(block, base=base)


def test_without_a_sweep_there_is_one_cell_and_one_seed():
    sweep = loads_spec(BASE, folder=Path())
    assert [cell.swept for cell in sweep.cells] == [{}]
    assert sweep.sweep.seeds == (0,)


def test_a_grid_gives_all_combinations_the_first_path_slowest():
    found = swept("{grid: {update_rule.learning_rate: [1, 2], update_rule.clip_norm: [null, 0.25]}}")
    assert found == [(1.0, None), (1.0, 0.25), (2.0, None), (2.0, 0.25)]


def test_zip_takes_its_lists_in_step_for_every_point_of_the_grid():
    block = "{grid: {train.steps: [1, 2]}, zip: {update_rule.learning_rate: [3, 4], update_rule.momentum: [0, 0.5]}}"
    assert swept(block) == [(1, 3.0, 0.0), (1, 4.0, 0.5), (2, 3.0, 0.0), (2, 4.0, 0.5)]


def test_cases_set_what_they_name_and_leave_the_rest_as_it_is():
    block = "{cases: [{}, {update_rule.momentum: 0.9}, {update_rule.optimizer: adam, update_rule.learning_rate: 1}]}"
    cells = sweep_of(block).cells
    assert [cell.swept for cell in cells] == [
        {"update_rule.momentum": 0.0, "update_rule.optimizer": "sgd", "update_rule.learning_rate": 0.1},
        {"update_rule.momentum": 0.9, "update_rule.optimizer": "sgd", "update_rule.learning_rate": 0.1},
        {"update_rule.momentum": 0.0, "update_rule.optimizer": "adam", "update_rule.learning_rate": 1.0},
    ]


def test_lists_and_sections_that_are_swept_stay_what_they_are_with_their_defaults():
    base = BASE.replace("learning_rate: 0.1", "learning_rate: 0.1, optimizer: adam")
    assert swept("{grid: {update_rule.betas: [[0.9, 0.99], [0.8, 0.9]]}}", base=base) == [
        ([0.9, 0.99],),
        ([0.8, 0.9],),
    ]
    assert swept("{grid: {update_rule.schedule: [{use: constant}, {use: cosine}]}}") == [
        ({"use": "constant"},),
        ({"use": "cosine", "final_fraction": 0.0},),
    ]


def test_what_the_sweep_gives_need_not_be_written_outside_it():
    block = "{grid: {update_rule.learning_rate: [1, 2], train.steps: [7]}}"
    sweep = sweep_of(block, base="problem: {use: deep_linear}\n")
    assert [cell.train["steps"] for cell in sweep.cells] == [7, 7]
    assert sweep.update_rule.learning_rate == 1


def test_sections_on_the_way_to_a_swept_path_are_created():
    cells = sweep_of(
        "{grid: {problem.model.layers: [1, 2]}}", base=BASE.replace("deep_linear", "language_modeling")
    ).cells
    assert [cell.problem["model"]["layers"] for cell in cells] == [1, 2]
    assert all(cell.problem["model"]["hidden"] == 200 for cell in cells)


def test_the_problem_itself_can_be_swept():
    cells = sweep_of(
        "{cases: [{problem.use: deep_linear, problem.width: 3}, {problem.use: image_classification}]}"
    ).cells
    assert [(cell.problem["use"], cell.swept["problem.width"]) for cell in cells] == [
        ("deep_linear", 3),
        ("image_classification", None),
    ]


def test_options_of_a_problem_of_ones_own_are_swept_as_they_are():
    base = BASE.replace("deep_linear", "'pkg.mod:factory', depth: {a: 1}")
    cells = sweep_of("{grid: {problem.depth.a: [1, 1.5, x], problem.new: [[1, 2]]}}", base=base).cells
    assert [cell.problem["depth"]["a"] for cell in cells] == [1, 1.5, "x"]
    assert cells[0].problem["new"] == [1, 2]


def test_exclude_takes_cells_that_match_in_every_path():
    block = (
        "{grid: {update_rule.learning_rate: [1, 2, 3], update_rule.clip_norm: [null, 0.25]}, "
        "exclude: [{update_rule.learning_rate: [1, 2.0], update_rule.clip_norm: null}, {update_rule.learning_rate: 3}]}"
    )
    assert swept(block) == [(1.0, 0.25), (2.0, 0.25)]


def test_an_excluded_cell_need_not_be_valid():
    block = (
        "{grid: {update_rule.clip_norm: [null, 1], update_rule.normalize: [null, 1]}, "
        "exclude: [{update_rule.clip_norm: 1, update_rule.normalize: 1}]}"
    )
    assert swept(block) == [(None, None), (None, 1.0), (1.0, None)]


def test_lists_and_sections_can_be_excluded_as_they_are_written():
    block = (
        "{grid: {update_rule.betas: [[0.9, 0.99], [0.8, 0.9]], "
        "update_rule.schedule: [{use: cosine}, {use: constant}]}, "
        "exclude: [{update_rule.betas: [[0.9, 0.99]], update_rule.schedule: {use: constant}}, "
        "{update_rule.betas: [[0.8, 0.9]], update_rule.schedule.use: cosine}]}"
    )
    base = BASE.replace("learning_rate: 0.1", "learning_rate: 0.1, optimizer: adam")
    assert swept(block, base=base) == [
        ([0.9, 0.99], {"use": "cosine", "final_fraction": 0.0}),
        ([0.8, 0.9], {"use": "constant"}),
    ]


def test_true_is_not_excluded_with_one():
    base = BASE.replace("deep_linear", "'pkg.mod:factory'")
    assert swept("{grid: {problem.x: [1, true]}, exclude: [{problem.x: 1}]}", base=base) == [(True,)]


def test_a_path_through_a_single_value_is_refused():
    base = BASE.replace("deep_linear", "'pkg.mod:factory', width: 3")
    assert_complains(
        "{grid: {problem.width.x: [1]}}",
        "problem.width is not a section, so problem.width.x cannot be set",
        base=base,
    )
    assert_complains("{grid: {problem..x: [1]}}", "is not a path", base=base)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{grid: {update_rule.learning_rate: []}}", r"grid\.update_rule\.learning_rate: has no values"),
        ("{grid: {update_rule.learning_rate: 1}}", "must be a list of values, found 1"),
        ("{grid: {update_rule.learning_rat: [1]}}", "unknown path(.|\n)*did you mean 'update_rule.learning_rate'"),
        ("{grid: {learning_rate: [1]}}", "unknown path(.|\n)*known: "),
        ("{grid: {update_rule: [1]}}", "cannot be swept as a whole"),
        ("{grid: {measure.every: [1]}}", "cannot be swept(.|\n)*measured in the same way"),
        ("{grid: {seed: [1]}}", r"cannot be swept(.|\n)*sweep\.seeds"),
        ("{grid: {train.checkpoint_every: [1]}}", "checkpoints do not change what is trained"),
        ("{grid: {train.steps: [1]}, zip: {train.steps: [2]}}", "train.steps is already set by sweep.grid"),
        (
            "{grid: {update_rule.schedule: [{use: cosine}], update_rule.schedule.final_fraction: [0.1]}}",
            "update_rule.schedule.final_fraction is already set by sweep.grid",
        ),
        (
            "{grid: {update_rule.schedule.final_fraction: [0.1], update_rule.schedule: [{use: cosine}]}}",
            "update_rule.schedule is already set by sweep.grid",
        ),
        ("{zip: {train.steps: [1, 2], update_rule.learning_rate: [1]}}", "equally long: train.steps has 2, .* has 1"),
        ("{cases: []}", "cases: is empty"),
        ("{cases: [5]}", r"cases\[0\]: must be a section, found 5"),
        ("{cases: [{name: 5}]}", r"cases\[0\]\.name: must be text, found 5(.|\n)*quotes make text of a number"),
        ("{cases: [{name: null}]}", r"cases\[0\]\.name: must be text, found null"),
        ("{cases: [{name: ''}]}", r"cases\[0\]\.name: cannot be the name of a case, found ''"),
        ("{cases: [{name: ' a'}]}", r"cases\[0\]\.name: cannot be the name of a case, found ' a'"),
        ('{cases: [{name: "a\\nb"}]}', r"cases\[0\]\.name: cannot be the name of a case"),
        (f"{{cases: [{{name: {'a' * 65}}}]}}", "a text of at most 64 characters on one line"),
        ("{cases: [{name: None}]}", "cannot be the name of a case, found 'None'(.|\n)*takes it for no name at all"),
        (
            "{cases: [{name: a}, {name: b, train.steps: 6}, {name: a, train.steps: 7}]}",
            r"s\.yaml:4:62: sweep\.cases\[2\]\.name: 'a' is already the name of sweep\.cases\[0\]",
        ),
        (
            "{cases: [{name: \u00e9}, {name: e\u0301, train.steps: 7}]}",
            r"'e\\u0301' is too much like '\\xe9', the name of sweep\.cases\[0\](.|\n)*differ in more than case",
        ),
        ("{cases: [{name: Adam}, {name: adam, train.steps: 7}]}", "'adam' is too much like 'Adam', the name of"),
        ('{cases: [{name: ab}, {name: "a\u034fb", train.steps: 7}]}', r"'a\\u034fb' is too much like 'ab'"),
        ('{cases: [{name: "\u3164"}]}', "cannot be the name of a case"),
        ("{cases: [{name: a}, {name: b}]}", r"cases\[1\]: gives the same cell as sweep\.cases\[0\]"),
        ("{grid: {name: [a]}}", "cannot be swept(.|\n)*a spec describes one sweep"),
        ("{seeds: [1, 1]}", "the seed 1 appears twice"),
        ("{seeds: []}", "seeds: is empty"),
        ("{seeds: [-1]}", r"seeds\[0\]: must be at least 0"),
        ("{seeds: 1.5}", "seeds: must be a whole number or a list, found 1.5"),
        ("{seeds: true}", "seeds: must be a whole number or a list, found true"),
        ("{sedes: 1}", "sedes: unknown key(.|\n)*did you mean 'seeds'"),
        ("{exclude: [{train.steps: 5}]}", "train.steps is not swept, so nothing can be excluded by it"),
        ("{exclude: [{}]}", r"exclude\[0\]: is empty"),
        ("{grid: {train.steps: [1]}, exclude: [{train.steps: 2}]}", r"exclude\[0\]: excludes nothing"),
        ("{grid: {train.steps: [1]}, exclude: [{train.steps: 1}]}", "every cell is excluded"),
        (
            "{grid: {train.steps: [5, 5.0]}}",
            r"train\.steps\[1\]: gives the same cell as sweep\.grid\.train\.steps\[0\]",
        ),
        ("{cases: [{}, {train.steps: 5}]}", r"cases\[1\]: gives the same cell as sweep\.cases\[0\]"),
        ("{grid: {update_rule.learning_rate: [1, -2, 3]}}", r"learning_rate\[1\]: must be greater than 0, found -2"),
        ("{grid: {update_rule.clip_norm: [1], update_rule.normalize: [1]}}", "exclude each other"),
        ("{grid: {update_rule.learning_rate.x: [1]}}", "unknown path"),
        ("{cases: [{update_rule.optimizer: adam, update_rule.momentum: 0.9}]}", r"cases\[0\].*momentum has no effect"),
        ("{grid: {train.steps: {log: [1, 10]}}}", r"log: has too few values, found 2"),
        ("{grid: {train.steps: {log: [0, 10, 3]}}}", r"log\[0\]: must be greater than 0, found 0"),
        ("{grid: {train.steps: {log: [1, 10, 1]}}}", r"log\[2\]: must be at least 2, found 1"),
        ("{grid: {train.steps: {log: [1, 1, 3]}}}", "first and last value are the same"),
        ("{grid: {train.steps: {log: [1, 10, 3]}}}", r"steps: must be a whole number, found 3\.16"),
        ("{grid: {train.steps: {lag: [1, 10, 3]}}}", "must be a list of values, found a section"),
        ("{grid: {train.steps: {log: [1, 2, 2], linear: [1, 2, 2]}}}", "linear: unknown key(.|\n)*known: log$"),
        ("{grid: {update_rule.clip_norm: {random: {count: 3}}}}", "needs one range"),
        ("{grid: {update_rule.clip_norm: {random: {uniform: [2, 1], count: 3}}}}", "the range is empty, found 2 to 1"),
        ("{grid: {update_rule.clip_norm: {random: {uniform: [1, 2]}}}}", r"random\.count: is required"),
        ("{grid: {problem.use: [deep_linear, nothing]}}", "unknown problem 'nothing'"),
    ],
)
def test_what_cannot_be_swept_is_refused_with_the_reason(block, message):
    assert_complains(block, message)


def test_a_case_may_have_a_name_which_is_no_part_of_what_is_trained():
    plain = sweep_of("{grid: {update_rule.learning_rate: [1, 2]}, cases: [{}, {train.steps: 6}]}")
    named = sweep_of("{grid: {update_rule.learning_rate: [1, 2]}, cases: [{}, {name: 'long, once', train.steps: 6}]}")
    assert [cell.case for cell in named.cells] == [None, "long, once", None, "long, once"]
    assert [cell.swept for cell in named.cells] == [cell.swept for cell in plain.cells]
    assert [t.trial_id for t in expand(named).trials] == [t.trial_id for t in expand(plain).trials]
    assert [t.cell_id for t in expand(named).trials] == [t.cell_id for t in expand(plain).trials]
    written = yaml.safe_dump(named.resolved())
    assert [cell.case for cell in loads_spec(written, folder=Path()).cells] == [cell.case for cell in named.cells]


def test_a_case_is_named_from_the_command_line_too():
    text = f"{BASE}sweep: {{cases: [{{}}, {{train.steps: 6}}]}}\n"
    sweep = loads_spec(text, folder=Path(), overrides=["sweep.cases[1].name=long"])
    assert [cell.case for cell in sweep.cells] == [None, "long"]


def test_a_sweep_that_is_too_large_is_refused_by_arithmetic():
    block = (
        "{grid: {update_rule.learning_rate: {log: [1, 2, 5000]}, update_rule.clip_norm: {log: [1, 2, 2000]}}, seeds: 3}"
    )
    message = "sweep: 30,000,000 trials, at most 100,000(.|\n)*5,000 update_rule.learning_rate x 2,000 .* x 3 seeds"
    assert_complains(block, message)


def test_values_are_checked_even_where_the_sweep_itself_is_wrong():
    assert_complains(
        "{grid: {update_rule.clip_norm: [-1], update_rule.nothing: [1]}}",
        r"clip_norm\[0\]: must be greater than 0(.|\n)*update_rule\.nothing: unknown path",
    )


def test_every_invalid_value_is_reported_once_however_many_cells_it_is_in():
    with pytest.raises(SpecError) as caught:
        sweep_of("{grid: {train.steps: [1, 2, 3], update_rule.learning_rate: [-1, 1, -2]}}")
    assert len([line for line in str(caught.value).splitlines() if line.startswith("s.yaml")]) == 2


def test_logarithmic_values_have_both_ends_and_are_round_where_they_can_be():
    assert generated(Log(log=(1e-3, 10, 9)), "p")[::2] == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert generated(Linear(linear=(0, 1, 11)), "p")[3] == 0.3


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 40))
def test_neighbours_of_a_logarithmic_axis_have_one_ratio(first, last, count):
    if math.isclose(first, last, rel_tol=1e-3):
        return
    values = generated(Log(log=(first, last, count)), "p")
    assert (values[0], values[-1], len(values)) == (first, last, count)
    ratios = [b / a for a, b in itertools.pairwise(values)]
    assert all(math.isclose(ratio, ratios[0], rel_tol=1e-10) for ratio in ratios)


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 20))
def test_random_values_stay_as_they_are_when_more_are_asked_for(seed, fewer, more):
    def draw(count: int) -> tuple[float, ...]:
        return generated(Random(random=Uniform(log_uniform=(1e-3, 10), count=count, seed=seed)), "update_rule.eps")

    assert draw(fewer) == draw(fewer + more)[:fewer]
    assert all(1e-3 <= value <= 10 for value in draw(fewer))


def test_random_values_never_change_and_differ_between_paths_and_seeds():
    axis = Random(random=Uniform(uniform=(0, 1), count=2))
    assert generated(axis, "update_rule.learning_rate") == FIRST_DRAWS
    assert generated(axis, "update_rule.clip_norm") != FIRST_DRAWS
    assert (
        generated(Random(random=Uniform(uniform=(0, 1), count=2, seed=1)), "update_rule.learning_rate") != FIRST_DRAWS
    )


FIRST_DRAWS = (0.176425692354, 0.114566873614)


def test_an_average_that_waits_for_evaluations_needs_some():
    text = """
problem: {use: deep_linear}
update_rule: {learning_rate: 0.1, average: {use: non_monotone}}
train: {steps: 5}
"""
    with pytest.raises(SpecError, match=r"3:35: update_rule\.average: non_monotone needs evaluations"):
        loads_spec(text, folder=Path())
    assert loads_spec(text.replace("steps: 5", "steps: 5, evaluate_every: 2"), folder=Path()).cells


def test_each_micro_batch_is_clipped_only_where_steps_have_several():
    text = """
problem: {use: deep_linear}
update_rule: {learning_rate: 0.1, clip_norm: 1, clip_each_micro_batch: true}
train: {steps: 5}
"""
    with pytest.raises(
        SpecError, match=r"3:49: update_rule\.clip_each_micro_batch: .*train\.accumulate is 1"
    ) as caught:
        loads_spec(text, folder=Path())
    assert "set train.accumulate above 1" in str(caught.value)
    assert loads_spec(text.replace("steps: 5", "steps: 5, accumulate: 2"), folder=Path()).cells
    swept = text + "sweep: {grid: {train.accumulate: [1, 2]}}\n"
    with pytest.raises(SpecError, match="needs steps of several micro-batches"):
        loads_spec(swept, folder=Path())


@pytest.mark.parametrize("rule", ["clip_threshold: {use: percentile}", "clip_groups: [{match: '*', clip_norm: 1}]"])
def test_each_micro_batch_is_clipped_by_a_number_alone(rule):
    text = f"""
problem: {{use: deep_linear}}
update_rule: {{learning_rate: 0.1, {rule}, clip_each_micro_batch: true}}
train: {{steps: 5, accumulate: 2}}
"""
    with pytest.raises(SpecError, match="there is nothing to do to each micro-batch"):
        loads_spec(text, folder=Path())
    with pytest.raises(SpecError, match="a step is skipped as a whole"):
        loads_spec(text.replace(rule, "clip_norm: 1, when_exceeded: skip"), folder=Path())


@pytest.mark.parametrize(
    "option",
    [
        "clip_value: 1",
        "clip_adaptive: 0.1",
        "clip_threshold: {use: percentile}",
        "clip_groups: [{match: '*', clip_norm: 1}]",
        "when_exceeded: skip, clip_norm: 1",
        "average: {use: from_step, step: 1}",
    ],
)
def test_rules_that_the_engine_of_analytic_functions_lacks_are_refused(option):
    text = f"""
problem: {{use: analytic, function: {{use: quadratic}}, start: 1.0}}
update_rule: {{learning_rate: 0.1, {option}}}
train: {{steps: 5}}
"""
    with pytest.raises(SpecError, match=f"{option.partition(':')[0]}: has no meaning for an analytic function"):
        loads_spec(text, folder=Path())


def test_a_schedule_is_excluded_as_it_is_written_with_options_of_later_versions_left_out():
    block = (
        "{grid: {update_rule.schedule: [{use: constant}, {use: constant, warmup: 5}, {use: cosine}]}, "
        "exclude: [{update_rule.schedule: {use: constant}}]}"
    )
    assert swept(block) == [
        ({"use": "constant", "warmup": 5.0},),
        ({"use": "cosine", "final_fraction": 0.0},),
    ]
