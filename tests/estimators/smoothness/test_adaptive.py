"""The maximum of eq. (20) is the exact grid's, from gradients only where it may lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from estimators import fractions_of, measure_adaptive_smoothness, measure_directional_smoothness
from estimators.probe.gradient import Params
from estimators.smoothness.curve import SecantCurve

FRACTIONS = fractions_of(0.1)


def line(slope: Callable[[float], float]) -> Callable[[Params], Params]:
    """The gradient of a function of one number."""
    return lambda point: {"x": torch.tensor([slope(float(point["x"]))], dtype=torch.float64)}


def between(start: float, end: float) -> tuple[Params, Params]:
    one, other = ({"x": torch.tensor([value], dtype=torch.float64)} for value in (start, end))
    return one, other


@pytest.mark.parametrize("middle", [0.15, 0.3, 0.6])
def test_a_peak_between_the_first_two_points_is_found(middle: float) -> None:
    def slope(x: float) -> float:
        return math.tanh(12 * (x - middle))

    def loss(point: Params) -> float:
        return math.log(math.cosh(12 * (float(point["x"]) - middle))) / 12

    exact = measure_directional_smoothness(line(slope), *between(0, 1), fractions=FRACTIONS)
    found = measure_adaptive_smoothness(line(slope), *between(0, 1), fractions=FRACTIONS, value=loss)
    assert found.argmax_fraction not in {0.5, 1.0}
    assert found.argmax_fraction == exact.argmax_fraction
    assert found.smoothness == exact.smoothness


def test_where_the_curve_is_of_no_use_it_ends_as_the_exact_grid() -> None:
    def rough(x: float) -> float:
        return x * (1 + 1e-3 * math.sin(4000 * x))

    asked: list[float] = []

    def slope(x: float) -> float:
        asked.append(x)
        return rough(x)

    exact = measure_directional_smoothness(line(rough), *between(0, 1), fractions=FRACTIONS)
    found = measure_adaptive_smoothness(line(slope), *between(0, 1), fractions=FRACTIONS, tolerance=1e-9)
    assert found.by_fraction == exact.by_fraction
    assert found.smoothness == exact.smoothness
    assert found.num_gradients == 11
    assert found.interpolation_error == 0
    assert sorted(asked) == pytest.approx([0.0, *FRACTIONS]), "none twice"


def test_the_loss_is_asked_for_after_the_gradient_at_the_same_point() -> None:
    asked: list[tuple[str, float]] = []

    def gradient(point: Params) -> Params:
        asked.append(("gradient", float(point["x"])))
        return {"x": point["x"] ** 3}

    def loss(point: Params) -> float:
        asked.append(("loss", float(point["x"])))
        return float(point["x"]) ** 4 / 4

    found = measure_adaptive_smoothness(gradient, *between(1, 2), fractions=FRACTIONS, value=loss)
    assert [name for name, _ in asked] == ["gradient", "loss"] * found.num_gradients
    assert all(asked[i][1] == asked[i + 1][1] for i in range(0, len(asked), 2))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_says_nothing_and_ends_nothing(broken: float) -> None:
    slope = line(lambda x: math.tanh(12 * (x - 0.3)))
    without = measure_adaptive_smoothness(slope, *between(0, 1), fractions=FRACTIONS)
    found = measure_adaptive_smoothness(slope, *between(0, 1), fractions=FRACTIONS, value=lambda point: broken)
    assert repr(found) == repr(without)
    assert found.num_gradients > 3


def test_an_overflow_is_seen() -> None:
    found = measure_adaptive_smoothness(
        line(lambda x: math.inf if x > 0.9 else x), *between(0, 1), fractions=FRACTIONS, gradient_error=1e-9
    )
    assert found.trust == "overflow"
    assert not math.isfinite(found.smoothness or 0.0)


def test_fractions_that_could_not_be_trusted_are_not_measured() -> None:
    """A ratio of 1 everywhere, over floors of 0.04 / gamma: trusted from 0.4 on."""
    asked: list[float] = []

    def slope(x: float) -> float:
        asked.append(x)
        return x + 1e-3 * math.sin(40 * x)

    found = measure_adaptive_smoothness(
        line(slope), *between(0, 1), fractions=FRACTIONS, gradient_error=0.02, tolerance=1e-6
    )
    assert found.trust == "trusted"
    assert min(x for x in asked if x > 0) == pytest.approx(0.4)


def test_a_step_that_rounds_away_near_its_start_is_measured_where_it_is_there() -> None:
    step = torch.finfo(torch.float64).eps
    found = measure_adaptive_smoothness(line(lambda x: x), *between(1, 1 + step), fractions=FRACTIONS)
    exact = measure_directional_smoothness(line(lambda x: x), *between(1, 1 + step), fractions=FRACTIONS)
    assert None in exact.by_fraction
    assert found.smoothness == exact.smoothness == 1


@given(
    waves=st.lists(st.tuples(st.floats(-2, 2), st.floats(0.1, 30), st.floats(0, 6)), min_size=1, max_size=3),
    delta=st.sampled_from([1.0, 0.5, 0.25, 0.1]),
    error=st.none() | st.floats(1e-12, 1),
    tolerances=st.tuples(st.floats(1e-3, 0.5), st.floats(1e-3, 0.5)).map(sorted),
)
def test_the_value_is_a_measured_ratio_and_a_looser_tolerance_never_costs_more(
    waves: list[tuple[float, float, float]], delta: float, error: float | None, tolerances: list[float]
) -> None:
    slope = line(lambda x: sum(height * math.sin(pitch * x + phase) for height, pitch, phase in waves))
    options: dict[str, Any] = {"fractions": fractions_of(delta), "gradient_error": error}
    exact = measure_directional_smoothness(slope, *between(0, 1), **options)
    strict, loose = (
        measure_adaptive_smoothness(
            slope,
            *between(0, 1),
            value=lambda point: -sum(h / p * math.cos(p * float(point["x"]) + s) for h, p, s in waves),
            tolerance=tolerance,
            **options,
        )
        for tolerance in tolerances
    )
    assert loose.num_gradients <= strict.num_gradients <= exact.num_gradients
    assert len(strict.by_fraction) == len(exact.by_fraction)
    assert strict.interpolation_error is not None
    if strict.smoothness is not None and strict.argmax_fraction is not None:
        at = exact.by_fraction[options["fractions"].index(strict.argmax_fraction)]
        assert strict.smoothness == strict.by_fraction[options["fractions"].index(strict.argmax_fraction)] == at
        assert strict.interpolation_error <= tolerances[0] * strict.smoothness
    if strict.trust == "trusted":
        assert strict.smoothness is not None
        assert exact.smoothness is not None
        assert strict.smoothness <= exact.smoothness
        assert strict.num_trusted <= exact.num_trusted


def test_a_tolerance_that_is_not_positive_is_refused() -> None:
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be positive"):
            measure_adaptive_smoothness(line(lambda x: x), *between(0, 1), fractions=[1.0], tolerance=tolerance)


def test_the_curve_goes_through_what_it_was_given_and_moves_by_what_is_left_out() -> None:
    curve = SecantCurve()
    assert curve.changes_without(np.array([0.5])).tolist() == [math.inf]
    for node, height in ((1.0, 3.0), (0.5, 2.0), (0.25, 5.0)):
        curve.add(node, {"x": torch.tensor([node * height]), "y": torch.zeros(2)}, node)
    assert curve.nodes == (1.0, 0.5, 0.25)
    assert curve.norms(np.array([0.25, 0.5, 1.0])) == pytest.approx([5.0, 2.0, 3.0])
    line_through_two = curve.norms(np.array([0.25]), without=2)
    assert line_through_two == pytest.approx([1.5])
    assert curve.changes_without(np.array([0.25]))[0] == pytest.approx(3.5)
