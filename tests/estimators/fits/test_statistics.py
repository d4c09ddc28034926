"""Correlations against known power laws, intervals against their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators import correlation_interval, log_log_correlation, mean_interval, rank_correlation
from estimators.fits.statistics import p_value


def test_a_power_law_has_correlation_one_and_its_inverse_minus_one() -> None:
    grad_norm = np.geomspace(0.1, 10, 20)
    assert log_log_correlation(grad_norm, 3 * grad_norm**1.5) == pytest.approx(1)
    assert log_log_correlation(grad_norm, 3 / grad_norm) == pytest.approx(-1)
    assert rank_correlation(grad_norm, np.exp(grad_norm)) == pytest.approx(1)


def test_pairs_that_have_no_logarithm_are_left_out() -> None:
    x = [1.0, 2.0, 4.0, 0.0, math.nan, 8.0]
    y = [1.0, 2.0, 4.0, 5.0, 6.0, math.inf]
    assert log_log_correlation(x, y) == pytest.approx(1)


@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([], [])])
def test_too_few_pairs_or_no_spread_say_nothing(x: list[float], y: list[float]) -> None:
    assert math.isnan(log_log_correlation(x, y))
    assert math.isnan(rank_correlation(x, y))


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one = mean_interval([3.0])
    assert (one.mean, one.count) == (3.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(mean_interval([math.nan]).mean)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(5.0, 2.0, size=(4000, 3))
    covered = [i.low <= 5.0 <= i.high for i in map(mean_interval, draws)]
    # Binomial standard deviation 0.0035: four of them on either side.
    assert 0.936 < np.mean(covered) < 0.964


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_an_interval_of_correlations_stays_between_minus_one_and_one(values: list[float]) -> None:
    interval = correlation_interval(values)
    assert -1 <= interval.mean <= 1
    if math.isfinite(interval.low):
        assert -1 <= interval.low <= interval.mean <= interval.high <= 1


def test_correlations_of_seeds_have_an_interval_that_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    draws = np.tanh(generator.normal(0.8, 0.3, size=(4000, 3)))
    covered = [i.low <= math.tanh(0.8) <= i.high for i in map(correlation_interval, draws)]
    assert 0.936 < np.mean(covered) < 0.964


def test_equal_correlations_say_nothing_about_others() -> None:
    interval = correlation_interval([1.0, 1.0, math.nan])
    assert (interval.mean, interval.count) == (1.0, 2)
    assert math.isnan(interval.low)
    assert math.isnan(correlation_interval([]).mean)


@pytest.mark.parametrize("values", [[1.0, 0.5], [0.99989, 0.999985, 0.999945], [-1.0, 0.2]])
def test_a_correlation_of_nearly_one_does_not_decide_alone(values: list[float]) -> None:
    interval = correlation_interval(values)
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert min(values) <= interval.mean <= max(values)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.count == len(values)


def test_values_near_the_largest_float_have_a_mean_and_a_test_without_overflow():
    interval = mean_interval([1e308, 1.2e308, 1.4e308])
    assert interval.mean == pytest.approx(1.2e308)
    assert interval.low == pytest.approx(1.2e308 - 4.302652729749464 * 0.2e308 / 3**0.5)
    assert p_value([1e308, 1.2e308, 1.4e308]) == pytest.approx(p_value([1.0, 1.2, 1.4]))
    assert mean_interval([3e120, 5e120]).mean == 4e120
