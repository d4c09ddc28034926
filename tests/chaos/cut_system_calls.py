"""A program for the tests: do something in a child, and kill the child at its n-th system call, for every n.

It speaks to the kernel's ptrace by itself, since a debugger is seldom installed where tests run. Each system call
stops the child twice, before the kernel acts and after it, and both are moments at which a machine may die.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from sweeper.store.journal import Journal
from sweeper.store.records import Retried
from sweeper.store.run_dir import RunDir

_TRACEME, _SYSCALL = 0, 24
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def cut(action: Callable[[], object], stops: int) -> bool:
    """Run ``action`` in a child and kill it at its ``stops``-th stop; returns whether it ended before that."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            if _libc.ptrace(_TRACEME, 0, None, None) != 0:
                os._exit(77)
            os.kill(os.getpid(), signal.SIGSTOP)
            action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        raise PermissionError("ptrace is not allowed here")
    for _ in range(stops):
        if _libc.ptrace(_SYSCALL, child, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            return True
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> None:
    """Print, as JSON, what each cut left: ``[target, staging]`` texts and the number of unfinished files."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    outcomes = []
    ended = False
    while not ended:
        run_dir = RunDir(folder / f"cut-{len(outcomes):04d}")
        run_dir.create()
        # Of a first file there is no older one, and its folder must be made.
        target = run_dir.journal if what == "append" else run_dir.path / "tables" / "table"
        if what == "append":
            Journal(target, 0).append(Retried(trials=("old",)))
        elif what == "replace":
            run_dir.publish(target, b"old" * 30_000)

        def action(run_dir: RunDir = run_dir, target: Path = target) -> None:
            if what == "append":
                Journal(target, 1).append(Retried(trials=("new",)))
            else:
                run_dir.publish(target, lambda file: [file.write(b"new" * 10_000) for _ in range(3)])

        ended = cut(action, len(outcomes))
        unfinished = len(list(run_dir.staging.glob("*")))
        run_dir.clean(keep=set())
        left = target.read_bytes().decode() if target.exists() else None
        outcomes.append({
            "left": left,
            "unfinished": unfinished,
            "staging": len(list(run_dir.staging.glob("*"))),
        })
    print(json.dumps(outcomes))  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except PermissionError as error:
        sys.exit(f"skip: {error}")
