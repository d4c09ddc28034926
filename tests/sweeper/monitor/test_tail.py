"""Logs that grow, are made later, are put aside or emptied: every line is told once, and none before it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.app import main
from sweeper.driver.session import driving
from sweeper.errors import RunDirectoryError
from sweeper.monitor.status import state_of
from sweeper.monitor.tail import FileTail, TrialTail
from sweeper.protocol.view import Silent
from sweeper.store.journal import Journal
from sweeper.store.records import Failed
from sweeper.store.run_dir import RunDir

SPEC = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.01}\ntrain: {steps: 6, checkpoint_every: 3}\n"


def test_a_file_that_is_made_later_is_told_from_its_start_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    tail = FileTail(log)
    assert tail.read() == []
    log.write_bytes(b"first\nsec")
    assert tail.read() == ["first"]
    with log.open("ab") as file:
        file.write(b"ond\n\n\xff")
    assert tail.read() == ["second", ""]
    assert tail.read() == []
    assert tail.rest() == ["\ufffd"]


def test_a_rotation_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    log, old = tmp_path / "driver.log", tmp_path / "driver.log.1"
    log.write_text("a\n")
    tail = FileTail(log)
    assert tail.read() == ["a"]
    with log.open("a") as file:
        file.write("b\nunfinished")
    log.rename(old)
    assert tail.read() == ["b"], "what was written before it was put aside"
    log.write_text("c\n")
    assert tail.read() == ["unfinished", "c"]
    os.truncate(log, 0)
    assert tail.read() == []
    with log.open("a") as file:
        file.write("d\n")
    assert tail.rest() == ["d"], "emptied in place, as copytruncate does"


def test_a_trial_is_told_with_its_segments_and_its_log(
    tmp_path: Path, module_hostile_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.monitor.tail._PATIENCE", 0)
    run_dir: RunDir = module_hostile_run(SPEC, tmp_path).run_dir
    (trial,) = state_of(run_dir).trials
    tail = TrialTail(run_dir, trial[:6])
    heading, *segments = tail.read()
    assert heading.startswith(f"{trial}  ")
    assert [line.split("  ")[1] for line in segments] == ["steps 0 to 3", "steps 3 to 6, done"]
    assert tail.read() == []
    run_dir.log_trial(trial, "attempt 1", "its own line")
    assert tail.read()[1:] == ["its own line"]
    for attempt in (2, 3):
        journal = Journal(run_dir.journal, state_of(run_dir).next_number)
        journal.append(Failed(trial=trial, driver_epoch=1, attempt=attempt, kind="lost", error="died", final=False))
        assert tail.read() == ["failed attempt (lost): died"], "and once"
    tail.rest()
    with pytest.raises(RunDirectoryError, match="matches no trial"):
        TrialTail(run_dir, "zz")


@pytest.fixture
def logged(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.journal.touch()
    return run_dir


def follow_logs(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["clipsweep", "logs", str(run_dir.path), "--follow"])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("code", [0, 1])
def test_logs_follow_a_run_to_its_end_and_return_its_exit_code(
    logged: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    session = driving(logged, Silent())
    held = session.__enter__()
    held.exit_code, held.text = code, "over"
    held.listener.say("before")
    later = [
        lambda: held.listener.say("\x1b[2J first"),
        lambda: held.listener.say("second"),
        lambda: session.__exit__(None, None, None),
    ]
    monkeypatch.setattr("sweeper.monitor.follow._POLL_S", 0)

    def looked(run_dir: RunDir) -> None:
        if later:
            later.pop(0)()

    monkeypatch.setattr("sweeper.monitor.follow._view", looked)
    assert follow_logs(logged, monkeypatch) == code
    said = [line.partition("sweeper.said: ")[2] for line in capsys.readouterr().out.splitlines() if ".said: " in line]
    assert said == ["before", "\\x1b[2J first", "second"]


def test_ctrl_c_ends_the_looking_on_alone(
    logged: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run_dir: RunDir) -> None:
        raise KeyboardInterrupt

    with driving(logged, Silent()) as held:
        held.listener.say("before")
        monkeypatch.setattr("sweeper.monitor.follow._view", interrupted)
        assert follow_logs(logged, monkeypatch) == 130
    shown = capsys.readouterr()
    assert shown.out.endswith("sweeper.said: before\n")
    assert shown.err == "stopped following; the run goes on\n"


def test_of_a_run_that_nobody_drives_the_log_is_printed_and_that_is_all(
    logged: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with driving(logged, Silent()) as held:
        held.listener.say("long ago")
    assert follow_logs(logged, monkeypatch) == 0
    shown = capsys.readouterr()
    assert ".said: long ago\n" in shown.out
    assert "nobody is running it now, so nothing is added" in shown.err
