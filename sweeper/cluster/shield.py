"""Keep a local Ray alive through the signals by which terminals and batch systems end a job, and end it afterwards.

They signal every process of a job at once. Ray's processes would end before the trainers have written the checkpoint
that the signal asks for, so they are started with the signal blocked. Workers inherit this, and must: when they
received the signal, trainers ended before they had written anything. Processes that do not react to signals have to be
killed in the end, so that nothing is left behind.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

__all__ = ["children_without_signals", "ended_with", "family"]

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})
"""Not SIGINT: Ray itself starts its processes so that they ignore it, and Ctrl-C must still end a start that hangs."""

_END_S = 5.0
"""How long to wait for processes that were sent SIGKILL; one that sleeps in the kernel may take longer."""

_LOOK_EVERY_S = 0.01


@contextmanager
def children_without_signals() -> Iterator[None]:
    """Processes started in a ``with`` block never receive SIGTERM and SIGUSR1, nor do any that they start in turn.

    A signal to this process stays pending until the block ends, and then meets the earlier handlers, which Ray has
    replaced by its own in the meantime. If another thread receives it during the block, Ray's handler exits the
    program; that becomes an interrupt like any other.

    Yields:
        Nothing.

    Raises:
        KeyboardInterrupt: Ray was started in the block, and its handler received SIGTERM.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_SIGNALS)}
    # Blocked, not ignored: a new process inherits the mask of the thread that starts it, and Ray leaves the mask alone,
    # while it sets handlers of its own.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt(signal.SIGTERM.name) from error
    finally:
        # Handlers first, then the mask: a pending signal is delivered as soon as it is unblocked, and must not meet
        # Ray's handler. Only the main thread may set handlers, so in any other thread none were replaced.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ended_with(processes: Sequence[int]) -> Iterator[None]:
    """Kill what is left of some processes and their descendants after a ``with`` block, however it ends.

    Args:
        processes: Ids of processes that belong to this one.

    Yields:
        Nothing.
    """
    # Found now, while the parents are alive: later nothing would lead to orphaned descendants. psutil remembers when
    # they were created, so it kills no other process that has been given the same id by the end of the block.
    known = family(processes)
    try:
        yield
    finally:
        for process in known:
            with contextlib.suppress(psutil.Error):
                process.kill()
        deadline = time.monotonic() + _END_S
        while any(map(_runs, known)) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)


def family(roots: Sequence[int]) -> list[psutil.Process]:
    """Processes and all their descendants.

    Args:
        roots: Process ids.

    Returns:
        Those that exist.
    """
    found: dict[psutil.Process, None] = {}
    for root in roots:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            found |= dict.fromkeys([process, *process.children(recursive=True)])
    return list(found)


def _runs(process: psutil.Process) -> bool:
    """Whether a process is still running; a zombie is not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
