"""The packages that clipsweep consists of, and that nobody else's of these names is imported in their place.

A spec's folder may hold a package ``trainers`` of the user's own: it is a common name. Where that folder is on Python's
path, as the current one is for ``python -m sweeper``, it would be found first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["BESIDE", "NAMES", "own_folder", "pin"]

NAMES = ("sweeper", "trainers", "estimators")

BESIDE = "clipsweep_beside"
"""Folder in shipped code with packages of the user's own by these names; ``trainers.problems.build`` knows it too."""


def own_folder(name: str) -> Path:
    """Where one of clipsweep's packages lies.

    Args:
        name: One of :data:`NAMES`.

    Returns:
        Its folder, beside that of this package.
    """
    return Path(__file__).parent.with_name(name)


class _OwnFirst:
    """Finds clipsweep's packages beside this one, whatever stands earlier on Python's path."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The package's place; None for everything else."""
        return PathFinder.find_spec(name, [str(own_folder(name).parent)]) if name in NAMES else None


def pin() -> None:
    """From now on, the names of clipsweep's packages mean clipsweep's packages.

    Raises:
        ImportError: Another package has been imported by one of these names.
    """
    for name in NAMES:
        loaded = sys.modules.get(name)
        folders = [] if loaded is None else [os.path.realpath(folder) for folder in getattr(loaded, "__path__", [""])]
        if folders and os.path.realpath(own_folder(name)) not in folders:
            raise ImportError(
                f"{getattr(loaded, '__file__', None) or folders[0]} was imported as {name!r}, which is a package of "
                "clipsweep's, too; import clipsweep first, or rename yours"
            )
    if _OwnFirst not in sys.meta_path:
        sys.meta_path.insert(0, _OwnFirst)
