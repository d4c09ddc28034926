"""Correlations against known power laws, intervals against their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimators import correlation_interval, log_log_correlation, mean_interval, rank_correlation
from estimators.fits.correlations import partial_rank_correlation
from estimators.fits.intervals import geometric_interval, positive_interval, share_interval
from estimators.fits.significance import p_value


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


# Positive quantities


def covered(interval, draws, truth):
    """How often an interval holds the truth; its binomial standard deviation over 4000 draws is 0.0035."""
    return np.mean([found.low <= truth <= found.high for found in map(interval, draws)])


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("shape", [400.0, 4.0])
def test_the_interval_of_losses_covers_their_mean_where_they_scatter_widely_too(seeds, shape):
    """Gamma variables of mean 1 with a relative spread of 5 % and of 50 %."""
    draws = np.random.default_rng(0).gamma(shape, 1 / shape, size=(4000, seeds))
    assert 0.93 <= covered(positive_interval, draws, 1.0) <= 0.964


def test_where_values_scatter_as_much_as_they_are_large_students_t_misses_and_the_log_scale_less():
    draws = np.random.default_rng(0).gamma(1.0, size=(4000, 3))
    assert covered(positive_interval, draws, 1.0) > 0.93 > 0.90 > covered(mean_interval, draws, 1.0)


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_the_interval_of_positive_constants_covers_the_geometric_mean_exactly(seeds):
    draws = np.exp(np.random.default_rng(0).normal(1.0, 1.5, size=(4000, seeds)))
    assert 0.936 < covered(geometric_interval, draws, math.e) < 0.964


@given(st.lists(st.floats(1e-300, 1e300), min_size=2, max_size=6))
def test_an_interval_of_positive_values_stays_positive_and_holds_its_mean(values):
    for interval in (positive_interval(values), geometric_interval(values)):
        assert 0 <= interval.low <= interval.mean * (1 + 1e-9)
        assert interval.mean <= interval.high * (1 + 1e-9)


def test_a_mean_of_losses_is_their_plain_mean_and_close_ones_have_students_interval():
    values = [5.0, 5.01, 5.03]
    plain, interval = mean_interval(values), positive_interval(values)
    assert interval.mean == plain.mean == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == pytest.approx((plain.low, plain.high), rel=1e-4)


def test_zero_is_the_lower_end_where_a_value_is_zero_and_no_bound_where_one_is_negative():
    assert positive_interval([0.0, 1.0, 2.0]).low == 0.0
    assert positive_interval([-1.0, 1.0, 2.0]) == mean_interval([-1.0, 1.0, 2.0])
    on_boundary = geometric_interval([0.0, 1.0, 1.2])
    plain = mean_interval([0.0, 1.0, 1.2])
    high = plain.mean * math.exp((plain.high - plain.mean) / plain.mean)
    assert (on_boundary.low, on_boundary.high) == (0.0, pytest.approx(high))
    assert math.isnan(geometric_interval([0.0, 0.0]).high)
    assert geometric_interval([0.0, 0.0]).low == 0.0


# What is left of a correlation


def test_nothing_is_left_of_a_correlation_that_a_third_quantity_makes():
    """x and y are the third quantity times noise of their own, so that given it they are independent."""
    generator = np.random.default_rng(0)
    third = np.exp(generator.normal(size=20_000))
    x, y = (third * np.exp(0.5 * generator.normal(size=20_000)) for _ in range(2))
    assert rank_correlation(x, y) > 0.7
    # Ranks of Gaussians are almost Gaussian: 0.02 is left where Pearson's of the logs has 0.
    assert abs(partial_rank_correlation(x, y, third)) < 0.04


def test_what_a_third_quantity_has_no_part_in_is_left_whole():
    generator = np.random.default_rng(1)
    x, third = np.exp(generator.normal(size=(2, 5000)))
    y = x * np.exp(0.5 * generator.normal(size=5000))
    assert partial_rank_correlation(x, y, third) == pytest.approx(rank_correlation(x, y), abs=0.02)


@pytest.mark.parametrize("given_", [[1.0, 2.0, 3.0, 4.0, 5.0], [7.0] * 5, [math.nan] * 5])
def test_a_third_quantity_that_is_the_first_or_says_nothing_leaves_nothing_to_tell(given_):
    assert math.isnan(partial_rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 3.0, 5.0, 4.0], given_))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_an_interval_of_shares_holds_shares_and_their_mean(values: list[float]) -> None:
    interval = share_interval(values)
    assert 0 <= interval.low <= interval.mean * (1 + 1e-12)
    assert interval.mean <= interval.high * (1 + 1e-12)
    assert interval.high <= 1
    mirrored = share_interval([1 - value for value in values])
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_of_shares_close_together_it_is_students_t_and_of_percent_that_of_losses() -> None:
    close = [0.500, 0.501, 0.502]
    plain, share = mean_interval(close), share_interval(close)
    assert (share.low, share.high) == pytest.approx((plain.low, plain.high), rel=1e-4)
    percent = [91.0, 92.0, 93.0]
    assert share_interval(percent) == positive_interval(percent)
    assert share_interval([1.0, 1.0, 1.0]).low == share_interval([1.0, 1.0, 1.0]).high == 1.0
