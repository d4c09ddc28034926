"""What a worker's process sets for its device, and what becomes of it after an error of a GPU; no GPU is needed."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from sweeper.check import check_sweep
from sweeper.errors import ClipsweepError, RunDirectoryError, left_advice, out_of_memory, spoils_gpu
from sweeper.null_test import null_test_document
from sweeper.planning import environment
from sweeper.planning.environment import check_drift, environment_of
from sweeper.protocol.messages import RaisedItem, RepeatedItem, Rows, SegmentItem
from sweeper.remeasure import _on_device
from sweeper.report.summary import build_report
from sweeper.spec import loads_spec
from sweeper.spec.sections.measure import Measure
from sweeper.spec.sections.settings import EstimatorPool, Resources, TrainerPool
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run
from sweeper.workers import device as device_module
from sweeper.workers import estimator as estimator_module
from sweeper.workers import examiner
from sweeper.workers import worker as worker_module
from sweeper.workers.device import Device
from sweeper.workers.estimator import EstimatorWorker
from sweeper.workers.process_state import OwnState
from sweeper.workers.trainer import TrainerWorker
from tests.sweeper.workers.test_estimator_worker import measured

RNN = (
    "RNN module weights are not part of single contiguous chunk of memory. This means they need to be compacted at "
    "every call, possibly greatly increasing memory usage. To compact weights again call flatten_parameters()."
)


class FakeCuda:
    """What is called of ``torch.cuda``, in order, and what the environment was by then."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ
        self.calls: list[Any] = []
        self.broken = False

    def set_per_process_memory_fraction(self, share: float) -> None:
        self.calls.append((share, dict(self.environ)))

    def empty_cache(self) -> None:
        self.calls.append("emptied")
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def get_device_name(self) -> str:
        return "NVIDIA H100 80GB HBM3"


def gpu(share: float = 1.0, **environ: str) -> tuple[Device, FakeCuda, SimpleNamespace]:
    cudnn = SimpleNamespace(deterministic=False, benchmark=True, version=lambda: 91002)
    cuda = FakeCuda(environ)
    return Device(name="cuda", share=share, cuda=cuda, cudnn=cudnn, environ=environ), cuda, cudnn


@pytest.fixture(autouse=True)
def filters() -> Iterator[None]:
    with warnings.catch_warnings():
        yield


# What is set


def test_a_worker_on_the_cpu_sees_no_gpu_and_sets_nothing_else(tmp_path: Path) -> None:
    environ: dict[str, str] = {"CUDA_VISIBLE_DEVICES": "0,1"}
    hardware = Device(name="cpu", environ=environ, cuda=None, cudnn=None)
    worker = TrainerWorker(run_dir=str(tmp_path), threads=1, device="cpu", hardware=hardware)
    assert environ == {"CUDA_VISIBLE_DEVICES": ""}
    assert worker.facts().device == "cpu"
    assert worker.facts().hardware == {}
    hardware.free()


def test_a_worker_on_a_gpu_computes_the_same_bits_every_time(tmp_path: Path) -> None:
    hardware, cuda, cudnn = gpu()
    TrainerWorker(run_dir=str(tmp_path), threads=1, device="cpu", hardware=hardware)
    assert cuda.environ == {"CUBLAS_WORKSPACE_CONFIG": ":4096:2"}
    assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert cuda.calls == []


def test_a_workspace_that_somebody_has_chosen_stays() -> None:
    hardware, cuda, _ = gpu(CUBLAS_WORKSPACE_CONFIG=":16:8")
    hardware.prepare()
    assert cuda.environ == {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}


def test_a_worker_that_shares_a_gpu_keeps_to_its_share_set_after_what_must_come_before_cuda_starts() -> None:
    hardware, cuda, _ = gpu(0.25)
    hardware.prepare()
    assert cuda.calls == [(0.25, {"CUBLAS_WORKSPACE_CONFIG": ":4096:2"})]


def test_what_is_set_for_a_gpu_is_put_back_when_a_trials_code_changes_it() -> None:
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        Device(name="cuda", environ={}).prepare()
        own = OwnState()
        with own.whole(), own.in_force():
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def test_one_warning_is_ignored_and_no_other() -> None:
    warnings.simplefilter("error")
    with pytest.raises(UserWarning, match="RNN module"):
        warnings.warn(RNN, stacklevel=1)
    gpu()[0].prepare()
    warnings.warn(RNN, stacklevel=1)
    for other in ("RNN module weights are lost", f"Beware: {RNN}"):
        with pytest.raises(UserWarning, match="RNN module"):
            warnings.warn(other, stacklevel=1)


def test_what_bits_on_a_gpu_depend_on_is_known() -> None:
    facts = gpu()[0].facts
    assert facts.items() >= {"device": "NVIDIA H100 80GB HBM3", "cudnn": "91002", "torch": torch.__version__}.items()
    assert set(facts) <= {"device", "driver", "cuda", "cudnn", "torch"}
    assert {type(value) for value in facts.values()} == {str}


# A device that is asked for


CUDA = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
NONE = SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)


@pytest.mark.parametrize(
    ("device", "cuda", "version", "why"),
    [
        ("cuda", NONE, None, "is built without CUDA"),
        ("cuda", NONE, "13.0", "PyTorch finds no GPU"),
        ("cuda:2", CUDA, "13.0", "this machine has 2 GPUs, from cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, device: str, cuda: Any, version: str | None, why: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", version)
    assert why in device_module._unusable(torch.device(device), cuda)


TINY = "problem: {use: deep_linear, width: 3}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 1}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_commands_refuse_a_device_that_is_not_there_before_they_begin() -> None:
    sweep = loads_spec(TINY, folder=Path())
    with pytest.raises(ClipsweepError, match="--device cuda: PyTorch"):
        null_test_document(sweep, device="cuda")
    with pytest.raises(ClipsweepError, match="unknown device 'tpu'; known: cpu, cuda, cuda:N"):
        list(check_sweep(sweep, device="tpu"))
    assert null_test_document(sweep, device="cpu")["passed"]


def test_both_examinations_build_on_the_device_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = examiner.build_problem

    def build(*arguments: Any, device: str, **options: Any) -> Any:
        built.append(device)
        return real(*arguments, device="cpu", **options)

    monkeypatch.setattr(examiner, "build_problem", build)
    monkeypatch.setattr(examiner, "Device", lambda name: gpu()[0])
    problem = {"use": "deep_linear", "layers": 2, "width": 3}
    measure = Measure(every=1, data_fraction=1).model_dump(mode="json")
    common: dict[str, Any] = {"problem": problem, "shipped": None, "seed": 0, "threads": 1, "device": "cuda:1"}
    (row,) = examiner.null_test_problem(**common, measure=measure)
    assert row["passed"]
    assert set(built) == {"cuda:1"}
    built.clear()
    rule = {"clip_groups": None}
    list(examiner.check_problem(**common, rule=rule, clip_groups=[], steps=1, accumulate=1, measure=None))
    assert set(built) == {"cuda:1"}


def test_estimators_of_kept_snapshots_are_put_where_it_is_asked_for() -> None:
    shared = Resources(estimators=EstimatorPool(gpus=0.5, cuda_graphs=True), trainers=TrainerPool(gpus=1))
    assert _on_device(shared, None) == shared
    there = _on_device(shared, "cpu")
    assert (there.estimators.gpus, there.estimators.cuda_graphs, there.trainers.gpus) == (0, False, 1)
    assert _on_device(shared, "cuda").estimators.gpus == 0.5
    assert _on_device(Resources(), "cuda").estimators.gpus == 1
    with pytest.raises(ClipsweepError, match="unknown device 'cuda:1'; known: cpu, cuda, of which Ray chooses one"):
        _on_device(shared, "cuda:1")


# Errors of a GPU

ASSERT = RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")
SPOILING = [
    ASSERT,
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    *([torch.AcceleratorError("unspecified launch failure", 4)] if hasattr(torch, "AcceleratorError") else []),
]


@pytest.mark.parametrize("error", SPOILING, ids=str)
def test_errors_after_which_a_context_is_unusable_are_known_also_as_a_cause(error: Exception) -> None:
    assert spoils_gpu(error)
    outer = ValueError("cannot be measured")
    outer.__cause__ = error
    assert spoils_gpu(outer)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        ValueError("CUDA error in my notes"),
    ],
    ids=str,
)
def test_other_errors_leave_a_worker_fit(error: Exception) -> None:
    assert not spoils_gpu(error)


def test_a_lack_of_memory_is_known_in_all_its_words() -> None:
    assert out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors ...")) == "gpus"
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")) == "gpus"


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *, times: int = 10**9, seed: int = 1) -> list[int]:
    """Problems of one seed raise, so often; the seeds that were built."""
    built: list[int] = []
    real = worker_module.build_problem

    def build(*arguments: Any, seed: int, **options: Any) -> Any:
        built.append(seed)
        if seed == failing_seed and built.count(seed) <= times:
            raise error
        return real(*arguments, seed=seed, **options)

    failing_seed = seed
    monkeypatch.setattr(worker_module, "build_problem", build)
    return built


SPEC = """
name: small
problem: {use: deep_linear, layers: 2, width: 3, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 6, checkpoint_every: 3}
sweep: {seeds: 3}
"""


def trials_of(run: Any) -> pd.DataFrame:
    return pd.read_parquet(run.run_dir.path / "trials.parquet").set_index("seed")


def test_a_trainer_with_an_unusable_context_is_replaced_and_its_trial_goes_to_a_fresh_one(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ASSERT, times=1)
    run = inline_run(SPEC)
    run(max_attempts=2)
    assert trials_of(run)["status"].to_dict() == {0: "done", 1: "done", 2: "done"}
    assert run.pools.started["trainer"] == 3, "two and a fresh one"
    (line,) = [line for line in run.listener.lines if "is replaced" in line]
    assert "left a GPU's context that nothing can use any more" in line
    assert "where the module is imported" not in line


def test_after_an_unusable_context_no_later_trial_of_the_same_worker_is_begun(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = failing(monkeypatch, ASSERT, seed=0)
    run = inline_run(SPEC)
    run(max_attempts=1)
    assignments = run.pools.assignments
    worker = TrainerWorker(run_dir=str(run.run_dir.path), threads=1, device="cpu")
    built.clear()
    (item,) = worker.train(sorted({a.seed: a for a in assignments}.values(), key=lambda a: a.seed))
    assert built == [0]
    assert isinstance(item, RaisedItem)
    assert item.left_behind is not None
    assert left_advice(item.left_behind).startswith("left a GPU's context")


def test_the_first_lack_of_memory_of_a_trial_is_forgiven(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), times=1)
    run = inline_run(SPEC)
    run(max_attempts=1)
    assert trials_of(run)["status"].to_dict() == {0: "done", 1: "done", 2: "done"}
    assert run.pools.started["trainer"] == 2, "nothing is wrong with the worker"


def test_a_lack_of_memory_that_comes_again_is_charged_and_told(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    run = inline_run(SPEC)
    run(max_attempts=2)
    assert trials_of(run)["status"].to_dict() == {0: "done", 1: "failed", 2: "done"}
    assert "resources.*.gpus" in trials_of(run).loc[1, "error"]
    assert Counter(built)[1] == 3, "two that are charged, and one"


def test_memory_is_given_back_between_trials_also_after_one_that_lacked_it(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = inline_run(SPEC)
    run()
    failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    hardware, cuda, _ = gpu()
    worker = TrainerWorker(run_dir=str(run.run_dir.path), threads=1, device="cpu", hardware=hardware)
    cuda.broken = True
    items = list(worker.train(run.pools.assignments))
    ends = [item for item in items if isinstance(item, RaisedItem | SegmentItem) and getattr(item, "outcome", True)]
    assert [isinstance(end, RaisedItem) and end.short_of_memory for end in ends] == [False, True, False]
    assert cuda.calls == ["emptied"] * 3


def test_an_estimator_with_an_unusable_context_measures_nothing_more_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def broken(*arguments: Any, **options: Any) -> Any:
        calls.append("called")
        raise ASSERT

    real = dict(estimator_module.ESTIMATORS)
    monkeypatch.setattr(estimator_module, "ESTIMATORS", dict.fromkeys(real, broken))
    worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu")
    verdict = measured(worker)
    # Not rows that say so: then no other worker would measure the snapshot.
    assert not isinstance(verdict, Rows)
    assert verdict.left_behind is not None
    assert calls == ["called"]


def test_a_snapshot_that_met_an_unusable_context_is_measured_by_a_fresh_worker(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[str] = []
    real = dict(estimator_module.ESTIMATORS)

    def once(*arguments: Any, **options: Any) -> Any:
        if not raised:
            raised.append("once")
            raise ASSERT
        return real["directional_smoothness"](*arguments, **options)

    monkeypatch.setattr(estimator_module, "ESTIMATORS", real | {"directional_smoothness": once})
    run = inline_run(SPEC + "measure: {every: 2, data_fraction: 1}\n")
    run()
    rows = pd.read_parquet(run.run_dir.path / "measurements" / "directional_smoothness.parquet")
    assert rows["error"].isna().all()
    assert len(rows) == 9
    assert run.pools.started["estimator"] == 3
    assert any("estimator" in line and "is replaced" in line for line in run.listener.lines)


def test_an_estimator_gives_memory_back_between_trials(tmp_path: Path) -> None:
    hardware, cuda, _ = gpu()
    worker = EstimatorWorker(run_dir=str(tmp_path), threads=1, device="cpu", hardware=hardware)
    verdict = measured(worker)
    assert isinstance(verdict, Rows)
    assert verdict.device == "NVIDIA H100 80GB HBM3"
    assert cuda.calls == ["emptied"]
    measured(worker)
    assert cuda.calls == ["emptied"], "the same trial"


# Steps that are trained again


def test_repeated_steps_are_compared_on_a_gpu_too_and_say_which_one_trained_them(
    inline_run: Callable[..., Any],
) -> None:
    run = inline_run(SPEC)
    run()
    hardware, _, _ = gpu()
    worker = TrainerWorker(run_dir=str(run.run_dir.path), threads=1, device="cpu", hardware=hardware)
    again = replace(run.pools.assignments[0], committed_step=4, checkpoints=())
    items = list(worker.train([again]))
    (repeated,) = [item for item in items if isinstance(item, RepeatedItem)]
    assert repeated.hardware == hardware.facts
    assert (repeated.start, repeated.stop) == (0, 4)
    (last,) = [item for item in items if isinstance(item, SegmentItem)]
    assert last.facts.hardware == hardware.facts


# What is recorded


@pytest.fixture
def two_gpus(inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose workers take turns on an H100 and an A100."""
    names = itertools.cycle(["NVIDIA H100", "NVIDIA A100"])

    def device(name: str, share: float) -> Device:
        hardware, _, _ = gpu()
        hardware.__dict__["facts"] = {"device": next(names), "driver": "580.65.06", "cuda": "13.0", "cudnn": "91002"}
        return hardware

    monkeypatch.setattr(worker_module, "Device", device)
    run = inline_run(SPEC + "measure: {every: 2, data_fraction: 1}\n")
    run()
    return run


def test_telemetry_says_which_gpu_trained_and_which_ones_measured(two_gpus: Any) -> None:
    telemetry = pd.read_parquet(two_gpus.run_dir.path / "telemetry.parquet")
    assert set(telemetry["device"]) == {"NVIDIA H100", "NVIDIA A100"}
    assert set(telemetry["driver"]) == {"580.65.06"}
    assert set(telemetry["cuda"]) == {"13.0"}
    assert set(telemetry["cudnn"]) == {"91002"}
    assert {name for one in telemetry["measured_on"] for name in one.split(", ")} <= {"NVIDIA H100", "NVIDIA A100"}
    by_device = telemetry.groupby("device")["environment_id"]
    assert by_device.nunique().tolist() == [1, 1]
    assert by_device.first().nunique() == 2, "results with equal ids may be compared bit for bit"
    trials = trials_of(two_gpus)
    assert trials["device"].tolist() == telemetry.groupby("trial_id")["device"].last()[trials["trial_id"]].tolist()
    assert not trials["drift"].any()


def test_a_report_says_that_a_cell_mixes_devices_and_what_each_node_has(two_gpus: Any) -> None:
    run = Run(two_gpus.run_dir.path)
    report = build_report(run)
    (note,) = [note for note in report.notes if "mixed different devices" in note]
    assert note.startswith("the cell mixed")
    assert "NVIDIA A100, driver 580.65.06; NVIDIA H100, driver 580.65.06" in note
    (node,) = report.nodes
    assert node.device == "NVIDIA A100, driver 580.65.06, NVIDIA H100, driver 580.65.06"
    one = build_report(run, where=["device=NVIDIA H100"])
    assert not [note for note in one.notes if "devices" in note]


def test_a_run_on_cpus_says_nothing_of_devices(inline_run: Callable[..., Any]) -> None:
    run = inline_run(SPEC)
    run()
    journal = run.run_dir.journal.read_text()
    assert "hardware" not in journal
    assert "measured_on" not in journal
    telemetry = pd.read_parquet(run.run_dir.path / "telemetry.parquet")
    assert telemetry[["device", "driver", "cuda", "cudnn", "measured_on"]].isna().all(axis=None)
    report = build_report(Run(run.run_dir.path))
    assert not [note for note in report.notes if "devices" in note]
    assert [node.device for node in report.nodes] == [""]


def test_the_gpu_is_among_the_conditions_of_a_run_on_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [{"name": "NVIDIA H100", "driver": "580.65.06", "uuid": "GPU-1"}]
    monkeypatch.setattr(environment, "_gpus", lambda: found)
    for pools in ({"trainers": TrainerPool(gpus=1)}, {"estimators": EstimatorPool(gpus=0.5)}):
        now = environment_of(Resources(**pools))
        assert (now["gpu"], now["driver"]) == ("NVIDIA H100", environment.driver_version())
        before = now | {"gpu": "NVIDIA A100", "driver": "570.1", "cudnn": "9"}
        with pytest.raises(RunDirectoryError, match=r"gpu: NVIDIA A100 -> NVIDIA H100\n  driver: 570.1 -> "):
            check_drift(RunDir(tmp_path), before, now, begun=True, accepted=False)
        # An earlier version recorded none of it.
        old = {key: value for key, value in now.items() if key not in {"gpu", "driver", "cuda", "cudnn"}}
        check_drift(RunDir(tmp_path), old, now, begun=True, accepted=False)
    assert not environment_of(Resources()).keys() & {"gpu", "driver", "cuda", "cudnn"}


def test_names_of_torch_are_known_without_loading_it() -> None:
    assert "torch" in sys.modules
    error = type("AcceleratorError", (RuntimeError,), {"__module__": "torch"})("no words")
    assert spoils_gpu(error)
    assert re.search("AcceleratorError", left_advice(f"a GPU's context that nothing can use any more ({error!r})"))
