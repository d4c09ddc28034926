"""Processes that don't hear the signals of their group, and that are all gone in the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from sweeper.cluster.shield import children_without_signals, ended_with, family

PARENT = "import subprocess; child = subprocess.Popen(['sleep', '300']); print(child.pid, flush=True); child.wait()"


def start() -> tuple[subprocess.Popen[str], int]:
    """A process and its child."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def shielded() -> Iterator[tuple[subprocess.Popen[str], int]]:
    with children_without_signals():
        process, child = start()
    yield process, child
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_is_started_behind_the_shield_hears_no_signal_nor_does_what_it_starts(
    shielded: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, child = shielded
    for one in (process.pid, child):
        os.kill(one, number)
    time.sleep(0.3)
    assert runs(process.pid)
    assert runs(child)


def test_all_of_a_family_is_gone_after_the_block_however_it_ends(shielded: tuple[subprocess.Popen[str], int]) -> None:
    process, child = shielded
    assert [one.pid for one in family([process.pid, child])] == [process.pid, child]
    with pytest.raises(KeyboardInterrupt), ended_with([process.pid]):
        raise KeyboardInterrupt
    assert not runs(process.pid)
    assert not runs(child)
    process.wait()
    assert family([process.pid]) == []


def test_a_signal_that_comes_meanwhile_waits_and_finds_the_handler_of_before() -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("mine"))
    try:
        with children_without_signals():
            # As Ray does.
            signal.signal(signal.SIGTERM, lambda *_: heard.append("Ray's"))
            # To this thread: of the process, any other may take it.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            time.sleep(0.1)
            assert heard == []
        assert heard == ["mine"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_where_rays_handler_leaves_the_program_that_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def start_ray() -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        sys.exit(1)

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), children_without_signals():
        start_ray()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_is_started_after_it_hears_again() -> None:
    with children_without_signals():
        pass
    process, child = start()
    process.terminate()
    assert process.wait(timeout=20) == -signal.SIGTERM
    os.kill(child, signal.SIGTERM)
    process.communicate()
