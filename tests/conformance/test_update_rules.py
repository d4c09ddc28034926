"""Every optimiser, with every transform, takes the step that its formula says, on the whole and in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.loop import TrainSettings
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.update_rules import OPTIMIZERS, SCHEDULES, TRANSFORMS, UpdateRule

Record = Callable[..., Any]

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"betas": (0.8, 0.95), "weight_decay": 0.01},
    "adamw": {"betas": (0.8, 0.95), "weight_decay": 0.01},
    "rmsprop": {"momentum": 0.5, "eps": 1e-6},
    "adagrad": {"weight_decay": 0.01},
}
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step_decay": {"milestones": [4, 8]},
    "cosine": {"final_fraction": 0.1},
}


def small() -> Problem:
    return build_problem("deep_linear", {"layers": 2, "width": 3, "samples": 10, "batch_size": 4}, seed=7)


def test_every_registered_optimizer_and_schedule_is_tested_here() -> None:
    assert OPTIONS.keys() == OPTIMIZERS.keys()
    assert SCHEDULE_OPTIONS.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_trial_equals_one_in_one_go(record: Record, optimizer: str, transform: str | None) -> None:
    rule = UpdateRule(
        optimizer=optimizer,
        learning_rate=0.02,
        **OPTIONS[optimizer],
        **({transform: 0.5} if transform else {}),
    )
    settings = TrainSettings(steps=12, evaluate_every=4)
    whole = record(small, rule, settings)
    assert record(small, rule, settings, stops=[1, 5, 6]) == whole


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_survive_a_resume(record: Record, schedule: str) -> None:
    rule = UpdateRule(learning_rate=0.02, schedule={"use": schedule, **SCHEDULE_OPTIONS[schedule]})
    settings = TrainSettings(steps=12)
    assert record(small, rule, settings, stops=[3, 7]) == record(small, rule, settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_infinite_threshold_equals_the_plain_rule_bit_for_bit(record: Record, optimizer: str) -> None:
    plain = UpdateRule(optimizer=optimizer, learning_rate=0.02, **OPTIONS[optimizer])
    infinite = UpdateRule(optimizer=optimizer, learning_rate=0.02, clip_norm=math.inf, **OPTIONS[optimizer])
    settings = TrainSettings(steps=30)
    assert record(small, infinite, settings) == record(small, plain, settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_step_on_the_flat_vector_equals_torch_on_the_pieces(record: Record, optimizer: str) -> None:
    rule = UpdateRule(optimizer=optimizer, learning_rate=0.02, **OPTIONS[optimizer])
    problem = small()
    steps = 5
    record(lambda: problem, rule, TrainSettings(steps=steps))
    reference = small()
    torch_rule = OPTIMIZERS[optimizer](reference.model.parameters(), lr=0.02, foreach=False, **OPTIONS[optimizer])
    for step in range(steps):
        torch_rule.zero_grad()
        loss, _ = reference.loss(reference.model, reference.batch(step), None)
        loss.backward()
        torch_rule.step()
    for ours, theirs in zip(problem.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
