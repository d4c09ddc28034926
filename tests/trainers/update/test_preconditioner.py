"""What a step was divided by, and the rate at which a rule becomes unstable, against steps themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainers.update.flat import FlatParameters
from trainers.update.preconditioner import PRECONDITIONED, preconditioner_of, stability_threshold
from trainers.update.rule import OPTIMIZERS, UpdateRule
from trainers.update.updater import Updater

SIZE = 5


def stepped(rule: UpdateRule, steps: int) -> tuple[torch.optim.Optimizer, nn.Parameter, torch.Tensor, torch.Tensor]:
    """The optimiser after some steps of random gradients, its parameter, the last step and the last gradient."""
    parameter = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
    optimizer = rule.build_optimizer(parameter)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        before = parameter.detach().clone()
        gradient = torch.randn(SIZE, generator=draw, dtype=torch.float64) * torch.logspace(-3, 3, SIZE)
        parameter.grad = gradient.clone()
        with torch.no_grad():
            optimizer.step()
    return optimizer, parameter, parameter.detach() - before, gradient


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("name", ["rmsprop", "adagrad"])
def test_a_step_without_momentum_is_the_gradient_divided_by_it(name: str, steps: int) -> None:
    optimizer, parameter, step, gradient = stepped(UpdateRule(optimizer=name, learning_rate=0.3, eps=1e-3), steps)
    diagonal = preconditioner_of(optimizer, parameter)
    assert diagonal is not None
    torch.testing.assert_close(step, -0.3 * gradient / diagonal, rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_step_of_adam_is_its_average_of_gradients_divided_by_it(name: str, steps: int) -> None:
    optimizer, parameter, step, _ = stepped(UpdateRule(optimizer=name, learning_rate=0.3, eps=1e-3), steps)
    diagonal = preconditioner_of(optimizer, parameter)
    assert diagonal is not None
    torch.testing.assert_close(step, -0.3 * optimizer.state[parameter]["exp_avg"] / diagonal, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_which_optimisers_have_one_is_known_from_the_name(name: str) -> None:
    optimizer, parameter, _, _ = stepped(UpdateRule(optimizer=name, learning_rate=0.1), 2)
    assert (preconditioner_of(optimizer, parameter) is not None) == (name in PRECONDITIONED)


def growth(rule: UpdateRule, curvature: float) -> float:
    """By what factor a step grows, in the long run, on curvature x^2 / 2 with P held at 1."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    flat = FlatParameters(model)
    updater = Updater(rule, flat)
    sizes = []
    for step in range(400):
        flat.gradient.copy_(curvature * flat.vector.detach())
        with torch.no_grad():
            updater.step(step, rule.learning_rate)
        sizes.append(abs(float(flat.vector.detach())) + 1e-300)
    return float((sizes[-1] / sizes[199]) ** (1 / 200))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.4},
        {"momentum": 0.8, "nesterov": True},
        {"optimizer": "asgd", "lambd": 0.0},
    ],
    ids=str,
)
def test_steps_diverge_from_the_threshold_on_and_not_before(options: dict[str, Any]) -> None:
    rule = UpdateRule(learning_rate=0.1, **options)
    threshold = stability_threshold(rule)
    assert threshold is not None
    assert growth(rule, 0.98 * threshold / rule.learning_rate) < 1
    assert growth(rule, 1.02 * threshold / rule.learning_rate) > 1


@given(beta=st.floats(0, 0.99), above=st.floats(1.001, 3), below=st.floats(0.01, 0.999))
def test_the_recurrence_of_adam_has_a_root_outside_the_circle_above_the_threshold_alone(
    beta: float, above: float, below: float
) -> None:
    threshold = stability_threshold(UpdateRule(optimizer="adam", learning_rate=1.0, betas=(beta, 0.999)))
    assert threshold is not None

    def radius(product: float) -> float:
        # m' = beta m + (1 - beta) h x,  x' = x - eta m', with eta h = product and P = 1.
        matrix = [[beta, 1 - beta], [-product * beta, 1 - product * (1 - beta)]]
        return float(np.abs(np.linalg.eigvals(np.array(matrix))).max())

    assert radius(above * threshold) > 1
    assert radius(below * threshold) <= 1 + 1e-12


def test_there_is_no_threshold_where_steps_are_no_multiples_of_gradients() -> None:
    assert stability_threshold(UpdateRule(learning_rate=0.1, normalize=1.0)) is None
    assert stability_threshold(UpdateRule(learning_rate=0.1, momentum=0.5, dampening=1.0)) is None
