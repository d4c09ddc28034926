"""Hill's tail index: known power laws, their coverage, and tails that are no power law."""

from __future__ import annotations

import math

import numpy as np
import pytest

from estimators.fits.tails import hill, hill_curve, num_largest


@pytest.mark.parametrize("index", [1.0, 2.0, 4.0])
def test_a_power_law_is_found_and_its_interval_covers(index: float) -> None:
    generator = np.random.default_rng(0)
    found = [hill(generator.pareto(index, 500) + 1) for _ in range(1000)]
    assert np.median([one.mean for one in found]) == pytest.approx(index, rel=0.03)
    assert 0.93 < np.mean([one.low <= index <= one.high for one in found]) < 0.97


def test_a_law_that_is_a_power_only_far_out_is_near_its_index_for_few_of_the_largest() -> None:
    """|t| with three degrees of freedom falls like x^-3."""
    values = np.abs(np.random.default_rng(0).standard_t(3, 200_000))
    k, alpha = hill_curve(values)
    assert alpha[k == 500] == pytest.approx(3.0, rel=0.1)


def test_a_normal_tail_has_an_index_that_rises_towards_the_largest_values() -> None:
    k, alpha = hill_curve(np.abs(np.random.default_rng(0).normal(size=100_000)))
    few, many = float(alpha[k == 100][0]), float(alpha[k == 10_000][0])
    assert few > 1.5 * many > 4


def test_the_unit_does_not_matter() -> None:
    values = np.random.default_rng(0).pareto(2.0, 300) + 1
    assert hill(values).mean == pytest.approx(hill(1e-8 * values).mean)


def test_too_few_values_and_equal_ones_say_nothing_that_is_wrong() -> None:
    assert num_largest(10) == 0
    assert math.isnan(hill([1.0] * 10).mean)
    assert hill([3.0] * 50).mean == math.inf
    assert hill_curve([])[0].size == 0
    assert hill([*range(1, 50), math.nan, math.inf, -1.0]).count == 10
