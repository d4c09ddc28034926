"""Problems by name and by import path, and messages for what cannot be built."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from estimators import Probe
from trainers.data.text import load_corpus
from trainers.errors import TrainerError
from trainers.problems import build_problem
from trainers.training.loop import Segment, TrainSettings, train
from trainers.training.stepper import Stepper
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule

OWN = """
import torch
from torch import nn
from trainers.problem import Problem

from my_own_sizes import DEFAULT_WIDTH

NOT_A_FACTORY = 3


def line(width: int = DEFAULT_WIDTH, *, slope: float = 2.0, seed: int = 0) -> Problem:
    inputs = torch.linspace(-1, 1, 8)[:, None].expand(8, width)
    return Problem(
        model=nn.Linear(width, 1),
        loss=lambda model, batch, carry: ((model(batch) - slope * batch.mean(1, keepdim=True)).square().mean(), carry),
        batch=lambda step: inputs,
        probe=lambda fraction: [inputs],
        steps_per_epoch=1,
        fingerprint=f"line-{slope}-{seed}",
    )


def anything(**options):
    return line(width=options["width"], seed=options["seed"])


def nothing():
    return None


def needs_width(width):
    return line(width)
"""


@pytest.fixture
def search(tmp_path: Path) -> Iterator[list[str]]:
    """A folder with a user's own modules."""
    (tmp_path / "my_own_sizes.py").write_text("DEFAULT_WIDTH = 2\n")
    (tmp_path / "my_own_problem.py").write_text(OWN)
    (tmp_path / "my_broken_problem.py").write_text("import a_package_that_is_not_there\n")
    before = list(sys.path)
    yield [str(tmp_path)]
    assert sys.path == before
    for name in ("my_own_sizes", "my_own_problem", "my_broken_problem"):
        sys.modules.pop(name, None)


def test_a_users_own_problem_trains_like_any_other(search: list[str]) -> None:
    problem = build_problem("my_own_problem:line", {"slope": 3.0}, seed=5, search=search)
    assert problem.fingerprint == "line-3.0-5"
    segment = list(train(problem, UpdateRule(learning_rate=0.2), TrainSettings(steps=100), seed=5))[-1]
    assert isinstance(segment, Segment)
    assert segment.rows["train_loss"][99] < 1e-3
    assert segment.rows.keys() >= {"step", "train_loss"}


def test_its_initial_weights_follow_the_seed(search: list[str]) -> None:
    def weights(seed: int) -> list[float]:
        return flat_parameters(build_problem("my_own_problem:line", {}, seed=seed, search=search).model).tolist()

    assert weights(1) == weights(1) != weights(2)


def test_model_batches_and_probe_go_to_the_device(search: list[str]) -> None:
    # "meta" stands for an accelerator here: tensors move to it on any machine.
    problem = build_problem("my_own_problem:line", {}, seed=0, device="meta", search=search)
    loss, carry = problem.loss(problem.model, problem.batch(0), problem.initial_carry())
    assert {p.device.type for p in problem.model.parameters()} == {"meta"}
    assert {batch.device.type for batch in problem.probe(0.5)} == {"meta"}
    assert (loss.device.type, carry) == ("meta", None)


def test_an_epoch_has_at_least_one_step(search: list[str]) -> None:
    problem = build_problem("my_own_problem:line", {}, seed=0, search=search)
    with pytest.raises(TrainerError, match="steps_per_epoch must be a positive integer, not 0"):
        replace(problem, steps_per_epoch=0)


@pytest.mark.parametrize("metrics", [{"f1": "maximum"}, {1: "max"}, {"f1": None}, ["f1"]])
def test_a_direction_of_a_metric_is_min_or_max(search: list[str], metrics: Any) -> None:
    problem = build_problem("my_own_problem:line", {}, seed=0, search=search)
    assert replace(problem, metrics={"f1": "max"}).metrics == {"f1": "max"}
    with pytest.raises(TrainerError, match="metrics must map names of metrics to min or max"):
        replace(problem, metrics=metrics)


def test_a_factory_with_open_options_gets_seed_and_device_too(search: list[str]) -> None:
    assert build_problem("my_own_problem:anything", {"width": 1}, seed=9, search=search).fingerprint == "line-2.0-9"


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("deep_liner", {}, r"unknown problem 'deep_liner'; known: .*; did you mean 'deep_linear'\?"),
        ("my_own_problem:", {}, "your own: package.module:factory"),
        ("my_own_problm:line", {}, "there is no module 'my_own_problm' in /"),
        ("my_broken_problem:line", {}, "my_broken_problem imports 'a_package_that_is_not_there', which is missing"),
        ("my_own_problem:lines", {}, r"my_own_problem has no 'lines'; known: .*; did you mean 'line'\?"),
        ("my_own_problem:NOT_A_FACTORY", {}, "NOT_A_FACTORY is a int, not a factory"),
        ("my_own_problem:nothing", {}, "must return a trainers.problem.Problem, not None"),
        ("my_own_problem:line", {"widht": 3}, r"unknown option 'widht'; known: width, slope; did you mean 'width'\?"),
        ("my_own_problem:line", {"seed": 3}, "'seed' is given by clipsweep itself"),
        ("my_own_problem:needs_width", {}, "option 'width' is required"),
    ],
)
def test_what_cannot_be_built_says_why(search: list[str], use: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        build_problem(use, options, seed=0, search=search)


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        (
            "language_modeling",
            {"model": {"use": "lstn"}},
            r"unknown model 'lstn'; known: lstm, awd_lstm, gpt; did you mean 'lstm'\?",
        ),
        ("language_modeling", {"model": {"hiden": 3}}, r"model 'lstm': unknown option 'hiden'; .* mean 'hidden'\?"),
        ("language_modeling", {"model": {"num_tokens": 3}}, "'num_tokens' is given by clipsweep itself"),
        ("language_modeling", {"model": {"hidden": 3}}, "need hidden == embedding, but 3 != 200"),
        ("language_modeling", {"model": {"layers": 0}}, "layers must be at least 1"),
        ("language_modeling", {"model": {"dropout": 1.0}}, r"dropout must lie in \[0, 1\)"),
        ("language_modeling", {"sequence_length": 0}, "sequence_length must be at least 1"),
        ("language_modeling", {"sequence_length": 100_000}, "lower batch_size or sequence_length"),
        ("language_modeling", {"evaluate_sequences": 5000}, "too few for evaluate_sequences = 5000 streams"),
        ("language_modeling", {"evaluate_fraction": 0}, r"evaluate_fraction must lie in \(0, 1\], not 0"),
        ("language_modeling", {"evaluate_fraction": 1e-4}, "are too few for evaluate_sequences = 20 streams"),
        ("image_classification", {"evaluate_fraction": 1.5}, r"evaluate_fraction must lie in \(0, 1\], not 1\.5"),
        ("image_classification", {"model": {"width": 0}}, "width must be at least 1"),
        ("deep_linear", {"layers": 0}, "layers must be at least 1"),
        ("deep_linear", {"batch_size": 65}, r"batch_size must lie in 1\.\.64"),
    ],
)
def test_options_out_of_range_are_refused(use: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        build_problem(use, options, seed=0)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_one_parameter(tied: bool) -> None:
    model = {"layers": 1, "hidden": 4, "embedding": 4, "tied": tied}
    network = build_problem("language_modeling", {"model": model}, seed=0).model
    num_tokens = network.embedding.num_embeddings
    lstm = 4 * (4 * 4 + 4 * 4 + 2 * 4)
    expected = num_tokens * 4 * (1 if tied else 2) + num_tokens + lstm
    assert len(flat_parameters(network)) == expected


def test_the_loss_of_deep_linear_is_that_of_its_formula() -> None:
    problem = build_problem("deep_linear", {"layers": 3, "width": 2, "samples": 5}, seed=1)
    first, second, third = (weight.detach() for weight in problem.model.parameters())
    inputs, targets = problem.batch(0)
    residual = targets.T - third @ second @ first @ inputs.T
    expected = torch.linalg.matrix_norm(residual).square().item() / 5
    assert problem.loss(problem.model, (inputs, targets), None)[0].item() == pytest.approx(expected, rel=1e-5)


# Parameters that cannot be trained

ODD = """
import torch
from torch import nn
from trainers.problem import Problem

def problem(*, how):
    model = nn.Linear(2, 1)
    model.register_parameter("odd", nn.Parameter(*{
        "complex": (torch.ones(2, dtype=torch.complex64),),
        "sparse": (torch.eye(2).to_sparse(),),
        "float8": (torch.ones(2).to(torch.float8_e4m3fn),),
        "meta": (torch.ones(2, device="meta"),),
        "frozen complex": (torch.ones(2, dtype=torch.complex64), False),
        "frozen integer": (torch.ones(2, dtype=torch.int64), False),
        "frozen bool": (torch.ones(2, dtype=torch.bool), False),
    }[how]))
    return Problem(model=model, loss=lambda model, batch, carry: (model(batch).sum(), carry),
                   batch=lambda step: torch.ones(3, 2), probe=lambda fraction: [torch.ones(3, 2)],
                   steps_per_epoch=1, fingerprint=how)
"""


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("complex", r"parameter 'odd' is complex \(torch.complex64\).*view_as_real.*view_as_complex\(self.odd\)"),
        ("sparse", r"parameter 'odd' is stored as torch.sparse_coo: make it dense with to_dense"),
        (
            "float8",
            "parameter 'odd' is torch.float8_e4m3fn; parameters are trained in float32, float64, bfloat16, float16",
        ),
        ("meta", "'odd' has no values, as it is on the meta device: build the model without"),
    ],
)
def test_a_parameter_that_cannot_be_trained_is_refused_by_name_when_the_problem_is_built(
    tmp_path: Path, how: str, found: str
) -> None:
    (tmp_path / "odd_parameters.py").write_text(ODD)
    with pytest.raises(TrainerError, match=found):
        build_problem("odd_parameters:problem", {"how": how}, seed=0, search=[str(tmp_path)])


@pytest.mark.parametrize("how", ["frozen complex", "frozen integer", "frozen bool"])
def test_a_frozen_parameter_may_be_of_any_type(tmp_path: Path, how: str) -> None:
    (tmp_path / "odd_parameters.py").write_text(ODD)
    problem = build_problem("odd_parameters:problem", {"how": how}, seed=0, search=[str(tmp_path)])
    stepper = Stepper(problem, UpdateRule(learning_rate=0.1), total_steps=1, seed=0)
    assert stepper.take(0)[1][1] > 0
    assert Probe(problem.model, problem.loss, problem.probe(1.0)).compare_copy().differs is False


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("nn.Identity()", "it holds none at all"),
        ("nn.Linear(2, 1).requires_grad_(False)", r"all 2 of its parameters are frozen \(requires_grad=False\)"),
    ],
)
def test_a_model_without_anything_to_train_is_refused_by_name_of_what_is_missing(
    model: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing_to_train.py").write_text(
        "from torch import nn\nfrom trainers.problem import Problem\n\ndef own():\n"
        f"    return Problem(model={model}, loss=print, batch=print, probe=print, steps_per_epoch=1, fingerprint='x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nothing_to_train", raising=False)
    with pytest.raises(TrainerError, match=f"the model has no parameter to train: {why}; layers are found where"):
        build_problem("nothing_to_train:own", {}, seed=0)


@pytest.mark.parametrize("sequence_length", [20, 35])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.5, 1.0])
def test_batches_of_a_text_probe_are_eighty_whole_sequences_whatever_the_share(
    fraction: float, sequence_length: int
) -> None:
    def built(batch_size: int) -> Any:
        small = {"use": "lstm", "layers": 1, "hidden": 4, "embedding": 4}
        options = {"model": small, "sequence_length": sequence_length, "batch_size": batch_size}
        return build_problem("language_modeling", options, seed=0)

    problem, other = built(20), built(7)
    batches = list(problem.probe(fraction))
    share = problem.probe_share(fraction)
    sequences = sum(inputs.shape[1] for inputs, _ in batches)
    if sequences >= 80:
        assert {inputs.shape for inputs, _ in batches} == {(sequence_length, 80)}
    else:
        assert len(batches) == 1, "one smaller batch of just the share"
    assert {targets.shape for _, targets in batches} == {inputs.shape for inputs, _ in batches}
    total = sequences / share
    assert total == pytest.approx(round(total)), "the share is that of all sequences of the text"
    assert abs(share - fraction) <= 80 / total
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, other.probe(fraction), strict=True)), "one f for both"


def test_a_text_problem_tests_on_all_of_its_test_text_and_images_have_no_further_data(tmp_path: Path) -> None:
    small = {"use": "lstm", "layers": 1, "hidden": 4, "embedding": 4}
    for split, words in (("train", 400), ("valid", 100), ("test", 61)):
        (tmp_path / f"{split}.txt").write_text(" ".join(f"w{(7 * k * k + k) % 11}" for k in range(words)))
    options = {"corpus": str(tmp_path), "model": small, "sequence_length": 10, "evaluate_sequences": 3}
    problem = build_problem("language_modeling", options | {"evaluate_fraction": 0.5}, seed=0)
    whole = build_problem("language_modeling", options, seed=0)
    assert problem.test is not None
    assert whole.test is not None
    problem.model.eval()
    with torch.no_grad():
        assert problem.test(problem.model) == whole.test(problem.model), "all of it, whatever is validated on"
        # 62 tokens with the end of the line, as three streams of 20, of which 19 are predicted.
        text = load_corpus(str(tmp_path)).test[:60].view(3, 20).T
        (loss, _) = whole.measured_loss(problem.model, (text[:-1], text[1:]), None)
    assert problem.test(problem.model)["test_loss"] == pytest.approx(float(loss), rel=1e-6)
    assert problem.evaluate(problem.model).keys() == {"valid_loss"}
    images = build_problem("image_classification", {"model": {"use": "logistic_regression"}}, seed=0)
    assert images.test is None


def test_a_test_text_shorter_than_its_streams_is_cut_into_fewer(tmp_path: Path) -> None:
    for split, words in (("train", "a b c d " * 50), ("valid", "a b c d " * 20), ("test", "a")):
        (tmp_path / f"{split}.txt").write_text(words)
    small = {"use": "lstm", "layers": 1, "hidden": 4, "embedding": 4}
    options = {"corpus": str(tmp_path), "model": small, "sequence_length": 5}
    problem = build_problem("language_modeling", options, seed=0)
    assert problem.test is not None, "a word and the end of its line are one stream, for 20"
    assert problem.test(problem.model.eval()).keys() == {"test_loss"}
