"""The user's own packages that go by the names of clipsweep's: what of them can be imported, and what clashes.

Clipsweep's package always wins, and modules of the user's stand beside its own. So ``trainers.mine`` is found in the
user's folder ``trainers``, as long as clipsweep has no ``trainers.mine``; the folder's ``__init__.py`` is never run.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SpecError
from sweeper.own_packages import NAMES, own_folder

__all__ = ["bound_names", "check_clashes", "module_file", "shadowing", "wanted"]


def shadowing(place: Path) -> dict[str, Path]:
    """What a folder holds by the names of clipsweep's packages.

    Args:
        place: The folder.

    Returns:
        Name to folder, or to a single file; empty where there are none, or where they are clipsweep's own.
    """
    found = {}
    for name in NAMES:
        for path in (place / name, place / f"{name}.py"):
            if path.exists() and os.path.realpath(path) != os.path.realpath(own_folder(name)):
                found[name] = path
                break
    return found


def wanted(files: Sequence[Path], place: Path, theirs: Mapping[str, Path]) -> set[str]:
    """Which of the user's packages the user's code imports modules from.

    Args:
        files: The code.
        place: The folder that it is imported from.
        theirs: What that folder holds by the names of clipsweep's packages.

    Returns:
        Some of the names.

    Raises:
        SpecError: It imports something from there that clipsweep's package hides.
    """
    found = set()
    for used in (used for file in files for used in _uses(file, place, theirs)):
        if _has(place, used) and not _has(own_folder(used.package).parent, used):
            _check_reachable(used, theirs[used.package])
            found.add(used.package)
    return found


def check_clashes(files: Sequence[Path], place: Path, theirs: Mapping[str, Path], shipped: set[str]) -> None:
    """Refuse modules that clipsweep has by the same name, and names that only a package's own file defines.

    Args:
        files: The code that is sent to workers.
        place: The folder that it is imported from.
        theirs: What that folder holds by the names of clipsweep's packages.
        shipped: The names of those of them that are sent to workers.

    Raises:
        SpecError: There is one; the message names both files, and what to rename.
    """
    for package in sorted(shipped):
        folder, own = theirs[package], own_folder(package)
        if not folder.is_dir():
            raise SpecError(f"{folder} is hidden by clipsweep's own package {own}: rename {folder.name}")
        for name in sorted(_submodules(folder) & _submodules(own)):
            raise SpecError(
                f"{_where(folder, name)} and clipsweep's own {_where(own, name)} are both the module "
                f"'{package}.{name}', and clipsweep's is the one that is imported: rename yours, or the folder {folder}"
            )
    for file in files:
        for used in _uses(file, place, theirs):
            inside = used.package in shipped and file.is_relative_to(theirs[used.package])
            if inside and used.module == used.package and _has(place, used):
                _check_reachable(used, theirs[used.package])


@dataclass(frozen=True, kw_only=True)
class _Use:
    """A module that some code imports, or a name that it takes from one.

    Attributes:
        file: Where.
        line: Where in it.
        module: The module in full.
        name: What is taken from it; None for the module itself.
    """

    file: Path
    line: int
    module: str
    name: str | None

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.module.partition(".")[0]


def _check_reachable(used: _Use, folder: Path) -> None:
    """Refuse what is the user's and hidden by clipsweep's package of the same name."""
    own = own_folder(used.package)
    below = used.module.split(".")[1:]
    if not below and used.name not in _submodules(folder):
        theirs = folder / "__init__.py" if folder.is_dir() else folder
        raise SpecError(
            f"{used.file}:{used.line}: takes {used.name!r} from {theirs}, which is not run: the package "
            f"{used.package!r} is clipsweep's own {own / '__init__.py'}; import {used.name!r} from the module that "
            f"defines it, or rename {folder.name}"
        )
    first = below[0] if below else str(used.name)
    if first in _submodules(own):
        raise SpecError(
            f"{used.file}:{used.line}: {_where(folder, first)} is hidden by clipsweep's own {_where(own, first)}, the "
            f"module '{used.package}.{first}': rename yours, or the folder {folder}"
        )


def _has(place: Path, used: _Use) -> bool:
    """Whether what is used would be there if the package in a folder were the one that is imported."""
    file = module_file(place, used.module)
    if used.name is None:
        return file is not None
    if module_file(place, f"{used.module}.{used.name}") is not None:
        return True
    if file is None:
        return False
    # Clipsweep's packages name what is public in a stub.
    for source in (file, file.with_suffix(".pyi")):
        try:
            if used.name in set(bound_names(ast.parse(source.read_bytes()).body)):
                return True
        except (OSError, SyntaxError, ValueError):
            continue
    return False


def _submodules(folder: Path) -> set[str]:
    """Modules and packages directly in a package's folder."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return set()
    return {entry.stem for entry in entries if entry.suffix == ".py" and entry.stem != "__init__"} | {
        entry.name
        for entry in entries
        if entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__" and any(entry.rglob("*.py"))
    }


def _where(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder / f"{name}.py"


def _uses(file: Path, place: Path, theirs: Mapping[str, Path]) -> Iterator[_Use]:
    """What a file takes from packages that go by clipsweep's names."""
    try:
        data = file.read_bytes()
        names = file.relative_to(os.path.abspath(place)).parent.parts
        # Most files of a large project have nothing to do with it, and are not parsed.
        if not any(name.encode() in data for name in theirs) and (not names or names[0] not in theirs):
            return
        tree = ast.parse(data)
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        found: list[tuple[str, str | None]]
        match node:
            case ast.Import():
                found = [(alias.name, None) for alias in node.names if "." in alias.name]
            case ast.ImportFrom(level=level) if level <= len(names):
                above = names[: len(names) - level + 1] if level else ()
                source = ".".join([*above, *([node.module] if node.module else [])])
                found = [(source, alias.name) for alias in node.names if alias.name != "*"]
            case ast.Attribute(value=ast.Name(id=package), attr=attribute):
                found = [(package, attribute)]
            case _:
                continue
        for module, name in found:
            if module.partition(".")[0] in theirs:
                yield _Use(file=file, line=node.lineno, module=module, name=name)


def module_file(place: Path, module: str) -> Path | None:
    """The file that Python would import from a folder: a package goes before a module of the same name.

    Args:
        place: The folder.
        module: The module's full name.

    Returns:
        The file; None where there is none.
    """
    stem = place.joinpath(*module.split("."))
    for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
        if file.is_file():
            return file
    return None


def bound_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Names that statements bind at the top level of a module, those inside ``if`` and ``try`` included.

    Args:
        body: The statements.

    Yields:
        Name after name.
    """
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
            case _:
                targets = (node for node in ast.walk(statement) if isinstance(node, ast.Name | ast.alias | ast.stmt))
                for node in targets:
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        yield node.id
                    elif isinstance(node, ast.alias):
                        yield node.asname or node.name
                    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                        yield node.name
