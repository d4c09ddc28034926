"""The user's own problem: found and hashed without importing it."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.errors import SpecError
from sweeper.spec.diagnostics import nearest, show

__all__ = ["UserCode", "user_code"]


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """Where a problem of the user's own lives.

    Attributes:
        use: ``package.module:factory``.
        root: What must be shipped to import it: a single file, or the folder of the top-level package.
        sha256: Hash over the names, relative to ``root``, and the bytes of the Python files in it.
        files: Name to hash of each of these files.
    """

    use: str
    root: Path
    sha256: str
    files: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def user_code(use: str, folder: Path, *, search: Sequence[str] | None = None) -> UserCode | None:
    """Find the source of a problem.

    Args:
        use: A registered name, or ``package.module:factory``.
        folder: Folder of the spec: looked in first, then the working directory, then ``search``.
        search: More folders; ``sys.path`` if not given.

    Returns:
        The source, or None for a registered name.

    Raises:
        SpecError: There is no such module, or it has no such factory.
    """
    if ":" not in use:
        return None
    module, _, factory = use.partition(":")
    places = list(dict.fromkeys([folder, Path.cwd(), *map(Path, sys.path if search is None else search)]))
    for place in places:
        if (file := _module_file(place, module)) is not None:
            break
    else:
        raise SpecError(_not_found(module, places))
    _check_factory(file, factory)
    top = module.partition(".")[0]
    root = place / top if (place / top).is_dir() and file != place / f"{top}.py" else place / f"{top}.py"
    try:
        sha256, hashes = _hash(root)
    except OSError as error:
        raise SpecError(f"{show(error.filename)}: cannot be read: {error.strerror}") from None
    return UserCode(use=use, root=root.resolve(), sha256=sha256, files=hashes)


def _module_file(place: Path, module: str) -> Path | None:
    """The file that Python would import from a folder: a package goes before a module of the same name."""
    stem = place.joinpath(*module.split("."))
    for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
        if file.is_file():
            return file
    return None


def _not_found(module: str, places: Sequence[Path]) -> str:
    top, _, rest = module.partition(".")
    package = next((place / top for place in places if (place / top).is_dir()), None)
    if rest and package is not None:
        known = sorted(file.stem for file in package.glob("*.py") if file.stem != "__init__")
        close = nearest(rest, known)
        return f"no module {module!r}: {package} does not have it" + (f"; did you mean {top}.{close}?" if close else "")
    looked = ", ".join(map(str, places[:2]))
    return f"no module {module!r}: there is no {top}.py and no folder {top} in {looked}, or on Python's path"


def _check_factory(file: Path, factory: str) -> None:
    """Refuse a name that the module does not bind, as far as that shows without running it."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise SpecError(f"{file}{line}: is not valid Python: {getattr(error, 'msg', error)}") from None
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}") from None
    names = set(_bound_names(tree.body))
    if factory in names or "*" in names or "__getattr__" in names:
        return
    close = nearest(factory, sorted(names))
    raise SpecError(f"{file} has no {factory!r}" + (f"; did you mean {close!r}?" if close else ""))


def _bound_names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Names that statements bind at the top level of a module, those inside ``if`` and ``try`` included."""
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


def _hash(root: Path) -> tuple[str, dict[str, str]]:
    """Hash of a file, or of the Python files of a folder, and of each; what is hidden or cached does not count."""
    digest = hashlib.sha256()
    hashes = {}
    files = [root] if root.is_file() else sorted(_python_files(root))
    for file in files:
        name = file.relative_to(root.parent).as_posix().encode()
        data = file.read_bytes()
        # With the lengths in it, no two trees give the same bytes.
        digest.update(f"{len(name)} {len(data)} ".encode() + name + data)
        hashes[name.decode()] = hashlib.sha256(data).hexdigest()
    return digest.hexdigest(), hashes


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("."))
