"""Joining a cluster ends, whatever its head does; with a Ray that only pretends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from sweeper.cluster.ray_session import connect
from sweeper.errors import ClusterError

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
