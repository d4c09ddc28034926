"""What the pools make of Ray's errors, without a Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError

from sweeper.cluster import WorkerSettings
from sweeper.events import SnapshotId
from sweeper.messages import EstimatorDown, TrainerDown
from sweeper.pools import RayPools, _death_of

CRASHED = RayActorError(
    error_msg="The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file."
)
SHORT = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory. Memory on the node was ...")

DEATHS = pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            CRASHED,
            "was ended from outside or crashed, as when the system is short of memory; if so, lower the",
        ),
        (SHORT, "since its node ran short of memory; lower the problem's batch_size, or have fewer workers share"),
        (NodeDiedError("node 7 is gone"), "NodeDiedError: node 7 is gone"),
    ],
)


@pytest.fixture
def pools(tmp_path: Path) -> RayPools:
    settings = WorkerSettings(cpus=0.5, gpus=0, threads=1)
    return RayPools(run_dir=tmp_path, trainer=settings, estimator=settings)


def fail_with(error: RayError, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(handle: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)


@DEATHS
def test_an_estimator_that_dies_while_it_measures_is_down_and_no_error_of_the_sweep(
    pools: RayPools, monkeypatch: pytest.MonkeyPatch, error: RayError, said: str
) -> None:
    fail_with(error, monkeypatch)
    pools._actors["estimator", 1] = object()
    pools._verdicts["handle"] = (1, SnapshotId("a", 1, 0))
    (message,) = pools._read("handle")
    assert isinstance(message, EstimatorDown)
    assert message.slot == 1
    assert said in message.error
    assert pools._verdicts == {}
    assert pools._actors == {}


@DEATHS
def test_a_trainer_that_dies_in_a_trial_is_down_and_says_why(
    pools: RayPools, monkeypatch: pytest.MonkeyPatch, error: RayError, said: str
) -> None:
    fail_with(error, monkeypatch)
    stream = iter(["item"])
    pools._actors["trainer", 0] = object()
    pools._streams[stream] = 0
    (message,) = pools._read(stream)
    assert isinstance(message, TrainerDown)
    assert said in message.error
    assert pools._streams == {}


def test_a_death_is_told_in_one_line() -> None:
    assert "\n" not in _death_of("trainer", CRASHED)
    assert _death_of("trainer", CRASHED).startswith("the trainer's process")
