"""Trials that take their steps together have the bits of trials by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from trainers.packed import pack as packs
from trainers.packed.gradient import StackedGradient
from trainers.packed.pack import Ended, Pack, PackedStepper, in_step
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.checkpoint import dump
from trainers.training.loop import Segment, Snapshot, SnapshotSchedule, TrainSettings, train, train_in_step
from trainers.update.rule import UpdateRule

PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "deep linear": ("deep_linear", {"layers": 3, "width": 9, "samples": 24, "batch_size": 7}),
    "logistic regression": (
        "image_classification",
        {"dataset": "digits", "model": {"use": "logistic_regression"}, "batch_size": 33, "evaluate_fraction": 0.1},
    ),
    "perceptron": (
        "image_classification",
        {"dataset": "digits", "model": {"use": "mlp", "hidden": 17}, "batch_size": 31, "evaluate_fraction": 0.1},
    ),
}

RULES: dict[str, Sequence[Mapping[str, Any]]] = {
    "clipped": [{"clip_norm": 0.1}, {"clip_norm": 0.5}, {}],
    "normalized": [{"normalize": 0.5}, {"normalize": 2.0, "momentum": 0.9}, {"clip_norm": 0.1}],
    "momentum": [{"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.25}, {"clip_norm": 0.2}],
    "nesterov": [{"momentum": 0.9, "nesterov": True, "clip_norm": 0.3}, {"momentum": 0.9}, {"weight_decay": 0.01}],
    "decay": [{"weight_decay": 0.1}, {"weight_decay": 0.01, "momentum": 0.9}, {"weight_decay": 0.01, "clip_norm": 1.0}],
    "scheduled": [{"schedule": {"use": "cosine", "warmup": 3}}, {"schedule": {"use": "one_cycle"}}, {}],
    "others": [{"optimizer": "adam"}, {"clip_value": 0.01}, {"average": {"use": "from_step", "step": 4}}],
    "momentum clipped": [
        {"momentum": 0.9, "clip_norm": 0.1, "transform_of": "momentum"},
        {"when_exceeded": "skip"},
        {},
    ],
    "thresholds": [{"clip_threshold": {"use": "z_score", "warmup": 3}}, {"clip_layer_norm": 0.1}, {"clip_norm": 0.1}],
}
RATES = (0.01, 0.03, 0.01)
SETTINGS = TrainSettings(steps=12, evaluate_every=5, checkpoint_every=4, max_loss=1e30)
SCHEDULE = SnapshotSchedule(every=3)


def rules_of(changes: Sequence[Mapping[str, Any]], rates: Sequence[float] = RATES) -> list[UpdateRule]:
    return [UpdateRule(learning_rate=rate, **change) for rate, change in zip(rates, changes, strict=True)]


def build(name: str, seed: int) -> Problem:
    torch.manual_seed(seed)
    use, options = PROBLEMS[name]
    return build_problem(use, options, seed=seed)


def together(
    name: str,
    rules: Sequence[UpdateRule],
    *,
    pack: Pack,
    settings: TrainSettings = SETTINGS,
    resume: Sequence[Any] = (),
) -> list[list[Any]]:
    problems = [build(name, seed) for seed in range(len(rules))]
    steppers = [
        PackedStepper(problem, rule, total_steps=settings.steps, seed=seed)
        for seed, (problem, rule) in enumerate(zip(problems, rules, strict=True))
    ]
    streams = {
        k: train_in_step(
            steppers[k],
            problems[k],
            rules[k],
            settings,
            share_s=lambda: pack.share_s,
            resume=resume[k] if resume else None,
            snapshots=SCHEDULE,
        )
        for k in range(len(rules))
    }
    found: list[list[Any]] = [[] for _ in rules]
    for k, item in in_step(streams, lambda due: pack.prepare([(steppers[j], s) for j, s in due.items()], problems[0])):
        if isinstance(item, Ended):
            assert item.error is None, item.error
        else:
            found[k].append(item)
    return found


def alone(name: str, rules: Sequence[UpdateRule], settings: TrainSettings = SETTINGS) -> list[list[Any]]:
    return [
        list(train(build(name, seed), rule, settings, seed=seed, snapshots=SCHEDULE)) for seed, rule in enumerate(rules)
    ]


def assert_same_bits(one: Sequence[Any], other: Sequence[Any]) -> None:
    for kind in (Segment, Snapshot):
        pairs = zip(
            [item for item in one if isinstance(item, kind)],
            [item for item in other if isinstance(item, kind)],
            strict=True,
        )
        for left, right in pairs:
            if isinstance(left, Snapshot):
                assert left.iterates.tobytes() == right.iterates.tobytes()
                assert (left.step, left.loss, left.grad_norm) == (right.step, right.loss, right.grad_norm)
                continue
            assert (left.outcome, left.stop, left.num_clipped) == (right.outcome, right.stop, right.num_clipped)
            assert left.rows.keys() == right.rows.keys()
            for column in left.rows:
                np.testing.assert_array_equal(left.rows[column], right.rows[column], err_msg=column)
            assert (left.state is None) == (right.state is None)
            if left.state is not None:
                assert dump(left.state) == dump(right.state)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("kind", RULES)
def test_rows_snapshots_and_checkpoints_have_the_bits_of_trials_by_themselves(problem: str, kind: str) -> None:
    changes = [dict(change) for change in RULES[kind]]
    for change in changes:
        if change.get("when_exceeded") == "skip":
            change["clip_norm"] = 0.3
    pack = Pack()
    found = together(problem, rules_of(changes), pack=pack)
    assert pack.error is None
    assert (pack.differed or 0.0) < 1e-6, "what kernels of some processors may give"
    for one, other in zip(found, alone(problem, rules_of(changes)), strict=True):
        assert_same_bits(one, other)


def test_the_gradients_really_come_from_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = StackedGradient.__call__

    def counted(self: StackedGradient, vectors: Any, batches: Any) -> Any:
        calls.append(len(vectors))
        return real(self, vectors, batches)

    monkeypatch.setattr(StackedGradient, "__call__", counted)
    together("perceptron", rules_of([{}] * 3), pack=Pack(verify=False))
    assert calls == [3] * 12


def test_one_that_diverges_leaves_the_others_alone_and_its_place_is_filled() -> None:
    rules = rules_of([{"clip_norm": 1.0}, {}, {}, {"momentum": 0.5}], (0.01, 50.0, 0.02, 0.02))
    pack = Pack()
    found = together("deep linear", rules, pack=pack)
    outcomes = [items[-1].outcome for items in found]
    assert outcomes == ["done", "diverged", "done", "done"]
    for one, other in zip(found, alone("deep linear", rules), strict=True):
        assert_same_bits(one, other)


def test_a_packed_trial_resumes_packed_or_alone_and_one_by_itself_resumes_packed() -> None:
    rules = rules_of([{"momentum": 0.9}, {"clip_norm": 0.2, "momentum": 0.9}, {"optimizer": "adam"}])
    whole = alone("perceptron", rules)
    packed = together("perceptron", rules, pack=Pack())
    states = [next(item.state for item in items if isinstance(item, Segment)) for items in packed]
    rest = together("perceptron", rules, pack=Pack(), resume=states)
    by_itself = list(train(build("perceptron", 1), rules[1], SETTINGS, seed=1, resume=states[1], snapshots=SCHEDULE))
    for k, items in enumerate(rest):
        assert_same_bits(items, [item for item in whole[k] if getattr(item, "start", item.__dict__.get("step")) >= 4])
    assert_same_bits(by_itself, rest[1])


def test_trials_at_different_steps_and_of_different_lengths_share_a_pack() -> None:
    rules = rules_of([{}] * 3)
    first = together("deep linear", rules, pack=Pack())
    states = [None, next(item.state for item in first[1] if isinstance(item, Segment)), None]
    found = together("deep linear", rules, pack=Pack(), resume=states)
    whole = alone("deep linear", rules)
    assert_same_bits(found[0], whole[0])
    assert [item for item in found[1] if isinstance(item, Segment)][-1].rows["train_loss"][:-1].tolist() == [
        item for item in whole[1] if isinstance(item, Segment)
    ][-1].rows["train_loss"][:-1].tolist()


def test_unverified_gradients_are_those_of_trials_by_themselves_up_to_rounding() -> None:
    for name in PROBLEMS:
        problems = [build(name, seed) for seed in range(3)]
        rules = rules_of([{}] * 3)
        ones = [
            PackedStepper(p, r, total_steps=9, seed=k) for k, (p, r) in enumerate(zip(problems, rules, strict=True))
        ]
        batches = [one.batch(2, ahead=1) for one in ones]
        flat, losses, before = StackedGradient(problems[0], 3)([one.parameters for one in ones], batches)
        for one, gradient, loss, start in zip(ones, flat, losses, before, strict=True):
            assert float(one.alone(2)) == pytest.approx(float(loss), rel=1e-6)
            assert float((one.gradient - gradient).norm() / one.gradient.norm()) < 1e-6
            assert torch.equal(start, one.parameters.detach())


def test_products_so_small_that_batches_of_them_round_otherwise_are_not_packed() -> None:
    tiny = {"layers": 2, "width": 3, "samples": 8, "batch_size": 4}
    problems = [build_problem("deep_linear", tiny, seed=seed) for seed in range(3)]
    ones = [PackedStepper(p, UpdateRule(learning_rate=0.1), total_steps=9, seed=0) for p in problems]
    pack = Pack()
    pack.prepare([(one, 0) for one in ones], problems[0])
    assert (pack.num_together == 3) == (pack.differed is None)
    assert (pack.differed or 0.0) < 1e-6


def test_where_kernels_give_other_bits_each_trial_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    real = StackedGradient.__call__

    def off_by_a_bit(self: StackedGradient, vectors: Any, batches: Any) -> Any:
        flat, losses, before = real(self, vectors, batches)
        flat[1, 0] = torch.nextafter(flat[1, 0], torch.tensor(torch.inf))
        return flat, losses, before

    monkeypatch.setattr(StackedGradient, "__call__", off_by_a_bit)
    pack = Pack()
    rules = rules_of([{}] * 3)
    found = together("perceptron", rules, pack=pack)
    assert pack.differed is not None
    assert 0 < pack.differed < 1e-6
    for one, other in zip(found, alone("perceptron", rules), strict=True):
        assert_same_bits(one, other)


def test_where_a_pack_cannot_be_computed_each_trial_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: StackedGradient, vectors: Any, batches: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(StackedGradient, "__call__", fails)
    pack = Pack()
    rules = rules_of([{}] * 3)
    found = together("perceptron", rules, pack=pack)
    assert str(pack.error) == "no such kernel"
    for one, other in zip(found, alone("perceptron", rules), strict=True):
        assert_same_bits(one, other)


def test_an_error_of_one_trial_leaves_the_others_alone() -> None:
    def trial(steps: int) -> Any:
        for step in range(steps):
            yield packs.Due(step=step)
        if steps == 1:
            raise ValueError("mine")
        yield steps

    said = list(in_step({0: trial(3), 1: trial(1), 2: trial(2)}, lambda due: None))
    assert [(place, type(item)) for place, item in said if not isinstance(item, Ended) or item.error] == [
        (1, Ended),
        (2, int),
        (0, int),
    ]


def test_seconds_of_a_pack_are_shared_among_its_trials() -> None:
    pack = Pack()
    found = together("deep linear", rules_of([{}] * 3), pack=pack)
    for items in found:
        segments = [item for item in items if isinstance(item, Segment)]
        assert all(segment.train_s >= 0 for segment in segments)
