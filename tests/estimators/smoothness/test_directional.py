"""Directional smoothness against closed forms, to 1e-9 relative in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from estimators import directional_smoothness, fractions_of, measure_directional_smoothness
from estimators.probe.gradient import Params

DELTAS = [1.0, 0.5, 0.1]


def of(function: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
    """The gradient function of f(x), by autograd in the arithmetic of x."""

    def gradient(point: Params) -> Params:
        x = point["x"].detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(x), x)
        return {"x": slope}

    return gradient


def vector(*values: float) -> dict[str, Tensor]:
    return {"x": torch.tensor(values, dtype=torch.float64)}


@pytest.mark.parametrize("delta", DELTAS)
def test_a_diagonal_quadratic_gives_the_norm_of_the_hessian_times_the_direction(delta: float) -> None:
    curvature = torch.tensor([1.0, 10.0, 0.1], dtype=torch.float64)
    step = vector(0.3, -0.2, 5.0)
    found = directional_smoothness(
        of(lambda x: (curvature * x**2).sum() / 2), vector(1, 2, 3), step, fractions=fractions_of(delta)
    )
    expected = float((curvature * step["x"]).norm() / step["x"].norm())
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("delta", DELTAS)
def test_a_dense_quadratic_gives_the_norm_of_the_hessian_times_the_direction(delta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    x, d = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    found = directional_smoothness(lambda p: {"x": hessian @ p["x"]}, {"x": x}, {"x": d}, fractions=fractions_of(delta))
    assert found == pytest.approx(float((hessian @ d).norm() / d.norm()), rel=1e-9)


def quartic_secant(x: float, h: float) -> float:
    """(f'(x + h) - f'(x)) / h for f = x^4, expanded so that nothing cancels."""
    return 4 * (3 * x**2 + 3 * x * h + h**2)


@pytest.mark.parametrize(("start", "step", "at"), [(1.0, 1.0, 1.0), (2.0, -1.0, 0.1)])
def test_x4_is_steepest_at_the_far_end_outwards_and_at_the_near_end_inwards(
    start: float, step: float, at: float
) -> None:
    measured = measure_directional_smoothness(
        of(lambda x: (x**4).sum()), vector(start), vector(start + step), fractions=fractions_of(0.1)
    )
    expected = [quartic_secant(start, step * j / 10) for j in range(1, 11)]
    assert measured.by_fraction == pytest.approx(expected, rel=1e-9)
    assert measured.smoothness == pytest.approx(max(expected), rel=1e-9)
    assert measured.argmax_fraction == at
    assert measured.grad_norm == pytest.approx(4 * start**3, rel=1e-12)


def test_exp_gives_the_secant_of_exp() -> None:
    found = directional_smoothness(of(lambda x: x.exp().sum()), vector(0.5), vector(2.0), fractions=[0.25, 0.5, 1.0])
    assert found == pytest.approx(math.exp(0.5) * math.expm1(2.0) / 2.0, rel=1e-9)


def test_a_two_layer_linear_network_gives_its_polynomial() -> None:
    # f(a, b) = (a b - 1)^2 / 2, gradient (b, a) (a b - 1), Section 2.3 with one unit a layer.
    def gradient(a: float, b: float) -> tuple[float, float]:
        return b * (a * b - 1), a * (a * b - 1)

    a, b, da, db = 1.5, 0.5, 0.4, -0.7
    start = gradient(a, b)
    expected = []
    for fraction in fractions_of(0.25):
        end = gradient(a + fraction * da, b + fraction * db)
        expected.append(math.dist(start, end) / (fraction * math.hypot(da, db)))
    found = measure_directional_smoothness(
        of(lambda x: (x[0] * x[1] - 1) ** 2 / 2), vector(a, b), vector(a + da, b + db), fractions=fractions_of(0.25)
    )
    assert found.by_fraction == pytest.approx(expected, rel=1e-9)


def test_logistic_regression_gives_the_change_of_its_residuals() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    labels = (torch.rand(20, generator=generator) > 0.5).double()
    w, d = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    found = directional_smoothness(
        of(lambda x: torch.nn.functional.binary_cross_entropy_with_logits(inputs @ x, labels)),
        {"x": w},
        {"x": d},
        fractions=[1.0],
    )
    change = inputs.T @ (torch.sigmoid(inputs @ (w + d)) - torch.sigmoid(inputs @ w)) / 20
    assert found == pytest.approx(float(change.norm() / d.norm()), rel=1e-9)


def test_in_float32_the_distance_is_that_of_the_rounded_parameters() -> None:
    # At 4096 a float32 has steps of 2^-11: of d = 2^-10 the fractions 0.1 .. 0.9 round to 0, 1/2 or 1.
    start = {"x": torch.tensor([4096.0])}
    end = {"x": torch.tensor([4096.0 + 2**-10])}
    measured = measure_directional_smoothness(lambda p: {"x": p["x"] - 4096.0}, start, end, fractions=fractions_of(0.1))
    assert measured.smoothness == 1.0
    assert set(measured.by_fraction) == {None, 1.0}


def test_the_same_weights_twice_give_null_and_never_a_number() -> None:
    measured = measure_directional_smoothness(of(lambda x: x.exp().sum()), vector(1.0), vector(1.0), fractions=[0.5, 1])
    assert measured.smoothness is None
    assert measured.by_fraction == (None, None)
    assert measured.update_norm == 0
    with pytest.raises(ValueError, match="the step is zero"):
        directional_smoothness(of(lambda x: x.exp().sum()), vector(1.0), vector(0.0), fractions=[1.0])


def test_an_overflowing_gradient_shows_as_nan() -> None:
    def gradient(p: Params) -> Params:
        return {"x": torch.where(p["x"] > 1.5, torch.nan, p["x"])}

    measured = measure_directional_smoothness(gradient, vector(1.0), vector(2.0), fractions=[0.5, 1.0])
    assert measured.smoothness is not None
    assert math.isnan(measured.smoothness)


def test_the_noise_floor_is_two_gradient_errors_over_the_distance_of_the_maximum() -> None:
    measured = measure_directional_smoothness(
        of(lambda x: (x**4).sum()), vector(2.0), vector(1.0), fractions=fractions_of(0.1), gradient_error=1e-3
    )
    assert measured.noise_floor == pytest.approx(2e-3 / 0.1)
    assert measured.smoothness is not None
    assert measured.snr == pytest.approx(measured.smoothness / (2e-3 / 0.1))


def test_an_exact_gradient_has_an_infinite_ratio_to_its_noise() -> None:
    measured = measure_directional_smoothness(
        of(lambda x: (x**4).sum()), vector(2.0), vector(1.0), fractions=[1.0], gradient_error=0.0
    )
    assert measured.snr == math.inf


def test_a_delta_that_does_not_divide_one_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"1/delta must be an integer, found delta = 0.3; the nearest is 0.333"):
        fractions_of(0.3)
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\]"):
        fractions_of(0.0)


@pytest.mark.parametrize("fractions", [[], [0.0], [1.5], [-0.5, 1.0]])
def test_fractions_outside_the_segment_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match=r"fractions must lie in \(0, 1\]"):
        measure_directional_smoothness(of(lambda x: x.sum()), vector(0.0), vector(1.0), fractions=fractions)


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_on_a_quadratic_the_estimate_never_exceeds_the_spectral_norm_and_ignores_rotation(
    seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    hessian = scale * (root + root.T)
    x, d = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    fractions = fractions_of(0.25)
    found = directional_smoothness(lambda p: {"x": hessian @ p["x"]}, {"x": x}, {"x": d}, fractions=fractions)
    assert found <= float(torch.linalg.matrix_norm(hessian, ord=2)) * (1 + 1e-9)
    turned = directional_smoothness(
        lambda p: {"x": rotation @ hessian @ rotation.T @ p["x"]},
        {"x": rotation @ x},
        {"x": rotation @ d},
        fractions=fractions,
    )
    assert turned == pytest.approx(found, rel=1e-9)


@given(scale=st.floats(0.01, 100))
def test_smoothness_scales_with_the_loss_and_inversely_with_the_square_of_the_parameters(scale: float) -> None:
    plain = directional_smoothness(of(lambda x: (x**4).sum()), vector(1.0), vector(0.5), fractions=[0.5, 1.0])
    taller = directional_smoothness(of(lambda x: scale * (x**4).sum()), vector(1.0), vector(0.5), fractions=[0.5, 1.0])
    wider = directional_smoothness(
        of(lambda x: ((x / scale) ** 4).sum()), vector(scale), vector(0.5 * scale), fractions=[0.5, 1.0]
    )
    assert taller == pytest.approx(scale * plain, rel=1e-9)
    assert wider == pytest.approx(plain / scale**2, rel=1e-9)
