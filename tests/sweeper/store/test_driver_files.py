"""Whether the driver that a run directory names is alive, asked of real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.store.driver_files import STALE_AFTER_S, driver_of
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.create()
    return made


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(300)"], stdout=-1) as made:
        assert made.stdout is not None
        made.stdout.readline()
        yield made
        made.kill()


def write(run_dir: RunDir, *, quiet_s: float = 0.0, **holder: Any) -> None:
    """A driver of this host that showed a sign of life some seconds ago."""
    run_dir.driver.write_text(json.dumps({"host": socket.gethostname(), **holder}))
    beat = time.time() - quiet_s
    os.utime(run_dir.driver, (beat, beat))


def test_a_driver_whose_process_is_there_is_alive_however_long_it_has_been_quiet(
    run_dir: RunDir, child: subprocess.Popen[bytes]
) -> None:
    created = psutil.Process(child.pid).create_time()
    for known in ({}, {"created": created}):
        write(run_dir, pid=child.pid, quiet_s=1000, **known)
        found = driver_of(run_dir)
        assert found is not None
        assert found.pop("quiet_s") == pytest.approx(1000, abs=20)
        assert found == {"host": socket.gethostname(), "pid": child.pid}


def test_a_driver_that_ended_is_gone_also_before_anybody_has_asked_how(
    run_dir: RunDir, child: subprocess.Popen[bytes]
) -> None:
    write(run_dir, pid=child.pid)
    child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert driver_of(run_dir) is None
    child.wait()
    assert driver_of(run_dir) is None


def test_another_process_with_the_driver_s_id_is_not_the_driver(
    run_dir: RunDir, child: subprocess.Popen[bytes]
) -> None:
    earlier = psutil.Process(child.pid).create_time() - 3600
    write(run_dir, pid=child.pid, created=earlier, quiet_s=STALE_AFTER_S + 10)
    assert driver_of(run_dir) is None


def test_a_driver_that_beats_is_alive_though_this_machine_s_clock_was_set(
    run_dir: RunDir, child: subprocess.Popen[bytes]
) -> None:
    write(run_dir, pid=child.pid, created=psutil.Process(child.pid).create_time() - 3600)
    assert driver_of(run_dir) is not None


@pytest.mark.parametrize(
    "holder", [{"pid": 2**62}, {"pid": -1}, {"pid": "1"}, {"pid": os.getpid(), "created": "today"}]
)
def test_what_names_no_process_is_no_driver(run_dir: RunDir, holder: dict[str, Any]) -> None:
    write(run_dir, **holder)
    assert driver_of(run_dir) is None


def test_who_holds_the_directory_is_its_driver_and_says_when_it_was_created(run_dir: RunDir) -> None:
    with DriverLock(run_dir).hold():
        found = driver_of(run_dir)
        assert found is not None
        assert found["pid"] == os.getpid()
        assert json.loads(run_dir.driver.read_bytes())["created"] == psutil.Process().create_time()
    assert driver_of(run_dir) is None
