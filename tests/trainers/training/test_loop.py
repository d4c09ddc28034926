"""What the loop yields: rows, snapshots, segments, signs of life."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.errors import CheckpointError, TrainerError
from trainers.problem import Batch, Carry, Problem
from trainers.problems import build_problem
from trainers.training.checkpoint import TrainingState
from trainers.training.loop import Progress, Segment, Snapshot, SnapshotSchedule, TrainSettings, train
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule

MakeProblem = Callable[..., Problem]
RULE = UpdateRule(learning_rate=0.1)


def bowl(x: Tensor, step: int) -> Tensor:
    return x.square().sum()


def small(**options: Any) -> Problem:
    return build_problem("deep_linear", {"width": 3, "samples": 12, "batch_size": 4} | options, seed=0)


def segments(items: Iterator[Any]) -> list[Segment]:
    return [item for item in items if isinstance(item, Segment)]


def test_rows_speak_of_the_iterate_before_the_step_and_a_last_row_of_the_last_iterate(problem_of: MakeProblem) -> None:
    settings = TrainSettings(steps=5, evaluate_every=2)
    (segment,) = segments(train(problem_of(bowl, start=1.0), RULE, settings, seed=0))
    iterates = [0.8**k for k in range(6)]
    rows = segment.rows
    assert rows["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert rows["epoch"].tolist() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert rows["train_loss"][:5] == pytest.approx([x * x for x in iterates[:5]])
    assert rows["distance"].mask.tolist() == [True, True, False, True, False, False]
    assert rows["distance"].compressed() == pytest.approx([iterates[2], *iterates[4:]])
    for name in ("train_loss", "grad_norm", "step_size", "update_norm", "learning_rate"):
        assert np.isnan(rows[name][-1]), name
    assert not rows["clipped"][-1]
    assert (segment.outcome, segment.start, segment.stop, segment.num_steps) == ("done", 0, 5, 5)


def test_columns_have_their_types() -> None:
    (segment,) = segments(train(small(), RULE, TrainSettings(steps=2), seed=0))
    types = {name: column.dtype for name, column in segment.rows.items()}
    assert types.pop("step") == np.int64
    assert types.pop("clipped") == np.bool_
    assert set(types.values()) == {np.dtype(np.float64)}
    assert {len(column) for column in segment.rows.values()} == {3}


def test_logged_are_multiples_evaluated_steps_and_the_last() -> None:
    settings = TrainSettings(steps=12, log_every=5, evaluate_every=4)
    (segment,) = segments(train(small(), RULE, settings, seed=0))
    assert segment.rows["step"].tolist() == [0, 4, 5, 8, 10, 11, 12]


def test_segments_end_at_checkpoints_and_their_counts_are_their_own() -> None:
    rule = UpdateRule(learning_rate=0.01, clip_norm=1e-6)
    found = segments(train(small(), rule, TrainSettings(steps=10, checkpoint_every=4), seed=0))
    assert [(s.start, s.stop, s.outcome) for s in found] == [(0, 4, None), (4, 8, None), (8, 10, "done")]
    assert [s.num_steps for s in found] == [s.num_clipped for s in found] == [4, 4, 2]
    assert [s.rows["step"].tolist() for s in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [s.state.step if s.state else None for s in found] == [4, 8, None]


def test_the_threshold_of_a_fixed_clip_norm_is_that_number_to_the_last_bit_and_nan_without_one() -> None:
    for rule, expected in ((UpdateRule(learning_rate=0.01, clip_norm=0.1), 0.1), (RULE, np.nan)):
        (segment,) = segments(train(small(), rule, TrainSettings(steps=3), seed=0))
        np.testing.assert_array_equal(segment.rows["threshold"], [expected] * 3 + [np.nan])


def test_a_state_is_not_touched_by_later_steps() -> None:
    states: list[tuple[TrainingState, Tensor]] = []
    for item in train(small(), RULE, TrainSettings(steps=9, checkpoint_every=3), seed=0):
        if isinstance(item, Segment) and item.state is not None:
            states.append((item.state, item.state.parameters.clone()))
    assert len(states) == 2
    assert all(torch.equal(state.parameters, copy) for state, copy in states)
    assert not torch.equal(states[0][1], states[1][1])


def test_a_snapshot_holds_both_iterates_in_fresh_memory() -> None:
    items = list(train(small(), RULE, TrainSettings(steps=7), seed=0, snapshots=SnapshotSchedule(every=1)))
    taken = [item for item in items if isinstance(item, Snapshot)]
    (segment,) = segments(iter(items))
    assert [snapshot.step for snapshot in taken] == list(range(7))
    for snapshot in taken:
        assert snapshot.iterates.shape == (2, 18)
        assert snapshot.iterates.dtype == np.float32
        assert snapshot.iterates.flags.c_contiguous
        assert snapshot.loss == segment.rows["train_loss"][snapshot.step]
        assert snapshot.grad_norm == segment.rows["grad_norm"][snapshot.step]
        assert snapshot.learning_rate == segment.rows["learning_rate"][snapshot.step]
        assert snapshot.epoch == segment.rows["epoch"][snapshot.step]
        length = np.linalg.norm(snapshot.iterates[1].astype(np.float64) - snapshot.iterates[0])
        assert length == pytest.approx(segment.rows["update_norm"][snapshot.step], rel=1e-5)
    assert all((a.iterates[1] == b.iterates[0]).all() for a, b in itertools.pairwise(taken))
    assert (taken[0].iterates[0] == flat_parameters(small().model).numpy()).all()


def test_iterates_of_a_model_in_float64_are_kept_in_float64() -> None:
    """Steps of 1e-9 of the weights would be no steps in float32."""
    problem = small()
    problem.model.double()
    wide = replace(
        problem,
        batch=lambda step: tuple(part.double() for part in problem.batch(step)),
        evaluate=lambda model: {},
    )
    items = train(
        wide, UpdateRule(learning_rate=1e-9), TrainSettings(steps=2), seed=0, snapshots=SnapshotSchedule(every=1)
    )
    taken = [item for item in items if isinstance(item, Snapshot)]
    assert [snapshot.iterates.dtype for snapshot in taken] == [np.float64] * 2
    assert (taken[0].iterates[1] == taken[1].iterates[0]).all()
    length = np.linalg.norm(taken[0].iterates[1] - taken[0].iterates[0])
    assert length == pytest.approx(1e-9 * taken[0].grad_norm, rel=1e-5)


def test_asking_to_stop_at_once_gives_an_empty_segment_from_which_training_goes_on() -> None:
    settings = TrainSettings(steps=3)
    (stopped,) = segments(train(small(), RULE, settings, seed=0, should_stop=lambda: True))
    assert (stopped.outcome, stopped.start, stopped.stop, stopped.num_steps) == ("stopped", 0, 0, 0)
    assert len(stopped.rows["step"]) == 0
    (resumed,) = segments(train(small(), RULE, settings, seed=0, resume=stopped.state))
    (whole,) = segments(train(small(), RULE, settings, seed=0))
    assert resumed.rows["train_loss"].tobytes() == whole.rows["train_loss"].tobytes()


def asking(asked: list[float], **metrics: float) -> Problem:
    """A problem with test data, which takes down the weights that it is asked at."""
    problem = small()

    def test(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        asked.append(float(flat_parameters(model).sum()))
        return metrics or {"test_loss": asked[-1]}

    return replace(problem, test=test)


def test_the_test_data_are_asked_once_at_the_last_iterate_also_after_a_resume() -> None:
    asked: list[float] = []
    problem = asking(asked)
    settings = TrainSettings(steps=10, evaluate_every=2, checkpoint_every=4)
    found = segments(train(problem, RULE, settings, seed=0))
    assert asked == [float(flat_parameters(problem.model).sum())]
    assert [segment.tests for segment in found] == [(), (), ("test_loss",)]
    assert ["test_loss" in segment.rows for segment in found] == [False, False, True]
    assert found[-1].rows["test_loss"].tolist()[-1:] == asked
    assert found[-1].rows["test_loss"].mask.tolist() == [True, True, False]
    assert found[-1].rows["valid_loss"].mask.tolist() == [False, True, False]
    (resumed,) = segments(train(asking(asked), RULE, settings, seed=0, resume=found[1].state))
    assert asked[1:] == asked[:1], "bit for bit, and once"
    assert resumed.evaluate_s > 0


def test_a_trial_that_diverges_or_is_stopped_never_asks_the_test_data() -> None:
    asked: list[float] = []
    (segment,) = segments(train(asking(asked), UpdateRule(learning_rate=1e6), TrainSettings(steps=30), seed=0))
    assert segment.outcome == "diverged"
    (segment,) = segments(train(asking(asked), RULE, TrainSettings(steps=30), seed=0, should_stop=lambda: True))
    assert segment.outcome == "stopped"
    assert asked == []


def test_the_test_data_are_asked_at_the_average_of_iterates_that_the_evaluation_uses() -> None:
    asked: list[float] = []
    problem = asking(asked)
    seen: list[float] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append(float(flat_parameters(model).sum()))
        return {"valid_loss": 0.0}

    rule = UpdateRule(learning_rate=0.1, average={"use": "from_step", "step": 2})
    list(train(replace(problem, evaluate=evaluate), rule, TrainSettings(steps=6), seed=0))
    assert asked == seen
    assert asked != [float(flat_parameters(problem.model).sum())]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"valid_loss": 1.0}, r"must begin the names of its metrics with 'test_'.*test_loss for 'valid_loss'"),
        ({"test_loss": 1.0}, "evaluate and test both return 'test_loss'"),
    ],
)
def test_metrics_of_the_test_data_have_names_of_their_own(metrics: dict[str, float], said: str) -> None:
    problem = replace(asking([], **metrics), evaluate=lambda model: {"test_loss": 2.0})
    with pytest.raises(TrainerError, match=said):
        list(train(problem, RULE, TrainSettings(steps=1), seed=0))


def test_resuming_at_the_end_only_evaluates(problem_of: MakeProblem) -> None:
    settings = TrainSettings(steps=4)
    stop_at_end = segments(train(problem_of(bowl), RULE, TrainSettings(steps=5, checkpoint_every=4), seed=0))[0]
    (segment,) = segments(train(problem_of(bowl), RULE, settings, seed=0, resume=stop_at_end.state))
    assert (segment.outcome, segment.rows["step"].tolist()) == ("done", [4])
    assert segment.last_finite_loss == stop_at_end.rows["train_loss"][-1]


def test_a_checkpoint_of_another_model_or_beyond_the_end_is_refused() -> None:
    state = segments(train(small(), RULE, TrainSettings(steps=9, checkpoint_every=8), seed=0))[0].state
    with pytest.raises(CheckpointError, match="another model"):
        next(train(small(width=4), RULE, TrainSettings(steps=9), seed=0, resume=state))
    with pytest.raises(CheckpointError, match="step 8, but the trial has 7 steps"):
        next(train(small(), RULE, TrainSettings(steps=7), seed=0, resume=state))


def test_signs_of_life_count_steps_and_clipping() -> None:
    rule = UpdateRule(learning_rate=0.01, clip_norm=1e-6)
    items = list(train(small(), rule, TrainSettings(steps=3), seed=0, heartbeat_s=0.0))
    beats = [item for item in items if isinstance(item, Progress)]
    (segment,) = segments(iter(items))
    assert [beat.step for beat in beats] == [1, 2, 3]
    assert [beat.loss for beat in beats] == segment.rows["train_loss"][:3].tolist()
    assert {beat.clipped_fraction for beat in beats} == {1.0}


def test_signs_of_life_after_a_resume_count_from_the_beginning_of_the_trial() -> None:
    # Clipped from the first step to the fourth, the last before the resume; then never again.
    early = segments(
        train(
            small(), UpdateRule(learning_rate=1e-6, clip_norm=1e-6), TrainSettings(steps=8, checkpoint_every=4), seed=0
        )
    )[0]
    rule = UpdateRule(learning_rate=1e-6, clip_norm=1e6)
    items = list(train(small(), rule, TrainSettings(steps=8), seed=0, resume=early.state, heartbeat_s=0.0))
    beats = [(item.step, item.clipped_fraction) for item in items if isinstance(item, Progress)]
    assert beats == [(5, 4 / 5), (6, 4 / 6), (7, 4 / 7), (8, 4 / 8)]


def test_no_sign_of_life_before_its_time() -> None:
    items = list(train(small(), RULE, TrainSettings(steps=200), seed=0, heartbeat_s=3600.0))
    assert not [item for item in items if isinstance(item, Progress)]


def test_signs_of_life_and_snapshots_leave_no_trace_in_the_rows() -> None:
    settings = TrainSettings(steps=30)
    (plain,) = segments(train(small(), RULE, settings, seed=0, heartbeat_s=3600.0))
    busy = train(small(), RULE, settings, seed=0, heartbeat_s=0.0, snapshots=SnapshotSchedule(every=3))
    (read_often,) = segments(busy)
    assert all(plain.rows[name].tobytes() == column.tobytes() for name, column in read_often.rows.items())


def test_an_exception_of_the_problem_passes_through(problem_of: MakeProblem) -> None:
    def broken(x: Tensor, step: int) -> Tensor:
        if step == 3:
            raise RuntimeError("the user's own mistake")
        return x.square().sum()

    with pytest.raises(RuntimeError, match="the user's own mistake"):
        list(train(problem_of(broken), RULE, TrainSettings(steps=5), seed=0))


def test_dropout_is_a_function_of_seed_and_step_whatever_is_drawn_elsewhere(problem_of: MakeProblem) -> None:
    def noisy(x: Tensor, step: int) -> Tensor:
        # The draw alone: whatever the weights are, equal draws give equal losses.
        return torch.rand((), dtype=torch.float64) + 0 * x.sum()

    def losses(seed: int, *, disturb: bool = False) -> list[float]:
        items = []
        for item in train(problem_of(noisy), RULE, TrainSettings(steps=6), seed=seed, heartbeat_s=0.0):
            if disturb:
                torch.rand(3)
            items.append(item)
        return segments(iter(items))[0].rows["train_loss"][:6].tolist()

    assert losses(1) == losses(1, disturb=True)
    assert losses(1) != losses(2)
    assert len(set(losses(1))) == 6


def test_evaluation_is_in_evaluation_mode_without_gradients_and_leaves_no_trace() -> None:
    modes: list[tuple[bool, bool]] = []

    def problem(metrics: Callable[[nn.Module], dict[str, float]]) -> Problem:
        torch.manual_seed(0)
        return Problem(
            model=nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)),
            loss=lambda model, batch, carry: (model(batch).square().mean(), carry),
            batch=lambda step: torch.ones(3, 2) * (step + 1),
            probe=lambda fraction: [torch.ones(3, 2)],
            evaluate=metrics,
            steps_per_epoch=1,
            fingerprint="none",
        )

    def watching(model: nn.Module) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        return {"draw": torch.rand(()).item()}

    settings = TrainSettings(steps=6, evaluate_every=2)
    (watched,) = segments(train(problem(watching), RULE, settings, seed=0))
    (plain,) = segments(train(problem(lambda model: {}), RULE, TrainSettings(steps=6), seed=0))
    assert modes == [(False, False)] * 3
    assert watched.rows["train_loss"].tobytes() == plain.rows["train_loss"].tobytes()


def test_frozen_parameters_stay_out_and_tied_ones_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.fixed = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.second.weight = self.first.weight
            self.fixed.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.fixed(self.second(self.first(inputs)))

    model = Tied()
    before = model.fixed.weight.clone()
    problem = Problem(
        model=model,
        loss=lambda model, batch, carry: (model(batch).square().mean(), carry),
        batch=lambda step: torch.ones(3, 2),
        probe=lambda fraction: [torch.ones(3, 2)],
        steps_per_epoch=1,
        fingerprint="none",
    )
    snapshots = SnapshotSchedule(last=1)
    snapshot = next(iter(train(problem, RULE, TrainSettings(steps=3), seed=0, snapshots=snapshots)))
    assert isinstance(snapshot, Snapshot)
    assert snapshot.iterates.shape == (2, 4 + 2 + 2)
    assert model.second.weight is model.first.weight
    assert torch.equal(model.fixed.weight, before)
    assert (snapshot.iterates[1] == flat_parameters(model).numpy()).all()


def test_a_carry_that_still_has_a_history_is_cut(problem_of: MakeProblem) -> None:
    def loss(model: nn.Module, batch: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        state = carry * 0.5 + model.x.sum()
        return state.square(), state

    template = problem_of(bowl)
    problem = Problem(
        model=template.model,
        loss=loss,
        batch=template.batch,
        probe=template.probe,
        initial_carry=lambda: torch.zeros((), dtype=torch.float64),
        steps_per_epoch=3,
        fingerprint="none",
    )
    (segment,) = segments(train(problem, UpdateRule(learning_rate=1e-9), TrainSettings(steps=4), seed=0))
    # x stays at 1 and the state starts anew at step 3: 1, 1.5, 1.75, 1; the gradient is twice the state.
    assert segment.rows["train_loss"][:4] == pytest.approx([1, 2.25, 3.0625, 1], rel=1e-6)
    assert segment.rows["grad_norm"][:4] == pytest.approx([2, 3, 3.5, 2], rel=1e-6)


def test_a_loss_that_is_no_scalar_is_refused(problem_of: MakeProblem) -> None:
    with pytest.raises(
        TrainerError, match=r"must give a scalar tensor, the mean over the batch, not a tensor of shape \(2,\)"
    ):
        list(train(problem_of(lambda x, step: x, start=[1.0, 2.0]), RULE, TrainSettings(steps=1), seed=0))


def test_a_loss_that_sets_gradients_itself_is_refused_and_one_that_clears_them_does_no_harm(
    problem_of: MakeProblem,
) -> None:
    def backward(problem: Problem, loss: Tensor) -> None:
        loss.backward()

    def clear(problem: Problem, loss: Tensor) -> None:
        problem.model.zero_grad()

    def meddling(meddle: Callable[[Problem, Tensor], None]) -> Problem:
        problem = problem_of(bowl)

        def loss(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
            meddle(problem, model.x.square().sum())
            return problem.loss(model, batch, carry)

        return replace(problem, loss=loss)

    settings = TrainSettings(steps=2)
    with pytest.raises(TrainerError, match="the gradient of 'x' was set while the loss was computed"):
        list(train(meddling(backward), RULE, settings, seed=0))
    runs = [segments(train(problem, RULE, settings, seed=0)) for problem in (meddling(clear), problem_of(bowl))]
    (cleared,), (plain,) = runs
    assert cleared.rows["train_loss"].tobytes() == plain.rows["train_loss"].tobytes()


def test_a_model_with_nothing_to_train_or_of_mixed_types_is_refused(problem_of: MakeProblem) -> None:
    problem = problem_of(bowl)
    problem.model.other = nn.Parameter(torch.zeros(1, dtype=torch.float32))
    with pytest.raises(TrainerError, match="must share one type and device"):
        list(train(problem, RULE, TrainSettings(steps=1), seed=0))
    problem = problem_of(bowl)
    problem.model.requires_grad_(False)
    with pytest.raises(TrainerError, match="no parameter that requires a gradient"):
        list(train(problem, RULE, TrainSettings(steps=1), seed=0))


@pytest.mark.parametrize("name", ["steps", "log_every", "evaluate_every", "checkpoint_every"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(TrainerError, match=f"{name} must be at least 1"):
        TrainSettings(**({"steps": 5} | {name: 0}))
