"""The null test of a spec, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import ClipsweepError
from sweeper.null_test import null_test_document
from sweeper.spec import loads_spec

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


def test_functions_that_are_written_down_need_no_test() -> None:
    problem = "problem: {use: analytic, function: {use: extremal}, start: 1}\n"
    text = f"{problem}update_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 1}}\n"
    with pytest.raises(ClipsweepError, match="no probe is measured on them"):
        null_test_document(loads_spec(text, folder=Path()))
