"""Values, gradients and curvatures fit together, and the constants are the smallest that will do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.analytic.functions import Extremal, Logistic, Power, Quadratic, ScalarNetwork
from trainers.analytic.theorem4 import Theorem4Flat, Theorem4Steep
from trainers.errors import TrainerError


def points(function, num=41):
    """Points on both sides of the minimum, away from the corners of piecewise functions."""
    line = np.linspace(-2.53, 2.47, num)
    return np.stack([line * (1 + 0.3 * i) for i in range(function.num_coordinates)])


def test_the_gradient_is_the_slope_of_the_value(function):
    x, step = points(function), 1e-5
    for axis in range(function.num_coordinates):
        shift = np.zeros_like(x)
        shift[axis] = step
        slope = (function.value(x + shift) - function.value(x - shift)) / (2 * step)
        np.testing.assert_allclose(function.gradient(x)[axis], slope, rtol=2e-6, atol=1e-6)


def test_the_curvature_is_the_slope_of_the_gradient(line_function):
    x, step = points(line_function), 1e-6
    bent = (line_function.gradient(x + step) - line_function.gradient(x - step)) / (2 * step)
    np.testing.assert_allclose(line_function.curvature(x), np.abs(bent[0]), rtol=1e-5, atol=1e-5)


def test_nothing_is_below_the_minimum_and_something_comes_near_it(function):
    x = np.stack([np.linspace(-30, 30, 6001)] * function.num_coordinates)
    gap = function.value(x) - function.minimum
    assert gap.min() >= -1e-15
    assert gap.min() < 1e-6


def test_the_smallest_L0_bounds_the_curvature_and_is_reached(line_function):
    L0, L1 = line_function.smoothness()
    x = np.linspace(-24, 24, 2_000_001)[None]
    curvature = line_function.curvature(x)
    needed = curvature - L1 * np.abs(line_function.gradient(x)[0])
    # Where both terms are huge their difference is rounding.
    assert (needed <= L0 + 1e-12 * curvature + 1e-9 * L0).all()
    assert needed[curvature < 1e14].max() >= L0 - 1e-4 * max(L0, 0.1)


@pytest.mark.parametrize(
    ("chosen", "L0"),
    [
        (Power(exponent=4.0, L1=0.5), 16 / 0.5**2),
        (Power(exponent=3.0, L1=0.5), 3 / 0.5),
        (Logistic(slope=5.0, L1=2.0), (5 - 2) ** 2 / 4),
        (Logistic(slope=1.0, L1=2.0), 0.0),
        (Theorem4Steep(L1=3.0), 3.0),
        (Theorem4Flat(epsilon=0.1), 0.3),
        (Quadratic(eigenvalues=(1.0, 7.0)), 7.0),
    ],
)
def test_constants_are_those_of_the_derivations(chosen, L0):
    assert chosen.smoothness()[0] == pytest.approx(L0, rel=1e-15)


def test_the_paper_s_constant_of_the_steep_instance_holds_for_slope_one_alone():
    """The text says L0 = 1 for every L1 > 1: at the minimum the curvature is L1 and the gradient 0."""
    origin = np.zeros((1, 1))
    steep = Theorem4Steep(L1=4.0)
    assert steep.curvature(origin)[0] == 4.0
    assert steep.gradient(origin)[0, 0] == 0.0
    assert Theorem4Steep(L1=1.0).smoothness() == (1.0, 1.0)


def test_the_flat_instance_leaves_the_paper_s_class_once_epsilon_is_above_a_third():
    origin = np.zeros((1, 1))
    assert Theorem4Flat(epsilon=1 / 3).curvature(origin)[0] == pytest.approx(1.0, rel=1e-15)
    assert Theorem4Flat(epsilon=0.4).curvature(origin)[0] > 1.0


def test_the_extremal_function_meets_the_definition_with_equality_everywhere():
    function = Extremal(L0=0.3, L1=2.5)
    x = np.linspace(-3, 3, 1001)[None]
    np.testing.assert_allclose(function.curvature(x), 0.3 + 2.5 * np.abs(function.gradient(x)[0]), rtol=1e-13)


def test_a_scalar_network_has_no_constants_with_slope_zero_on_the_whole_line():
    """Section 2.3's networks are smooth on bounded sets, or with L1 > 0: L0 grows without bound as L1 falls."""
    values = [ScalarNetwork(depth=3, L1=L1).smoothness()[0] for L1 in (1.0, 0.1, 0.01)]
    assert values[0] < values[1] / 100 < values[2] / 10_000


@pytest.mark.parametrize("norm", [0.05, 0.3, 1.0, 40.0])
def test_a_start_has_the_gradient_norm_that_was_asked_for(function, norm):
    bounds = {Logistic: lambda f: f.slope, Theorem4Flat: lambda f: 2 * f.epsilon}
    if norm >= bounds.get(type(function), lambda f: math.inf)(function):
        with pytest.raises(TrainerError, match="has no point of gradient norm"):
            function.start_of_gradient_norm(norm)
        return
    start = function.start_of_gradient_norm(norm)
    x = np.full((function.num_coordinates, 1), start)
    assert np.linalg.norm(function.gradient(x)) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("gap", [0.05, 0.3, 1.0, 40.0])
def test_a_start_has_the_gap_that_was_asked_for(function, gap):
    x = np.full((function.num_coordinates, 1), function.start_of_gap(gap))
    assert function.value(x)[0] - function.minimum == pytest.approx(gap, rel=1e-12)


def test_starts_of_a_scalar_network_lie_beyond_its_minimum():
    """Between 0 and 1 there is a hump of gradient too; a start there would be in another valley's reach."""
    assert ScalarNetwork(depth=4).start_of_gradient_norm(0.1) > 1


def test_no_point_of_the_sublevel_set_has_a_larger_gradient(function):
    start = function.start_of_gap(0.7)
    M = function.sublevel_gradient_norm(start)
    x = np.full((function.num_coordinates, 1), start)
    level = function.value(x)[0]
    generator = np.random.default_rng(0)
    if function.num_coordinates == 1:
        samples = np.linspace(-abs(start) - 5, abs(start) + 5, 400_001)[None]
    else:
        samples = generator.standard_normal((function.num_coordinates, 200_000))
    inside = samples[:, function.value(samples) <= level]
    largest = np.sqrt((function.gradient(inside) ** 2).sum(axis=0)).max()
    assert largest <= M * (1 + 1e-12)
    assert largest > 0.9 * M


@given(st.floats(0.01, 50), st.floats(0.01, 50))
def test_x_to_the_fourth_needs_sixteen_over_L1_squared(x, L1):
    function = Power(exponent=4.0, L1=L1)
    point = np.array([[x]])
    assert function.curvature(point)[0] <= (16 / L1**2 + L1 * abs(function.gradient(point)[0, 0])) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Power(exponent=1.5), "exponent must be at least 2"),
        (lambda: Power(exponent=3.0, L1=0.0), "L1 must be positive"),
        (lambda: Extremal(L0=0.0), "L0 and L1 must be positive"),
        (lambda: Extremal(L0=-1.0), "L0 must be finite and not negative"),
        (lambda: Logistic(slope=math.nan), "slope must be finite"),
        (lambda: ScalarNetwork(depth=2.5), "depth must be a whole number"),
        (lambda: Theorem4Flat(epsilon=0.0), "epsilon must be positive"),
    ],
)
def test_numbers_that_make_no_function_are_refused(make, message):
    with pytest.raises(TrainerError, match=message):
        make()


def test_arrays_of_numbers_give_what_the_numbers_give_one_by_one():
    slopes, x = [0.5, 2.0, 3.0], np.array([[0.3, -1.0, 2.0]])
    together = Logistic(slope=np.array(slopes), L1=np.zeros(3))
    for lane, slope in enumerate(slopes):
        alone = Logistic(slope=slope)
        assert together.gradient(x)[0, lane] == alone.gradient(x[:, [lane]])[0, 0]
        assert together.value(x)[lane] == alone.value(x[:, [lane]])[0]


def test_a_function_belongs_to_its_own_class_and_to_larger_ones_only(function):
    L0, L1 = function.smoothness()
    assert function.belongs_to(L0, L1)
    assert function.belongs_to(2 * L0 + 1, 2 * L1 + 1)
    if L0 > 0:
        assert not function.belongs_to(L0 * 0.999, L1)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_the_instances_of_theorem_4_share_a_class_with_L0_one_for_slope_one_alone(slope):
    assert Theorem4Steep(L1=slope).belongs_to(1.0, slope) == (slope <= 1)
    assert Theorem4Flat(epsilon=1 / 3).belongs_to(1.0, slope)
    assert not Theorem4Flat(epsilon=0.34).belongs_to(1.0, slope)


def test_section_2_3_leaves_out_a_factor_two():
    """It gives the gradient of ||Y - W2 W1 X||^2 without the 2 that the square brings."""
    generator = torch.Generator().manual_seed(0)
    X, Y = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    W1, W2 = (torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    residual = W2 @ W1 @ X - Y
    (exact,) = torch.autograd.grad((residual**2).sum(), W1)
    printed = W2.T @ residual @ X.T
    torch.testing.assert_close(exact, 2 * printed)


def test_two_free_layers_are_smooth_on_bounded_sets_only():
    """f(a, b) = (a b - 1)^2: along b = 1/a the gradient vanishes, while the curvature grows like 2 a^2."""
    for a in (1.0, 10.0, 100.0):
        point = torch.tensor([a, 1 / a], dtype=torch.float64)

        def f(p):
            return (p[0] * p[1] - 1) ** 2

        assert torch.autograd.functional.jacobian(f, point).norm() < 1e-10
        hessian = torch.autograd.functional.hessian(f, point)
        assert torch.linalg.matrix_norm(hessian, 2).item() == pytest.approx(2 * (a**2 + a**-2))
