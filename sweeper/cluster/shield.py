"""Keep a local Ray alive through the signals by which terminals and batch systems end a job, and end it afterwards.

They signal every process of a job at once. Ray's processes would go before the trainers have written the checkpoint
that the signal asks for, so they are started deaf to it. Workers are deaf by that, too, and have to be: of those that
heard again, trainers were gone before they had written anything. What is deaf must be ended by force: nothing is left
behind.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

__all__ = ["deaf_children", "ended_with", "family"]

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1})
"""Ray starts its processes deaf to SIGINT itself; here it is still heard, by which a start that hangs can be left."""

_END_S = 5.0
"""How long to wait for processes that were sent SIGKILL; one that sleeps in the kernel may take longer."""

_LOOK_EVERY_S = 0.01


@contextmanager
def deaf_children() -> Iterator[None]:
    """What is started in a ``with`` block never hears SIGTERM and SIGUSR1, nor does anything that it starts in turn.

    A signal to this process waits until the block ends, and finds the handlers of before: Ray puts its own in place.
    Where another thread takes it meanwhile, Ray's handler leaves the program, which is made an interrupt like others.

    Yields:
        Nothing.

    Raises:
        KeyboardInterrupt: Ray was started in the block, and heard SIGTERM.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_SIGNALS)}
    # A process begins with the mask of the thread that starts it, and nothing of Ray's changes that.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt(signal.SIGTERM.name) from error
    finally:
        # Only the main thread may set handlers, so elsewhere nobody has.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ended_with(processes: Sequence[int]) -> Iterator[None]:
    """Kill what of some processes and their offspring is still there after a ``with`` block, however it is left.

    Args:
        processes: Ids of processes that belong to this one.

    Yields:
        Nothing.
    """
    # With the times at which they were created: an id may be somebody else's by the end of the block.
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
    """Processes and all that they have started, directly or not.

    Args:
        roots: Process ids.

    Returns:
        Those that are there.
    """
    found: dict[psutil.Process, None] = {}
    for root in roots:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(root)
            found |= dict.fromkeys([process, *process.children(recursive=True)])
    return list(found)


def _runs(process: psutil.Process) -> bool:
    """Whether a process still does anything; one that nobody has asked how it ended does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
