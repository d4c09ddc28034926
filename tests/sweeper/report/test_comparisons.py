"""What a comparison says: which arm is better, by how much, of how many cells, and what chance may have done."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators.fits.intervals import mean_interval
from estimators.fits.significance import holm, p_value
from sweeper.report.comparisons import Comparison
from sweeper.report.render.comparisons import comparison_lines, comparison_notes, comparison_text
from sweeper.report.render.summary import render
from sweeper.report.summary import build_report
from sweeper.tables.run import Run

CLIPPED, PLAIN = "sgd + clip_norm", "sgd"


def compared(*differences: float, **more: Any) -> Comparison:
    """Loss of clipped minus unclipped training, of some seeds."""
    p = p_value(differences)
    known: dict[str, Any] = {"p_value": p, "p_adjusted": p, "context": "", **more}
    interval = mean_interval(differences)
    return Comparison(first=CLIPPED, second=PLAIN, difference=interval, as_chosen=interval, **known)


def said(*differences: float, **more: Any) -> str:
    return comparison_text(compared(*differences, **more), "best valid loss")


def test_what_is_decided_says_who_is_better_and_by_how_much() -> None:
    assert said(-0.4, -0.5, -0.6) == (
        "sgd + clip_norm is better than sgd by 0.50 [0.25, 0.75] in best valid loss (3 paired seeds)"
    )
    assert said(0.4, 0.5, 0.6).startswith("sgd + clip_norm is worse than sgd by 0.50 [0.25, 0.75]")
    assert said(0.4, 0.5, 0.6, larger_is_better=True).startswith("sgd + clip_norm is better than sgd by 0.50")
    assert said(-1.0, -1.0).startswith("sgd + clip_norm is better than sgd by 1 in")
    assert "[corpus=a] by 0.50" in said(-0.4, -0.5, -0.6, context="corpus=a")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ((0.1, -0.3, 0.15), "from 0.60 worse to 0.63 better"),
        ((0.0003, -0.0004), "from 0.0044 worse to 0.0045 better"),
        ((300.0, -500.0), "from 4982 worse to 5182 better"),
    ],
)
def test_what_is_undecided_is_told_by_its_interval_alone(differences: tuple[float, ...], words: str) -> None:
    text = said(*differences)
    assert text.startswith("sgd + clip_norm against sgd: undecided at 95 %, from ")
    assert words in text
    assert "is better" not in text


def test_seeds_that_say_nothing_of_chance_are_called_that() -> None:
    assert said(-0.5) == (
        "sgd + clip_norm against sgd: 0.5 better in best valid loss, but one seed says nothing about chance"
    )
    assert said() == "sgd + clip_norm against sgd: no seed that all of their cells have done"
    assert said(0.0, 0.0).startswith("sgd + clip_norm against sgd: no difference in best valid loss")


def test_the_best_of_many_says_so_and_a_note_what_that_means() -> None:
    text = said(-0.4, -0.5, -0.6, cells_tried=(12, 1))
    assert text.endswith("(3 paired seeds, the best of 12 cells against the only cell)")
    chosen, unequal = comparison_notes([compared(-0.4, -0.5, -0.6, cells_tried=(12, 1))])
    assert "are the best of the other seeds" in chosen
    assert unequal.startswith("arms had unequal numbers of cells (sgd + clip_norm 12 and sgd 1)")
    assert len(comparison_notes([compared(-0.4, -0.5, -0.6, cells_tried=(12, 12))])) == 1
    assert comparison_notes([compared(-0.4, -0.5, -0.6)]) == []
    assert comparison_notes([compared(-0.4, cells_tried=(2, 2))]) == [], "there is no interval"


def of_rates(run_of, losses):
    """A run of clipped and unclipped cells at several rates: losses by clip_norm and rate, one per seed."""
    return run_of(
        [
            {"update_rule.learning_rate": rate, "update_rule.clip_norm": norm}
            for norm, by_rate in losses.items()
            for rate in by_rate
        ],
        seeds=3,
        loss=lambda cell, seed: losses[cell["update_rule.clip_norm"]][cell["update_rule.learning_rate"]][seed],
    )


def test_each_seed_is_compared_by_the_cells_that_the_others_choose(run_of: Callable[..., Run]) -> None:
    # The best of the other two seeds, of clipped cells: seed 0: rate 2 (2.5 of 4), 1: rate 1 (2 of 3), 2: rate 2.
    losses = {0.25: {1.0: (1.0, 3.0, 1.0), 2.0: (2.0, 1.5, 1.0)}, None: {1.0: (4.0, 5.0, 6.0)}}
    (comparison,) = build_report(of_rates(run_of, losses)).comparisons
    assert (comparison.first, comparison.cells_tried) == (CLIPPED, (2, 1))
    # By hand: 2 - 4, 3 - 5, 1 - 6.
    assert comparison.difference.mean == pytest.approx((-2 - 2 - 5) / 3)
    # Of all seeds rate 2 is the best, with a mean of 1.5.
    of_best = [2.0 - 4.0, 1.5 - 5.0, 1.0 - 6.0]
    assert comparison.as_chosen == mean_interval(of_best)
    assert comparison.p_value == pytest.approx(2 * p_value(of_best)), "of two clipped cells"
    # Nadeau and Bengio: 1/3 becomes 1/3 + 1/2.
    half = max(mean_interval([-2, -2, -5]).high + 3, mean_interval(of_best).high + 3.5) * math.sqrt(2.5)
    assert comparison.difference.high - comparison.difference.mean == pytest.approx(half)


def test_a_choice_that_no_seed_changes_costs_no_width(run_of: Callable[..., Run]) -> None:
    losses = {0.25: {1.0: (1.0, 1.1, 1.2), 2.0: (3.0, 3.5, 4.0)}, None: {1.0: (4.0, 4.2, 4.1)}}
    report = build_report(of_rates(run_of, losses))
    (comparison,) = report.comparisons
    assert comparison.difference == comparison.as_chosen
    of = mean_interval([-3.0, -3.1, -2.9])
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((of.low, of.high))
    best = {one.arm: one.held_out for one in report.bests}
    assert best[CLIPPED] == pytest.approx(1.1)
    assert math.isnan(best[PLAIN]), "of one cell there is nothing to choose"
    assert "where the other seeds choose" not in render(report, "table"), "it would be the same number"


def test_what_choosing_is_worth_is_shown_where_it_changes_the_loss(run_of: Callable[..., Run]) -> None:
    losses = {0.25: {1.0: (1.0, 3.0, 1.0), 2.0: (2.0, 1.5, 1.0)}, None: {1.0: (4.0, 5.0, 6.0)}}
    text = render(build_report(of_rates(run_of, losses)), "md")
    assert "(2 cells tried; 2 where the other seeds choose)" in text


@given(st.lists(st.lists(st.floats(1, 2), min_size=3, max_size=3), min_size=1, max_size=4))
def test_what_is_decided_has_an_interval_without_zero(rows: list[list[float]]) -> None:
    of = [compared(*row) for row in rows]
    assert all(not one.difference.low <= 0 <= one.difference.high for one in of if one.is_decided)


def test_of_several_comparisons_chance_gets_one_share() -> None:
    alone = compared(-0.4, -0.5, -0.6)
    assert alone.p_value == pytest.approx(0.013, abs=5e-4)
    among = compared(-0.4, -0.5, -0.6, p_adjusted=6 * alone.p_value, num_compared=6)
    assert (alone.verdict, among.verdict) == ("sgd + clip_norm is better", "undecided at 95 %")
    text = comparison_text(among, "loss")
    assert "better by 0.50 [0.25, 0.75] in loss taken alone, but undecided with 6 comparisons, p = 0.078" in text
    assert comparison_notes([alone, among])[-1].startswith("6 comparisons: each interval is 95 % by itself")


def test_a_report_corrects_for_all_its_comparisons(run_of: Callable[..., Run]) -> None:
    cells: list[Mapping[str, Any]] = [
        {"update_rule.learning_rate": 1.0, "update_rule.clip_norm": norm, "problem.corpus": corpus}
        for corpus in "abc"
        for norm in (None, 0.25)
    ]
    report = build_report(run_of(cells, seeds=3))
    assert len(report.comparisons) == 3
    assert [one.num_compared for one in report.comparisons] == [3, 3, 3]
    assert [one.p_adjusted for one in report.comparisons] == holm([one.p_value for one in report.comparisons])
    document = json.loads(render(report, "json"))["comparisons"]
    assert [one["cells_tried"] for one in document] == [[1, 1]] * 3
    assert all(0 <= one["p_value"] <= one["p_adjusted"] <= 1 for one in document)


def test_holm_s_adjustment_is_his() -> None:
    # Holm (1979), the rule worked out by hand: 3 x 0.01, 2 x 0.015 raised to the one before it, 1 x 0.06.
    assert holm([0.06, 0.01, 0.015]) == pytest.approx([0.06, 0.03, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.02


@given(st.lists(st.floats(0, 1), max_size=8))
def test_adjusted_p_values_are_no_smaller_keep_their_order_and_decide_no_more_than_bonferroni_allows(
    values: list[float],
) -> None:
    adjusted = holm(values)
    assert all(p <= q <= min(1.0, len(values) * p) for p, q in zip(values, adjusted, strict=True))
    pairs = sorted(zip(values, adjusted, strict=True))
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)
    if values:
        assert min(adjusted) == pytest.approx(min(1.0, len(values) * min(values)))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6))
def test_a_p_value_is_below_5_percent_where_the_interval_leaves_zero_out(values: list[float]) -> None:
    interval = mean_interval(values)
    width = interval.high - interval.low
    if min(abs(interval.low), abs(interval.high)) > 1e-6 * (width + 1e-9):
        assert (p_value(values) < 0.05) == (interval.low > 0 or interval.high < 0)


def test_cells_chosen_by_validation_are_compared_on_the_test_data_too(run_of: Callable[..., Run]) -> None:
    losses = {0.25: {1.0: (1.0, 1.1, 1.2), 2.0: (3.0, 3.5, 4.0)}, None: {1.0: (4.0, 4.2, 4.1)}}
    tests = {0.25: {1.0: (2.0, 2.3, 2.2), 2.0: (0.1, 0.1, 0.1)}, None: {1.0: (2.1, 2.1, 2.1)}}
    run = of_rates(run_of, losses)
    table = pd.read_parquet(run.path / "trials.parquet")
    table["test_loss"] = [
        tests[None if norm != norm else norm][rate][seed]
        for norm, rate, seed in zip(table["clip_norm"], table["learning_rate"], table["seed"], strict=True)
    ]
    table.to_parquet(run.path / "trials.parquet")
    valid, test = build_report(Run(run.path)).comparisons
    assert (valid.loss, test.loss) == ("best_valid_loss", "test_loss")
    # Rate 2 has the best test loss by far, and no part in it.
    assert test.difference == test.as_chosen
    assert test.difference.mean == pytest.approx(np.mean([2.0 - 2.1, 2.3 - 2.1, 2.2 - 2.1]))
    assert valid.difference.mean == pytest.approx(-3.0)
    text = render(build_report(Run(run.path)), "md")
    assert "sgd + clip_norm against sgd: undecided at 95 %" in text
    assert "better in test loss" in text
    assert "never by the test data" in text


def test_where_one_trial_has_no_test_loss_there_is_no_comparison_on_it(run_of: Callable[..., Run]) -> None:
    run = of_rates(run_of, {0.25: {1.0: (1.0, 1.1, 1.2)}, None: {1.0: (4.0, 4.2, 4.1)}})
    table = pd.read_parquet(run.path / "trials.parquet")
    table["test_loss"] = [1.0] * 5 + [math.nan]
    table.to_parquet(run.path / "trials.parquet")
    assert [one.loss for one in build_report(Run(run.path)).comparisons] == ["best_valid_loss"]


def test_of_very_many_pairs_those_that_are_decided_are_put_into_words():
    open_one, decided = compared(-0.4, 0.3, 0.1), compared(-0.40, -0.41, -0.39, -0.40)
    assert decided.is_decided
    assert not open_one.is_decided
    few = comparison_lines([open_one] * 14 + [decided])
    assert len(few) == 15
    many = comparison_lines([open_one] * 20 + [decided])
    assert many == [
        comparison_text(decided, decided.loss.replace("_", " ")),
        "20 other pairs of arms: nothing is decided; --format json has all",
    ]
