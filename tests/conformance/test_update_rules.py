"""Every optimiser, with every transform, takes the step that its formula says, on the whole and in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.loop import SnapshotSchedule, TrainSettings, train
from trainers.training.stepper import Stepper
from trainers.update.averaging import IterateAverage
from trainers.update.flat import FlatParameters
from trainers.update.rule import OPTIMIZERS, UpdateRule
from trainers.update.schedules import SCHEDULES
from trainers.update.transforms import TRANSFORMS

Record = Callable[..., Any]

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"betas": (0.8, 0.95), "weight_decay": 0.01},
    "adamw": {"betas": (0.8, 0.95), "weight_decay": 0.01},
    "rmsprop": {"momentum": 0.5, "eps": 1e-6},
    "adagrad": {"weight_decay": 0.01},
    "asgd": {"lambd": 0.01, "alpha": 0.5, "t0": 3.0, "weight_decay": 0.01},
    "lion": {"betas": (0.8, 0.95), "weight_decay": 0.01},
    "signsgd": {"momentum": 0.5, "weight_decay": 0.01},
}
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "constant": {},
    "step_decay": {"milestones": [4, 8]},
    "cosine": {"final_fraction": 0.1, "warmup": 3},
    "linear": {"final_fraction": 0.1, "warmup": 0.25},
    "inverse_sqrt": {"timescale": 3, "warmup": 2},
    "stable_decay": {"decay": 0.5, "shape": "sqrt", "warmup": 2},
    "one_cycle": {"rise": 0.4},
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


def stepped(rule: UpdateRule, start: list[float], *, steps: int) -> tuple[Tensor, dict[str, np.ndarray]]:
    """The iterates x_1, x_2, ... of f = 2 ||x||^2 in double precision, x being a matrix of two units, and the rows."""

    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64).reshape(2, -1))

    problem = Problem(
        model=Matrix(),
        loss=lambda model, batch, carry: (2 * model.x.square().sum(), carry),
        batch=lambda step: None,
        probe=lambda fraction: [None],
        steps_per_epoch=1,
        fingerprint="none",
    )
    stepper = Stepper(problem, rule, total_steps=steps, seed=0)
    iterates, scalars = [problem.model.x.detach().flatten().clone()], []
    for step in range(steps):
        rate, row = stepper.take(step)
        scalars.append([rate, *row.tolist()])
        iterates.append(problem.model.x.detach().flatten().clone())
    columns = np.array(scalars).T
    names = ("rate", "loss", "grad_norm", "scale", "update_norm", "threshold")
    return torch.stack(iterates), dict(zip(names, columns, strict=True))


START = [3.0, -4.0, 0.1, 0.2]
GRADIENT = 4 * np.array(START)
UNITS = np.array([5.0, 5.0, math.hypot(0.1, 0.2), math.hypot(0.1, 0.2)])
FORMULAS: dict[str, tuple[float, np.ndarray]] = {
    "clip_norm": (2.0, GRADIENT * 2 / np.linalg.norm(GRADIENT)),
    "normalize": (2.0, GRADIENT / (np.linalg.norm(GRADIENT) + 2)),
    "clip_value": (2.0, np.clip(GRADIENT, -2, 2)),
    "clip_layer_norm": (2.0, GRADIENT * 2 / np.linalg.norm(GRADIENT)),
    # Each unit's gradient is four times its weights, and becomes half of them.
    "clip_adaptive": (0.5, GRADIENT * 0.5 * UNITS / (4 * UNITS)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_step_on_a_quadratic_is_that_of_the_formula(transform: str) -> None:
    value, expected = FORMULAS[transform]
    iterates, rows = stepped(UpdateRule(learning_rate=0.1, **{transform: value}), START, steps=1)
    assert iterates[1].numpy() == pytest.approx(np.array(START) - 0.1 * expected, rel=1e-14)
    assert rows["scale"][0] == pytest.approx(np.linalg.norm(expected) / np.linalg.norm(GRADIENT), rel=1e-14)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("value", [1e-3, 0.5, 3.9, 20.0, 1e6])
def test_the_effective_step_size_is_what_was_applied(transform: str, value: float) -> None:
    _, rows = stepped(UpdateRule(learning_rate=0.01, **{transform: value}), START, steps=4)
    assert rows["rate"] * rows["scale"] * rows["grad_norm"] == pytest.approx(rows["update_norm"], rel=1e-12)
    if transform != "normalize":
        assert (rows["scale"] <= 1).all()


def test_layers_are_clipped_each_by_its_own_norm(record: Record) -> None:
    problem = build_problem("deep_linear", {"layers": 2, "width": 3, "samples": 10}, seed=7)
    reference = build_problem("deep_linear", {"layers": 2, "width": 3, "samples": 10}, seed=7)
    loss, _ = reference.loss(reference.model, reference.batch(0), None)
    loss.backward()
    norms = [parameter.grad.norm().item() for parameter in reference.model.parameters()]
    between = sum(norms) / 2
    rule = UpdateRule(learning_rate=0.1, clip_layer_norm=between)
    before = [parameter.detach().clone() for parameter in problem.model.parameters()]
    record(lambda: problem, rule, TrainSettings(steps=1))
    for old, new, parameter, norm in zip(
        before, problem.model.parameters(), reference.model.parameters(), norms, strict=True
    ):
        torch.testing.assert_close(new, old - 0.1 * parameter.grad * min(1, between / norm))


def test_a_unit_of_zero_weights_may_still_move() -> None:
    iterates, _ = stepped(UpdateRule(learning_rate=1.0, clip_adaptive=0.5), [0.0, 0.0, 3.0, 4.0], steps=1)
    assert iterates[1].tolist() == pytest.approx([0.0, 0.0, 1.5, 2.0])


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "normalize"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_infinite_threshold_equals_the_plain_rule_bit_for_bit(
    record: Record, optimizer: str, transform: str
) -> None:
    plain = UpdateRule(optimizer=optimizer, learning_rate=0.02, **OPTIONS[optimizer])
    infinite = UpdateRule(optimizer=optimizer, learning_rate=0.02, **{transform: math.inf}, **OPTIONS[optimizer])
    settings = TrainSettings(steps=12)
    assert record(small, infinite, settings) == record(small, plain, settings)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_then_an_infinite_threshold_equals_torchs_momentum_bit_for_bit(record: Record, nesterov: bool) -> None:
    options: dict[str, Any] = {"learning_rate": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01}
    late = UpdateRule(**options, clip_norm=math.inf, transform_of="momentum")
    settings = TrainSettings(steps=12)
    plain = record(small, UpdateRule(**options), settings)
    assert record(small, late, settings) == plain
    assert record(small, late, settings, stops=[1, 7]) == plain


def test_clipping_before_and_after_the_momentum_are_their_formulas() -> None:
    # One dimension, g = 4 x, rate 0.1, momentum 0.5, threshold 1.
    options: dict[str, Any] = {"learning_rate": 0.1, "momentum": 0.5, "clip_norm": 1.0}
    early, _ = stepped(UpdateRule(**options), [10.0, 0.0], steps=3)
    late, rows = stepped(UpdateRule(**options, transform_of="momentum"), [10.0, 0.0], steps=3)
    assert early[:, 0].tolist() == pytest.approx([10.0, 9.9, 9.75, 9.575])
    assert late[:, 0].tolist() == pytest.approx([10.0, 9.9, 9.8, 9.7])
    buffers = [40.0, 20 + 39.6, (20 + 39.6) / 2 + 39.2]
    assert rows["scale"] == pytest.approx([1 / buffer for buffer in buffers])
    assert rows["grad_norm"] == pytest.approx([40.0, 39.6, 39.2])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_momentum_with_any_transform_after_it_survives_a_resume(record: Record, transform: str) -> None:
    rule = UpdateRule(learning_rate=0.02, momentum=0.9, transform_of="momentum", **{transform: 0.3})
    settings = TrainSettings(steps=9)
    assert record(small, rule, settings, stops=[1, 4]) == record(small, rule, settings)


def test_asgd_has_the_rate_of_its_formula_under_a_schedule() -> None:
    schedule = {"use": "step_decay", "milestones": [2], "factor": 0.5}
    rule = UpdateRule(optimizer="asgd", learning_rate=0.1, lambd=0.5, alpha=0.75, schedule=schedule)
    iterates, rows = stepped(rule, [1.0, 0.0], steps=4)
    x = 1.0
    for k in range(4):
        scheduled = 0.1 if k < 2 else 0.05
        rate = scheduled / (1 + 0.5 * scheduled * k) ** 0.75
        x = x * (1 - 0.5 * rate) - rate * 4 * x
        assert iterates[k + 1, 0].item() == pytest.approx(x, rel=1e-7)
        assert rows["rate"][k] == pytest.approx(rate)


@pytest.mark.parametrize(("average", "first"), [({"use": "from_step", "step": 3}, 4)])
def test_an_average_is_the_mean_of_the_iterates_and_leaves_their_way_alone(
    record: Record, average: dict[str, Any], first: int
) -> None:
    settings = TrainSettings(steps=8)
    snapshots = SnapshotSchedule(every=1)
    plain = record(small, UpdateRule(learning_rate=0.02), settings, snapshots=snapshots)
    rule = UpdateRule(learning_rate=0.02, average=average)
    averaged = record(small, rule, settings, snapshots=snapshots)
    assert averaged.parameters == plain.parameters
    assert averaged.snapshots == plain.snapshots
    problem = small()
    later = np.stack([np.frombuffer(taken, np.float32).reshape(2, -1)[1] for taken in plain.snapshots.values()])
    FlatParameters(problem.model).vector.data.copy_(torch.from_numpy(later[first - 1 :].mean(0)))
    with torch.no_grad():
        expected = problem.evaluate(problem.model)["valid_loss"]
    assert np.frombuffer(averaged.rows["valid_loss"])[-1] == pytest.approx(expected, rel=1e-5)
    assert np.frombuffer(plain.rows["valid_loss"])[-1] != pytest.approx(expected, rel=1e-5)


def test_a_non_monotone_average_begins_when_validation_stops_getting_better() -> None:
    average = IterateAverage({"use": "non_monotone", "window": 2})
    began = []
    for step, loss in enumerate([5.0, 4.0, 4.5, 4.2, 3.9, 4.1, 9.0]):
        average.evaluated(step, {"valid_loss": loss})
        average.update(step, torch.full((1,), float(step)))
        began.append(average.vector is not None)
    # At step 3, 4.2 is no worse than 5.0; at step 5, 4.1 is worse than the 4.0 of four evaluations before.
    assert began == [False, False, False, False, False, True, True]
    assert average.vector.item() == 5.5


def test_an_average_that_has_begun_survives_a_resume_at_any_step(record: Record) -> None:
    # At this rate the validation loss goes up and down before it falls.
    rule = UpdateRule(learning_rate=0.3, average={"use": "non_monotone", "window": 1})
    settings = TrainSettings(steps=20, evaluate_every=2)
    whole = record(small, rule, settings)
    assert whole.rows["valid_loss"] != record(small, UpdateRule(learning_rate=0.3), settings).rows["valid_loss"]
    for stop in range(0, 20, 3):
        assert record(small, rule, settings, stops=[stop, stop + 1]) == whole


def test_averages_that_cannot_be_are_refused() -> None:
    rule = UpdateRule(learning_rate=0.1, average={"use": "non_monotone", "window": 5})
    with pytest.raises(TrainerError, match="evaluate_every is not set"):
        next(train(small(), rule, TrainSettings(steps=3), seed=0))
    with pytest.raises(TrainerError, match=r"needs the metric valid_loss, but the problem's are: accuracy"):
        IterateAverage({"use": "non_monotone", "window": 5}).evaluated(1, {"accuracy": 0.5})
    for average in ({"use": "nt"}, {"use": "from_step"}, {"use": "non_monotone", "window": -1}):
        with pytest.raises(ValueError, match="average"):
            UpdateRule(learning_rate=0.1, average=average)
