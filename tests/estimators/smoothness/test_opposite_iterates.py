"""Steps that lead to the other side of a symmetric valley, where descent with too large a step ends."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from estimators.smoothness.adaptive import TOLERANCE, measure_adaptive_smoothness
from estimators.smoothness.chebyshev import measure_chebyshev_smoothness
from estimators.smoothness.directional import DirectionalSmoothness, fractions_of, measure_directional_smoothness

Function = Callable[[Tensor], Tensor]
FRACTIONS = fractions_of(0.1)
_ROUNDING = 1e-6

ADAPTIVE, CHEBYSHEV = measure_adaptive_smoothness, measure_chebyshev_smoothness


def measured(
    f: Function, start: float, end: float, measure: Callable[..., DirectionalSmoothness] = ADAPTIVE
) -> tuple[DirectionalSmoothness, DirectionalSmoothness]:
    """A measurement, and the exact one on the grid of ten."""

    def gradient(point: dict[str, Tensor]) -> dict[str, Tensor]:
        x = point["x"].clone().requires_grad_(True)
        return {"x": torch.autograd.grad(f(x).sum(), x)[0]}

    points = [{"x": torch.tensor([value], dtype=torch.float64)} for value in (start, end)]
    exact = measure_directional_smoothness(gradient, *points, fractions=FRACTIONS)
    return measure(gradient, *points, fractions=FRACTIONS, value=lambda point: float(f(point["x"]))), exact


def steep(x: Tensor) -> Tensor:
    """The steep function of Theorem 4 at L0 = 1, L1 = 2: exponential to both sides, quadratic between."""
    return (torch.exp(2 * x.abs()) - 2 * x.abs() - 1) / 4


KNOWN: list[tuple[str, Function, float, float]] = [
    ("x^4", lambda x: x**4, 1.0, 9.76),
    ("cosh 3x", lambda x: torch.cosh(3 * x), 1.0, math.nan),
    ("log cosh 10x", lambda x: torch.nn.functional.softplus(20 * x) - 10 * x, 1.0, math.nan),
    ("theorem 4", steep, 1.5, math.nan),
]


@pytest.mark.parametrize("measure", [ADAPTIVE, CHEBYSHEV])
@pytest.mark.parametrize(("name", "f", "at", "value"), KNOWN, ids=[name for name, *_ in KNOWN])
def test_the_largest_ratio_between_opposite_points_is_found_or_its_error_is_said(
    name: str, f: Function, at: float, value: float, measure: Callable[..., DirectionalSmoothness]
) -> None:
    found, exact = measured(f, at, -at, measure)
    assert exact.smoothness is not None
    assert found.smoothness is not None
    assert math.isnan(value) or exact.smoothness == pytest.approx(value)
    assert found.interpolation_error is not None
    off = abs(exact.smoothness - found.smoothness)
    assert off <= found.interpolation_error + _ROUNDING * exact.smoothness
    if measure is ADAPTIVE:
        assert off <= TOLERANCE * exact.smoothness
    assert found.is_cycle is exact.is_cycle is True


@pytest.mark.parametrize("measure", [ADAPTIVE, CHEBYSHEV])
def test_a_step_of_a_whole_period_is_not_flat(measure: Callable[..., DirectionalSmoothness]) -> None:
    found, exact = measured(lambda x: torch.sin(4 * math.pi * x), 0.0, 1.0, measure)
    assert exact.smoothness is not None
    assert found.smoothness is not None
    assert found.interpolation_error is not None
    assert abs(exact.smoothness - found.smoothness) <= found.interpolation_error + _ROUNDING
    assert exact.is_cycle is False


def test_a_step_along_the_slope_is_no_cycle_and_one_that_was_not_made_is_not_known() -> None:
    assert measured(lambda x: x**4, 2.0, 1.0)[0].is_cycle is False
    assert measured(lambda x: x**4, 1.0, 1.0)[0].is_cycle is None


NUMBERS = st.floats(-3, 3).map(lambda value: round(value, 2))
COEFFICIENTS = st.lists(NUMBERS, min_size=1, max_size=4)


def _even(coefficients: list[float]) -> Function:
    return lambda x: sum(c * x ** (2 * k + 2) for k, c in enumerate(coefficients))  # type: ignore[return-value]


def _odd(coefficients: list[float]) -> Function:
    return lambda x: sum(c * x ** (2 * k + 1) for k, c in enumerate(coefficients))  # type: ignore[return-value]


def _hinges(coefficients: list[float]) -> Function:
    return lambda x: x**2 / 10 + sum(c * torch.relu(x.abs() - k / 2) ** 2 for k, c in enumerate(coefficients))


def _features(coefficients: list[float]) -> Function:
    return lambda x: sum(c * torch.tanh((k + 1) * x + c) for k, c in enumerate(coefficients))  # type: ignore[return-value]


@pytest.mark.parametrize("family", [_even, _odd, _hinges, _features])
@given(coefficients=COEFFICIENTS, start=NUMBERS, stretch=st.sampled_from([1.0, 0.98, 1.05, 0.5, 2.0]))
@settings(max_examples=150, derandomize=True, deadline=None)
def test_no_miss_is_larger_than_what_the_row_claims(
    family: Callable[[list[float]], Function], coefficients: list[float], start: float, stretch: float
) -> None:
    f = family(coefficients)
    for measure in (ADAPTIVE, CHEBYSHEV):
        found, exact = measured(f, start, -start * stretch, measure)
        assume(exact.smoothness is not None and exact.smoothness > 1e-9 and math.isfinite(exact.smoothness))
        assert exact.smoothness is not None
        assert found.smoothness is not None
        off = exact.smoothness - found.smoothness
        if measure is ADAPTIVE:
            assert off <= (TOLERANCE + _ROUNDING) * exact.smoothness, "a search misses more than its tolerance"
        else:
            assert found.interpolation_error is not None
            assert abs(off) <= found.interpolation_error + _ROUNDING * exact.smoothness, (
                "a curve misses more than it says"
            )
