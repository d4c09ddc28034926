"""``overlay: other.yaml``: one spec laid over another, which supplies what the first does not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sweeper.errors import SpecError
from sweeper.spec.syntax.diagnostics import Diagnostic, at, shown
from sweeper.spec.syntax.reader import MAX_BYTES, read
from sweeper.spec.syntax.tree import Node, Source, plain

__all__ = ["laid_over", "read_stream", "read_text"]

_MAX_LAYERS = 8


def read_text(path: Path) -> str:
    """The text of a spec file.

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        SpecError: It cannot be read, is larger than a megabyte, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path))
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder, not a spec file") from None
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; `clipsweep init {path}` writes a spec to start from") from None
    except SpecError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError(f"{path}: cannot be read: {reason}") from None


def read_stream(file: BinaryIO, name: str) -> str:
    r"""The text of an open spec.

    Args:
        file: What it is read from.
        name: What messages call it.

    Returns:
        Its text.

    Raises:
        SpecError: It is larger than a megabyte, or is not UTF-8.

    Example:
        >>> import io
        >>> read_stream(io.BytesIO(b"name: caf\xc3\xa9"), "<stdin>")
        'name: café'
    """
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SpecError(f"{name}: is larger than a megabyte, too large for a spec")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{name}:{line}: is not UTF-8 text (byte {data[error.start]:#04x})") from None


def laid_over(top: Node, folder: Path, problems: list[Diagnostic]) -> Node:
    """A spec completed by the specs below it.

    Sections are laid over one another key by key; lists and scalars replace what is below. A section that names another
    ``use`` replaces the one below as a whole, since its options are different.

    Args:
        top: The spec as it was read.
        folder: What the path of the spec below is relative to.
        problems: Where problems are added.

    Returns:
        The tree without ``overlay``; its nodes remember which file they come from.
    """
    seen: list[Path] = []
    layers = [top]
    while (node := layers[-1].child("overlay")) is not None:
        below = _below(node, folder, seen, problems)
        if below is None:
            break
        folder = seen[-1].parent
        layers.append(below)
    merged = layers[-1]
    for layer in reversed(layers[:-1]):
        merged = _merged(merged, layer)
    assert isinstance(merged.value, dict)
    return replace(merged, value={key: child for key, child in merged.value.items() if key != "overlay"})


def _below(node: Node, folder: Path, seen: list[Path], problems: list[Diagnostic]) -> Node | None:
    """The spec that a node names; None, and a problem, where there is none."""
    name = plain(node)
    if not isinstance(name, str):
        problems.append(at(node, f"must be a path, found {shown(name)}", "another spec, relative to this one"))
        return None
    try:
        path = (folder / name).resolve()
        is_special = path.exists() and not (path.is_file() or path.is_dir())
    except (OSError, ValueError, RuntimeError):
        path, is_special = folder / name, True
    if is_special:
        # A pipe may never end, and no file has a name with a null in it.
        problems.append(at(node, f"{shown(name)} is not a file", "another spec, relative to this one"))
        return None
    if path in seen or len(seen) == _MAX_LAYERS:
        problems.append(at(node, f"is circular, or leads through more than {_MAX_LAYERS} specs", "fewer layers"))
        return None
    try:
        below = read(Source(name=str(folder / name), text=read_text(path)))
    except SpecError as error:
        problems.append(at(node, f"cannot be laid over {name}: {error}"))
        return None
    if below is None or not isinstance(below.value, dict):
        problems.append(at(node, f"{name} holds no sections", "another spec, relative to this one"))
        return None
    seen.append(path)
    return below


def _merged(below: Node, above: Node) -> Node:
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    uses = [None if (use := node.child("use")) is None else plain(use) for node in (below, above)]
    if uses[1] is not None and uses[0] != uses[1]:
        return above
    merged = dict(below.value)
    for key, child in above.value.items():
        merged[key] = _merged(merged[key], child) if key in merged else child
    return replace(above, value=merged)
