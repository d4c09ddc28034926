"""The worker that measures, called directly: the same rows whether gradients are recorded or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import Raised, Rows, SnapshotHeader
from sweeper.spec.sections.measure import Measure
from sweeper.store.run_dir import RunDir
from sweeper.workers import estimator as module
from sweeper.workers.estimator import EstimatorWorker
from sweeper.workers.snapshots import keep_snapshot, read_header, read_iterates
from tests.sweeper.conftest import KINKED
from trainers.problems import build_problem
from trainers.update.flat import flat_parameters

PROBLEM = {"use": "deep_linear", "layers": 2, "width": 4}


def measured(worker: EstimatorWorker, *, seed: int = 0, **measure: Any) -> Rows | Raised:
    here = flat_parameters(build_problem("deep_linear", {"layers": 2, "width": 4}, seed=0).model)
    iterates = torch.stack([here, here + 0.1])
    header = SnapshotHeader(
        trial="t",
        seed=seed,
        step=3,
        epoch=0.5,
        problem=PROBLEM,
        measure=Measure.model_validate({"every": 1, "data_fraction": 1} | measure).model_dump(mode="json"),
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


@pytest.mark.parametrize(
    ("measure", "built"),
    [
        ({}, 1),
        ({"audit": {"at": "start"}}, 2),
        ({"estimators": [{"use": "directional_smoothness"}, {"use": "gradient_noise"}]}, 2),
    ],
)
def test_trials_of_other_seeds_share_a_probe_where_no_row_depends_on_the_seed(
    measure: dict[str, Any], built: int, tmp_path: Path
) -> None:
    worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu")
    for seed in (3, 4):
        shared = measured(worker, seed=seed, **measure)
        alone = measured(EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu"), seed=seed, **measure)
        assert isinstance(shared, Rows)
        assert isinstance(alone, Rows)
        assert repr(shared.rows) == repr(alone.rows)
    assert worker._probe.cache_info().misses == built


# Estimators fail alone

OWN = (
    KINKED
    + """

def own(*, seed, how="kinked"):
    model, batch = nn.Linear(2, 1), torch.linspace(-1, 1, 16).view(8, 2)

    def loss(given, inputs, carry):
        if how == "closure":
            given = model
        if how == "flat":
            return (given(inputs) - 100).clamp(min=0).mean(), carry
        if how == "exits":
            raise SystemExit("no loss today")
        if how == "random":
            inputs = inputs + 1e-3 * torch.rand(8, 2)
        return Kinked.apply(given(inputs)).mean(), carry

    return Problem(model=model, loss=loss, batch=lambda step: batch, probe=lambda fraction: [batch],
                   steps_per_epoch=1, fingerprint=how)
"""
)

THREE = [{"use": "directional_smoothness"}, {"use": "hessian_spectral_norm"}, {"use": "layer_smoothness"}]


@pytest.fixture
def measure_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rows | Raised]:
    (tmp_path / "own_estimated.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))

    def measure(how: str, grad_norm: float | None = 1.0) -> Rows | Raised:
        worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu", search=[str(tmp_path)])
        here = flat_parameters(build_problem("own_estimated:own", {"how": how}, seed=0, search=[str(tmp_path)]).model)
        header = SnapshotHeader(
            trial="t",
            seed=0,
            step=3,
            epoch=0.5,
            problem={"use": "own_estimated:own", "how": how},
            measure=Measure(every=1, estimators=THREE).model_dump(mode="json"),
            nbytes=16,
            grad_norm=grad_norm,
        )
        return worker.measure(
            0, SnapshotId(trial="t", attempt=1, step=3), header, torch.stack([here, here + 1]).numpy()
        )

    return measure


def test_an_estimator_that_raises_fails_alone_and_the_others_keep_their_values(
    measure_own: Callable[..., Rows | Raised],
) -> None:
    found = measure_own("kinked")
    assert isinstance(found, Rows)
    failed = found.rows["hessian_spectral_norm"]
    assert failed["error"] == "hessian_spectral_norm: RuntimeError: no second derivative"
    assert set(failed) == {"trial_id", "step", "epoch", "error", "data_fraction"}
    assert list(found.tracebacks) == ["hessian_spectral_norm"]
    assert "Traceback" in found.tracebacks["hessian_spectral_norm"]
    for name in ("directional_smoothness", "layer_smoothness"):
        assert "error" not in found.rows[name]
    assert found.rows["directional_smoothness"]["trust"] == "trusted"


def test_what_all_estimators_raise_is_raised_once_for_the_snapshot(measure_own: Callable[..., Rows | Raised]) -> None:
    found = measure_own("exits")
    assert isinstance(found, Raised)
    assert found.error == "SystemExit: no loss today"


def test_an_estimator_that_runs_out_of_memory_is_tried_once_more(
    measure_own: Callable[..., Rows | Raised], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = {"hessian_spectral_norm": 0, "layer_smoothness": 0}

    def short(name: str, times: int) -> Callable[..., dict[str, Any]]:
        def estimator(*arguments: object, **options: object) -> dict[str, Any]:
            tries[name] += 1
            if tries[name] <= times:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return {"grad_norm": 1.0}

        return estimator

    monkeypatch.setitem(module.ESTIMATORS, "hessian_spectral_norm", short("hessian_spectral_norm", 1))
    monkeypatch.setitem(module.ESTIMATORS, "layer_smoothness", short("layer_smoothness", 2))
    found = measure_own("kinked")
    assert isinstance(found, Rows)
    assert tries == {"hessian_spectral_norm": 2, "layer_smoothness": 2}
    assert "error" not in found.rows["hessian_spectral_norm"]
    assert found.rows["layer_smoothness"]["error"].startswith("layer_smoothness: RuntimeError: DefaultCPUAllocator")
    assert "batch_size" in found.rows["layer_smoothness"]["error"]


def test_a_loss_that_uses_the_model_itself_is_an_error_and_never_a_smoothness_of_0(
    measure_own: Callable[..., Rows | Raised],
) -> None:
    found = measure_own("closure")
    assert isinstance(found, Raised)
    assert found.error.startswith(
        "UnfaithfulCopyError: the gradient of the copy of the model that estimators measure is"
    )
    assert "uses 'model' from outside of it" in found.error
    assert "use the model that the loss is given" in found.error


def test_a_loss_that_draws_random_numbers_is_an_error_of_every_row(measure_own: Callable[..., Rows | Raised]) -> None:
    found = measure_own("random")
    assert isinstance(found, Raised)
    assert found.error.startswith(
        "RandomLossError: f is no function of the parameters: the same weights gave the losses"
    )
    assert "draw no random numbers in loss and forward" in found.error


@pytest.mark.parametrize(("grad_norm", "is_error"), [(0.5, True), (0.0, False), (None, False)])
def test_a_gradient_of_0_where_training_has_another_is_an_error(
    measure_own: Callable[..., Rows | Raised], grad_norm: float | None, is_error: bool
) -> None:
    found = measure_own("flat", grad_norm)
    if is_error:
        assert isinstance(found, Raised)
        assert found.error.startswith("ZeroGradientError: the gradient of f is exactly 0, where training's")
        assert "has the norm 0.5" in found.error
    else:
        assert isinstance(found, Rows)
        assert found.rows["directional_smoothness"]["grad_norm"] == 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("grad_norm", [None, 0.1])
def test_a_kept_snapshot_is_read_as_it_was_taken(tmp_path: Path, kind: type, grad_norm: float | None) -> None:
    measure = Measure(every=1).model_dump(mode="json")
    header = SnapshotHeader(
        trial="t", seed=0, step=3, epoch=0.5, problem=PROBLEM, measure=measure, nbytes=0, grad_norm=grad_norm
    )
    header = replace(header, batches_per_step=1 if grad_norm is None else 3)
    iterates = np.array([[1.0, 2.0], [1.0, 2.0 + 1e-12]], dtype=kind)
    run_dir = RunDir(tmp_path)
    keep_snapshot(run_dir, header, iterates)
    path = run_dir.snapshot("t", 3)
    read = read_iterates(path)
    assert read.dtype == kind
    assert (read == iterates).all()
    assert replace(read_header(path, measure), nbytes=0) == header


# What a step was made of


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_the_learning_rate_and_the_threshold_of_a_step_reach_its_row_from_a_kept_snapshot_too(
    threshold: float | None, tmp_path: Path
) -> None:
    problem = build_problem("deep_linear", {"layers": 2, "width": 4}, seed=0)
    measure = Measure(every=1, data_fraction=1, estimators=[{"use": "critical_sharpness"}]).model_dump(mode="json")
    here = flat_parameters(problem.model)
    slope = module.build_probe(problem, measure).value_and_gradient(here)[1]
    iterates = torch.stack([here, here - 0.01 * slope])
    header = SnapshotHeader(
        trial="t",
        seed=0,
        step=3,
        epoch=0.5,
        problem=PROBLEM,
        measure=measure,
        nbytes=iterates.nbytes,
        learning_rate=0.01,
        clip_norm=threshold,
    )
    worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu")
    verdict = worker.measure(0, SnapshotId(trial="t", attempt=1, step=3), header, iterates.numpy())
    assert isinstance(verdict, Rows)
    row = verdict.rows["critical_sharpness"]
    assert row["learning_rate"] == 0.01
    assert row["critical_sharpness"] == pytest.approx(row["critical_curvature"], rel=1e-3)
    assert (row["critical_clip_norm"] is None) == (threshold is None)

    run_dir = RunDir(tmp_path)
    keep_snapshot(run_dir, header, iterates.numpy())
    kept = read_header(run_dir.snapshot("t", 3), measure)
    assert (kept.learning_rate, kept.clip_norm) == (0.01, threshold)
    again = worker.measure(0, SnapshotId(trial="t", attempt=1, step=3), kept, read_iterates(run_dir.snapshot("t", 3)))
    assert isinstance(again, Rows)
    assert repr(again.rows) == repr(verdict.rows)
