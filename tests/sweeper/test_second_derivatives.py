"""A function that autograd cannot differentiate twice is an error in check, in the null test and in rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sweeper.check import check_sweep
from sweeper.null_test import null_test_document
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import Rows, SnapshotHeader
from sweeper.spec import Sweep
from sweeper.spec.load import loads_spec
from sweeper.spec.sections.measure import Measure
from sweeper.workers.estimator import EstimatorWorker
from trainers.problems import build_problem
from trainers.update.flat import flat_parameters

OWN = """
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from trainers.problem import Problem

class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        return ctx.saved_tensors[0].cos() * slope

def own(*, how):
    inputs = torch.linspace(-2, 2, 24).view(8, 3)
    model = nn.Linear(3, 2)

    def loss(given, batch, carry):
        return (Sine.apply if how == "once" else torch.sin)(given(batch)).square().mean(), carry

    return Problem(model=model, loss=loss, batch=lambda step: inputs, probe=lambda fraction: [inputs],
                   steps_per_epoch=1, fingerprint="own")
"""
FOUND = "Hessian-vector products of f leave out a part of the Hessian: they are off by "
NAMED = "Sine (own_twice.py:13) has a backward pass that autograd cannot differentiate"


def sweep(folder: Path, how: str, *estimators: str) -> Sweep:
    (folder / "own_twice.py").write_text(OWN)
    listed = ", ".join(f"{{use: {name}}}" for name in estimators)
    text = (
        f"problem: {{use: 'own_twice:own', how: {how}}}\nupdate_rule: {{learning_rate: 0.1}}\ntrain: {{steps: 1}}\n"
        f"measure: {{every: 1, estimators: [{listed}]}}\n"
    )
    return loads_spec(text, folder=folder)


def test_check_says_it_once_and_only_of_estimators_that_need_the_hessian(tmp_path: Path) -> None:
    names = ("directional_smoothness", "directional_curvature", "hessian_spectral_norm")
    found = [checked.finding for checked in check_sweep(sweep(tmp_path, "once", *names))][-3:]
    assert [finding.status for finding in found] == ["ok", "broken", "untested"]
    assert found[1].broken.startswith(FOUND)
    assert NAMED in found[1].broken
    assert found[2].untested == "its Hessian-vector products are wrong in the same way"


@pytest.mark.parametrize(
    ("how", "estimator", "passed"),
    [
        ("once", "hessian_spectrum", False),
        ("once", "directional_smoothness", True),
        ("twice", "hessian_spectrum", True),
    ],
)
def test_the_null_test_fails_where_an_estimator_needs_the_hessian(
    tmp_path: Path, how: str, estimator: str, passed: bool
) -> None:
    (row,) = null_test_document(sweep(tmp_path, how, estimator))["problems"]
    assert row["passed"] is passed
    assert row["verdict"].startswith("the same weights twice differ by 0" if passed else FOUND)
    assert (NAMED in row["verdict"]) is not passed


@pytest.mark.parametrize("how", ["once", "twice"])
def test_rows_of_the_hessian_are_errors_and_the_others_are_not(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_twice.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("directional_smoothness", "directional_curvature", "hessian_spectral_norm", "hessian_spectrum")
    worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu", search=[str(tmp_path)])
    problem = {"use": "own_twice:own", "how": how}
    here = flat_parameters(build_problem(problem["use"], {"how": how}, seed=0, search=[str(tmp_path)]).model)
    measure = Measure(every=1, estimators=[{"use": name} for name in names])
    header = SnapshotHeader(
        trial="t", seed=0, step=3, epoch=0.5, problem=problem, measure=measure.model_dump(mode="json"), nbytes=64
    )
    iterates = torch.stack([here, here + 0.1]).numpy()
    for step in (3, 4):
        found = worker.measure(0, SnapshotId(trial="t", attempt=1, step=step), header, iterates)
        assert isinstance(found, Rows)
        errors = {name: found.rows[name].get("error") for name in names}
        if how == "twice":
            assert set(errors.values()) == {None}
            continue
        assert errors.pop("directional_smoothness") is None
        for name, error in errors.items():
            assert error is not None
            assert error.startswith(f"{name}: SecondDerivativeError: {FOUND}")
            assert NAMED in error
