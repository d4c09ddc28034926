"""Divergence is found at its exact step, however many scalars are read at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.problem import Problem
from trainers.training.loop import Segment, Snapshot, SnapshotSchedule, TrainSettings, train
from trainers.update.rule import UpdateRule

MakeProblem = Callable[..., Problem]

READING: list[dict[str, Any]] = [
    {},
    {"heartbeat_s": 0.0},
    {"snapshots": SnapshotSchedule(every=3)},
]


def bowl(x: Tensor, step: int) -> Tensor:
    return x.square().sum()


def run(
    problem: Problem, rule: UpdateRule, settings: TrainSettings, **reading: Any
) -> tuple[list[Segment], list[Snapshot]]:
    items = list(train(problem, rule, settings, seed=0, **reading))
    return [i for i in items if isinstance(i, Segment)], [i for i in items if isinstance(i, Snapshot)]


@pytest.mark.parametrize("reading", READING)
@pytest.mark.parametrize("checkpoint_every", [None, 2, 7])
def test_a_loss_above_the_limit_ends_the_trial_at_that_step(
    problem_of: MakeProblem, reading: dict[str, Any], checkpoint_every: int | None
) -> None:
    # x <- -2 x, so the loss is 4^k: above 1000 first at k = 5.
    settings = TrainSettings(steps=500, max_loss=1000.0, checkpoint_every=checkpoint_every)
    segments, snapshots = run(problem_of(bowl), UpdateRule(learning_rate=1.5), settings, **reading)
    last = segments[-1]
    assert (last.outcome, last.diverged_step, last.last_finite_loss, last.state) == ("diverged", 5, 1024.0, None)
    assert [loss for s in segments for loss in s.rows["train_loss"]] == [4.0**k for k in range(6)]
    assert sum(s.num_steps for s in segments) == 5
    assert last.stop == 6
    assert all(snapshot.step < 5 for snapshot in snapshots)


@pytest.mark.parametrize("reading", READING)
def test_a_loss_that_is_not_finite_ends_the_trial_and_the_last_finite_one_is_kept(
    problem_of: MakeProblem, reading: dict[str, Any]
) -> None:
    def breaking(x: Tensor, step: int) -> Tensor:
        return x.square().sum() * (math.nan if step == 11 else 1.0)

    segments, _ = run(problem_of(breaking), UpdateRule(learning_rate=0.25), TrainSettings(steps=200), **reading)
    assert (segments[-1].diverged_step, segments[-1].last_finite_loss) == (11, 0.25**10)
    assert math.isnan(segments[-1].rows["train_loss"][-1])


def test_the_diverged_step_is_logged_though_it_is_no_multiple(problem_of: MakeProblem) -> None:
    settings = TrainSettings(steps=500, max_loss=1000.0, log_every=3)
    (segment,), _ = run(problem_of(bowl), UpdateRule(learning_rate=1.5), settings)
    assert segment.rows["step"].tolist() == [0, 3, 5]


def test_an_update_that_overflows_is_found_in_its_own_step(problem_of: MakeProblem) -> None:
    # The loss and the gradient are finite at x_0; x_1 is not.
    (segment,), snapshots = run(
        problem_of(lambda x, step: 1e300 * x.sum()),
        UpdateRule(learning_rate=1e300),
        TrainSettings(steps=1),
        snapshots=SnapshotSchedule(every=1),
    )
    assert (segment.outcome, segment.diverged_step, segment.last_finite_loss) == ("diverged", 0, 1e300)
    assert segment.rows["update_norm"].tolist() == [math.inf]
    assert snapshots == []


def test_clipped_steps_count_up_to_the_diverged_one(problem_of: MakeProblem) -> None:
    def cliff(x: Tensor, step: int) -> Tensor:
        return x.square().sum() + (1e6 if step == 4 else 0.0)

    rule = UpdateRule(learning_rate=0.1, clip_norm=0.01)
    (segment,), _ = run(problem_of(cliff), rule, TrainSettings(steps=50, max_loss=100.0))
    assert (segment.diverged_step, segment.num_clipped, segment.num_steps) == (4, 4, 4)


def test_divergence_before_an_evaluation_is_not_evaluated(problem_of: MakeProblem) -> None:
    settings = TrainSettings(steps=500, max_loss=1000.0, evaluate_every=6)
    (segment,), _ = run(problem_of(bowl), UpdateRule(learning_rate=1.5), settings)
    assert segment.diverged_step == 5
    assert "distance" not in segment.rows


def test_a_stop_after_divergence_reports_the_divergence(problem_of: MakeProblem) -> None:
    asked = iter(range(20))
    (segment,), _ = run(
        problem_of(bowl),
        UpdateRule(learning_rate=1.5),
        TrainSettings(steps=500, max_loss=1000.0),
        should_stop=lambda: next(asked) >= 15,
    )
    assert (segment.outcome, segment.diverged_step) == ("diverged", 5)


def test_an_exception_that_divergence_caused_is_divergence(problem_of: MakeProblem) -> None:
    def fragile(x: Tensor, step: int) -> Tensor:
        if not torch.isfinite(x).all():
            raise FloatingPointError("cannot go on with this")
        return x.square().sum() * (math.inf if step == 2 else 1.0)

    (segment,), _ = run(problem_of(fragile), UpdateRule(learning_rate=0.1), TrainSettings(steps=50))
    assert (segment.outcome, segment.diverged_step) == ("diverged", 2)
