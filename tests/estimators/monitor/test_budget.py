"""The budget, with a clock that the test winds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import SmoothnessMonitor
from estimators.monitor.budget import Budget
from tests.estimators.monitor.conftest import Kept


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(
    kept: Kept, *, budget: float | None, steps: int, step_s: float = 1.0, gradient_s: float = 0.5
) -> SmoothnessMonitor:
    """A loop whose steps take a second, on an f each of whose evaluations takes half of one."""
    clock = Clock()
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        clock.now += gradient_s
        return model(batch).square().mean()

    batch = torch.ones(1, 2)
    monitor = SmoothnessMonitor(
        model, optimizer, loss_fn, out=kept, every=10, budget=budget, probe=[batch], clock=clock, flush_every_s=1e9
    )
    with monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            clock.now += step_s
            optimizer.step()
            clock.now += step_s / 4
    return monitor


def test_the_first_measurement_is_paid_back_before_the_next_and_the_share_stays_below_the_budget(kept: Kept) -> None:
    monitor = run(kept, budget=0.05, steps=1000)
    taken = [row["step"] for row in kept.measured()]
    assert taken[0] == 0
    cost = monitor.summary().own_s / len(taken)
    # The first and the second together may take a twentieth of the time up to the second.
    assert taken[1] >= 2 * cost / 0.05 / 1.25 - 1
    assert all(step % 10 == 0 for step in taken)
    assert 0.8 * 0.05 < monitor.summary().share <= 0.05
    for number, step in enumerate(taken[1:], start=2):
        assert number * cost <= 0.05 * 1.25 * (step + 1)


def test_without_a_budget_every_nth_step_is_measured_and_with_a_large_one_too(kept: Kept) -> None:
    run(kept, budget=None, steps=40)
    assert [row["step"] for row in kept.measured()] == [0, 10, 20, 30]
    kept.blocks.clear()
    run(kept, budget=1000.0, steps=40)
    assert [row["step"] for row in kept.measured()] == [0, 10, 20, 30]


def test_a_loop_too_short_to_pay_for_its_first_measurement_says_what_it_took(kept: Kept) -> None:
    monitor = run(kept, budget=0.01, steps=20)
    assert len(kept.measured()) == 1
    assert monitor.summary().share > 0.01
    assert str(monitor.summary()) == (
        f"1 snapshot in 20 steps; measuring took {100 * monitor.summary().share:.3g} % of the loop's "
        f"{monitor.summary().loop_s:.1f} s (budget 1 %)"
    )


def test_times_of_the_blocks_add_up_to_those_of_the_summary(kept: Kept) -> None:
    monitor = run(kept, budget=None, steps=25)
    assert sum(block.loop_s for block in kept.blocks) == pytest.approx(monitor.summary().loop_s)
    assert sum(block.own_s for block in kept.blocks) == pytest.approx(monitor.summary().own_s)
    assert sum(block.measured_s for block in kept.blocks) == pytest.approx(monitor.summary().own_s)
    # 24 whole steps of 1.25 s, and the last without its end.
    assert monitor.summary().loop_s == pytest.approx(25 * 1.25)


@given(
    share=st.floats(0.001, 0.5),
    costs=st.lists(st.floats(0.01, 10.0), min_size=2, max_size=30),
    step_s=st.floats(0.01, 1.0),
)
def test_the_share_exceeds_the_budget_by_no_more_than_the_surprise_in_one_cost(
    share: float, costs: list[float], step_s: float
) -> None:
    budget = Budget(share)
    largest = 0.0
    for cost in costs:
        waited = 0
        while not budget.allows() and waited < 100_000:
            budget.passes(step_s)
            waited += 1
        if waited == 100_000:
            return
        budget.spend(cost, measuring=True)
        largest = max(largest, cost)
        assert budget.own_s <= share * budget.loop_s + max(largest, costs[0])
