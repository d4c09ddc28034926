"""A user's own factory by import path: importing its module, and finding the factory in it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from trainers.errors import TrainerError
from trainers.options import nearest
from trainers.seeding import seeded

__all__ = ["find_factory", "import_own", "in_front"]


def import_own(use: str, *, search: Sequence[str] = (), kind: str = "problem") -> ModuleType:
    """Import the module of a factory of the user's own.

    What it draws from global generators meanwhile is the same in every process, whatever ran there before.

    Args:
        use: ``package.module:factory``.
        search: Folders in front of ``sys.path`` meanwhile.
        kind: What the factory makes, for messages.

    Returns:
        The module.

    Raises:
        TrainerError: There is no such module, or none that it imports.
    """
    module_name = use.partition(":")[0]
    _reach_beside_ours(search)
    with seeded(torch.device("cpu"), 0), in_front(search):
        importlib.invalidate_caches()
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A module that the user's own module imports and that is missing is a different mistake.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise TrainerError(f"{kind} {use!r}: {module_name} imports {error.name!r}, which is missing") from error
            looked = ", ".join(search) or "sys.path"
            raise TrainerError(f"{kind} {use!r}: there is no module {error.name!r} in {looked}") from error


def find_factory(use: str, *, search: Sequence[str] = (), kind: str = "problem") -> Callable[..., Any]:
    """A factory of the user's own.

    Args:
        use: ``package.module:factory``.
        search: As for :func:`import_own`.
        kind: What the factory makes, for messages.

    Returns:
        The factory.

    Raises:
        TrainerError: There is no such module, or it has no such factory.

    Example:
        >>> find_factory("math:floor")(1.5)
        1
    """
    module_name, _, attribute = use.partition(":")
    module = import_own(use, search=search, kind=kind)
    factory: Any = module
    for name in attribute.split("."):
        if not hasattr(factory, name):
            public = [known for known in vars(module) if not known.startswith("_") and callable(getattr(module, known))]
            raise TrainerError(f"{kind} {use!r}: {module_name} has no {name!r}; {nearest(name, public)}")
        factory = getattr(factory, name)
    if not callable(factory):
        raise TrainerError(f"{kind} {use!r}: {attribute} is a {type(factory).__name__}, not a factory")
    return factory  # type: ignore[no-any-return]


_OURS = ("sweeper", "trainers", "estimators")

_BESIDE = "clipsweep_beside"
"""Where shipped code holds packages of the user's own by these names; ``sweeper.own_packages`` knows it too."""


def _reach_beside_ours(search: Sequence[str]) -> None:
    """Have ``trainers.mine`` of a user's own package ``trainers`` found beside our ``trainers.problem``.

    For good, since a problem may import more while it is trained.
    """
    places = [*map(Path, search), *(Path(place, _BESIDE) for place in (*search, *sys.path))]
    for name in _OURS:
        folders = [place / name for place in places if (place / name).is_dir()]
        if folders:
            # Imported before any of these folders' parents stands in front of ours.
            path = importlib.import_module(name).__path__
            known = {os.path.realpath(folder) for folder in path}
            path.extend(str(folder) for folder in folders if os.path.realpath(folder) not in known)


@contextmanager
def in_front(search: Sequence[str]) -> Iterator[None]:
    """Put ``search`` in front of ``sys.path`` for a while, including while the factory runs, which may import more."""
    sys.path[:0] = search
    try:
        yield
    finally:
        # What the module itself has put there stays: it may import more while it is trained.
        for place in search:
            if place in sys.path:
                sys.path.remove(place)
