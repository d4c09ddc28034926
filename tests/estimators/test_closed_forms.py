"""Eq. (20) against pencil and paper, in float64, to twelve digits; gradients come from autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators import (
    fractions_of,
    measure_adaptive_smoothness,
    measure_chebyshev_smoothness,
    measure_directional_smoothness,
)
from estimators.probe.gradient import Params

FRACTIONS = fractions_of(0.1)


class Case(NamedTuple):
    """A function, two points, and its gradient as it is written on paper."""

    function: Callable[[Tensor], Tensor]
    start: list[float]
    end: list[float]
    gradient: Callable[[np.ndarray], np.ndarray]


def hessian(size: int = 6) -> np.ndarray:
    root = np.random.default_rng(3).standard_normal((size, size))
    return root + root.T


DENSE = hessian()
INPUTS = np.random.default_rng(1).standard_normal((20, 3))
LABELS = (np.random.default_rng(2).random(20) > 0.5).astype(float)
L1, EPSILON = 3.0, 0.1


def growing(x: Tensor) -> Tensor:
    """Theorem 4's first function, appendix D: quadratic inside, exponential outside."""
    outside = (L1 * x.abs()).exp() / (L1 * math.e)
    return torch.where(x.abs() <= 1 / L1, L1 * x**2 / 2 + 1 / (2 * L1), outside).sum()


def growing_gradient(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) <= 1 / L1, L1 * x, np.sign(x) * np.exp(L1 * np.abs(x) - 1))


def slow(x: Tensor) -> Tensor:
    """Theorem 4's second function: almost flat, linear outside of [-1, 1]."""
    outside = 2 * EPSILON * (x.abs() - 1) + 5 * EPSILON / 4
    return torch.where(x.abs() <= 1, EPSILON / 4 * (6 * x**2 - x**4), outside).sum()


def slow_gradient(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) <= 1, EPSILON * (3 * x - x**3), 2 * EPSILON * np.sign(x))


def linear_network(x: Tensor) -> Tensor:
    """||W2 W1 - I||^2 / 2 of two 2x2 matrices."""
    first, second = x[:4].view(2, 2), x[4:].view(2, 2)
    return (second @ first - torch.eye(2, dtype=x.dtype)).square().sum() / 2


def linear_network_gradient(x: np.ndarray) -> np.ndarray:
    first, second = x[:4].reshape(2, 2), x[4:].reshape(2, 2)
    error = second @ first - np.eye(2)
    return np.concatenate([(second.T @ error).ravel(), (error @ first.T).ravel()])


def logistic(x: Tensor) -> Tensor:
    logits = torch.from_numpy(INPUTS) @ x
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(LABELS))


CASES = {
    "a diagonal quadratic": Case(
        lambda x: (torch.tensor([1.0, 10.0, -0.1], dtype=x.dtype) * x**2).sum() / 2,
        [1, 2, 3],
        [1.3, 1.8, 8.0],
        lambda x: np.array([1.0, 10.0, -0.1]) * x,
    ),
    "a dense quadratic": Case(
        lambda x: x @ torch.from_numpy(DENSE) @ x / 2, [1, 2, 3, 4, 5, 6], [2, 0, 1, 7, 5, 3], lambda x: DENSE @ x
    ),
    "x^4 outwards": Case(lambda x: (x**4).sum(), [1.0], [2.0], lambda x: 4 * x**3),
    "x^4 inwards": Case(lambda x: (x**4).sum(), [2.0], [1.0], lambda x: 4 * x**3),
    "x^3 / 3": Case(lambda x: (x**3).sum() / 3, [-1.0, 0.5], [2.0, 1.5], lambda x: x**2),
    "theorem 4, growing": Case(growing, [(math.log(20) + 1) / L1], [0.1], growing_gradient),
    "theorem 4, slow": Case(slow, [1.75], [0.25], slow_gradient),
    "sum of cosh": Case(lambda x: x.cosh().sum(), [0.5, -1.0], [2.0, 1.0], np.sinh),
    "(ab - 1)^2 / 2": Case(
        lambda x: (x[0] * x[1] - 1) ** 2 / 2, [1.5, 0.5], [1.9, -0.2], lambda x: (x[0] * x[1] - 1) * x[::-1]
    ),
    "a 2x2 linear network": Case(
        linear_network,
        [1.0, 0.2, -0.3, 0.8, 0.5, 0.1, 0.4, 1.5],
        [0.7, 0.3, -0.1, 1.1, 0.9, -0.2, 0.3, 1.0],
        linear_network_gradient,
    ),
    "logistic regression": Case(
        logistic,
        [0.5, -1.0, 2.0],
        [1.5, 0.5, 0.0],
        lambda x: INPUTS.T @ (1 / (1 + np.exp(-INPUTS @ x)) - LABELS) / len(LABELS),
    ),
}


def autograd(function: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
    def gradient(point: Params) -> Params:
        x = point["x"].detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(x), x)
        return {"x": slope}

    return gradient


def ends(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return tuple({"x": torch.tensor(values, dtype=torch.float64)} for values in (case.start, case.end))  # type: ignore[return-value]


def secant(case: Case, fraction: float) -> float:
    x, y = np.array(case.start, dtype=float), np.array(case.end, dtype=float)
    change = case.gradient(x + fraction * (y - x)) - case.gradient(x)
    return float(np.linalg.norm(change) / (fraction * np.linalg.norm(y - x)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_exact_grid_gives_the_secants_of_the_gradient_on_paper(case: Case) -> None:
    measured = measure_directional_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS)
    expected = [secant(case, fraction) for fraction in FRACTIONS]
    assert measured.by_fraction == pytest.approx(expected, rel=1e-12)
    assert measured.smoothness == pytest.approx(max(expected), rel=1e-12)
    start, end = (case.gradient(np.array(point, dtype=float)) for point in (case.start, case.end))
    assert measured.grad_norm == pytest.approx(np.linalg.norm(start), rel=1e-12)
    assert measured.next_grad_norm == pytest.approx(np.linalg.norm(end), rel=1e-12)
    bound = (np.linalg.norm(start) + np.linalg.norm(end)) / math.dist(case.start, case.end)
    assert measured.mechanical_bound == pytest.approx(bound, rel=1e-12)
    assert measured.by_fraction[-1] <= bound * (1 + 1e-12)


POLYNOMIAL = [name for name in CASES if not any(word in name for word in ("theorem", "cosh", "logistic"))]


@pytest.mark.parametrize("name", POLYNOMIAL)
def test_chebyshev_meets_gradients_of_degree_up_to_four_exactly(name: str) -> None:
    case = CASES[name]
    measured = measure_chebyshev_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS)
    assert measured.by_fraction == pytest.approx([secant(case, fraction) for fraction in FRACTIONS], rel=1e-11)
    assert measured.at_zero == pytest.approx(secant(case, 1e-7), rel=1e-5)
    # Distances of curves come from inner products, so rounding leaves its square root.
    assert measured.interpolation_error == pytest.approx(0, abs=1e-6 * measured.smoothness)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["sum of cosh", "logistic regression"])
def test_chebyshev_is_close_on_other_smooth_functions_and_its_error_estimate_covers_what_is_left(name: str) -> None:
    case = CASES[name]
    measured = measure_chebyshev_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS)
    expected = [secant(case, fraction) for fraction in FRACTIONS]
    assert measured.by_fraction == pytest.approx(expected, rel=1e-2)
    off = max(abs(one - other) for one, other in zip(measured.by_fraction, expected, strict=True))  # type: ignore[operator]
    assert measured.interpolation_error is not None
    assert off <= measured.interpolation_error


def test_chebyshev_says_that_it_is_off_where_the_gradient_has_a_kink() -> None:
    case = CASES["theorem 4, growing"]
    measured = measure_chebyshev_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS)
    assert measured.interpolation_error is not None
    off = max(abs(one - secant(case, at)) for one, at in zip(measured.by_fraction, FRACTIONS, strict=True))  # type: ignore[operator]
    assert 0.1 * off < measured.interpolation_error


def loss_of(case: Case) -> Callable[[Params], float]:
    return lambda point: float(case.function(point["x"]))


@pytest.mark.parametrize("with_loss", [True, False], ids=["loss", "no loss"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_search_gives_the_value_that_the_exact_grid_would(case: Case, with_loss: bool) -> None:
    value = loss_of(case) if with_loss else None
    exact = measure_directional_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS)
    found = measure_adaptive_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS, value=value)
    assert found.argmax_fraction is not None
    at = FRACTIONS.index(found.argmax_fraction)
    assert found.smoothness == found.by_fraction[at] == exact.by_fraction[at]
    # Of a quadratic every ratio is the largest, up to rounding.
    assert found.smoothness == pytest.approx(exact.smoothness, rel=1e-12)
    for name in ("grad_norm", "next_grad_norm", "update_norm", "mechanical_bound"):
        assert getattr(found, name) == getattr(exact, name)
    assert found.num_gradients <= exact.num_gradients == 11


@pytest.mark.parametrize("name", ["a diagonal quadratic", "a dense quadratic"])
def test_of_a_quadratic_a_search_needs_four_gradients(name: str) -> None:
    case = CASES[name]
    found = measure_adaptive_smoothness(autograd(case.function), *ends(case), fractions=FRACTIONS)
    assert found.num_gradients == 4
    assert found.by_fraction == pytest.approx([found.smoothness] * 10, rel=1e-12)
    # A norm is the root of a quadratic form, so half of the digits cancel.
    assert found.interpolation_error == pytest.approx(0, abs=1e-6)


def test_a_loss_that_agrees_with_the_curve_saves_a_search_gradients() -> None:
    def gradients(case: Case, value: Callable[[Params], float] | None) -> int:
        return measure_adaptive_smoothness(
            autograd(case.function), *ends(case), fractions=FRACTIONS, value=value
        ).num_gradients

    saved = {name: gradients(case, None) - gradients(case, loss_of(case)) for name, case in CASES.items()}
    assert min(saved.values()) >= 0
    assert saved["sum of cosh"] > 0, saved
