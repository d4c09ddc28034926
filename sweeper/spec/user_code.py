"""The user's own problem: found and hashed without importing it, and whether running it needs the user's consent."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.errors import ClipsweepError, SpecError
from sweeper.own_packages import BESIDE, NAMES, own_folder
from sweeper.spec.shadowing import bound_names, check_clashes, module_file, shadowing, wanted
from sweeper.spec.syntax.diagnostics import nearest, show

__all__ = ["UserCode", "copies_of", "require_allowed", "shipped", "shipped_from", "user_code"]

_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """Where a user's own problem is.

    Attributes:
        use: ``package.module:factory``.
        root: What must be shipped to import it: a single file, or the folder of the top-level package.
        sha256: Hash over the names, relative to ``root``, and the bytes of the Python files in it.
        files: Name to hash of each of these files.
        beside: Whether all of them are in the folder of the spec, links followed, and none is installed.
        more: Folders beside ``root`` that it imports modules from and that are named like one of clipsweep's packages.
    """

    use: str
    root: Path
    sha256: str
    files: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    beside: bool = field(compare=False)
    more: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def place(self) -> str:
        """Where it is, in words: its path, and where a link leads."""
        real = self.root.resolve()
        return f"{self.root}" if real == self.root else f"{self.root} (really {real})"


def user_code(use: str, folder: Path, *, search: Sequence[str] | None = None) -> UserCode | None:
    """Find the source of a problem.

    Args:
        use: A registered name, or ``package.module:factory``.
        folder: Folder of the spec: searched first, then the working directory, then ``search``.
        search: More folders; ``sys.path`` if not given.

    Returns:
        The source, or None for a registered name.

    Raises:
        SpecError: There is no such module, or it has no such factory; or clipsweep, Python or a library that workers
            use has a module of the same name.
    """
    if ":" not in use:
        return None
    module, _, factory = use.partition(":")
    places = list(dict.fromkeys([folder, Path.cwd(), *map(Path, sys.path if search is None else search)]))
    for place in places:
        if (file := module_file(place, module)) is not None:
            break
    else:
        raise SpecError(_not_found(module, places))
    top = module.partition(".")[0]
    _check_taken(top, place)
    _check_factory(file, factory)
    name = top if (place / top).is_dir() and file != place / f"{top}.py" else f"{top}.py"
    root = Path(os.path.abspath(place), name)  # a link keeps its name, by which it is imported
    try:
        files, more = _all_files(root, file, module, factory)
        sha256, hashes = _hash(root, files)
        beside = all(_lies_in(folder.resolve(), file.resolve()) for file in files)
    except OSError as error:
        raise SpecError(f"{show(error.filename)}: cannot be read: {error.strerror}") from None
    return UserCode(use=use, root=root, sha256=sha256, files=hashes, beside=beside, more=more)


_LIBRARIES = frozenset("matplotlib numpy pandas pyarrow pydantic ray rich scipy torch typer xxhash yaml".split())
"""What a worker may have imported before it imports a problem."""


def _check_taken(top: str, place: Path) -> None:
    """Refuse a module that is called like one which every worker has imported already, and would get in its place."""
    if _is_installed(place.resolve()):
        return
    if top in sys.stdlib_module_names or top in _LIBRARIES:
        whose = "one of Python's own" if top in sys.stdlib_module_names else f"the library {top}"
        raise SpecError(f"{place}: a module {top!r} of yours cannot be imported beside {whose}: rename it")


def _is_installed(place: Path) -> bool:
    return bool(_INSTALLED & set(place.parts)) or place.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


def _all_files(root: Path, file: Path, module: str, factory: str) -> tuple[list[Path], tuple[Path, ...]]:
    """The Python files that are needed, and in which more folders than the root they lie."""
    files = [root] if root.is_file() else sorted(_python_files(root))
    place = root.parent
    theirs = shadowing(place)
    if not theirs:
        return files, ()
    shipped = {name for name, path in theirs.items() if path == root}
    if module in shipped:
        clash = f"{file} and clipsweep's own {own_folder(module) / '__init__.py'} are both the module {module!r}"
        raise SpecError(f"{clash}: move {factory!r} into a module of another name, or rename {root.name}")
    more: list[Path] = []
    while new := sorted(name for name in wanted(files, place, theirs) if name not in shipped):
        shipped |= set(new)
        more += [theirs[name] for name in new]
        files += [python for name in new for python in sorted(_python_files(theirs[name]))]
    check_clashes(files, place, theirs, shipped)
    return files, tuple(more)


def require_allowed(code: Sequence[UserCode], folder: Path, *, allow_code: bool) -> None:
    """Require the user's consent before importing code from outside the folder of the spec that names it.

    A spec is data, and may come from anybody; with ``use: module:factory`` it can name any function on this machine,
    with any arguments.

    Args:
        code: What would be imported.
        folder: The spec's own.
        allow_code: Whether the user has consented.

    Raises:
        ClipsweepError: Some of it is elsewhere, and the user has not consented.
    """
    elsewhere = [found for found in code if not found.beside]
    if allow_code or not elsewhere:
        return
    what = ", ".join(f"{found.use} from {found.place}" for found in elsewhere)
    raise ClipsweepError(
        f"the spec would run code from outside its own folder ({folder}): {what}; "
        "continue with --allow-code if you trust it"
    )


def _lies_in(folder: Path, file: Path) -> bool:
    """Whether a file is below a folder, with links resolved, and was not put there by an installer."""
    if not file.is_relative_to(folder) or _INSTALLED & set(file.relative_to(folder).parts):
        return False
    # If a spec is in one of Python's own folders, everything there would count as being next to it.
    return not file.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())


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
    """Refuse a name that the module does not bind, as far as can be told without running it."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise SpecError(f"{file}{line}: is not valid Python: {getattr(error, 'msg', error)}") from None
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}") from None
    names = set(bound_names(tree.body))
    if factory in names or "*" in names or "__getattr__" in names:
        return
    close = nearest(factory, sorted(names))
    raise SpecError(f"{file} has no {factory!r}" + (f"; did you mean {close!r}?" if close else ""))


def _hash(root: Path, files: Sequence[Path]) -> tuple[str, dict[str, str]]:
    """Hash of a file, or of the Python files of a folder, and of each."""
    digest = hashlib.sha256()
    hashes = {}
    for file in files:
        name = file.relative_to(root.parent).as_posix().encode()
        data = file.read_bytes()
        # With the lengths in it, no two trees give the same bytes.
        digest.update(f"{len(name)} {len(data)} ".encode() + name + data)
        hashes[name.decode()] = hashlib.sha256(data).hexdigest()
    return digest.hexdigest(), hashes


def _python_files(root: Path) -> Iterator[Path]:
    """Hidden and cached files do not count; links are followed, as they are when the package is sent to workers."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [
            name
            for name in folders
            if name != "__pycache__"
            and not name.startswith(".")
            # A link to a folder above it would loop.
            and os.path.realpath(os.path.join(folder, name)) not in seen
        ]
        yield from (Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("."))


@contextmanager
def shipped(code: Sequence[UserCode]) -> Iterator[Path | None]:
    """The user's own code in a separate folder, as it is sent to every worker.

    Args:
        code: The code that is needed.

    Yields:
        The folder; None where nothing is needed.
    """
    if not code:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="clipsweep-code-") as name:
        folder = Path(name)
        for found in code:
            for root in (found.root, *found.more):
                target = _copy_of(root, folder)
                if root.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", ".*")
                    shutil.copytree(root, target, ignore=ignored, dirs_exist_ok=True)
                else:
                    shutil.copyfile(root, target)
        yield folder


def copies_of(code: Sequence[UserCode], folder: Path | None) -> dict[str, str]:
    """Where copied code lies, and what it is a copy of, so that messages can name the user's own files.

    Args:
        code: All code that was copied.
        folder: Where to.

    Returns:
        Path of a copy to path of the original.
    """
    if folder is None:
        return {}
    return {str(_copy_of(root, folder)): str(root) for found in code for root in (found.root, *found.more)}


def _copy_of(root: Path, folder: Path) -> Path:
    # Workers have this folder in front of their path, where no other may stand in the place of clipsweep's.
    return (folder / BESIDE if root.name in NAMES else folder) / root.name


def shipped_from(use: str, code: Sequence[UserCode], folder: Path | None) -> tuple[str, str] | None:
    """Where a problem's own code is imported from, and where it came from.

    Args:
        use: A registered name, or ``package.module:factory``.
        code: All code that was copied.
        folder: Where to.

    Returns:
        Two folders; None for a registered name.
    """
    own = next((found for found in code if found.use == use), None)
    return None if own is None or folder is None else (str(folder), str(own.root.parent))
