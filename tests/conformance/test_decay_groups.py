"""Weight decay of some parameters is what torch's parameter groups do, with every optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.test_update_rules import OPTIONS
from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.loop import TrainSettings, train
from trainers.update.flat import parameter_shapes
from trainers.update.rule import OPTIMIZERS, UpdateRule

Record = Callable[..., Any]

# Large, so that a parameter in the wrong group shows.
DECAY = 0.3


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.hidden = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(torch.tanh(self.hidden(self.embedding(tokens)))))


def small() -> Problem:
    torch.manual_seed(3)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor], carry: None) -> tuple[Tensor, None]:
        tokens, labels = batch
        return nn.functional.cross_entropy(model(tokens), labels), carry

    def batch(step: int) -> tuple[Tensor, Tensor]:
        tokens = (torch.arange(6) + step) % 5
        return tokens, tokens % 2

    return Problem(
        model=Small(), loss=loss, batch=batch, probe=lambda share: [batch(0)], steps_per_epoch=4, fingerprint="none"
    )


def matrices() -> Problem:
    return build_problem("deep_linear", {"layers": 2, "width": 3, "samples": 10, "batch_size": 4}, seed=7)


def options_of(optimizer: str) -> dict[str, Any]:
    return OPTIONS[optimizer] | {"weight_decay": DECAY}


GROUPS = [
    ({"decay_on": "matrices"}, {"embedding.weight", "hidden.weight", "head.weight"}),
    ({"decay_on": "matrices", "no_decay": ("embedding.*",)}, {"hidden.weight", "head.weight"}),
    ({"no_decay": ("norm.*", "*.bias")}, {"embedding.weight", "hidden.weight", "head.weight"}),
    ({"no_decay": ("hidden.weight",)}, {name for name, _ in parameter_shapes(Small())} - {"hidden.weight"}),
]


@pytest.mark.parametrize(("groups", "decaying"), GROUPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_group_without_decay_is_torchs_group_without_decay(
    record: Record, optimizer: str, groups: dict[str, Any], decaying: set[str]
) -> None:
    options = options_of(optimizer)
    problem, reference = small(), small()
    record(lambda: problem, UpdateRule(optimizer=optimizer, learning_rate=0.02, **options, **groups), settings(6))
    named = dict(reference.model.named_parameters())
    torch_rule = OPTIMIZERS[optimizer](
        [
            {"params": [named[name] for name in named if name in decaying]},
            {"params": [named[name] for name in named if name not in decaying], "weight_decay": 0.0},
        ],
        lr=0.02,
        foreach=False,
        **options,
    )
    for step in range(6):
        torch_rule.zero_grad()
        loss, _ = reference.loss(reference.model, reference.batch(step), None)
        loss.backward()
        torch_rule.step()
    for (name, ours), theirs in zip(problem.model.named_parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def settings(steps: int) -> TrainSettings:
    return TrainSettings(steps=steps)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_where_all_parameters_are_matrices_their_decay_is_that_of_all_bit_for_bit(
    record: Record, optimizer: str
) -> None:
    options = options_of(optimizer)
    plain = record(matrices, UpdateRule(optimizer=optimizer, learning_rate=0.02, **options), settings(12))
    rule = UpdateRule(optimizer=optimizer, learning_rate=0.02, decay_on="matrices", **options)
    assert record(matrices, rule, settings(12)) == plain


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_trial_with_groups_equals_one_in_one_go(record: Record, optimizer: str) -> None:
    rule = UpdateRule(optimizer=optimizer, learning_rate=0.02, decay_on="matrices", **options_of(optimizer))
    assert record(small, rule, settings(9), stops=[1, 4]) == record(small, rule, settings(9))


@pytest.mark.parametrize("nesterov", [False, True])
def test_groups_decay_before_a_momentum_that_is_clipped_afterwards(record: Record, nesterov: bool) -> None:
    options: dict[str, Any] = {"learning_rate": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": DECAY}
    plain = record(small, UpdateRule(**options, decay_on="matrices"), settings(9))
    late = UpdateRule(**options, decay_on="matrices", clip_norm=math.inf, transform_of="momentum")
    assert record(small, late, settings(9)) == plain
    assert record(small, UpdateRule(**options), settings(9)) != plain


def test_decay_is_added_after_the_gradient_is_clipped() -> None:
    # Gradients of length 1e-3 at most, beside a decay of parameters of order one.
    options: dict[str, Any] = {"learning_rate": 1.0, "weight_decay": 0.5, "decay_on": "matrices"}
    problem = small()
    before = {name: parameter.detach().clone() for name, parameter in problem.model.named_parameters()}
    list(train(problem, UpdateRule(**options, clip_norm=1e-3), settings(1), seed=0))
    for name, parameter in problem.model.named_parameters():
        expected = before[name] * (0.5 if before[name].ndim > 1 else 1.0)
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1.1e-3)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"no_decay": ("embeding.*",)},
            r"update_rule\.no_decay: no parameter is named 'embeding\.\*'; did you mean 'embedding\.weight'\? "
            r"The model has: embedding\.weight, hidden\.weight, .*head\.bias$",
        ),
        ({"no_decay": ("*.bias", "xyz")}, r"no parameter is named 'xyz'; The model has"),
        ({"no_decay": ("*",)}, r"weight_decay has no effect: with decay_on all and no_decay \* no parameter"),
        ({"decay_on": "matrices", "no_decay": ("*.weight",)}, "decay_on matrices and no_decay"),
    ],
)
def test_groups_that_the_model_does_not_have_are_refused_before_the_first_step(
    groups: dict[str, Any], message: str
) -> None:
    rule = UpdateRule(learning_rate=0.1, weight_decay=0.1, **groups)
    with pytest.raises(TrainerError, match=message):
        next(train(small(), rule, settings(3), seed=0))


def test_groups_without_decay_are_refused() -> None:
    with pytest.raises(ValueError, match="no effect without weight_decay"):
        UpdateRule(learning_rate=0.1, decay_on="matrices")
    with pytest.raises(ValueError, match="decay_on must be 'all' or 'matrices', not 'vectors'"):
        UpdateRule(learning_rate=0.1, weight_decay=0.1, decay_on="vectors")
