"""What user code changes for its whole process holds for its own trial, and only while that runs.

A worker trains one trial after another, and measures snapshots of several in turn. What one of them sets, such as
torch's default dtype, must not reach the next. So a trial's settings are put back whenever its code returns, and set
again before it goes on. What its module sets when it is imported belongs to every trial of that module, though a
process imports it only once.
"""

from __future__ import annotations

import gc
import os
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sweeper.errors import error_line
from sweeper.workers.own_code import own_code
from sweeper.workers.python_state import PYTHON_STATE, Entry
from sweeper.workers.torch_state import TORCH_STATE

__all__ = ["STATE", "OwnState"]

_Item = TypeVar("_Item")

STATE: tuple[Entry, ...] = (*TORCH_STATE, *PYTHON_STATE)
"""Everything that is put back."""

_QUICK = tuple(entry for entry in STATE if not entry.costly)
_COSTLY = tuple(entry for entry in STATE if entry.costly)

_SET_BY_IMPORT: WeakKeyDictionary[ModuleType, dict[str, Any]] = WeakKeyDictionary()
"""A user's module to what importing it has set in this process."""

_END = object()

_LEAVE_S = 0.2
"""How long a thread may take to end once nothing holds it."""


class OwnState:
    """What one trial's code has set for its process.

    Example:
        >>> import torch
        >>> own = OwnState()
        >>> with own.whole(), own.in_force():
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.get_default_dtype()
        torch.float32
        >>> with own.whole(), own.in_force():
        ...     torch.get_default_dtype()
        torch.float64
        >>> own.left_behind is None
        True
    """

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}
        self._left: dict[str, None] = {}
        self._costly = _COSTLY
        self._modules: list[ModuleType] = []

    @property
    def left_behind(self) -> str | None:
        """What the trial has changed that cannot be put back, in a few words; None if another may follow."""
        return "; ".join(self._left) or None

    def load(self, load: Callable[[], ModuleType]) -> None:
        """Import a module of the trial's own, or set again what importing it has set; its code is watched after.

        Of several modules, one after the other, the later ones win.

        Args:
            load: Imports it, if that has not been done, and returns it.
        """
        others, self._own = self._own, {}
        with self.whole(), self.in_force():
            module = load()
        # What the import leaves behind is there for every trial of the module, whichever comes first.
        self._left.clear()
        self._own = others | _SET_BY_IMPORT.setdefault(module, self._own)
        if module not in self._modules:
            self._modules.append(module)
            self._costly = (*self._costly, own_code(module))

    def whole(self, *, keep: bool = True) -> AbstractContextManager[None]:
        """Around everything that the trial does here, at most one of a process at a time.

        Args:
            keep: Whether what it changes in the meantime is set again the next time.

        Returns:
            A context; forgotten without being left, it puts nothing back.
        """
        return _Swapped(self, self._costly, keep=keep, with_threads=True)

    def in_force(self, *, keep: bool = True) -> AbstractContextManager[None]:
        """Around each piece of it, inside :meth:`whole`; pieces of several trials may alternate.

        Args:
            keep: As for :meth:`whole`.

        Returns:
            A context.
        """
        return _Swapped(self, _QUICK, keep=keep)

    def pieces(self, items: Generator[_Item], *, is_last: Callable[[_Item], bool]) -> Iterator[_Item]:
        """A generator of the trial's, each of whose items is made with the trial's state in force.

        Args:
            items: The generator; it is closed with this one.
            is_last: Whether an item is the last. Before that one is passed on, everything has been put back, so that
                :attr:`left_behind` is known.

        Yields:
            Its items.
        """
        with self.whole():
            try:
                while (item := self._next(items)) is not _END and not is_last(item):
                    yield item
            finally:
                with self.in_force():
                    items.close()
        if item is not _END:
            yield item

    def _next(self, items: Iterator[_Item]) -> Any:
        with self.in_force():
            return next(items, _END)

    def set_again(self, entries: Sequence[Entry]) -> None:
        """Set what the trial had set, of some entries."""
        # In reverse: what is put back first, such as a mode that sees all calls of torch, is set last.
        for entry in reversed(entries):
            if entry.name in self._own and entry.write is not None:
                entry.write(self._own[entry.name])

    def put_back(self, entries: Sequence[Entry], outside: Sequence[Any], *, keep: bool) -> None:
        """Put back what is not as it was outside, and note how the trial had it."""
        changed = {}
        for entry, before in zip(entries, outside, strict=True):
            try:
                now = entry.read()
                if entry.same(before, now):
                    continue
                if entry.traces and not entry.same(self._own.get(entry.name, before), now):
                    self._left[entry.describe(before, now) if entry.describe else entry.name] = None
                changed[entry.name] = now
                if entry.write is not None:
                    entry.write(before)
            except Exception as error:
                self._left[f"{entry.name} ({error_line(error)})"] = None
        if keep:
            for entry in entries:
                self._own.pop(entry.name, None)
            self._own |= changed

    def note_threads(self, before: frozenset[threading.Thread]) -> None:
        """Note threads that the trial has started and that go on."""
        self._left |= dict.fromkeys(_left_threads(before))


class _Swapped(AbstractContextManager[None]):
    """A trial's state of some entries in place of the process's; no generator, as that ends when it is forgotten."""

    def __init__(self, own: OwnState, entries: Sequence[Entry], *, keep: bool, with_threads: bool = False) -> None:
        self._own = own
        self._entries = entries
        self._keep = keep
        self._with_threads = with_threads
        self._threads: frozenset[threading.Thread] = frozenset()
        self._outside: list[Any] = []

    def __enter__(self) -> None:
        if self._with_threads:
            self._threads = frozenset(threading.enumerate())
        self._outside = [entry.read() for entry in self._entries]
        self._own.set_again(self._entries)

    def __exit__(self, *raised: object) -> None:
        self._own.put_back(self._entries, self._outside, keep=self._keep)
        if self._with_threads:
            self._own.note_threads(self._threads)


def _left_threads(before: frozenset[threading.Thread]) -> list[str]:
    """Threads of the trial's code that do not end with what they were started for."""

    def left() -> list[threading.Thread]:
        # Daemons, too: whatever is started from a thread of Ray's becomes one.
        return [thread for thread in threading.enumerate() if thread not in before and not _is_a_librarys(thread)]

    if left():
        gc.collect()
        for thread in left():
            thread.join(_LEAVE_S)
    return [f"a thread that goes on ({thread.name})" for thread in left()]


def _is_a_librarys(thread: threading.Thread) -> bool:
    """Whether an installed library runs a thread for itself, as progress bars do, or the thread is none of Python's."""
    if isinstance(thread, threading._DummyThread):
        return True
    runs = type(thread).run if type(thread) is not threading.Thread else getattr(thread, "_target", None)
    file: str = getattr(getattr(runs, "__code__", None), "co_filename", "")
    return file.startswith(_INSTALLED)


_INSTALLED = f"{sysconfig.get_paths()['purelib']}{os.sep}"
