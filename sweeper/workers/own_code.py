"""The functions and classes of a user's own modules, which a trial may replace by others for the trials after it."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from sweeper.workers.python_state import Entry, patched

__all__ = ["own_code"]

_CODE = (FunctionType, BuiltinFunctionType, type, staticmethod, classmethod, property, functools.cached_property)


def own_code(module: ModuleType) -> Entry:
    r"""An entry of the functions and classes of a module, and of those that belong with it, and of their classes.

    Only code counts, not data: a module that loads its data when they are first asked for, into a variable that was
    None or a dictionary that was empty, goes on holding them. Code that is added does not count, unless it hides what
    a class inherits.

    Args:
        module: The module; those of its package, and of its folder if it lies alone, belong with it.

    Returns:
        The entry. It leaves traces, as for every :func:`~sweeper.workers.python_state.patched` one.

    Example:
        >>> module = ModuleType("mine")
        >>> exec("def scale(x): return x", vars(module))
        >>> entry = own_code(module)
        >>> before = entry.read()
        >>> module.cache = {"data": 1}
        >>> entry.same(before, entry.read())
        True
        >>> module.scale = lambda x: 2 * x
        >>> entry.describe(before, entry.read())
        'mine.scale'
    """
    namespaces: dict[str, Any] = {}
    for one in _beside(module):
        namespaces[one.__name__] = one
        for name, value in list(vars(one).items()):
            if isinstance(value, type) and value.__module__ == one.__name__:
                namespaces[f"{one.__name__}.{name}"] = value
    return patched("functions of your own", namespaces, library="", counts=lambda value: isinstance(value, _CODE))


def _beside(module: ModuleType) -> Iterator[ModuleType]:
    """A module, and the imported ones that belong with it."""
    yield module
    package, _, inner = module.__name__.partition(".")
    inside = f"{package}."
    file = getattr(module, "__file__", None)
    folder = os.path.dirname(file) if isinstance(file, str) else ""
    is_alone = not inner and folder not in _INSTALLED and bool(folder)
    # Thousands of modules, at every attempt.
    for name, other in list(sys.modules.items()):
        if type(other) is not ModuleType or other is module:
            continue
        if name.startswith(inside) or name == package:
            yield other
        elif is_alone:
            where = vars(other).get("__file__")
            if isinstance(where, str) and where.startswith(folder) and os.path.dirname(where) == folder:
                yield other


_INSTALLED = frozenset(sysconfig.get_paths().values())
