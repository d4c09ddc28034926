"""Choosing the best of several cells by the losses that are compared: what it costs, and what is left."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from estimators.fits.intervals import mean_interval
from estimators.fits.selection import choose, compare_best
from estimators.fits.significance import p_value

SWEEPS = 2000


def null_sweeps(first, second, seeds, *, shared=0.0):
    """Losses of cells that differ by chance alone, with a share of the variance in common to all cells of a seed."""
    generator = np.random.default_rng(0)
    for _ in range(SWEEPS):
        common = math.sqrt(shared) * generator.normal(size=seeds)
        losses = common + math.sqrt(1 - shared) * generator.normal(size=(first + second, seeds))
        yield losses[:first], losses[first:]


def test_on_each_seed_the_others_choose() -> None:
    # Without seed 0 the second cell is the best (2.5 of 4), without 1 the first (2 of 3), without 2 the second (3.5).
    losses = [[1.0, 3.0, 1.0], [2.0, 1.5, 1.0]]
    choice = choose(losses)
    assert (choice.best, choice.losses) == (1, (2.0, 1.5, 1.0))
    assert choice.held_out == (2.0, 3.0, 1.0)
    assert not choice.is_settled


def test_the_comparison_by_hand() -> None:
    found = compare_best([[1.0, 3.0, 1.0], [2.0, 1.5, 1.0]], [[4.0, 5.0, 6.0]])
    assert found.difference.mean == pytest.approx((-2 - 2 - 5) / 3)
    assert found.as_chosen == mean_interval([-2.0, -3.5, -5.0])
    assert found.p_value == pytest.approx(2 * p_value([-2.0, -3.5, -5.0])), "the better one is the best of two"
    half = max(mean_interval([-2, -2, -5]).high + 3, found.as_chosen.high + 3.5) * math.sqrt(1 + 3 / 2)
    assert found.difference.high - found.difference.mean == pytest.approx(half)


def test_one_cell_each_is_a_plain_paired_comparison() -> None:
    found = compare_best([[1.0, 1.2, 1.1]], [[1.5, 1.4, 1.9]])
    differences = np.subtract([1.0, 1.2, 1.1], [1.5, 1.4, 1.9])
    assert found.difference == found.as_chosen == mean_interval(differences)
    assert found.p_value == p_value(differences)


@given(arrays(np.float64, (3, 1), elements=st.floats(-10, 10)))
def test_one_seed_has_a_difference_and_no_interval(losses: np.ndarray) -> None:
    found = compare_best(losses[:2], losses[2:])
    assert found.difference.mean == pytest.approx(losses[:2].min() - losses[2, 0])
    assert math.isnan(found.difference.low)
    assert math.isnan(found.p_value)


@pytest.mark.parametrize("cells", [(1, 8), (4, 4), (8, 8)])
@pytest.mark.parametrize("seeds", [3, 8])
def test_the_held_out_difference_has_no_bias_and_its_interval_covers(cells: tuple[int, int], seeds: int) -> None:
    found = [compare_best(*losses) for losses in null_sweeps(*cells, seeds)]
    means = np.array([one.difference.mean for one in found])
    assert abs(means.mean()) < 4 * means.std() / math.sqrt(SWEEPS)
    covered = np.mean([one.difference.low <= 0 <= one.difference.high for one in found])
    # 0.95 within two binomial standard deviations, or more.
    assert covered > 0.94


def test_as_chosen_the_best_of_eight_is_better_than_one_by_chance_alone() -> None:
    found = [compare_best(*losses) for losses in null_sweeps(8, 1, 3)]
    assert np.mean([one.as_chosen.mean for one in found]) < -0.7, "0.8 standard deviations of a loss"


@pytest.mark.parametrize(("seeds", "shared"), [(3, 0.0), (3, 0.7), (8, 0.0)])
def test_a_verdict_for_the_arm_with_more_cells_is_rarer_than_the_level_says(seeds: int, shared: float) -> None:
    """2.5 % would be nominal to this side; uncorrected it is three to four times that."""
    found = [compare_best(*losses) for losses in null_sweeps(8, 1, seeds, shared=shared)]
    corrected = np.mean([one.p_value < 0.05 and one.as_chosen.mean < 0 for one in found])
    uncorrected = np.mean([one.as_chosen.high < 0 for one in found])
    assert corrected <= 0.025
    assert uncorrected > 0.06


@pytest.mark.parametrize("losses", [[], [[]], [1.0, 2.0], [[[1.0]]]])
def test_losses_of_another_shape_are_refused(losses: object) -> None:
    with pytest.raises(ValueError, match="shape"):
        choose(losses)


def test_groups_of_other_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="the same seeds; found 2 and 3"):
        compare_best([[1.0, 2.0]], [[1.0, 2.0, 3.0]])


def test_cells_may_be_judged_by_something_they_are_not_chosen_by() -> None:
    first, tests = [[1.0, 3.0, 1.0], [2.0, 1.5, 1.0]], [[7.0, 8.0, 9.0], [4.0, 5.0, 6.0]]
    choice = choose(first, tests)
    assert (choice.losses, choice.held_out) == ((4.0, 5.0, 6.0), (4.0, 8.0, 6.0))
    found = compare_best(first, [[0.0, 0.0, 0.0]], judged=(tests, [[1.0, 1.0, 1.0]]))
    assert found.difference.mean == pytest.approx((3 + 7 + 5) / 3)
    with pytest.raises(ValueError, match=r"must have the shape \(2, 3\)"):
        choose(first, [[1.0, 2.0, 3.0]])
