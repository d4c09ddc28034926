"""The null test of a spec, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.errors import ClipsweepError
from sweeper.null_test import null_test_document
from sweeper.spec import load_spec, loads_spec
from sweeper.spec.sections.measure import Measure
from sweeper.workers.examiner import null_test_problem

RANDOM = """
import torch
from torch import nn
from trainers.problem import Problem

def noisy(*, noise=0.0):
    def loss(model, batch, carry):
        inputs = batch + noise * torch.randn(4, 3) if noise else batch
        return model(inputs).square().mean(), carry

    return Problem(
        model=nn.Linear(3, 1), loss=loss, batch=lambda step: torch.ones(4, 3),
        probe=lambda fraction: [torch.ones(4, 3)], steps_per_epoch=1, fingerprint="noisy",
    )
"""


def test_every_problem_of_a_sweep_is_tested_once() -> None:
    text = (
        "problem: {use: deep_linear, width: 3}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 1}\n"
        "measure: {every: 1, probe: {batch_norm: frozen}}\n"
        "sweep: {grid: {problem.layers: [2, 3], update_rule.learning_rate: [1, 2]}, seeds: 2}\n"
    )
    document = null_test_document(loads_spec(text, folder=Path()))
    assert document["passed"]
    assert len(document["problems"]) == 2
    assert "differ by 0" in document["problems"][0]["verdict"]


def test_a_problem_of_ones_own_that_is_random_fails_and_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy_problem.py").write_text(RANDOM)
    monkeypatch.chdir(tmp_path)
    text = (
        "problem: {use: 'noisy_problem:noisy'}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 1}\n"
        "sweep: {grid: {problem.noise: [0, 1]}}\n"
    )
    quiet, noisy = null_test_document(loads_spec(text, folder=tmp_path))["problems"]
    assert quiet["passed"]
    assert not noisy["passed"]
    assert "draws random numbers" in noisy["verdict"]


RAISES = """
import torch
from torch import nn
from trainers.problem import Problem

def fails(*, where="nowhere"):
    def loss(model, batch, carry):
        if where == "loss":
            raise RuntimeError("no loss today\\nsecond line")
        return (0.0 if where == "outside" else model(batch).square().mean()), carry

    if where == "factory":
        raise KeyError("no data today")
    return Problem(
        model=nn.Linear(3, 1), loss=loss, batch=lambda step: torch.ones(4, 3),
        probe=lambda fraction: [torch.ones(4, 3)], steps_per_epoch=1, fingerprint="fails",
    )
"""


@pytest.fixture
def failing(tmp_path: Path) -> Callable[[str], Path]:
    """``failing("loss")``: a spec of a problem that is well, and of the same that raises in its loss."""
    (tmp_path / "failing_problem.py").write_text(RAISES)

    def spec(grid: str) -> Path:
        text = "problem: {use: 'failing_problem:fails'}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 1}\n"
        (tmp_path / "spec.yaml").write_text(text + f"sweep: {{grid: {{{grid}}}}}\n")
        return tmp_path / "spec.yaml"

    return spec


def test_a_problem_of_ones_own_that_raises_has_failed_and_the_line_is_named(failing: Callable[[str], Path]) -> None:
    spec = failing("problem.where: [nowhere, loss, factory, outside]")
    document = null_test_document(load_spec(spec))
    well, loss, factory, outside = document["problems"]
    assert not document["passed"]
    assert well["passed"], "the others are tested all the same"
    file = spec.parent / "failing_problem.py"
    assert loss["verdict"] == f"raised RuntimeError: no loss today ({file}:9, in loss)"
    assert factory["verdict"] == f"raised KeyError: 'no data today' ({file}:13, in fails)"
    assert outside["verdict"] == (
        "raised TrainerError: loss (failing_problem.py:7) must give a scalar tensor, the mean over the batch, "
        "not float 0.0"
    )
    assert (loss["passed"], loss["again"], loss["grad_norm"]) == (False, None, None)


def test_on_the_command_line_that_is_a_failed_problem_and_no_internal_error(failing: Callable[[str], Path]) -> None:
    spec = failing("problem.where: [loss]")
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "null-test", str(spec)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.startswith("FAILED  failing_problem:fails")
    assert f"no loss today ({spec.parent / 'failing_problem.py'}:9, in loss)\n" in done.stdout
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_an_option_that_a_problem_does_not_have_is_its_failure_too(failing: Callable[[str], Path]) -> None:
    (row,) = null_test_document(load_spec(failing("problem.width: [3]")))["problems"]
    assert row["verdict"].startswith("raised TrainerError: ")
    assert row["verdict"].endswith("'failing_problem:fails': unknown option 'width'; known: where")


def test_an_exception_that_is_no_fault_of_a_problem_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("sweeper.workers.examiner.null_test", broken)
    problem = {"use": "deep_linear", "layers": 2, "width": 2}
    measure = Measure(every=1).model_dump(mode="json")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(null_test_problem(problem=problem, shipped=None, seed=0, threads=1, measure=measure))


def test_a_gradient_that_is_not_finite_is_no_verdict_about_randomness_and_valid_json(tmp_path: Path) -> None:
    (tmp_path / "endless_problem.py").write_text(RANDOM.replace("[torch.ones(4, 3)]", "[torch.ones(4, 3) * noise]"))
    problem = "problem: {use: 'endless_problem:noisy', noise: 1.0e+39}\n"
    text = f"{problem}update_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 1}}\n"
    document = null_test_document(loads_spec(text, folder=tmp_path))
    (row,) = document["problems"]
    assert row["verdict"].startswith("the gradient of f is not finite at the initial weights")
    assert (row["passed"], row["again"], row["grad_norm"]) == (False, None, None)
    json.dumps(document, allow_nan=False)


REACHING = """
import torch
from torch import nn
from trainers.problem import Problem

def reaching(*, how):
    model = nn.Linear(3, 1)

    def loss(given, batch, carry):
        used = model if how == "closure" else given
        return used(batch).square().mean() * (how != "flat"), carry

    return Problem(
        model=model, loss=loss, batch=lambda step: torch.ones(4, 3),
        probe=lambda fraction: [torch.ones(4, 3)], steps_per_epoch=1, fingerprint=how,
    )
"""


def test_a_loss_that_uses_the_model_itself_fails_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "reaching_problem.py").write_text(REACHING)
    text = (
        "problem: {use: 'reaching_problem:reaching'}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 1}\n"
        "sweep: {grid: {problem.how: [given, closure, flat]}}\n"
    )
    given, closure, flat = null_test_document(loads_spec(text, folder=tmp_path))["problems"]
    assert given["passed"]
    assert given["copied"] == 0
    assert not closure["passed"]
    assert closure["copied"] > 0
    assert closure["grad_norm"] == 0
    assert "is exactly 0, that of the model itself has the norm" in closure["verdict"]
    assert "loss (reaching_problem.py:9) uses 'model' from outside of it" in closure["verdict"]
    assert not flat["passed"]
    assert flat["verdict"].startswith("the gradient of f is exactly 0 at the initial weights")


def test_functions_that_are_written_down_need_no_test() -> None:
    problem = "problem: {use: analytic, function: {use: extremal}, start: 1}\n"
    text = f"{problem}update_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 1}}\n"
    with pytest.raises(ClipsweepError, match="no probe is measured on them"):
        null_test_document(loads_spec(text, folder=Path()))
