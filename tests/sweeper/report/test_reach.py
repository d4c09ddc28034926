"""Steps until a level: exact on known curves, censored where it is never reached, ratios paired by seed."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from estimators.fits.intervals import mean_interval
from sweeper.errors import ClipsweepError
from sweeper.report.answers import build_answers
from sweeper.report.reach import Reach, build_reach
from sweeper.report.render.reach import render_reach
from sweeper.tables.run import Run

RATE, NORM, CORPUS = "update_rule.learning_rate", "update_rule.clip_norm", "problem.corpus"
CLIPPED, PLAIN = "sgd + clip_norm", "sgd"

MakeRun = Callable[..., Run]


def crossing(level: float, rate: float, seed: int) -> float:
    """The first of steps 0 to 39 at which the made-up loss, 2 exp(-step rate / 100) + 0.5 + seed / 100, passes it."""
    step = math.ceil(-100 / rate * math.log((level - 0.5 - 0.01 * seed) / 2))
    return step if step < 40 else math.inf


@pytest.fixture
def run(run_of: MakeRun) -> Run:
    cells = [{RATE: rate, NORM: norm} for norm in (None, 0.25) for rate in (1.0, 2.0, 4.0)]
    return run_of(cells, seeds=3, measured=True, diverges=lambda cell, seed: cell == {RATE: 4.0, NORM: None})


def at_level(run: Run, level: float | None = 1.7, **options: Any) -> Reach:
    return build_reach(run, metric="train_loss", level=level, **options)


def test_the_first_step_is_that_of_the_known_curve(run: Run) -> None:
    for cell in at_level(run).cells:
        if cell.arm == PLAIN and cell.values["learning_rate"] == 4.0:
            continue
        assert cell.steps == {seed: crossing(1.7, cell.values["learning_rate"], seed) for seed in range(3)}
        assert set(cell.taken.values()) == {40}


def test_what_never_gets_there_is_infinite_and_says_never(run: Run) -> None:
    found = at_level(run)
    cells = {(cell.arm, cell.values["learning_rate"]): cell for cell in found.cells}
    slow, diverged = cells[PLAIN, 1.0], cells[PLAIN, 4.0]
    assert (slow.reached, slow.median) == (0, math.inf)
    assert diverged.reached == 0
    assert diverged.taken == dict.fromkeys(range(3), 20)
    assert "never, never, never" in render_reach(found, "table")
    assert not slow.is_best


def test_the_fastest_cells_are_compared_by_the_ratio_of_their_steps(run: Run) -> None:
    found = at_level(run)
    (ratio,) = found.ratios
    assert [(cell.arm, cell.values["learning_rate"]) for cell in found.cells if cell.is_best] == [
        (PLAIN, 2.0),
        (CLIPPED, 4.0),
    ]
    assert (ratio.first, ratio.second, ratio.cells_tried) == (CLIPPED, PLAIN, (3, 3))
    logs = [math.log((crossing(1.7, 4.0, seed) + 1) / (crossing(1.7, 2.0, seed) + 1)) for seed in range(3)]
    expected = mean_interval(logs)
    assert ratio.ratio.mean == pytest.approx(math.exp(expected.mean))
    assert (ratio.ratio.low, ratio.ratio.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert ratio.is_decided
    assert "sgd + clip_norm takes 0.5" in render_reach(found, "table")
    assert "(3 paired seeds, the fastest of 3 against 3)" in render_reach(found, "table")


def test_without_a_level_it_is_the_hardest_that_every_arm_reaches(run: Run) -> None:
    found = at_level(run, None)
    # The worst seed of the best unclipped cell, rate 2, at step 39: 1.436812, which is shown as 1.437.
    assert 2 * math.exp(-0.78) + 0.52 == pytest.approx(1.436812)
    assert found.level == 1.437
    again = at_level(run, 1.437)
    assert [cell.steps for cell in again.cells] == [cell.steps for cell in found.cells]
    assert all(any(cell.reached == 3 for cell in found.cells if cell.arm == arm) for arm in (PLAIN, CLIPPED))


@pytest.mark.parametrize("seeds", [3, 7])
def test_seeds_that_never_get_there_leave_a_median_and_from_six_pairs_on_an_interval(
    run_of: MakeRun, seeds: int
) -> None:
    cells = [{RATE: 4.0, NORM: 0.25}, {RATE: 2.0, NORM: None}]
    made = run_of(cells, seeds=seeds, diverges=lambda cell, seed: cell[NORM] is None and seed == 0)
    found = build_reach(made, metric="train_loss", level=1.7)
    (ratio,) = found.ratios
    # Seed 0 of the unclipped arm never gets there: the clipped one takes 0 times its steps.
    known = [(crossing(1.7, 4.0, seed) + 1) / (crossing(1.7, 2.0, seed) + 1) for seed in range(1, seeds)]
    assert ratio.is_censored
    assert ratio.ratio.mean == pytest.approx(np.median([0.0, *known]))
    # All pairs go one way: 2 / 2^n.
    assert ratio.p_adjusted == pytest.approx(2 / 2**seeds)
    if seeds == 3:
        assert math.isnan(ratio.ratio.low)
        assert not ratio.is_decided
    else:
        assert (ratio.ratio.low, ratio.ratio.high) == (0.0, pytest.approx(max(known)))
        assert ratio.is_decided
    assert "1 - 2" not in render_reach(found, "table")
    assert any("never reaches the level" in note for note in found.notes)


def test_an_arm_that_never_gets_there_has_a_ratio_without_end(run_of: MakeRun) -> None:
    made = run_of([{RATE: 4.0, NORM: 0.25}, {RATE: 1.0, NORM: None}], seeds=2)
    (ratio,) = build_reach(made, metric="train_loss", level=1.7).ratios
    assert (ratio.ratio.mean, ratio.ratio.count) == (0.0, 2)
    assert not ratio.is_decided
    turned = build_reach(made, metric="train_loss", level=0.1)
    assert ratio.middle == (0.0, 0.0)
    assert turned.ratios == (), "where no seed of either gets there, there is nothing to compare"
    assert "never, never" in render_reach(turned, "table")


def test_arms_are_compared_within_equal_values_of_what_else_is_swept(run_of: MakeRun) -> None:
    cells = [{RATE: 4.0, NORM: norm, CORPUS: corpus} for corpus in "ab" for norm in (None, 0.25)]
    found = build_reach(run_of(cells, seeds=2), metric="train_loss", level=1.7)
    assert [one.context for one in found.ratios] == ["corpus=a", "corpus=b"]
    assert [one.ratio.mean for one in found.ratios] == [1.0, 1.0]
    assert "[corpus=a]" in render_reach(found, "table")


def test_the_gradient_norm_of_the_measured_function_is_a_metric(run_of: MakeRun) -> None:
    # The made-up gradient norm is 2^(step / 8) at every fourth step: at most 1 at step 0.
    made = run_of([{RATE: 1.0, NORM: None}], seeds=2, measured=True)
    found = build_reach(made, metric="probe_grad_norm", level=1.0)
    assert found.cells[0].steps == {0: 0.0, 1: 0.0}
    assert found.notes[0] == (
        "probe_grad_norm is known every 4 steps, so that a level may have been reached up to 3 steps earlier"
    )


def test_a_metric_of_which_more_is_better_is_reached_from_below(run_of: MakeRun) -> None:
    made = run_of([{RATE: 1.0, NORM: None}], seeds=2, more={"valid_accuracy": 0.7})
    assert build_reach(made, metric="valid_accuracy", level=0.6).cells[0].reached == 2
    assert build_reach(made, metric="valid_accuracy", level=0.8).cells[0].reached == 0
    assert "steps until valid_accuracy ≥ 0.8" in render_reach(
        build_reach(made, metric="valid_accuracy", level=0.8), "md"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "valid_los"}, r"--metric valid_los: no such metric; known: .*valid_loss.*probe_grad_norm"),
        ({"level": math.nan}, "--level nan: must be a finite number"),
        ({"metric": "probe_grad_norm"}, "probe_grad_norm takes the estimator directional_smoothness"),
    ],
)
def test_what_cannot_be_answered_says_why(run_of: MakeRun, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ClipsweepError, match=words):
        build_reach(run_of([{RATE: 1.0, NORM: None}]), **options)


def test_where_an_arm_never_has_a_finite_value_a_level_must_be_given(run_of: MakeRun) -> None:
    made = run_of([{RATE: 1.0, NORM: None}], evaluations=lambda: [math.inf] * 5)
    with pytest.raises(ClipsweepError, match="choose one with --level"):
        build_reach(made, metric="valid_loss")


def test_csv_and_json_have_every_seed(run: Run) -> None:
    found = at_level(run)
    rows = list(csv.DictReader(io.StringIO(render_reach(found, "csv"))))
    assert len(rows) == 18
    assert [row["steps"] for row in rows if row["reached"] == "false"] == [""] * 9
    document = json.loads(render_reach(found, "json"))
    assert document["cells"][0]["steps"] == {"0": None, "1": None, "2": None}
    assert document["ratios"][0]["ratio"] == pytest.approx(found.ratios[0].ratio.mean)


def test_between_a_ratio_and_none_there_is_no_median(run_of: MakeRun) -> None:
    cells = [{RATE: 4.0, NORM: 0.25}, {RATE: 2.0, NORM: None}]
    made = run_of(cells, seeds=2, diverges=lambda cell, seed: cell[NORM] is None and seed == 0)
    found = build_reach(made, metric="train_loss", level=1.7)
    (ratio,) = found.ratios
    known = (crossing(1.7, 4.0, 1) + 1) / (crossing(1.7, 2.0, 1) + 1)
    assert ratio.middle == (0.0, pytest.approx(known))
    assert math.isnan(ratio.ratio.mean)
    assert f"takes between 0 and {known:.3g} times the steps of sgd" in render_reach(found, "md")


def test_a_choice_among_cells_counts_where_a_seed_never_gets_there_too(run_of: MakeRun) -> None:
    cells = [{RATE: 4.0, NORM: 0.25}, {RATE: 3.0, NORM: 0.25}, {RATE: 2.0, NORM: None}]
    made = run_of(cells, seeds=6, diverges=lambda cell, seed: cell[NORM] is None and seed == 0)
    (ratio,) = build_reach(made, metric="train_loss", level=1.7).ratios
    assert ratio.p_adjusted == pytest.approx(2 * 2 / 2**6)
    assert ratio.ratio.high < 1
    assert not ratio.is_decided, "one cell would have been"


def test_infinite_values_have_reached_nothing(run_of: MakeRun) -> None:
    made = run_of([{RATE: 1.0, NORM: None}], evaluations=lambda: [-math.inf, 3.0, 2.0, 1.0, math.inf])
    cell = build_reach(made, metric="valid_loss", level=2.5).cells[0]
    assert set(cell.steps.values()) == {20.0}


def test_equal_arms_have_no_difference(run_of: MakeRun) -> None:
    made = run_of([{RATE: 2.0, NORM: norm} for norm in (None, 0.25)], seeds=2)
    text = render_reach(build_reach(made, metric="train_loss", level=1.7), "md")
    assert "sgd + clip_norm against sgd: no difference in steps until train_loss" in text


def test_analytic_trials_are_pointed_to_their_own_command(module_inline_run: Callable[[str], Any]) -> None:
    spec = """
    problem: {use: analytic, assume: {L0: 1, L1: 1}, epsilon: 0.1, function: {use: theorem4_flat}, start_gap: 1}
    train: {steps: 100}
    sweep: {grid: {update_rule.learning_rate: [0.1, 0.2]}}
    """
    made = Run(module_inline_run(spec).run_dir.path)
    with pytest.raises(ClipsweepError, match="see `clipsweep theory`"):
        build_reach(made)
    assert all(math.isnan(one.effective_rate) and math.isnan(one.grad_norm[1]) for one in build_answers(made).activity)
