"""User code in a process of its own: whatever it does there, even exit, what it did comes back."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sweeper.errors import error_traceback, last_line
from sweeper.own_packages import own_folder

__all__ = ["Died", "apart", "how_it_ended", "pass_on", "serve"]

# Ctrl-C reaches this process, too, but it is for its parent, which ends it. The first folder is that of this very
# package, wherever another of its name may be installed.
_CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path.insert(0, sys.argv[1])
import sweeper
del sys.path[0]
from sweeper.apart import serve
serve(*sys.argv[2:])
"""

_POLL_S = 0.2
_PATIENCE_S = 10.0
"""After how long without an item is told what is waited for; then after twice as long, and so on."""

_SILENCE_S = 1.0
"""How long the beginning of a line waits for its end."""

_PRINTED = "| "
"""Begins each line that user code prints, so that it is not taken for one of ours."""

_LEAVE_S = 5
"""How long a process that has done everything may take to end, for example because of its threads."""

_TAIL = 2000
"""Bytes that are remembered of what a process printed."""


@dataclass(frozen=True, kw_only=True)
class Died:
    """The process has ended amid its work.

    Attributes:
        how: In words.
        printed: The last lines that it printed.
    """

    how: str
    printed: str

    @property
    def words(self) -> str:
        """Both in a line."""
        return self.how + last_line(self.printed)


def _untold(at: int, waited_s: float) -> None:
    """Nobody wants to know."""


def apart(
    task: str,
    arguments: Sequence[Mapping[str, Any]],
    *,
    copies: Mapping[str, str] | None = None,
    waits: Callable[[int, float], None] = _untold,
) -> Iterator[tuple[int, Any]]:
    """Call a function of ours in another process, once for each argument, in a folder that holds nothing.

    There, user code can exit, crash, print and interrupt as it likes. What it prints goes to stderr, line by line and
    marked. A process that dies is replaced by another, which goes on with the next argument.

    Args:
        task: ``module:function``, a generator function whose items can be written as JSON.
        arguments: Keyword arguments of each call, which can be written as JSON.
        copies: Files or folders that user code is imported from, and what they are copies of, which is shown instead.
        waits: Is told the place of an argument and the seconds, now and then, while no item comes.

    Yields:
        For each item the place of its argument, and the item; :class:`Died` where the process died amid that argument.

    Raises:
        RuntimeError: The function itself raised; the text is the traceback.
    """
    at = 0
    while at < len(arguments):
        with _process(task, arguments[at:], copies or {}) as (process, tail):
            for line in _lines(process):
                if isinstance(line, float):
                    waits(at, line)
                    continue
                message = json.loads(line)
                if "raised" in message:
                    raise RuntimeError(f"in another process:\n{message['raised']}")
                if "item" in message:
                    yield at, message["item"]
                else:
                    at += 1
                if at == len(arguments):
                    return
            process.wait()
            yield at, Died(how=how_it_ended(process.returncode), printed=tail())
            at += 1


def serve(task: str, file: str) -> None:
    """What the other process does: call the function, and write its items to what was stdout.

    Args:
        task: As for :func:`apart`.
        file: Holds the arguments.
    """
    # User code prints to stderr from here on: what it prints must not stand between the items.
    this = os.getpid()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

        def send(**message: Any) -> None:
            if os.getpid() != this:
                os._exit(0)  # user code has forked, and its child came back, too
            out.write(json.dumps(message, allow_nan=False) + "\n")
            out.flush()

        module, _, name = task.partition(":")
        try:
            function: Callable[..., Iterator[Any]] = getattr(importlib.import_module(module), name)
            for argument in json.loads(Path(file).read_text(encoding="utf-8")):
                for item in function(**argument):
                    send(item=item)
                send(done=True)
        except Exception as error:
            send(raised=error_traceback(error))


@contextmanager
def _process(
    task: str, arguments: Sequence[Mapping[str, Any]], copies: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """A process at work, and what it printed last; ended when it is no longer needed."""
    with tempfile.TemporaryDirectory(prefix="clipsweep-apart-") as folder:
        file = Path(folder, "arguments.json")
        file.write_text(json.dumps(list(arguments)), encoding="utf-8")
        empty = Path(folder, "empty")
        empty.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(own_folder("sweeper").parent), task, str(file)],
            cwd=empty,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        tail = bytearray()
        passing = threading.Thread(target=pass_on, args=(process.stderr, tail, copies), daemon=True)
        passing.start()

        def printed() -> str:
            passing.join(timeout=1)
            return tail.decode(errors="replace").strip()

        try:
            yield process, printed
        finally:
            process.stdout.close()
            try:
                process.wait(timeout=_LEAVE_S if sys.exc_info()[0] is None else 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            passing.join(timeout=1)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes | float]:
    """Whole lines until the process ends, and seconds without one where that takes long.

    A process of its own that outlives it may hold the pipe open.

    Yields:
        Either.
    """
    assert process.stdout is not None
    held, source = b"", process.stdout.fileno()
    since, patience = time.monotonic(), _PATIENCE_S
    while True:
        if (waited := time.monotonic() - since) > patience:
            patience *= 2
            yield waited
        ended = process.poll() is not None
        if select.select([source], [], [], 0 if ended else _POLL_S)[0]:
            data = os.read(source, 65536)
            if not data:
                return
            *whole, held = (held + data).split(b"\n")
            yield from whole
            since, patience = time.monotonic(), _PATIENCE_S
        elif ended:
            return


def pass_on(source: IO[bytes], tail: bytearray, copies: Mapping[str, str]) -> None:
    """Show on stderr what a process prints, a line at a time; one that does not end, after a while.

    Args:
        source: What it prints to; read to its end, and closed.
        tail: Gets the last of it.
        copies: As for :func:`apart`.
    """
    held = b""

    def show(text: bytes) -> None:
        for copy, origin in copies.items():
            text = text.replace(os.fsencode(copy), os.fsencode(origin))
        tail.extend(text)
        del tail[:-_TAIL]
        shown = text.decode(errors="replace").removesuffix("\n")
        sys.stderr.write("".join(f"{_PRINTED}{line}\n" for line in shown.split("\n")))
        sys.stderr.flush()

    with source, suppress(OSError, ValueError):
        while True:
            if held and not select.select([source], [], [], _SILENCE_S)[0]:
                show(held)
                held = b""
            if not (data := os.read(source.fileno(), 65536)):
                break
            whole, end, held = (held + data).rpartition(b"\n")
            if end:
                show(whole + end)
        if held:
            show(held)


def how_it_ended(code: int) -> str:
    """How a process ended.

    Args:
        code: Its exit code as :mod:`subprocess` has it: negative for a signal.

    Returns:
        The end of a sentence.

    Example:
        >>> how_it_ended(3), how_it_ended(-9)
        ('the process ended with exit code 3', 'the process was ended by SIGKILL')
    """
    if code >= 0:
        return f"the process ended with exit code {code}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"
