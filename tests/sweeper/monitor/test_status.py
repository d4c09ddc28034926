"""What a run is said to be: running, finished, stopped, ended or killed; and how far it and its trials are."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.driver.session import driving
from sweeper.errors import ClusterError
from sweeper.monitor.status import in_words, run_status, trial_rows
from sweeper.protocol.view import Silent
from sweeper.store.driver_files import ending_of
from sweeper.store.run_dir import RunDir

InlineRun = Callable[..., Any]

SPEC = """
name: six
problem: {use: deep_linear, layers: 2, width: 3, samples: 8}
update_rule: {learning_rate: 0.01}
train: {steps: 40, checkpoint_every: 10}
sweep: {grid: {update_rule.learning_rate: [0.01, 0.02]}, seeds: 3}
"""


@pytest.fixture
def stopped(inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of six trials on two trainers, stopped when the first were begun."""
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    run = inline_run(SPEC)
    run.stop_requested = lambda: run.pools.polls >= 5
    return Path(run().run_dir.path)


def test_what_is_begun_is_paused_and_what_is_not_is_queued(stopped: Path) -> None:
    rows = trial_rows(stopped)
    assert {row["status"] for row in rows} >= {"paused", "queued"}
    for row in rows:
        assert (row["status"] == "paused") == (0 < row["step"] < row["steps"])
        assert (row["status"] == "queued") == (row["step"] == 0)
    document = run_status(stopped)
    assert sum(document["counts"].values()) == 6
    assert document["steps_done"] == sum(row["step"] for row in rows)


def test_a_trial_is_running_where_its_driver_says_so_and_paused_otherwise(stopped: Path) -> None:
    run_dir = RunDir(stopped)
    at_work = next(row for row in trial_rows(stopped) if row["status"] == "queued")
    active = {"trial": "x", "trial_id": at_work["trial_id"], "step": 3, "steps": 40, "loss": None}
    run_dir.publish_json(run_dir.live, {"active": [active], "left_s": 75.0})
    own = {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()}
    run_dir.publish_json(run_dir.driver, own)
    document = run_status(stopped)
    assert document["state"] == "running"
    assert document["counts"]["running"] == 1
    assert document["counts"]["paused"] >= 1
    words = in_words(document)
    assert f"running (pid {os.getpid()} on " in words
    assert words.endswith("of 240 steps, about 1 min 15 s left")


@pytest.mark.parametrize(
    ("exit_code", "state", "words"),
    [(130, "stopped", "stopped, "), (3, "ended", "ended early, "), (None, "killed", "")],
)
def test_an_unfinished_run_says_how_its_driver_left(
    stopped: Path, exit_code: int | None, state: str, words: str
) -> None:
    run_dir = RunDir(stopped)
    run_dir.ended.unlink(missing_ok=True)
    if exit_code is not None:
        ended = {"exit_code": exit_code, "text": "so", "job": None, "ended_at": "2026-01-01T00:00:00+00:00"}
        run_dir.publish_json(run_dir.ended, ended)
    document = run_status(stopped)
    assert document["state"] == state
    assert in_words(document).startswith(words or "its driver disappeared, ")
    assert in_words(document).endswith("; the same command continues it")


COUNTS: Mapping[str, Any] = {"driver": None, "steps_total": 200, "live": None, "state": "finished"}


def test_a_finished_run_is_not_merely_not_running_and_failed_trials_are_not_100_percent() -> None:
    done = {**COUNTS, "counts": {"done": 2}, "steps_done": 200}
    assert in_words(done) == "finished, 100 % of 200 steps"
    failed = {**COUNTS, "counts": {"done": 1, "failed": 1}, "steps_done": 110}
    assert in_words(failed) == "finished, 1 trial failed, 55 % of 200 steps"


def test_a_driver_that_finds_nothing_to_do_keeps_the_record_of_the_one_that_did_it(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    with driving(run_dir, Silent(), create=True) as held:
        held.exit_code, held.text = 0, "10 done in 40 s"
    first = ending_of(run_dir)
    assert first is not None
    with driving(run_dir, Silent()) as held:
        held.exit_code, held.text, held.did_nothing = 0, "10 done; nothing was left to do", True
    assert ending_of(run_dir) == first
    with pytest.raises(ClusterError), driving(run_dir, Silent()):
        raise ClusterError("no Ray")
    ended = json.loads(run_dir.ended.read_text())
    assert (ended["exit_code"], ended["text"]) == (3, "no Ray")
