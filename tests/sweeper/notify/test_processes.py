"""Processes for a limited time: what hangs, spawns, or wants to know more than it should."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.notify.processes import PASSED_ON, run_bounded, small_environment


def run(folder: Path, *command: str, **options: Any) -> str | None:
    return run_bounded(
        command,
        **{
            "given": b"{}\n",
            "folder": folder,
            "environment": small_environment(),
            "timeout_s": 60.0,
            "stop": threading.Event(),
            **options,
        },
    )


def gone(pid: int) -> bool:
    """Whether a process has ended, or ends within ten seconds; one that nobody has reaped has ended."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_command_reads_what_it_is_given_in_the_folder_that_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, "sh", "-c", "cat > heard; pwd > where", given=b'{"a": 1}\n') is None
    assert (tmp_path / "heard").read_bytes() == b'{"a": 1}\n'
    assert Path((tmp_path / "where").read_text().strip()).samefile(tmp_path)


def test_a_command_has_nothing_of_the_environment_but_what_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    show = "import json, os; json.dump(dict(os.environ), open('seen', 'w'))"
    assert run(tmp_path, sys.executable, "-c", show) is None
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen.keys() <= {*PASSED_ON, "LC_CTYPE", "PWD", "__CF_USER_TEXT_ENCODING"}
    assert {"PATH", "HOME"} & os.environ.keys() <= seen.keys()
    assert "secret" not in seen.values()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sh", "-c", "exit 3"), "exit code 3"),
        (("sh", "-c", "kill -9 $$"), "exit code -9"),
        (("no-such-program",), "cannot be started: No such file or directory"),
        (("./not-executable",), "cannot be started: Permission denied"),
    ],
)
def test_a_command_that_fails_says_how(tmp_path: Path, command: tuple[str, ...], said: str) -> None:
    (tmp_path / "not-executable").write_text("")
    assert run(tmp_path, *command) == said


def test_a_command_that_hangs_is_ended_with_its_children_even_those_that_left_its_group(tmp_path: Path) -> None:
    spawn = (
        "import os, subprocess, sys\n"
        "sleep = [sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)']\n"
        "pids = [subprocess.Popen(sleep, start_new_session=apart).pid for apart in (False, True)]\n"
        "open('pids.part', 'w').write(' '.join(map(str, [os.getpid(), *pids])))\n"
        "os.rename('pids.part', 'pids')\n"
        "import time; time.sleep(600)\n"
    )
    stop = threading.Event()
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, sys.executable, "-c", spawn, stop=stop)))
    thread.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stop.set()
    thread.join(30)
    assert found == ["was ended with the sweep"]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    assert run(tmp_path, "sleep", "600", timeout_s=0.2) == "took longer than 0.2 s, and was ended"


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    assert run(tmp_path, "sh", "-c", "sleep 600 & echo $! > left") is None
    assert gone(int((tmp_path / "left").read_text()))


def test_a_command_that_does_not_read_and_one_that_prints_without_end_cost_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "true", given=b"x" * 10_000_000) is None
    assert run(tmp_path, "sh", "-c", "head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2") is None
