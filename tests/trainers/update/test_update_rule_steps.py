"""Steps against closed forms, eq. (4) to (6) of Zhang et al. (2020), in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.problem import Problem
from trainers.training.loop import Segment, TrainSettings, train
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule
from trainers.update.transforms import clip_scale, normalize_scale

MakeProblem = Callable[..., Problem]


def trained(problem: Problem, rule: UpdateRule, *, steps: int) -> tuple[list[float], Segment]:
    segment = list(train(problem, rule, TrainSettings(steps=steps), seed=0))[-1]
    assert isinstance(segment, Segment)
    return flat_parameters(problem.model).tolist(), segment


def quadratic(x: torch.Tensor, step: int) -> torch.Tensor:
    return 2 * x.square().sum()


def test_gradient_descent_on_a_quadratic_contracts_by_its_known_factor(problem_of: MakeProblem) -> None:
    # Eq. (4) with f = 2 x^2: x <- (1 - 4 eta) x.
    (x,), segment = trained(problem_of(quadratic, start=3.0), UpdateRule(learning_rate=0.1), steps=7)
    assert x == pytest.approx(3.0 * 0.6**7, rel=1e-14)
    assert segment.rows["train_loss"][:7] == pytest.approx([2 * (3.0 * 0.6**k) ** 2 for k in range(7)], rel=1e-14)
    assert segment.rows["update_norm"][:7] == pytest.approx([0.4 * 3.0 * 0.6**k for k in range(7)], rel=1e-14)


def test_clipping_makes_steps_of_known_length_until_the_gradient_is_small(problem_of: MakeProblem) -> None:
    # Eq. (5): ||g|| = 4 |x| is above gamma = 2 while |x| > 1/2, and the step is then eta gamma = 1/2.
    rule = UpdateRule(learning_rate=0.25, clip_norm=2.0)
    (x,), segment = trained(problem_of(quadratic, start=1.75), rule, steps=3)
    assert segment.rows["clipped"].tolist() == [True, True, True, False]
    assert segment.rows["step_size"][:3] == pytest.approx([0.25 * 2 / 7, 0.25 * 2 / 5, 0.25 * 2 / 3], rel=1e-14)
    assert x == pytest.approx(0.25, rel=1e-14)
    assert segment.num_clipped == 3
    (x,), segment = trained(problem_of(quadratic, start=x), rule, steps=1)
    assert segment.num_clipped == 0
    assert x == pytest.approx(0.0, abs=1e-15)


def test_normalisation_divides_by_the_norm_and_its_offset(problem_of: MakeProblem) -> None:
    # Eq. (6) at x = (3, 4): g = 4 x, ||g|| = 20.
    rule = UpdateRule(learning_rate=0.5, normalize=5.0)
    x, segment = trained(problem_of(quadratic, start=[3.0, 4.0]), rule, steps=1)
    assert x == pytest.approx([3.0 - 0.5 * 12 / 25, 4.0 - 0.5 * 16 / 25], rel=1e-14)
    assert segment.rows["grad_norm"][0] == 20
    assert segment.rows["step_size"][0] == pytest.approx(0.02)
    assert not segment.rows["clipped"].any()


def test_momentum_accumulates_clipped_gradients(problem_of: MakeProblem) -> None:
    rule = UpdateRule(learning_rate=0.1, momentum=0.5, clip_norm=1.0)
    (x,), _ = trained(problem_of(quadratic, start=10.0), rule, steps=3)
    assert x == pytest.approx(10.0 - 0.1 * (1 + 1.5 + 1.75), rel=1e-14)


def test_a_zero_gradient_is_not_clipped_and_moves_nothing(problem_of: MakeProblem) -> None:
    for rule in (UpdateRule(learning_rate=1.0, clip_norm=1.0), UpdateRule(learning_rate=1.0, normalize=1.0)):
        x, segment = trained(problem_of(quadratic, start=0.0), rule, steps=1)
        assert x == [0.0]
        assert segment.num_clipped == 0


@given(grad_norm=st.floats(1e-6, 1e6), learning_rate=st.floats(1e-3, 1e3), offset=st.floats(1e-3, 1e3))
def test_clipped_and_normalised_steps_are_within_a_factor_of_two(
    grad_norm: float, learning_rate: float, offset: float
) -> None:
    # Section 3.1: gamma eta_c = eta_n and eta_c = eta_n / beta, so gamma = beta.
    norm = torch.tensor(grad_norm, dtype=torch.float64)
    clipped = learning_rate / offset * clip_scale(norm, offset).item()
    normalised = learning_rate * normalize_scale(norm, offset).item()
    assert 0.5 * clipped * (1 - 1e-12) <= normalised <= clipped * (1 + 1e-12)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"use": "constant"}, [2.0, 2.0, 2.0, 2.0, 2.0]),
        ({"use": "step_decay", "milestones": [1, 3]}, [2.0, 0.2, 0.2, 0.02, 0.02]),
        ({"use": "step_decay", "milestones": [2], "factor": 0.5}, [2.0, 2.0, 1.0, 1.0, 1.0]),
        ({"use": "cosine"}, [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0]),
        ({"use": "cosine", "final_fraction": 0.5}, [2.0, 1.5 + math.sqrt(0.125), 1.5, 1.5 - math.sqrt(0.125), 1.0]),
    ],
)
def test_schedules_have_these_values(schedule: dict[str, Any], expected: list[float]) -> None:
    rule = UpdateRule(learning_rate=2.0, schedule=schedule)
    assert [rule.learning_rate_at(step, 4) for step in range(5)] == pytest.approx(expected, abs=1e-15)


def test_the_schedule_is_what_training_uses(problem_of: MakeProblem) -> None:
    rule = UpdateRule(learning_rate=0.1, schedule={"use": "step_decay", "milestones": [2], "factor": 0.5})
    (x,), segment = trained(problem_of(quadratic, start=1.0), rule, steps=3)
    assert segment.rows["learning_rate"][:3].tolist() == [0.1, 0.1, 0.05]
    assert x == pytest.approx(0.6 * 0.6 * 0.8, rel=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'; known: sgd, adam"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite"),
        ({"clip_norm": 1.0, "normalize": 1.0}, "exclude each other"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"normalize": math.nan}, "normalize must be positive"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum is not an option of adam, which takes: betas"),
        ({"betas": (0.5, 0.9)}, "betas is not an option of sgd"),
        ({"nesterov": True}, "nesterov needs momentum > 0"),
        ({"schedule": {"use": "lineal"}}, "unknown schedule 'lineal'; known: constant"),
        ({"schedule": {}}, "unknown schedule None"),
        ({"schedule": {"use": "step_decay"}}, "schedule 'step_decay' does not accept"),
        ({"schedule": {"use": "cosine", "typo": 1}}, "schedule 'cosine' does not accept"),
        ({"schedule": {"use": "cosine", "final_fraction": -0.5}}, "final_fraction must be finite and not negative"),
        ({"schedule": {"use": "step_decay", "milestones": [1, 2], "factor": -0.1}}, "factor must be finite and not"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpdateRule(**({"learning_rate": 1.0} | options))


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({"clip_norm": 0.5}, 0.5),
        ({"clip_norm": 0.5, "momentum": 0.9, "transform_of": "momentum", "weight_decay": 0.1}, 0.5),
        ({"clip_norm": 0.5, "momentum": 0.9}, None),
        ({"clip_norm": 0.5, "weight_decay": 0.1}, None),
        ({"clip_norm": 0.5, "optimizer": "adamw"}, None),
        ({"normalize": 0.5}, None),
        ({}, None),
    ],
)
def test_a_step_has_a_threshold_where_it_is_never_longer_than_the_rate_times_that(
    options: dict[str, Any], threshold: float | None, problem_of: MakeProblem
) -> None:
    rule = UpdateRule(learning_rate=2.0, **options)
    assert rule.step_threshold == threshold
    _, segment = trained(problem_of(quadratic, start=30.0), rule, steps=6)
    lengths = segment.rows["update_norm"][:6]
    if threshold is not None:
        assert lengths == pytest.approx([2.0 * threshold] * 6)
    else:
        assert any(abs(length - 1.0) > 1e-3 for length in lengths)
