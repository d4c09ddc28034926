"""The line search against roots that are known on paper, or that SciPy finds in another way."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from estimators import find_crossing

Function = Callable[[float], float]

FORMS: dict[str, tuple[Function, float]] = {
    "quadratic": (lambda s: s * s - s, 1.0),
    "quartic": (lambda s: s**4 - s, 1.0),
    "exponential": (lambda s: math.exp(min(s, 700)) - 1 - 3 * s, 2.0),
    "cosh": (lambda s: math.cosh(min(s, 700)) - 1 - s, 1.0),
    "saturating": (lambda s: 0.1 * s - math.tanh(s), 0.9),
    "cubic and back": (lambda s: s**3 - 2 * s * s - s, 1.0),
    "kink": (lambda s: abs(s - 1) - 1, 1.0),
}
"""phi(s) - phi(0), which is negative and then positive, and -phi'(0)."""


@pytest.mark.parametrize("scale", [0.03, 0.4, 0.99, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("name", FORMS)
def test_the_crossing_is_the_root_that_brent_finds(name: str, scale: float) -> None:
    form, descent = FORMS[name]
    root = scale * float(brentq(form, 1e-3, 20, xtol=1e-14))
    found = find_crossing(lambda s: (form(s / scale), 1e-14), descent=descent / scale, max_evaluations=12)
    assert found.found == "trusted"
    assert found.high is not None
    assert found.low <= root <= found.high
    assert found.high - found.low <= 0.02 * found.high
    assert found.at == pytest.approx(root, rel=0.01)


@pytest.mark.parametrize("crossing", [0.3, 1.7, 30.0])
def test_a_parabola_is_known_exactly_after_a_few_points(crossing: float) -> None:
    found = find_crossing(lambda s: (s * (s / crossing - 1), 0.0), descent=1.0)
    assert found.at == pytest.approx(crossing, rel=1e-12)
    assert found.num_evaluations <= 6


@st.composite
def rising_mean_slopes(draw: st.DrawFn) -> tuple[Function, float, float]:
    """phi(s) - phi(0) = s (a(s) - a(r)) with an increasing a, which crosses at r alone; -phi'(0), and r."""
    crossing = draw(st.floats(1e-2, 3e2))
    powers = draw(st.lists(st.tuples(st.floats(0.3, 5), st.floats(1e-3, 1)), min_size=1, max_size=3))
    kinks = draw(st.lists(st.tuples(st.floats(0.05, 2), st.floats(0, 30)), max_size=3))

    def rising(s: float) -> float:
        smooth = sum(weight * (s / crossing) ** power for power, weight in powers)
        return smooth + sum(steep * max(0.0, s / crossing - at) for at, steep in kinks)

    level = rising(crossing)
    return lambda s: s * (rising(s) - level), level, crossing


@settings(max_examples=300, deadline=None)
@given(made=rising_mean_slopes(), passes=st.integers(1, 12), tolerance=st.floats(1e-3, 0.3))
def test_the_bracket_always_holds_the_only_crossing_there_is(
    made: tuple[Function, float, float], passes: int, tolerance: float
) -> None:
    phi, descent, crossing = made
    tiny = 1e-13 * descent * crossing
    found = find_crossing(lambda s: (phi(s), tiny), descent=descent, tolerance=tolerance, max_evaluations=passes)
    assert 1 <= found.num_evaluations <= passes
    assert found.low <= crossing
    assert found.high is None or crossing <= found.high
    if found.found == "trusted":
        assert found.at == pytest.approx(crossing, rel=tolerance)
    elif found.found == "flagged":
        assert found.at == pytest.approx(crossing, rel=1 / 3)
    else:
        assert found.at is None


@settings(max_examples=200, deadline=None)
@given(made=rising_mean_slopes())
def test_thirty_evaluations_are_always_enough_for_two_percent(made: tuple[Function, float, float]) -> None:
    phi, descent, crossing = made
    tiny = 1e-13 * descent * crossing
    found = find_crossing(lambda s: (phi(s), tiny), descent=descent, max_evaluations=30)
    assert found.found == "trusted"


@settings(max_examples=300, deadline=None)
@given(made=rising_mean_slopes(), noise=st.floats(1e-9, 3), seed=st.integers(0, 1000))
def test_errors_below_the_floor_never_put_the_crossing_outside_the_bracket(
    made: tuple[Function, float, float], noise: float, seed: int
) -> None:
    phi, descent, crossing = made
    floor = noise * descent * crossing

    def rounded(s: float) -> tuple[float, float]:
        return phi(s) + floor * math.sin(1e6 * seed + 1e9 * s), floor * 1.001

    found = find_crossing(rounded, descent=descent)
    assert found.low <= crossing
    assert found.high is None or crossing <= found.high
    if found.found == "trusted":
        assert found.at == pytest.approx(crossing, rel=0.02)


def test_where_rounding_hides_the_sign_the_verdict_says_so() -> None:
    # The sign is hidden within 0.1 / 1 of the crossing: wider than the tolerance, narrower than a third.
    found = find_crossing(lambda s: (s * (s - 1), 0.05), descent=1.0)
    assert found.found == "flagged"
    assert found.high is not None
    assert found.low < 1 < found.high
    # And here everywhere, up to where phi has risen by far.
    found = find_crossing(lambda s: (s * (s - 1), 10.0), descent=1.0)
    assert (found.found, found.at, found.low) == ("noise", None, 0.0)


def test_a_loss_that_is_not_finite_counts_as_one_that_rises() -> None:
    for beyond in (math.nan, math.inf, -math.inf):
        found = find_crossing(lambda s, there=beyond: (-s if s < 3 else there, 1e-9), descent=1.0, max_evaluations=20)
        assert found.found == "trusted"
        assert found.high is not None
        assert found.low < 3 <= found.high


def test_a_function_that_never_rises_is_followed_as_far_as_it_may_be() -> None:
    found = find_crossing(lambda s: (-s, 0.0), descent=1.0, max_factor=100, max_evaluations=50)
    assert (found.found, found.at, found.low, found.high) == ("beyond", None, 100.0, None)
    found = find_crossing(lambda s: (-s, 0.0), descent=1.0, max_evaluations=3)
    assert (found.found, found.low) == ("beyond", 16.0), "after 1 and 4"


def test_a_rise_found_before_a_known_fall_takes_its_place() -> None:
    # phi rises in (0.5, 0.7), too, which s = 1 does not show; the search comes upon it.
    found = find_crossing(lambda s: (-1.0 if not 0.5 < s < 0.7 and s < 1.2 else 1.0, 0.0), descent=9.0)
    assert found.high is not None
    assert found.low < found.high


@pytest.mark.parametrize("descent", [0.0, -1.0, math.nan])
def test_a_search_along_an_ascent_is_refused(descent: float) -> None:
    with pytest.raises(ValueError, match="must fall from the start on"):
        find_crossing(lambda s: (s, 0.0), descent=descent)
