"""What installed packages add by entry points: a name for an import path, found without importing anything."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from sweeper.spec.shadowing import module_file

__all__ = ["GROUPS", "Installed", "installed", "is_own", "signature_of"]

GROUPS = {
    "problems": "clipsweep.problems",
    "transforms": "clipsweep.update_rules",
    "schedules": "clipsweep.schedules",
    "estimators": "clipsweep.estimators",
    "searchers": "clipsweep.searchers",
}
"""Kind to the group of its entry points."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Something that an installed package adds.

    Attributes:
        name: What a spec may call it.
        use: ``package.module:factory``, which the name stands for.
        package: The package and its version.
    """

    name: str
    use: str
    package: str


def installed(kind: str) -> dict[str, Installed]:
    """What installed packages add of one kind.

    Args:
        kind: A key of :data:`GROUPS`.

    Returns:
        Name to what it stands for; without names that two packages add with another meaning each. It does not say
        which names registered ones have: those win.
    """
    return _installed(GROUPS[kind], tuple(sys.path))


@lru_cache(maxsize=32)
def _installed(group: str, path: tuple[str, ...]) -> dict[str, Installed]:
    """As it is with this path of Python's, which tells where packages are looked for."""
    found = set()
    for point in entry_points(group=group):
        package = "" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        found.add(Installed(name=point.name, use=f"{point.module}:{point.attr}", package=package))
    meanings = Counter(name for name, _ in {(one.name, one.use) for one in found})
    ordered = sorted(found, key=lambda one: (one.name, one.package))
    return {one.name: one for one in ordered if meanings[one.name] == 1}


def is_own(kind: str, use: object) -> bool:
    """Whether a name is an import path, or one that an installed package adds.

    Args:
        kind: A key of :data:`GROUPS`.
        use: What a spec says.

    Returns:
        False for anything else, registered names among them, unless a package adds one of the same name.
    """
    return isinstance(use, str) and (":" in use or use in installed(kind))


def signature_of(use: str) -> tuple[str, list[tuple[str, str | None]]]:
    """What the source of a factory says of it.

    Args:
        use: ``package.module:factory``.

    Returns:
        The first line of its docstring, and the arguments, each with its default as it is written, None for a required
        one; nothing of what cannot be found.
    """
    module, _, factory = use.partition(":")
    file = next((file for place in sys.path if (file := module_file(Path(place), module)) is not None), None)
    try:
        tree = ast.parse(b"" if file is None else file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "", []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == factory:
            about = (ast.get_docstring(node) or "").partition("\n")[0]
            functions = [node] if isinstance(node, ast.FunctionDef) else _constructors(node)
            return about, [argument for function in functions for argument in _arguments(function)]
    return "", []


def _constructors(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]


_NOT_OPTIONS = {"self", "seed", "device"}
"""What clipsweep itself passes."""


def _arguments(function: ast.FunctionDef) -> Iterator[tuple[str, str | None]]:
    takes = function.args
    places = [*takes.posonlyargs, *takes.args]
    defaults = [None] * (len(places) - len(takes.defaults)) + list(takes.defaults)
    for argument, default in [
        *zip(places, defaults, strict=True),
        *zip(takes.kwonlyargs, takes.kw_defaults, strict=True),
    ]:
        if argument.arg not in _NOT_OPTIONS:
            yield argument.arg, None if default is None else ast.unparse(default)
