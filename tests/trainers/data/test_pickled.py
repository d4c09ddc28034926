"""CIFAR-10's Python archive, and pickles that only look like it."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.data.images import load_images
from trainers.data.pickled import read_pickled_batch
from trainers.errors import DataError


def content_of(labels: list[int], /, **others: Any) -> dict[bytes, Any]:
    pixels = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3072)).astype(np.uint8)
    names = [b"image_%d.png" % index for index in range(len(labels))]
    fresh = {b"batch_label": b"a batch", b"labels": labels, b"data": pixels, b"filenames": names}
    return fresh | {key.encode(): value for key, value in others.items()}


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_the_python_archive_holds_the_images_of_the_binary_one(tmp_path: Path) -> None:
    pickled, binary = tmp_path / "python", tmp_path / "binary"
    pickled.mkdir()
    binary.mkdir()
    for name, labels in (("data_batch_1", [3, 1]), ("data_batch_2", [9]), ("test_batch", [4, 5, 6])):
        content = content_of(labels)
        write(pickled / name, content)
        records = np.column_stack([np.array(labels, dtype=np.uint8), content[b"data"]])
        (binary / f"{name}.bin").write_bytes(records.tobytes())
    data = load_images(str(pickled))
    assert data.train_labels.tolist() == [3, 1, 9]
    assert data.fingerprint == load_images(str(binary)).fingerprint


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    # Byte strings and the old name of NumPy's module, as cPickle of Python 2 wrote them.
    head = b"\x80\x02}q\x01(U\x06labels]q\x02K\x07aU\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    kind = b"(K\x00tU\x01btR(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    rest = b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + bytes(range(256)) * 12 + b"tbu."
    (tmp_path / "data_batch_1").write_bytes(head + kind + rest)
    pixels, labels = read_pickled_batch(tmp_path / "data_batch_1")
    assert labels.tolist() == [7]
    assert pixels.tobytes() == bytes(range(256)) * 12


class Runs:
    """Pickles as a call of its arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    "hidden",
    [
        Runs(os.system, "touch harmed"),
        Runs(eval, "1"),
        Runs(getattr, "x", "upper"),
        Runs(np.load, "x"),
        OrderedDict(),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "data_batch_1", content_of([1], batch_label=hidden))
    with pytest.raises(DataError, match=r"data_batch_1: refused: asks for \S+, which is not in CIFAR-10's"):
        read_pickled_batch(path)
    assert [found.name for found in tmp_path.iterdir()] == ["data_batch_1"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list, not a dictionary"),
        ({b"labels": [1]}, "lacks labels, a list of numbers, or data"),
        (content_of([1], labels=[1, 2]), r"2 labels do not go with data of shape \(1, 3072\)"),
        (content_of([1], labels=[1.5]), "lacks labels"),
        (content_of([1], labels=[-1]), r"a label lies outside of 0\.\.255"),
        (content_of([1], data=np.zeros((1, 3072))), "an array of b?'f8' where CIFAR-10 has bytes"),
        (content_of([1], data=np.array([[b""]], dtype=object)), "an array of b?'O8'"),
    ],
)
def test_what_is_no_batch_of_images_is_named(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_pickled_batch(write(tmp_path / "data_batch_1", content))


def test_files_cut_short_anywhere_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test_batch", content_of([1, 2]))
    whole = path.read_bytes()
    for length in (0, 1, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"test_batch: no pickle of CIFAR-10's Python archive, or cut short"):
            read_pickled_batch(path)
