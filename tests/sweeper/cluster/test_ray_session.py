"""Joining a cluster ends, whatever its head does; with a Ray that only pretends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from sweeper.cluster.capacity import Wanted, WorkerSettings
from sweeper.cluster.nodes import Layout, Share
from sweeper.cluster.ray_session import connect, node_rooms, room_now
from sweeper.errors import ClusterError
from sweeper.protocol.pools import PoolSize

ADDRESS = "192.0.2.1:6379"


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A cluster that lets nobody in until the event is set; whoever asks to leave it waits with the others."""
    opened = threading.Event()
    monkeypatch.setattr(ray, "init", lambda **options: opened.wait())
    monkeypatch.setattr(ray, "shutdown", opened.wait)
    yield opened
    opened.set()


def test_a_cluster_that_answers_and_then_stalls_is_given_up(
    stalled: threading.Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeper.cluster.ray_session._JOIN_S", 0.2)
    match = (
        rf"'{ADDRESS}': the cluster answers, but has not let this driver join within 0 s; its head may hang: look at"
    )
    with pytest.raises(ClusterError, match=match) as given_up, connect(ADDRESS, logs=tmp_path):
        pass
    assert given_up.value.exit_code == 3
    assert not stalled.is_set(), "it was given up while it still stalled"


def test_what_ray_says_of_a_cluster_that_cannot_be_joined_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def init(**options: Any) -> None:
        raise ConnectionError("no such session\nand twenty lines more")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ClusterError, match="but cannot be joined: ConnectionError: no such session; look at the logs"),
        connect(ADDRESS, logs=tmp_path),
    ):
        pass


class Flaky:
    """A local Ray that does not come up the first few times, for which Ray raises whatever it likes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, failures: int) -> None:
        self.failures = failures
        self.attempts = 0
        self.said: list[str] = []
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr("sweeper.cluster.ray_session._describe", lambda: "a cluster")

    def init(self, **options: Any) -> None:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise Exception("The current node timed out during startup.\nMore lines follow.")


def test_a_local_ray_that_does_not_come_up_is_started_once_more_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flaky = Flaky(monkeypatch, failures=1)
    with connect("local", logs=tmp_path, say=flaky.said.append) as cluster:
        assert cluster == "a cluster"
    assert flaky.said == ["Ray did not start (Exception: The current node timed out during startup.); trying once more"]
    assert flaky.attempts == 2


def test_a_local_ray_that_does_not_come_up_twice_is_an_error_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    flaky = Flaky(monkeypatch, failures=9)
    match = (
        "could not be started, twice: Exception: The current node timed out during startup.; if this machine is busy"
    )
    with pytest.raises(ClusterError, match=match) as given_up, connect("local", logs=tmp_path, say=flaky.said.append):
        pass
    assert (flaky.attempts, given_up.value.exit_code) == (2, 3)


def test_a_local_ray_is_told_of_gpus_that_it_would_not_count_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    Flaky(monkeypatch, failures=0)
    monkeypatch.setattr(ray, "init", lambda **options: told.append(options))
    for gpus in (7, None):
        with connect("local", logs=tmp_path, gpus=gpus):
            pass
    assert [options["num_gpus"] for options in told] == [7, None]
    said: list[str] = []
    with connect(ADDRESS, logs=tmp_path, gpus=7, say=said.append):
        pass
    assert "num_gpus" not in told[-1]
    assert said == [f"cluster.gpus: 7 is for a local Ray only; {ADDRESS} has the GPUs that its nodes were started with"]


def described(name: str = "n", **resources: float) -> dict[str, Any]:
    named = {name.replace("__", ":"): amount for name, amount in resources.items()}
    return {"NodeID": name, "Alive": True, "Resources": {"node:192.0.2.1": 1.0, **named}}


def test_nodes_that_come_and_go_change_the_workers_and_the_bytes_that_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = described("head", object_store_memory=2e9)
    on_a100 = described("a", CPU=8.0, GPU=2.0, object_store_memory=30e9, accelerator_type__A100=1.0)
    on_h100 = described("h", CPU=8.0, GPU=4.0, object_store_memory=60e9, accelerator_type__H100=1.0)
    trainer = WorkerSettings(cpus=1, gpus=0.5, threads=1, accelerator_type="A100")
    estimator = WorkerSettings(cpus=1, gpus=1, threads=1, accelerator_type="H100")
    wanted = Wanted(trainers="auto", estimators="auto", num_trials=100)

    layout = Layout()

    def room(*nodes: dict[str, Any]) -> PoolSize | None:
        monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
        return room_now(trainer, estimator, wanted, layout)

    assert room(head, on_a100, on_h100) == PoolSize(trainers=4, estimators=4, snapshot_bytes=10 * 10**9)
    another = {**on_a100, "NodeID": "b"}
    assert room(head, on_a100, another, on_h100) == PoolSize(trainers=8, estimators=4, snapshot_bytes=20 * 10**9)
    assert room(head, on_a100, {**on_h100, "Alive": False}) is None
    assert room(head, on_a100, on_h100) is not None
    assert layout.shares == {"head": Share(), "a": Share(trainers=4), "h": Share(estimators=4)}
    few = replace(wanted, trainers=3, estimators=9)
    monkeypatch.setattr(ray, "nodes", lambda: [head, on_a100, on_h100])
    assert room_now(trainer, estimator, few, layout) == PoolSize(trainers=3, estimators=4, snapshot_bytes=10 * 10**9)


def test_only_nodes_with_the_accelerator_are_looked_at_where_workers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.cluster.ray_session.free_resources", dict)
    monkeypatch.setattr(ray, "nodes", lambda: [described(CPU=8.0), described(CPU=4.0, accelerator_type__A100=1.0)])
    assert [node.total["cpus"] for node in node_rooms("A100")] == [4]
    assert [node.total["cpus"] for node in node_rooms()] == [8, 4]
