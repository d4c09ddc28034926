"""The worker that measures, called directly: the same rows whether gradients are recorded or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import Raised, Rows, SnapshotHeader
from sweeper.spec.sections.measure import Measure
from sweeper.workers import estimator as module
from sweeper.workers.estimator import EstimatorWorker
from trainers.problems import build_problem
from trainers.update.flat import flat_parameters

PROBLEM = {"use": "deep_linear", "layers": 2, "width": 4}


def measured(worker: EstimatorWorker) -> Rows | Raised:
    here = flat_parameters(build_problem("deep_linear", {"layers": 2, "width": 4}, seed=0).model)
    iterates = torch.stack([here, here + 0.1])
    header = SnapshotHeader(
        trial="t",
        seed=0,
        step=3,
        epoch=0.5,
        problem=PROBLEM,
        measure=Measure(every=1, data_fraction=1).model_dump(mode="json"),
        nbytes=iterates.nbytes,
        data=None,
    )
    return worker.measure(0, SnapshotId(trial="t", attempt=1, step=3), header, iterates.numpy())


def test_an_estimator_that_replays_its_gradient_gives_the_same_rows_and_signs_of_life(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded: list[Any] = []

    def record(work: Callable[[], object]) -> Callable[[], object]:
        recorded.append(work)
        return work

    monkeypatch.setattr(module, "record_cuda_graph", record)
    settings: dict[str, Any] = {"run_dir": str(tmp_path), "threads": 1, "device": "cpu"}
    plain, replaying = EstimatorWorker(**settings), EstimatorWorker(**settings, cuda_graphs=True)
    expected, found = measured(plain), measured(replaying)
    assert isinstance(expected, Rows)
    assert isinstance(found, Rows)
    assert repr(found.rows) == repr(expected.rows)
    assert len(recorded) == 1
    assert replaying.beats() - plain.beats() == 11, "one for each replay, beside those of the loss that it runs here"


def test_a_loss_that_cannot_be_recorded_is_an_error_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(work: Callable[[], object]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "record_cuda_graph", refuse)
    verdict = measured(EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu", cuda_graphs=True))
    assert isinstance(verdict, Raised)
    assert "cannot be recorded as a CUDA graph" in verdict.error
    assert "set cuda_graphs to false" in verdict.error
