"""A step along the mean of several micro-batches' gradients, and each of them clipped before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.checkpoint import dump, load
from trainers.training.ledger import join_rows
from trainers.training.loop import Segment, Snapshot, SnapshotSchedule, TrainSettings, train
from trainers.training.stepper import Stepper
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule
from trainers.update.transforms import TRANSFORMS


def trained(problem: Problem, rule: UpdateRule, **settings: Any) -> tuple[dict[str, np.ndarray], Tensor]:
    *_, last = train(problem, rule, TrainSettings(**settings), seed=7)
    assert isinstance(last, Segment)
    return last.rows, flat_parameters(problem.model)


def deep_linear(batch_size: int) -> Problem:
    return build_problem("deep_linear", {"layers": 2, "width": 3, "samples": 24, "batch_size": batch_size}, seed=7)


class Recorded:
    """f_b(x) = slope_b x in one dimension, with what its loss was called with."""

    def __init__(self, slopes: Sequence[float], *, steps_per_epoch: int = 1000, dtype: torch.dtype = torch.float64):
        self.slopes, self.steps_per_epoch = slopes, steps_per_epoch
        self.batches: list[int] = []
        self.carries: list[int] = []
        self.drawn: list[float] = []

        class Point(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.x = nn.Parameter(torch.ones(1, dtype=dtype))

        self.problem = Problem(
            model=Point(),
            loss=self.loss,
            batch=lambda step: torch.tensor(step),
            probe=lambda share: [torch.tensor(0)],
            initial_carry=lambda: torch.tensor(0),
            learning_rate_factor=lambda step: 1.0 + step % 2,
            steps_per_epoch=steps_per_epoch,
            fingerprint="none",
        )

    def loss(self, model: nn.Module, batch: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(int(batch))
        self.carries.append(int(carry))
        self.drawn.append(float(torch.rand(())))
        return (model.x * self.slopes[int(batch) % len(self.slopes)]).sum(), carry + 1

    def steps(self, rule: UpdateRule, *, steps: int, accumulate: int) -> dict[str, np.ndarray]:
        return trained(self.problem, rule, steps=steps, accumulate=accumulate)[0]


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "momentum": 0.9}, {"optimizer": "adam", "normalize": 1.0}])
@pytest.mark.parametrize("count", [2, 3])
def test_several_micro_batches_take_the_step_of_one_batch_of_all_their_samples(
    options: dict[str, Any], count: int
) -> None:
    # 24 samples in batches of 4 or of 4 n: both cut every epoch's order into the same steps.
    rule = UpdateRule(learning_rate=0.02, **options)
    rows, end = trained(deep_linear(4), rule, steps=30, accumulate=count)
    expected, expected_end = trained(deep_linear(4 * count), rule, steps=30)
    torch.testing.assert_close(end, expected_end, rtol=1e-4, atol=1e-6)
    assert rows.keys() == expected.keys()
    for name in rows:
        np.testing.assert_allclose(rows[name], expected[name], rtol=2e-4, atol=1e-7, err_msg=name)


def test_micro_batches_are_the_problems_batches_in_order_each_with_its_own_draws_and_one_carry() -> None:
    accumulated, plain = Recorded([1.0], steps_per_epoch=5), Recorded([1.0], steps_per_epoch=5)
    rows = accumulated.steps(UpdateRule(learning_rate=0.1), steps=4, accumulate=3)
    plain.steps(UpdateRule(learning_rate=0.1), steps=12, accumulate=1)
    assert accumulated.batches == plain.batches == list(range(12))
    # An epoch ends within the second step, and there the carry begins anew.
    assert accumulated.carries == plain.carries == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert accumulated.drawn == plain.drawn
    assert len(set(accumulated.drawn)) == 12
    assert rows["epoch"][:4].tolist() == [0, 3 / 5, 6 / 5, 9 / 5]


def test_the_row_of_a_step_is_about_the_means_of_loss_gradient_and_rate() -> None:
    rows = Recorded([3.0, 5.0, 10.0]).steps(UpdateRule(learning_rate=0.1), steps=1, accumulate=3)
    assert rows["train_loss"][0] == pytest.approx(6)
    assert rows["grad_norm"][0] == pytest.approx(6)
    # The problem's factors of the three batches are 1, 2 and 1.
    assert rows["learning_rate"][0] == pytest.approx(0.1 * 4 / 3)
    assert rows["update_norm"][0] == pytest.approx(0.1 * 4 / 3 * 6)


def test_milestones_and_snapshots_in_epochs_count_passes_over_the_data() -> None:
    schedule = {"use": "step_decay", "milestones": [1, 2], "factor": 0.5, "unit": "epochs"}
    recorded = Recorded([1.0], steps_per_epoch=10)
    items = train(
        recorded.problem,
        UpdateRule(learning_rate=0.1, schedule=schedule),
        TrainSettings(steps=9, accumulate=3),
        seed=7,
        snapshots=SnapshotSchedule(epochs=1),
    )
    found = list(items)
    # Steps begin at batches 0, 3, 6, ...: the first ones at or after batches 10 and 20 are steps 4 and 7.
    assert [(one.step, one.epoch) for one in found if isinstance(one, Snapshot)] == [(0, 0), (4, 1.2), (7, 2.1)]
    rates = found[-1].rows["learning_rate"][:9] / np.array([4 / 3, 5 / 3] * 4 + [4 / 3])
    assert rates == pytest.approx([0.1] * 4 + [0.05] * 3 + [0.025] * 2)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("model", [{"use": "lstm", "layers": 2, "hidden": 6, "embedding": 6, "dropout": 0.3}])
def test_a_resumed_trial_equals_one_in_one_go(each: bool, model: dict[str, Any], tmp_path: Any) -> None:
    for split, lines in (("train", 25), ("valid", 6), ("test", 2)):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\na dog ran\n" * lines)

    def build() -> Problem:
        options = {"corpus": str(tmp_path), "model": model, "batch_size": 3, "sequence_length": 4}
        return build_problem("language_modeling", options | {"evaluate_sequences": 2}, seed=7)

    rule = UpdateRule(learning_rate=0.5, momentum=0.9, clip_norm=0.2, clip_each_micro_batch=each)
    settings = TrainSettings(steps=14, accumulate=3, evaluate_every=5)
    assert build().steps_per_epoch % 3, "an epoch should end within a step"
    whole, end = build(), build()
    *_, expected = train(whole, rule, settings, seed=7)
    pieces, state = [], None
    for stop in (1, 8, None):
        end = build()
        left = iter(range(10**6 if stop is None else stop - (state.step if state else 0)))
        *_, last = train(
            end, rule, settings, seed=7, resume=state, should_stop=lambda left=left: next(left, None) is None
        )
        pieces.append(last.rows)
        state = load(dump(last.state)) if stop is not None else None
    assert torch.equal(flat_parameters(end.model), flat_parameters(whole.model))
    joined = join_rows(pieces)
    for name, column in expected.rows.items():
        # As text, where a value that is not a number equals itself.
        assert list(map(repr, joined[name].tolist())) == list(map(repr, column.tolist())), name


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "normalize"])
def test_an_infinite_threshold_of_each_micro_batch_equals_the_plain_rule_bit_for_bit(transform: str) -> None:
    options: dict[str, Any] = {"learning_rate": 0.02, "momentum": 0.9}
    infinite = UpdateRule(**options, **{transform: math.inf}, clip_each_micro_batch=True)
    rows, end = trained(deep_linear(4), infinite, steps=12, accumulate=3)
    expected, expected_end = trained(deep_linear(4), UpdateRule(**options), steps=12, accumulate=3)
    assert torch.equal(end, expected_end)
    for name in expected:
        assert np.array_equal(rows[name], expected[name], equal_nan=True), name


@pytest.mark.parametrize(
    ("slopes", "before", "after"),
    [
        # (3 + 1) / 2, and (2 + 1) / 2 with 3 clipped to 2.
        ([3.0, 1.0], 2.0, 1.5),
        # 6 and -5 nearly cancel; clipped, they do so exactly.
        ([6.0, -5.0], 0.5, 0.0),
        # (4 - 1.5 - 1.5) / 3, and (2 - 3) / 3: longer than before is possible, and the other way round.
        ([4.0, -2.0, -1.25], 0.25, 1.25 / 3),
        ([1.5, -2.0], 0.25, 0.25),
    ],
)
def test_clipping_each_micro_batch_is_its_formula(slopes: list[float], before: float, after: float) -> None:
    rule = UpdateRule(learning_rate=0.1, clip_norm=2.0, clip_each_micro_batch=True)
    recorded = Recorded(slopes)
    stepper = Stepper(recorded.problem, rule, total_steps=1, seed=0, batches_per_step=len(slopes))
    rate, scalars = stepper.take(0)
    _, grad_norm, scale, update_norm, _ = scalars.tolist()
    assert grad_norm == pytest.approx(before, rel=1e-12)
    assert scale == pytest.approx(after / before, rel=1e-12)
    assert update_norm == pytest.approx(rate * after, rel=1e-6)


def test_a_step_counts_as_clipped_if_any_of_its_micro_batches_was() -> None:
    # Clipped at 2: none; one of two; both, which cancel then; one of two.
    slopes = [1.0, 2.0, 3.0, 1.0, 4.0, -3.0, 3.0, -1.0]
    rule = UpdateRule(learning_rate=0.1, clip_norm=2.0, clip_each_micro_batch=True)
    rows = Recorded(slopes).steps(rule, steps=4, accumulate=2)
    assert rows["clipped"].tolist()[:4] == [False, True, True, True]
    scale = rows["step_size"] / rows["learning_rate"]
    assert scale[0] == 1
    assert scale[:4] == pytest.approx([1, 1.5 / 2, 0, 0.5])
    # Two of three, which leave the mean as it was.
    kept = Recorded([5.0, -5.0, 1.0]).steps(rule, steps=1, accumulate=3)
    assert kept["clipped"][0]
    assert kept["update_norm"][0] == pytest.approx(kept["learning_rate"][0] * kept["grad_norm"][0])
    longer = Recorded([4.0, -2.0, -1.25]).steps(rule, steps=1, accumulate=3)
    assert longer["clipped"][0]
    assert longer["step_size"][0] > longer["learning_rate"][0]


def test_clipping_the_mean_and_clipping_each_are_different_rules() -> None:
    options: dict[str, Any] = {"learning_rate": 0.1, "clip_norm": 2.0}
    mean = Recorded([30.0, -28.0]).steps(UpdateRule(**options), steps=1, accumulate=2)
    each = Recorded([30.0, -28.0]).steps(UpdateRule(**options, clip_each_micro_batch=True), steps=1, accumulate=2)
    assert (mean["update_norm"][0] > 0, mean["clipped"][0]) == (True, False)
    assert (each["update_norm"][0], each["clipped"][0]) == (0, True)
    assert mean["grad_norm"][0] == each["grad_norm"][0] == pytest.approx(1)


def test_gradients_of_sixteen_bits_are_added_up_without_overflow() -> None:
    rows = Recorded([6e4, 5e4], dtype=torch.float16).steps(UpdateRule(learning_rate=1e-5), steps=1, accumulate=2)
    assert rows["grad_norm"][0] == pytest.approx(5.5e4, rel=1e-3)


def test_a_micro_batch_that_is_not_finite_is_divergence_of_its_step() -> None:
    items = train(
        Recorded([1.0, 1.0, 1.0, math.nan]).problem,
        UpdateRule(learning_rate=0.1, clip_norm=1.0, clip_each_micro_batch=True),
        TrainSettings(steps=5, accumulate=2),
        seed=0,
    )
    *_, last = items
    assert (last.outcome, last.diverged_step) == ("diverged", 1)


def test_what_cannot_be_is_refused() -> None:
    clipped = UpdateRule(learning_rate=0.1, clip_norm=1.0, clip_each_micro_batch=True)
    with pytest.raises(TrainerError, match="clip_each_micro_batch needs steps of several micro-batches"):
        next(train(deep_linear(4), clipped, TrainSettings(steps=3), seed=0))
    with pytest.raises(TrainerError, match="accumulate must be at least 1, not 0"):
        TrainSettings(steps=3, accumulate=0)
    with pytest.raises(ValueError, match=r"clip_each_micro_batch needs one of: clip_norm, .*; of the gradient"):
        UpdateRule(learning_rate=0.1, clip_each_micro_batch=True)
    options: dict[str, Any] = {"momentum": 0.9, "transform_of": "momentum", "clip_norm": 1.0}
    with pytest.raises(ValueError, match="of the gradient"):
        UpdateRule(learning_rate=0.1, clip_each_micro_batch=True, **options)


def test_the_length_of_a_step_bounds_nothing_where_each_micro_batch_is_clipped() -> None:
    assert UpdateRule(learning_rate=0.1, clip_norm=1.0).step_threshold == 1
    assert UpdateRule(learning_rate=0.1, clip_norm=1.0, clip_each_micro_batch=True).step_threshold is None
