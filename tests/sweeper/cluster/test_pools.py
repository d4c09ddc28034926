"""What the pools make of Ray's errors, without a Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError

from sweeper.cluster.capacity import WorkerSettings
from sweeper.cluster.nodes import Layout, Share
from sweeper.cluster.pools import RayPools, _Beats, _death_of, _Stream, _Verdict
from sweeper.protocol.events import SegmentId, SnapshotId
from sweeper.protocol.messages import (
    EstimatorDown,
    FromTrainer,
    Message,
    ProgressItem,
    SnapshotHeader,
    SnapshotItem,
    TrainerDown,
)

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
            "exited, crashed or was killed; if the system was short of memory, lower the problem's batch_size, or",
        ),
        (SHORT, "because its node ran short of memory; lower the problem's batch_size, or have fewer workers share"),
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
    pools._pending["handle"] = _Verdict(slot=1, snapshot=SnapshotId("a", 1, 0))
    pools._pending["beats"] = _Beats(slot=1)
    (message,) = pools._read("handle")
    assert isinstance(message, EstimatorDown)
    assert message.slot == 1
    assert said in message.error
    assert pools._pending == {}, "nothing is awaited of it any more"
    assert pools._actors == {}


@DEATHS
def test_a_trainer_that_dies_in_a_trial_is_down_and_says_why(
    pools: RayPools, monkeypatch: pytest.MonkeyPatch, error: RayError, said: str
) -> None:
    fail_with(error, monkeypatch)
    stream = iter(["item"])
    pools._actors["trainer", 0] = object()
    pools._pending[stream] = _Stream(slot=0, unfinished=1)
    (message,) = pools._read(stream)
    assert isinstance(message, TrainerDown)
    assert said in message.error
    assert pools._pending == {}


HEADER = SnapshotHeader(trial="a", seed=0, step=3, epoch=0.5, problem={}, measure={}, nbytes=8)
SEGMENT = SegmentId("a", 1, 0)
PROGRESS = ProgressItem(segment=SEGMENT, step=1, loss=0.5, clipped_fraction=0.0)


class Stream:
    """References that a trainer has sent so far, each named by what it holds; the last is to its death."""

    def __init__(self, *sent: Any) -> None:
        self.sent = list(sent)

    def __next__(self) -> Any:
        assert self.sent, "Ray would wait for a trainer that may hang"
        return self.sent.pop(0)

    def completed(self) -> Any:
        return CRASHED


@pytest.fixture
def read(pools: RayPools, monkeypatch: pytest.MonkeyPatch) -> Callable[[Stream], list[Message]]:
    """``read(stream)``: what the pools make of the next object that a trainer in slot 0 has sent."""

    def get(reference: Any) -> Any:
        assert reference != "array", "no array is read here"
        if isinstance(reference, RayError):
            raise reference
        return reference

    monkeypatch.setattr(ray, "get", get)

    def read_next(stream: Stream) -> list[Message]:
        if stream not in pools._pending:
            pools._actors["trainer", 0] = object()
            pools._pending[stream] = _Stream(slot=0, unfinished=1)
        return pools._read(stream)

    return read_next


def test_a_snapshot_is_told_when_its_array_is_there_which_nobody_reads(read: Callable[[Stream], list[Message]]) -> None:
    stream = Stream([PROGRESS, SnapshotItem(segment=SEGMENT, header=HEADER, payload=None)])
    assert read(stream) == [FromTrainer(slot=0, item=PROGRESS)]
    stream.sent = ["array", [PROGRESS]]
    assert read(stream) == [FromTrainer(slot=0, item=SnapshotItem(segment=SEGMENT, header=HEADER, payload="array"))]
    assert read(stream) == [FromTrainer(slot=0, item=PROGRESS)]


def test_a_trainer_that_dies_between_a_snapshots_header_and_its_array_is_down_and_has_taken_none(
    pools: RayPools, read: Callable[[Stream], list[Message]]
) -> None:
    stream = Stream([SnapshotItem(segment=SEGMENT, header=HEADER, payload=None)], CRASHED)
    assert read(stream) == []
    (message,) = read(stream)
    assert isinstance(message, TrainerDown), "an estimator that was given its death would be taken for dead itself"
    assert "the trainer's process" in message.error
    assert (pools._pending, pools._actors) == ({}, {})


def test_of_a_trainer_that_was_ended_no_header_is_left(
    pools: RayPools, read: Callable[[Stream], list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    read(Stream([SnapshotItem(segment=SEGMENT, header=HEADER, payload=None)]))
    pools.kill_trainer(0)
    assert pools._pending == {}


def test_a_death_is_told_in_one_line() -> None:
    assert "\n" not in _death_of("trainer", CRASHED)
    assert _death_of("trainer", CRASHED).startswith("the trainer's process")


def test_a_worker_is_asked_for_with_its_share_of_a_gpu_and_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WorkerSettings(cpus=1, gpus=0.45, threads=1, accelerator_type="H100")
    pools = RayPools(run_dir=tmp_path, trainer=settings, estimator=settings)
    asked: list[dict[str, Any]] = []

    class Actor:
        def options(self, **options: Any) -> Any:
            asked.append(options)
            raise InterruptedError

    monkeypatch.setattr(pools, "_classes", {"estimator": Actor()})
    with pytest.raises(InterruptedError):
        pools.start_estimator(0)
    assert asked[0].items() >= {"num_cpus": 1, "num_gpus": 0.45, "accelerator_type": "H100"}.items()


class Started:
    """An actor class that starts nothing, and the nodes that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: list[str | None] = []
        monkeypatch.setattr(ray, "kill", lambda actor: None)

    def options(self, **options: Any) -> Any:
        strategy = options["scheduling_strategy"]
        self.nodes.append(None if strategy == "DEFAULT" else strategy.node_id[-1])
        return self

    def remote(self, **arguments: Any) -> Any:
        return SimpleNamespace(facts=SimpleNamespace(remote=object))


def test_each_worker_goes_to_the_node_that_lacks_most_and_beyond_the_layout_ray_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WorkerSettings(cpus=1, gpus=0.45, threads=1)
    a, b, c, head = (f"{letter:0>56}" for letter in "abcd")
    layout = Layout(shares={a: Share(trainers=2, estimators=1), b: Share(trainers=1), head: Share()})
    pools = RayPools(run_dir=tmp_path, trainer=settings, estimator=settings, layout=layout)
    started = Started(monkeypatch)
    monkeypatch.setattr(pools, "_classes", {"trainer": started, "estimator": started})
    for slot in range(4):
        pools.start_trainer(slot)
    pools.start_estimator(0)
    assert started.nodes == ["a", "a", "b", None, "a"]
    # A worker that is replaced goes where the other was.
    pools.kill_trainer(2)
    pools.start_trainer(2)
    assert started.nodes[-1] == "b"
    # A node has gone, another has come.
    layout.shares = {a: Share(trainers=2), c: Share(trainers=3)}
    pools.kill_trainer(2)
    pools.start_trainer(2)
    assert started.nodes[-1] == "c"


def test_a_worker_that_died_just_as_it_was_ended_is_replaced_once(
    pools: RayPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = Started(monkeypatch)
    monkeypatch.setattr(pools, "_classes", {"trainer": started})
    pools.start_trainer(0)
    (first,) = pools._actors.values()
    # Ended by the driver, and then told of the death of the one before.
    pools.kill_trainer(0)
    pools.start_trainer(0)
    (second,) = pools._actors.values()
    pools.start_trainer(0)
    assert pools._actors == {("trainer", 0): second}
    assert second is not first
    assert len(started.nodes) == 2
    assert len(pools._pending) == 1
