"""What Python and NumPy hold for a whole process, and user code may change: names, how to read it, how to set it."""

from __future__ import annotations

import builtins
import decimal
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PYTHON_STATE", "Entry", "attributes", "contents", "patched"]


_log = logging.getLogger(__name__)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that a process holds.

    Attributes:
        name: What it is, as the object of "it changed".
        read: Returns its value; changing the thing later leaves that value alone.
        write: Sets it to a value that was read; None where that is impossible, or would break what was imported.
        traces: Whether code that ran meanwhile may hold on to the change, so that putting it back is not enough.
        costly: Whether reading it takes so long that it is done once for a trial, not at every step to and fro.
        same: Whether two values are the same.
        describe: The name again, with what changed between two values.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None
    traces: bool = False
    costly: bool = False
    same: Callable[[Any, Any], bool] = _equal
    describe: Callable[[Any, Any], str] | None = None


def attributes(name: str, owner: Any, *names: str, costly: bool = False) -> Entry:
    """An entry of plain attributes.

    Args:
        name: What they are.
        owner: A module or another object.
        names: The attributes.
        costly: As for :class:`Entry`.

    Returns:
        The entry; its value is the tuple of theirs.
    """

    def read() -> tuple[Any, ...]:
        return tuple(getattr(owner, attribute) for attribute in names)

    def write(wanted: tuple[Any, ...]) -> None:
        for attribute, value in zip(names, wanted, strict=True):
            if getattr(owner, attribute) is not value:
                setattr(owner, attribute, value)

    return Entry(name=name, read=read, write=write, costly=costly)


def contents(name: str, get: Callable[[], list[Any]], *, traces: bool = False) -> Entry:
    """An entry of what a list holds that others have hold of, so that it is changed in place.

    Args:
        name: What it is.
        get: Returns the list.
        traces: As for :class:`Entry`.

    Returns:
        The entry.
    """

    def write(wanted: list[Any]) -> None:
        get()[:] = wanted

    return Entry(name=name, read=lambda: get().copy(), write=write, traces=traces)


def patched(
    name: str, namespaces: Mapping[str, Any], *, library: str, counts: Callable[[Any], bool] = callable
) -> Entry:
    """An entry of the functions and classes in namespaces, which somebody may replace by their own.

    What is added does not count, unless it hides what a class inherits, and neither does what a library wraps itself:
    it imports more of itself when that is needed, and torch then wraps ``torch.manual_seed``, for example.

    Args:
        name: What they are.
        namespaces: Modules and classes by name.
        library: The file of the library that they belong to.
        counts: Which values are functions or classes.

    Returns:
        The entry. It leaves traces: whatever was imported meanwhile may have taken the replacement.
    """
    tables = [vars(owner) for owner in namespaces.values()]
    folder = f"{Path(library).parent}{os.sep}"

    def read() -> list[dict[str, Any]]:
        return [dict(table) for table in tables]

    def changes(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[tuple[str, str]]:
        found = []
        for owner, old, new in zip(namespaces, before, after, strict=True):
            try:
                # Compares identities first, and is a tenth of the work; a value without a plain answer raises.
                if list(old.values()) == list(new.values()):
                    continue
            except Exception:
                _log.debug("%s holds what cannot be compared", owner)
            inherited = frozenset().union(*map(vars, getattr(namespaces[owner], "__mro__", ())[1:]))
            for key in old.keys() | (new.keys() & inherited):
                value, now = old.get(key, _inherits), new.get(key, _inherits)
                if value is not now and counts(value) and not _wraps(now, value, folder):
                    found.append((owner, key))
        return found

    def write(wanted: list[dict[str, Any]]) -> None:
        tables_of = dict(zip(namespaces, wanted, strict=True))
        for owner, key in changes(wanted, read()):
            if key in tables_of[owner]:
                setattr(namespaces[owner], key, tables_of[owner][key])
            else:
                delattr(namespaces[owner], key)

    def describe(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
        return ", ".join(f"{owner}.{key}" for owner, key in sorted(changes(before, after))[:3])

    def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
        return not changes(one, other)

    return Entry(name=name, read=read, write=write, traces=True, costly=True, same=same, describe=describe)


def _inherits() -> None:
    """Stands for what a class has from another."""


def _wraps(function: Any, wrapped: Any, folder: str) -> bool:
    """Whether a function only wraps another, by code from a folder."""
    file: str = getattr(getattr(function, "__code__", None), "co_filename", "")
    return getattr(function, "__wrapped__", None) is wrapped and file.startswith(folder)


# The generators


def _read_numpy_generator() -> tuple[Any, ...]:
    kind, key, *rest = np.random.get_state()
    return (kind, np.asarray(key).tobytes(), *rest)


def _write_numpy_generator(wanted: tuple[Any, ...]) -> None:
    kind, key, *rest = wanted
    np.random.set_state((kind, np.frombuffer(key, dtype=np.uint32), *rest))


# The process


def _read_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _write_folder(wanted: str | None) -> None:
    if wanted is not None:
        os.chdir(wanted)


def _read_environment() -> dict[bytes, bytes]:
    # What os.environb.copy() gives, at a hundredth of the cost.
    return dict(os.environb._data)  # type: ignore[attr-defined]


def _write_environment(wanted: dict[bytes, bytes]) -> None:
    now = _read_environment()
    for name in now.keys() - wanted.keys():
        del os.environb[name]
    os.environb.update({name: value for name, value in wanted.items() if now.get(name) != value})
    if now.get(b"TZ") != wanted.get(b"TZ"):
        time.tzset()


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def _read_handlers() -> tuple[Any, ...]:
    # Elsewhere Python lets nobody set them.
    if threading.current_thread() is not threading.main_thread():
        return ()
    return tuple(signal.getsignal(number) for number in _SIGNALS)


def _write_handlers(wanted: tuple[Any, ...]) -> None:
    for number, handler in zip(_SIGNALS, wanted, strict=False):
        # None: set by a library in C, which Python can neither tell nor set.
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


_LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


def _write_limits(wanted: tuple[tuple[int, int], ...]) -> None:
    for limit, (soft, hard) in zip(_LIMITS, wanted, strict=True):
        if resource.getrlimit(limit) != (soft, hard):
            resource.setrlimit(limit, (soft, hard))


# Warnings and logs


def _write_filters(wanted: list[Any]) -> None:
    warnings.resetwarnings()  # also has Python forget which it has shown
    warnings.filters[:] = wanted  # type: ignore[index]


def _read_logging() -> tuple[Any, ...]:
    root = logging.getLogger()
    return root.level, tuple(root.handlers), root.manager.disable


def _write_logging(wanted: tuple[Any, ...]) -> None:
    root = logging.getLogger()
    root.setLevel(wanted[0])
    root.handlers[:] = wanted[1]
    logging.disable(wanted[2])


# NumPy


def _write_print_options(wanted: dict[str, Any]) -> None:
    np.set_printoptions(**wanted)


# Where modules come from


def _keeps(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Whether those that were asked before are still asked first: libraries add some behind them."""
    return after[: len(before)] == before


PYTHON_STATE: tuple[Entry, ...] = (
    Entry(name="sys.settrace", read=sys.gettrace, write=sys.settrace),
    Entry(name="sys.setprofile", read=sys.getprofile, write=sys.setprofile),
    attributes("sys.stdout and stderr", sys, "stdin", "stdout", "stderr"),
    attributes("sys.excepthook", sys, "excepthook", "unraisablehook", "displayhook"),
    attributes("threading.excepthook", threading, "excepthook"),
    Entry(name="threading.settrace", read=threading.gettrace, write=threading.settrace),
    Entry(name="threading.setprofile", read=threading.getprofile, write=threading.setprofile),
    Entry(name="the recursion limit", read=sys.getrecursionlimit, write=sys.setrecursionlimit),
    Entry(name="the switch interval", read=sys.getswitchinterval, write=sys.setswitchinterval),
    Entry(name="the limit of digits", read=sys.get_int_max_str_digits, write=sys.set_int_max_str_digits),
    Entry(name="garbage collection", read=gc.isenabled, write=lambda on: gc.enable() if on else gc.disable()),
    Entry(name="the thresholds of gc", read=gc.get_threshold, write=lambda three: gc.set_threshold(*three)),
    Entry(name="the working directory", read=_read_folder, write=_write_folder),
    Entry(name="os.environ", read=_read_environment, write=_write_environment),
    Entry(name="the umask", read=_read_umask, write=os.umask),
    Entry(name="signal handlers", read=_read_handlers, write=_write_handlers, costly=True),
    Entry(
        name="blocked signals",
        read=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        write=lambda blocked: signal.pthread_sigmask(signal.SIG_SETMASK, blocked),
    ),
    Entry(
        name="the alarm",
        read=lambda: signal.getitimer(signal.ITIMER_REAL),
        write=lambda timer: signal.setitimer(signal.ITIMER_REAL, *timer),
    ),
    Entry(
        name="limits of resources",
        read=lambda: tuple(resource.getrlimit(limit) for limit in _LIMITS),
        write=_write_limits,
        costly=True,
    ),
    Entry(
        name="the processor affinity",
        read=lambda: os.sched_getaffinity(0),
        write=lambda cores: os.sched_setaffinity(0, cores),
    ),
    Entry(name="the socket timeout", read=socket.getdefaulttimeout, write=socket.setdefaulttimeout),
    Entry(
        name="the locale",
        read=lambda: locale.setlocale(locale.LC_ALL),
        write=lambda wanted: locale.setlocale(locale.LC_ALL, wanted),
    ),
    Entry(
        name="the decimal context",
        read=lambda: decimal.getcontext().copy(),
        write=lambda context: decimal.setcontext(context.copy()),
        same=lambda one, other: repr(one) == repr(other),
    ),
    Entry(
        name="multiprocessing's start method",
        read=lambda: multiprocessing.get_start_method(allow_none=True),
        write=lambda method: multiprocessing.set_start_method(method, force=True),
    ),
    Entry(name="warnings.filters", read=lambda: list(warnings.filters), write=_write_filters),
    attributes("warnings.showwarning", warnings, "showwarning", "formatwarning"),
    Entry(name="the root logger", read=_read_logging, write=_write_logging),
    Entry(name="np.seterr", read=np.geterr, write=lambda wanted: np.seterr(**wanted)),
    Entry(name="np.seterrcall", read=np.geterrcall, write=np.seterrcall),
    Entry(name="np.set_printoptions", read=np.get_printoptions, write=_write_print_options),
    Entry(name="Python's generator", read=random.getstate, write=random.setstate, costly=True),
    Entry(name="NumPy's generator", read=_read_numpy_generator, write=_write_numpy_generator, costly=True),
    contents("sys.path", lambda: sys.path, traces=True),
    Entry(name="sys.meta_path", read=lambda: tuple(sys.meta_path), write=None, traces=True, same=_keeps),
    Entry(name="sys.path_hooks", read=lambda: tuple(sys.path_hooks), write=None, traces=True, same=_keeps),
    patched(
        "Python's or NumPy's functions",
        {"builtins": builtins, "os": os, "random": random, "time": time, "numpy": np},
        library=np.__file__,
    ),
)
"""In the order in which they are put back."""
