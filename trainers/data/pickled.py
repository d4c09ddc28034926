"""CIFAR-10's Python archive, read without running anything that a pickle could run."""

from __future__ import annotations

import io
import math
import pickle  # what it may make is a short list, below  # nosec B403
from pathlib import Path
from typing import Any

import numpy as np

from trainers.errors import DataError

__all__ = ["read_pickled_batch"]

_PIXELS = 3 * 32 * 32


def read_pickled_batch(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels and labels of one ``data_batch_n`` or ``test_batch``.

    Args:
        path: A pickled dictionary with ``labels``, a list of numbers, and ``data``, an array of bytes, one row per
            image.

    Returns:
        Pixels, uint8, shape (num_images, 3072), and labels, int64, shape (num_images,).

    Raises:
        DataError: The file is no such pickle, or asks for anything that such a file does not hold.
    """
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    # The bytes may come from anybody, and the pickle virtual machine does not document which errors it can raise.
    except Exception as error:
        raise DataError(f"{path}: no pickle of CIFAR-10's Python archive, or cut short: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not a dictionary with labels and data")
    # Python 2 wrote byte strings for keys; a file that was written again may have text.
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    labels, data = named.get("labels"), named.get("data")
    if not (isinstance(data, _Array) and isinstance(labels, list) and all(type(label) is int for label in labels)):
        raise DataError(f"{path}: lacks labels, a list of numbers, or data, an array of bytes")
    pixels = data.values()
    if pixels.shape != (len(labels), _PIXELS) or not labels:
        raise DataError(f"{path}: {len(labels)} labels do not go with data of shape {pixels.shape}")
    if not all(0 <= label < 256 for label in labels):
        raise DataError(f"{path}: a label lies outside of 0..255")
    return pixels, np.array(labels, dtype=np.int64)


class _Type:
    """Stands in for ``numpy.dtype``: the archive has only that of bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in {"u1", b"u1", "|u1", b"|u1"}:
            raise DataError(f"an array of {name!r} where CIFAR-10 has bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes do not have."""


class _Array:
    """Stands in for ``numpy.ndarray``, so that NumPy's own code never sees what the file says."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = (0,)
        self._content = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not (sizes and isinstance(kind, _Type) and isinstance(content, bytes)) or by_column:
            raise DataError("an array that is no plain table of bytes")
        if math.prod(shape) != len(content):
            raise DataError(f"an array of shape {shape} with {len(content)} bytes")
        self._shape, self._content = shape, content

    def values(self) -> np.ndarray[Any, Any]:
        """The table, copied."""
        return np.frombuffer(self._content, dtype=np.uint8).reshape(self._shape).copy()


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Stands in for NumPy's function of that name: an empty array, whose state follows."""
    if kind is not _Array:
        raise DataError("an array of a kind that is not in the archive")
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands in for ``_codecs.encode``, with which Python 3 writes bytes in protocol 2."""
    if not isinstance(text, str) or encoding not in {"latin1", b"latin1"}:
        raise DataError(f"text in the encoding {encoding!r}, where the archive has latin1")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Knows the few names that the archive uses, and returns stand-ins for all of them."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; every other name is refused."""
        if (module, name) not in _STAND_INS:
            raise DataError(f"refused: asks for {module}.{name}, which is not in CIFAR-10's Python archive")
        return _STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refused: the archive refers to nothing outside of it."""
        raise DataError("refused: refers to something outside of the file")
