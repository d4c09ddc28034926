"""Ratios of paired times, some of which never came."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from estimators.fits.censored import median_ratio, paired_ratios, sign_test


@given(smaller=st.integers(0, 60), larger=st.integers(0, 60))
def test_the_sign_test_is_scipys_binomial_test(smaller: int, larger: int) -> None:
    expected = binomtest(smaller, smaller + larger).pvalue if smaller + larger else 1.0
    assert sign_test(smaller, larger) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.tuples(st.integers(0, 1000) | st.just(math.inf), st.integers(0, 1000) | st.just(math.inf))))
def test_the_median_lies_in_the_middle_and_between_its_ends(pairs: list[tuple[float, float]]) -> None:
    ratios = paired_ratios(pairs)
    interval, (below, above) = median_ratio(ratios)
    assert interval.count == len(ratios) == sum(math.isfinite(one) or math.isfinite(other) for one, other in pairs)
    if not ratios:
        assert math.isnan(interval.mean)
        return
    assert 2 * sum(ratio <= below for ratio in ratios) >= len(ratios)
    assert 2 * sum(ratio >= above for ratio in ratios) >= len(ratios)
    if not math.isnan(interval.mean):
        assert below <= interval.mean * (1 + 1e-12)
        assert interval.mean <= above * (1 + 1e-12)
    if len(ratios) >= 6 and not math.isnan(interval.mean):
        assert interval.low <= interval.mean <= interval.high


@pytest.mark.parametrize("count", [6, 7, 9])
def test_the_ends_hold_the_median_as_often_as_they_say(count: int) -> None:
    draw = np.random.default_rng(count)
    hits = 0
    for _ in range(2000):
        times = np.exp(draw.normal(size=(count, 2))) * 100
        # A slow first side never gets there, as often as not beyond the median.
        times[times[:, 0] > 250, 0] = math.inf
        interval, _ = median_ratio(paired_ratios([tuple(pair) for pair in times]))
        hits += interval.low <= 1 <= interval.high
    assert hits / 2000 >= 0.95
