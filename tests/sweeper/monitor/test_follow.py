"""A run that is driven elsewhere: what is told of it, how it is asked to stop, how its end is known."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.driver.session import driving
from sweeper.errors import ClusterError, RunDirectoryError
from sweeper.monitor.follow import Said, cancel, follow
from sweeper.store.driver_files import JOB, driver_of, ending_of
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir

NewListener = Callable[[], Any]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create()
    made.journal.touch()
    return made


VIEW: dict[str, Any] = {
    "counts": {"running": 1},
    "total": 1,
    "steps_done": 5,
    "steps_total": 10,
    "active": [{"trial": "a", "step": 5, "steps": 10, "loss": 0.5, "clipped_fraction": None}],
    "waiting": 0,
    "queued_snapshots": 0,
    "measuring": 0,
    "measured": 0,
    "held_back": False,
    "stopping": False,
    "waiting_for": None,
}


class Left(Exception):
    """The follower has seen enough."""


def leave_after(*events: Any) -> Any:
    """A sleep in which one event after the other happens; then the follower leaves."""
    left = list(events)

    def sleep(_: float) -> None:
        if not left:
            raise Left
        left.pop(0)()

    return sleep


def test_a_follower_is_told_what_the_driver_says_from_now_on_and_shown_what_it_does(
    run_dir: RunDir, new_listener: NewListener
):
    told = new_listener()
    with driving(run_dir, new_listener()) as held:
        held.listener.say("before anybody followed")
        events = (
            lambda: held.listener.say("first\nin two lines"),
            lambda: logging.getLogger("sweeper.driver.driver").info("not for the user"),
            lambda: held.listener.say("second"),
            lambda: run_dir.publish(run_dir.live, json.dumps(VIEW).encode()),
        )
        with pytest.raises(Left):
            follow(run_dir, told, sleep=leave_after(*events))
    assert told.lines == ["first\nin two lines", "second"]
    assert [view.steps_done for view in told.views] == [5]
    assert told.views[0].active[0].trial == "a"


def test_who_waited_for_the_driver_is_told_everything(run_dir: RunDir, new_listener: NewListener):
    told, said = new_listener(), Said(run_dir.logs / "driver.log")
    with driving(run_dir, new_listener()) as held:
        held.listener.say("before anybody followed")
    follow(run_dir, told, said=said)
    assert told.lines == ["before anybody followed"]


@pytest.mark.parametrize(
    "spoilt",
    [[], {}, VIEW | {"counts": [1]}, VIEW | {"total": "many"}, VIEW | {"active": [{"trial": 1}]}, VIEW | {"active": 3}],
)
def test_a_view_that_is_none_is_not_shown(run_dir: RunDir, spoilt: Any, new_listener: NewListener):
    told = new_listener()
    with driving(run_dir, new_listener()):
        run_dir.live.write_text(json.dumps(spoilt))
        with pytest.raises(Left):
            follow(run_dir, told, sleep=leave_after())
    assert told.views == []


def test_what_is_half_written_is_read_when_it_is_whole(run_dir: RunDir):
    log = run_dir.logs / "driver.log"
    said = Said(log)
    assert said.read() == []
    log.write_text("2026-01-02 03:04:05,678 INFO sweeper.said: one\n2026-01-02 03:04:05,679 INFO sweeper.said: tw")
    assert said.read() == ["one"]
    with log.open("a") as file:
        file.write("o\n")
    assert said.read() == ["two"]


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (None, 1, "3 failed"),
        (ClusterError("the head is gone"), 3, "the head is gone"),
        (RunDirectoryError("another spec"), 2, "another spec"),
        (OSError(28, "No space left on device", "x"), 2, "x: No space left on device; what was committed is safe"),
        (KeyboardInterrupt(), 130, "interrupted at once"),
        (ZeroDivisionError("oh"), 3, "internal error: ZeroDivisionError: oh"),
    ],
)
def test_how_a_driver_ended_is_kept_and_told(
    raised: BaseException | None,
    code: int,
    text: str,
    run_dir: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    new_listener: NewListener,
):
    monkeypatch.setenv(JOB, "job-7")

    def drive() -> None:
        with driving(run_dir, new_listener()) as held:
            assert ending_of(run_dir) is None
            found = driver_of(run_dir)
            assert found is not None
            assert (found["pid"], found["job"]) == (os.getpid(), "job-7")
            held.exit_code, held.text = 1, "3 failed"
            if raised is not None:
                raise raised

    if raised is None:
        drive()
    else:
        expected = RunDirectoryError if isinstance(raised, OSError) else type(raised)
        with pytest.raises(expected):
            drive()
    ending = follow(run_dir, new_listener())
    assert (ending.exit_code, ending.job) == (code, "job-7")
    assert ending.text.startswith(text)


def test_a_run_that_failed_before_its_first_line_can_be_begun_again(tmp_path: Path, new_listener: NewListener):
    run_dir = RunDir(tmp_path / "new")
    run_dir.create()
    with pytest.raises(ClusterError), driving(run_dir, new_listener()):
        raise ClusterError("no")
    RunDir(tmp_path / "new").create()


def test_a_driver_that_was_killed_is_told_from_one_that_ended(run_dir: RunDir, new_listener: NewListener):
    code = (
        "import sys; from pathlib import Path\n"
        "from sweeper.store.lock import DriverLock; from sweeper.store.run_dir import RunDir\n"
        "with DriverLock(RunDir(Path(sys.argv[1]))).hold(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run_dir.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"

        def kill(_: float) -> None:
            driver.kill()
            driver.wait()

        with pytest.raises(
            RunDirectoryError, match=rf"pid {driver.pid} on .*disappeared without a message.*run the same command"
        ):
            follow(run_dir, new_listener(), sleep=kill)
    with pytest.raises(RunDirectoryError, match="nobody is running this sweep"):
        cancel(run_dir)


def test_a_driver_elsewhere_lives_while_it_beats_whatever_its_clock_says(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, new_listener: NewListener
):
    run_dir.driver.write_text('{"host": "elsewhere", "pid": 7}')
    now, beats = [100.0], [1_000.0]
    monkeypatch.setattr("sweeper.monitor.follow.time.monotonic", lambda: now[0])

    def wait(_: float) -> None:
        now[0] += 20
        if now[0] < 1000:
            beats[0] += 1
            os.utime(run_dir.driver, (beats[0], beats[0]))

    with pytest.raises(RunDirectoryError, match="pid 7 on elsewhere, disappeared without a message"):
        follow(run_dir, new_listener(), sleep=wait)
    assert 1020 <= now[0] <= 1060


def test_a_driver_hears_that_it_is_to_stop_and_an_old_request_does_not_count(run_dir: RunDir):
    with DriverLock(run_dir).hold() as lock:
        assert not lock.asked_to_stop()
        assert cancel(run_dir).startswith(f"pid {os.getpid()} on ")
        assert lock.asked_to_stop()
    with DriverLock(run_dir).hold() as lock:
        assert not lock.asked_to_stop()


def test_nobody_drives_a_run_that_nobody_has_begun(run_dir: RunDir, new_listener: NewListener):
    with pytest.raises(RunDirectoryError, match="nobody is running this sweep; start it with `clipsweep run`"):
        follow(run_dir, new_listener())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"exit_code": "x", "text": "", "job": null, "ended_at": ""}'])
def test_a_damaged_record_of_an_end_is_none(run_dir: RunDir, text: str):
    run_dir.ended.write_text(text)
    assert ending_of(run_dir) is None
