"""Clipping in groups of parameters: each by its own norm, chosen by patterns that match something."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.stepper import Stepper
from trainers.update.clip_groups import matched
from trainers.update.rule import UpdateRule

NAMES = ["encoder.embedding.weight", "encoder.lstm.weight_ih", "encoder.lstm.bias_ih", "decoder.weight", "decoder.bias"]


def layers() -> Problem:
    return build_problem("deep_linear", {"layers": 3, "width": 3, "samples": 10}, seed=7)


def gradients() -> dict[str, torch.Tensor]:
    problem = layers()
    loss, _ = problem.loss(problem.model, problem.batch(0), None)
    loss.backward()
    return {name: parameter.grad for name, parameter in problem.model.named_parameters()}


def stepped(**options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    """By how much each parameter moved in one step of rate 1, and the step's numbers."""
    problem = layers()
    before = {name: parameter.detach().clone() for name, parameter in problem.model.named_parameters()}
    stepper = Stepper(problem, UpdateRule(learning_rate=1.0, **options), total_steps=1, seed=0)
    _, scalars = stepper.take(0)
    moved = {name: before[name] - parameter.detach() for name, parameter in problem.model.named_parameters()}
    return moved, scalars.tolist()


def test_the_first_pattern_that_matches_counts() -> None:
    assert matched(["*bias*", "encoder.*", "*"], NAMES) == [[2, 4], [0, 1], [3]]
    assert matched(["decoder.[wb]*"], NAMES) == [[3, 4]]


def test_each_group_is_clipped_by_its_own_norm_and_the_rest_is_left_alone() -> None:
    gradient = gradients()
    first, *others, last = gradient
    together = math.sqrt(sum(gradient[name].square().sum().item() for name in [first, *others]))
    groups = [{"match": first, "clip_norm": 1e6}, {"match": last, "clip_norm": 0.01}]
    moved, (_, grad_norm, scale, update_norm, threshold) = stepped(clip_groups=groups)
    for name in [first, *others]:
        torch.testing.assert_close(moved[name], gradient[name], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moved[last], gradient[last] * 0.01 / gradient[last].norm(), atol=1e-6, rtol=1e-4)
    assert scale == pytest.approx(math.hypot(together, 0.01) / grad_norm, rel=1e-5)
    assert update_norm == pytest.approx(scale * grad_norm, rel=1e-5)
    assert threshold == math.inf, "there are several"


def test_one_group_of_all_parameters_is_clipping_by_norm() -> None:
    (one, _), (other, _) = (
        stepped(clip_groups=[{"match": "*", "clip_norm": 0.1}]),
        stepped(clip_norm=0.1),
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-7, rtol=1e-6)


def test_a_group_of_several_parameters_has_one_norm() -> None:
    gradient = gradients()
    names = list(gradient)
    groups = [{"match": names[0], "clip_norm": 1e6}, {"match": "*", "clip_norm": 0.02}]
    moved, _ = stepped(clip_groups=groups)
    rest = torch.cat([moved[name].flatten() for name in names[1:]])
    assert rest.norm().item() == pytest.approx(0.02, rel=1e-4)
    whole = torch.cat([gradient[name].flatten() for name in names[1:]])
    assert torch.cosine_similarity(rest, whole, dim=0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("clip_norm", [math.inf, 1e6])
def test_groups_whose_thresholds_are_never_reached_change_nothing(clip_norm: float) -> None:
    (one, scalars), (other, plain) = stepped(clip_groups=[{"match": "*", "clip_norm": clip_norm}]), stepped()
    assert scalars == plain
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["embedding*"], r"no parameter's name matches 'embedding\*'; did you mean encoder.embedding.weight\?"),
        (["embedding*"], r"'\*embedding\*' matches every name with that in it$"),
        (["decodr.bias"], r"no parameter's name matches 'decodr.bias'; did you mean decoder.bias[^;]*$"),
        (["head"], "the names are encoder.embedding.weight, encoder.lstm.weight_ih, "),
        (
            ["*", "decoder.*"],
            r"'decoder.\*' matches no parameter that earlier patterns have left over: .* narrower one",
        ),
    ],
)
def test_a_pattern_without_a_parameter_is_refused_with_names_like_it(patterns: list[str], words: str) -> None:
    with pytest.raises(TrainerError, match=words):
        matched(patterns, NAMES)


def test_many_names_are_not_all_listed() -> None:
    with pytest.raises(TrainerError, match=r"the names are a0, a1, a2, a3, a4 and 95 more$"):
        matched(["zzz"], [f"a{k}" for k in range(100)])


def test_a_trial_with_a_pattern_that_matches_nothing_ends_at_its_start() -> None:
    with pytest.raises(TrainerError, match="no parameter's name matches 'embedding"):
        stepped(clip_groups=[{"match": "embedding*", "clip_norm": 1.0}])


@pytest.mark.parametrize(
    ("groups", "why"),
    [
        ([], "clip_groups is empty"),
        ([{"match": "*"}], "a group has match and clip_norm"),
        ([{"match": "*", "clip_norm": 0.0}], r"clip_norm of '\*' must be positive"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        UpdateRule(learning_rate=1.0, clip_groups=groups)
