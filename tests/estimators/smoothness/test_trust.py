"""What is noise is null, what is doubtful is flagged, and a maximum never prefers either."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from estimators import (
    judge,
    measure_adaptive_smoothness,
    measure_chebyshev_smoothness,
    measure_directional_smoothness,
)

METHODS = [measure_directional_smoothness, measure_chebyshev_smoothness, measure_adaptive_smoothness]


def at(value: float) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([value], dtype=torch.float64)}


@pytest.mark.parametrize(
    ("ratio", "trust", "value"),
    [(10.0, "trusted", 10.0), (9.99, "flagged", 9.99), (3.0, "flagged", 3.0), (2.99, "noise", None)],
)
def test_the_words_change_at_ten_and_at_three_times_the_floor(ratio: float, trust: str, value: float | None) -> None:
    judgement = judge([ratio], [1.0])
    assert (judgement.trust, judgement.value) == (trust, value)
    assert judgement.snr == ratio
    assert judgement.noise_floor == 1.0


def test_a_larger_flagged_ratio_never_displaces_a_trusted_one() -> None:
    judgement = judge([50.0, 20.0, 30.0], [10.0, 1.0, 1.0])
    assert (judgement.value, judgement.index, judgement.trust, judgement.num_trusted) == (30.0, 2, "trusted", 2)


def test_where_only_flagged_ratios_are_left_the_largest_of_them_is_given_and_called_so() -> None:
    judgement = judge([50.0, 40.0, 8.0], [20.0, 10.0, 2.0])
    assert (judgement.value, judgement.index, judgement.trust, judgement.num_trusted) == (40.0, 1, "flagged", 0)


def test_without_a_step_there_is_nothing_and_without_an_audit_no_verdict() -> None:
    assert judge([None, None], [None, None]).trust == "no step"
    assert judge([1.0, 2.0], None).trust == "unaudited"
    assert judge([1.0, 2.0], None).value == 2.0


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_overflow_is_seen_and_not_maximised_over(broken: float) -> None:
    judgement = judge([5.0, broken, 7.0], [0.1, 0.1, 0.1])
    assert judgement.trust == "overflow"
    assert judgement.value is not None
    assert not math.isfinite(judgement.value)


def test_a_zero_change_over_a_floor_is_noise_and_over_no_floor_a_measured_zero() -> None:
    assert judge([0.0], [1.0]).value is None
    assert judge([0.0], [0.0]).value == 0.0


@given(
    ratios=st.lists(st.floats(0, 1e3), min_size=1, max_size=6),
    floor=st.floats(1e-6, 1e3),
)
def test_the_value_is_one_of_the_ratios_and_three_times_its_floor_at_least(ratios: list[float], floor: float) -> None:
    judgement = judge(list(ratios), [floor] * len(ratios))
    if judgement.value is None:
        assert max(ratios) / floor < 3
    else:
        assert judgement.index is not None
        assert ratios[judgement.index] == judgement.value == max(ratios)
        assert judgement.value / floor >= 3


@pytest.mark.parametrize("measure", METHODS)
def test_a_measurement_below_its_noise_is_null_but_keeps_its_ratios(measure: object) -> None:
    found = measure(lambda p: {"x": p["x"] ** 3}, at(1.0), at(1.001), fractions=[0.5, 1.0], gradient_error=1.0)  # type: ignore[operator]
    assert found.smoothness is None
    assert found.argmax_fraction is None
    assert found.trust == "noise"
    assert found.by_fraction == pytest.approx((3.0015, 3.003), rel=1e-3)
    assert found.snr is not None
    assert found.snr < 3


@pytest.mark.parametrize("measure", METHODS)
def test_the_same_weights_twice_give_null_and_say_why(measure: object) -> None:
    found = measure(lambda p: {"x": p["x"] ** 3}, at(1.0), at(1.0), fractions=[0.5, 1.0], gradient_error=1e-9)  # type: ignore[operator]
    assert (found.smoothness, found.trust, found.update_norm, found.mechanical_bound) == (None, "no step", 0, None)


def test_rounding_shows_first_where_the_step_is_shortest() -> None:
    found = measure_directional_smoothness(
        lambda p: {"x": p["x"]}, at(0.0), at(1.0), fractions=[0.1, 0.5, 1.0], gradient_error=0.05
    )
    # The floors are 2 * 0.05 / gamma = 1, 0.2 and 0.1.
    assert found.trust == "trusted"
    assert found.num_trusted == 1
    assert found.argmax_fraction == 1.0
    assert found.noise_floor == pytest.approx(0.1)


def test_the_floor_of_a_curve_counts_how_much_the_polynomials_magnify_errors() -> None:
    found = measure_chebyshev_smoothness(
        lambda p: {"x": p["x"]}, at(0.0), at(1.0), fractions=[0.1, 1.0], gradient_error=1e-6
    )
    exact = measure_directional_smoothness(
        lambda p: {"x": p["x"]}, at(0.0), at(1.0), fractions=[0.1], gradient_error=1e-6
    )
    at_the_short_end = measure_chebyshev_smoothness(
        lambda p: {"x": p["x"]}, at(0.0), at(1.0), fractions=[0.1], gradient_error=1e-6
    )
    assert found.by_fraction == pytest.approx((1.0, 1.0))
    assert at_the_short_end.noise_floor is not None
    assert exact.noise_floor is not None
    assert 0.5 < at_the_short_end.noise_floor / exact.noise_floor < 2
