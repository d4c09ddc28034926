"""Schedules against closed forms and against torch's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.update.rule import UpdateRule
from trainers.update.schedules import SCHEDULES, check_schedule, factor_at

STEPS = 40


def rates(schedule: dict[str, Any], steps: int = STEPS) -> list[float]:
    rule = UpdateRule(learning_rate=2.0, schedule=schedule)
    return [rule.learning_rate_at(step, steps) for step in range(steps)]


def torch_rates(make: Any, steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("steps", [10, 40, 97])
def test_one_cycle_is_torchs(steps: int) -> None:
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2.0, total_steps=steps), steps
    )
    assert rates({"use": "one_cycle"}, steps) == pytest.approx(expected, rel=1e-9)


def test_a_line_is_torchs() -> None:
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(
            optimizer, start_factor=1.0, end_factor=0.1, total_iters=STEPS
        )
    )
    assert rates({"use": "linear", "final_fraction": 0.1}) == pytest.approx(expected, rel=1e-9)


def test_a_warm_up_followed_by_a_cosine_is_torchs_sequence() -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, end_factor=1.0, total_iters=9)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 10)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[10])

    expected = torch_rates(make)
    assert rates({"use": "cosine", "warmup": 10}) == pytest.approx(expected, rel=1e-9)
    assert rates({"use": "cosine", "warmup": 0.25}) == pytest.approx(expected, rel=1e-9)


def test_the_root_of_the_step() -> None:
    found = rates({"use": "inverse_sqrt", "timescale": 8, "warmup": 4})
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[4:] == pytest.approx([2 / math.sqrt(1 + k / 8) for k in range(STEPS - 4)])
    assert found[4 + 24] == pytest.approx(1.0), "after three times the timescale half is left"


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)])
def test_stable_then_down(shape: str, middle: float) -> None:
    found = rates({"use": "stable_decay", "decay": 0.5, "shape": shape, "final_fraction": 0.2})
    assert found[:21] == [2.0] * 21
    assert found[30] == pytest.approx(2 * (0.2 + 0.8 * middle))
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[-1] > 0.4


def test_milestones_are_counted_from_the_first_step_with_a_warm_up_too() -> None:
    found = rates({"use": "step_decay", "milestones": [20], "warmup": 10})
    assert found[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert found[10:20] == [2.0] * 10
    assert found[20:] == pytest.approx([0.2] * 20)


@given(
    name=st.sampled_from(sorted(set(SCHEDULES) - {"one_cycle"})),
    steps=st.integers(1, 300),
    warmup=st.integers(0, 400) | st.floats(0, 1, exclude_max=True),
)
def test_no_schedule_leaves_zero_to_one_or_rises_after_its_warm_up(name: str, steps: int, warmup: float) -> None:
    options = {"step_decay": {"milestones": [5, 9]}, "inverse_sqrt": {"timescale": 7}}.get(name, {})
    schedule = {"use": name, "warmup": warmup, **options}
    check_schedule(schedule)
    found = [factor_at(schedule, step, steps) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in found)
    warm = max(1, round(warmup * steps)) if 0 < warmup < 1 else int(warmup)
    assert found[warm:] == sorted(found[warm:], reverse=True)
    if name not in {"step_decay"}:
        assert found[:warm] == sorted(found[:warm])


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"use": "cosin"}, "unknown schedule"),
        ({"use": "one_cycle", "warmup": 3}, "rises by itself"),
        ({"use": "linear", "warmup": 2.5}, "whole number of steps"),
        ({"use": "linear", "warmup": -1}, "not negative"),
        ({"use": "stable_decay", "decay": 0.0}, r"in \(0, 1\]"),
        ({"use": "stable_decay", "shape": "square"}, "shape must be one of linear, sqrt, cosine"),
        ({"use": "inverse_sqrt"}, "does not accept"),
        ({"use": "linear", "milestones": [1]}, "does not accept"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UpdateRule(learning_rate=1.0, schedule=schedule)
