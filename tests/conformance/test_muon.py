"""Muon on hidden matrices and AdamW on the rest: the steps of torch's own two optimisers, resumed bit for bit."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.test_decay_groups import Small, small
from tests.conformance.test_problems import SMALL
from tests.conformance.test_update_rules import SCHEDULE_OPTIONS
from trainers.errors import TrainerError
from trainers.models.gpt import GPT
from trainers.models.lstm import LSTMLanguageModel
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.loop import TrainSettings, train
from trainers.update.flat import FlatParameters, outer_matrices
from trainers.update.muon import hidden_matrices
from trainers.update.preconditioner import stability_threshold
from trainers.update.rule import UpdateRule
from trainers.update.schedules import SCHEDULES
from trainers.update.transforms import TRANSFORMS

Record = Callable[..., Any]

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")

REST = {"learning_rate": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
HIDDEN = {"hidden.weight"}


def muon(**options: Any) -> UpdateRule:
    defaults: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3, "rest": REST}
    return UpdateRule(optimizer="muon", learning_rate=0.02, **(defaults | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False},
        {"adjust_rate": "match_rms_adamw", "ns_steps": 3},
        {"decay_on": "matrices"},
        {"no_decay": ("hidden.*", "norm.*")},
        {"rest": REST | {"matrices": ("head.*",)}},
        {"rest": REST | {"matrices": ()}},
    ],
)
def test_a_step_is_that_of_torchs_muon_and_adamw_on_the_pieces(record: Record, options: dict[str, Any]) -> None:
    rule = muon(**options)
    problem, reference = small(), small()
    record(lambda: problem, rule, TrainSettings(steps=6))
    named = dict(reference.model.named_parameters())
    matrices = {name for name, parameter in named.items() if parameter.ndim == 2}
    excepted = {None: {"embedding.weight", "head.weight"}, ("head.*",): {"head.weight"}, (): set()}
    hidden = matrices - excepted[rule.rest.get("matrices")]

    def groups(members: set[str], weight_decay: float) -> list[dict[str, Any]]:
        undecayed = {
            name
            for name in members
            if (rule.decay_on == "matrices" and named[name].ndim < 2)
            or (rule.no_decay is not None and name.startswith(("hidden.", "norm.")))
        }
        return [
            {"params": [named[name] for name in named if name in group], "weight_decay": decay}
            for group, decay in ((members - undecayed, weight_decay), (undecayed, 0.0))
        ]

    first = torch.optim.Muon(
        groups(hidden, 0.3),
        lr=0.02,
        momentum=0.9,
        nesterov=rule.nesterov,
        ns_steps=rule.ns_steps,
        adjust_lr_fn=rule.adjust_rate,
    )
    second = torch.optim.AdamW(groups(set(named) - hidden, 0.2), lr=3e-3, betas=(0.8, 0.95), eps=1e-6, foreach=False)
    for step in range(6):
        for parameter in named.values():
            parameter.grad = None
        loss, _ = reference.loss(reference.model, reference.batch(step), None)
        loss.backward()
        first.step()
        second.step()
    for (name, ours), theirs in zip(problem.model.named_parameters(), named.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_an_orthogonal_gradient_is_stepped_along_with_almost_its_own_direction() -> None:
    # Newton-Schulz takes singular values to about 1: between 0.7 and 1.2, after the coefficients of its author.
    problem = build_problem("deep_linear", {"layers": 3, "width": 4, "samples": 16}, seed=7)
    before = [parameter.detach().clone() for parameter in problem.model.parameters()]
    list(train(problem, muon(weight_decay=0.0), TrainSettings(steps=1), seed=0))
    for old, new in list(zip(before, problem.model.parameters(), strict=True))[:-1]:
        singular = torch.linalg.svdvals((old - new.detach()) / 0.02)
        assert ((singular > 0.3) & (singular < 1.3)).all(), singular


@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
def test_a_resumed_trial_equals_one_in_one_go(record: Record, transform: str | None) -> None:
    rule = muon(**({transform: 0.5} if transform else {}))
    settings = TrainSettings(steps=12, evaluate_every=4)
    assert record(small, rule, settings, stops=[1, 5, 6]) == record(small, rule, settings)


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "normalize"])
def test_an_infinite_threshold_equals_the_plain_rule_bit_for_bit(record: Record, transform: str) -> None:
    settings = TrainSettings(steps=12)
    assert record(small, muon(**{transform: math.inf}), settings) == record(small, muon(), settings)


def test_micro_batches_and_averages_go_with_it(record: Record) -> None:
    rule = muon(clip_norm=0.2, clip_each_micro_batch=True, average={"use": "from_step", "step": 3})
    settings = TrainSettings(steps=8, accumulate=2)
    assert record(small, rule, settings, stops=[2, 5]) == record(small, rule, settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_scales_both_rates(schedule: str) -> None:
    # Without a gradient only the decay moves a parameter: by (1 - rate decay) a step, each with its own rate.
    rule = muon(schedule={"use": schedule, **SCHEDULE_OPTIONS[schedule]})
    problem = small()
    flat = problem.model
    before = {name: parameter.detach().clone() for name, parameter in flat.named_parameters()}
    still = Problem(
        model=problem.model,
        loss=lambda model, batch, carry: (0.0 * sum(one.sum() for one in model.parameters()), carry),
        batch=problem.batch,
        probe=problem.probe,
        steps_per_epoch=4,
        fingerprint="none",
    )
    list(train(still, rule, TrainSettings(steps=12), seed=0))
    rates = [rule.learning_rate_at(step, 12, steps_per_epoch=4) for step in range(12)]
    for name, parameter in problem.model.named_parameters():
        scale, decay = (1.0, 0.3) if name in HIDDEN else (3e-3 / 0.02, 0.2)
        expected = before[name] * math.prod(1 - rate * scale * decay for rate in rates)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SMALL)
def test_every_problem_is_trained_or_told_that_it_has_no_hidden_matrix(
    record: Record, name: str, tmp_path: Path
) -> None:
    use = name.partition("/")[0]
    if use == "image_classification":
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    for split, count in (("train", 25), ("valid", 6), ("test", 2)):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\na dog ran\n" * count)
    options = SMALL[name] | ({"corpus": str(tmp_path)} if use == "language_modeling" else {})

    def build() -> Problem:
        return build_problem(use, options, seed=7)

    rule, settings = muon(weight_decay=0.0), TrainSettings(steps=3)
    # Kernels of convolutions have four dimensions.
    if name.endswith(("resnet20", "resnet18", "logistic_regression")):
        with pytest.raises(TrainerError, match=r"muon has no matrix to train: embeddings and the last matrix are Adam"):
            record(build, rule, settings)
        return
    whole = record(build, rule, settings)
    assert whole.outcome == "done"
    assert record(build, rule, settings, stops=[2]) == whole


def test_the_matrices_at_a_models_ends_are_its_embeddings_and_its_output_layer() -> None:
    gpt: dict[str, Any] = {"num_tokens": 9, "max_length": 4, "layers": 1, "heads": 1, "width": 4}
    assert outer_matrices(GPT(**gpt)) == {"embedding.weight", "positions.weight"}
    apart = {"embedding.weight", "positions.weight", "projection.weight"}
    assert outer_matrices(GPT(**gpt, tied=False)) == apart
    assert outer_matrices(LSTMLanguageModel(num_tokens=9, hidden=4, embedding=4)) == {"embedding.weight"}
    assert outer_matrices(Small()) == {"embedding.weight", "head.weight"}
    assert outer_matrices(torch.nn.BatchNorm1d(3)) == set()
    frozen = Small()
    frozen.head.requires_grad_(False)
    assert "hidden.weight" in outer_matrices(frozen)


def test_patterns_choose_what_adamw_takes() -> None:
    flat = FlatParameters(Small())
    chosen = hidden_matrices(flat, matrices=("e*",))
    assert [name for (name, _), is_hidden in zip(flat.layout, chosen, strict=True) if is_hidden] == [
        "hidden.weight",
        "head.weight",
    ]
    with pytest.raises(TrainerError, match=r"rest\.matrices: no parameter is named 'hiden\.\*'; did you mean 'hidden"):
        hidden_matrices(flat, matrices=("hiden.*",))
    with pytest.raises(TrainerError, match=r"rest\.matrices names them all, and of two dimensions the model has: emb"):
        hidden_matrices(flat, matrices=("*",))


def test_its_steps_are_no_multiple_of_a_gradient() -> None:
    assert muon(clip_norm=1.0).step_threshold is None
    assert stability_threshold(muon()) is None


def test_rules_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"rest": None}, "muon needs rest"),
        ({"rest": {"betas": (0.9, 0.99)}}, "muon needs rest"),
        ({"rest": REST | {"momentum": 0.9}}, "muon needs rest"),
        ({"rest": REST | {"learning_rate": 0.0}}, "rest: learning_rate must be positive"),
        ({"adjust_rate": "match"}, "adjust_rate must be one of original, match_rms_adamw"),
        ({"ns_steps": 100}, r"ns_steps must lie in 1\.\.99"),
        ({"betas": (0.5, 0.6)}, "betas is not an option of muon"),
    ):
        with pytest.raises(ValueError, match=message):
            muon(**options)
    with pytest.raises(ValueError, match="rest is not an option of adamw"):
        UpdateRule(optimizer="adamw", learning_rate=0.1, rest=REST)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TrainerError, match=r"muon is that of torch 2\.9 or later, and this is torch"):
        next(train(small(), muon(), TrainSettings(steps=2), seed=0))


def test_without_nesterov_a_model_in_bfloat16_is_refused() -> None:
    problem = small()
    problem.model.to(torch.bfloat16)
    with pytest.raises(TrainerError, match="overwrites its momentum where parameters are bfloat16"):
        next(train(problem, muon(nesterov=False), TrainSettings(steps=2), seed=0))


def test_a_step_does_not_load_what_compiles_models() -> None:
    # It would take every new worker one to three seconds.
    code = (
        "import sys\nfrom tests.conformance.test_muon import TrainSettings, muon, small, train\n"
        "list(train(small(), muon(), TrainSettings(steps=2), seed=0))\nassert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
