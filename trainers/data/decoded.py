"""Decoded data as files that all processes of a machine map: decoded once, in memory once.

An entry is a folder of ``.npy`` files and a note of their shapes, types and hashes. It appears whole, by a rename, and
is used only while it matches the note; anything else is decoded again. All of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from trainers.data.sources import cache_dir

__all__ = ["Decoded", "decoded"]

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[Any]]

_FORMAT = 1
"""Incremented whenever the way anything is decoded changes; a new value decodes everything again."""

_WORTH_BYTES = 1 << 20
"""Smaller files are decoded faster than they are looked up, and would only litter the cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """Decoded data of some files.

    Attributes:
        arrays: By name; read-only. In an entry they are private mappings of its files, whose pages all
            processes share until one is written to.
        facts: Whatever else there is to know, JSON-able.
    """

    arrays: Mapping[str, Array] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)


def decoded(kind: str, paths: Iterable[Path], decode: Callable[[], Decoded]) -> Decoded:
    """What ``decode`` makes of files, from the cache if it has decoded the same bytes before.

    Args:
        kind: Which decoder it is.
        paths: The files that it reads; their content is the key, not their names.
        decode: A pure function of them.

    Returns:
        The same as ``decode()``. Where the cache cannot be written that is logged, and the data stays in memory.
    """
    files = tuple(paths)
    if sum(file.stat().st_size for file in files) < _WORTH_BYTES:
        return decode()
    folder = cache_dir() / "decoded" / f"{kind}-{_key(files)}"
    found = _read(folder)
    if found is not None:
        return found
    made = decode()
    try:
        _write(folder, made)
    except OSError as error:
        logger.warning("decoded data stays in memory, since %s cannot be written: %s", folder, error)
        return made
    return _read(folder) or made


def _key(files: Iterable[Path]) -> str:
    """A hash of the files' contents, one after the other."""
    digest = hashlib.sha256(str(_FORMAT).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:24]


def _read(folder: Path) -> Decoded | None:
    """An entry; None if there is no complete one."""
    try:
        note = json.loads((folder / "note.json").read_text(encoding="utf-8"))
        if _hash(json.dumps(note["content"]).encode()) != note["hash"]:
            raise ValueError("the note is not what was written")
        content = note["content"]
        # Mode c maps privately: torch takes the memory without a warning, and nothing done to it reaches the file.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in content["arrays"]}
        for name, array in arrays.items():
            if _describe(array) != content["arrays"][name]:
                raise ValueError(f"{name}.npy is not what was written")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        logger.warning("decoded data in %s is damaged and will be made again: %s", folder, error)
        return None
    return Decoded(arrays=arrays, facts=content["facts"])


def _write(folder: Path, made: Decoded) -> None:
    """Write an entry next to its final place, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as staging:
        whole = Path(staging) / "whole"
        whole.mkdir()
        for name, array in made.arrays.items():
            np.save(whole / f"{name}.npy", array, allow_pickle=False)
        content = {
            "arrays": {name: _describe(array) for name, array in made.arrays.items()},
            "facts": dict(made.facts),
        }
        note = {"content": content, "hash": _hash(json.dumps(content).encode())}
        (whole / "note.json").write_text(json.dumps(note), encoding="utf-8")
        try:
            whole.rename(folder)
        except OSError:
            # A faster process has made the same entry. A damaged one is replaced; processes that have mapped it keep
            # it.
            if _read(folder) is None:
                folder.rename(Path(staging) / "damaged")
                whole.rename(folder)


def _describe(array: Array) -> list[Any]:
    """Type, shape and hash of the values."""
    # A view of the bytes: copying a large file only to hash it would take its memory twice.
    content = _hash(np.ascontiguousarray(array).data.cast("B"))
    return [array.dtype.str, list(array.shape), content]


def _hash(content: bytes | memoryview) -> str:
    return xxhash.xxh3_128(content).hexdigest()
