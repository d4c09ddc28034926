"""Decoded data: made once, mapped by all, never trusted unseen."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import trainers.data.decoded
from trainers.data.decoded import Decoded, decoded
from trainers.data.text import _from_files, load_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainers.data.decoded, "_WORTH_BYTES", 1)
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "numbers"
    file.write_bytes(bytes(range(200)))
    return file


class Decoder:
    """Counts how often it is called."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.calls = 0

    def __call__(self) -> Decoded:
        self.calls += 1
        numbers = np.frombuffer(self.source.read_bytes(), dtype=np.uint8).astype(np.int64)
        return Decoded(arrays={"numbers": numbers, "doubled": 2 * numbers[:, None]}, facts={"words": ["a", "é"]})


def assert_same(found: Decoded, expected: Decoded) -> None:
    assert found.facts == expected.facts
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)


def test_the_same_bytes_are_decoded_once_wherever_they_lie(source: Path, tmp_path: Path) -> None:
    decode = Decoder(source)
    assert_same(decoded("test", [source], decode), decode())
    copy = tmp_path / "copy"
    copy.write_bytes(source.read_bytes())
    assert_same(decoded("test", [copy], decode), decode())
    assert decode.calls == 3, "two of them are this test's own"
    source.write_bytes(b"other")
    assert_same(decoded("test", [source], decode), decode())


def test_torch_takes_the_mapping_without_a_warning_and_writing_to_it_leaves_the_file_alone(source: Path) -> None:
    decode = Decoder(source)
    decoded("test", [source], decode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(decoded("test", [source], decode).arrays["numbers"])
    tensor.zero_()
    assert_same(decoded("test", [source], decode), Decoder(source)())
    assert decode.calls == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "note", "facts", "gone"])
def test_a_damaged_entry_is_noticed_and_made_anew(
    source: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    decode = Decoder(source)
    expected = decode()
    mapped = decoded("test", [source], decode)
    (entry,) = cache.iterdir()
    file, note = entry / "numbers.npy", entry / "note.json"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    # As a disk or a crash would: other files under the names, since those here are mapped.
    for path, new in {
        "flip": [(file, bytes(content))],
        "cut": [(file, bytes(content[:-50]))],
        "empty": [(file, b"")],
        "note": [(note, note.read_bytes()[:-20])],
        "facts": [(note, note.read_bytes().replace(b'"a"', b'"b"'))],
        "gone": [(file, None)],
    }[damage]:
        path.unlink()
        if new is not None:
            path.write_bytes(new)
    with caplog.at_level(logging.WARNING):
        assert_same(decoded("test", [source], decode), expected)
    assert decode.calls == 3
    assert_same(mapped, expected)
    assert_same(decoded("test", [source], decode), expected)
    assert decode.calls == 3, "the new entry is whole"
    assert [path.name for path in cache.iterdir()] == [entry.name]


def test_a_cache_that_cannot_be_written_is_logged_and_does_without(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    decode = Decoder(source)
    with caplog.at_level(logging.WARNING):
        assert_same(decoded("test", [source], decode), decode())
    assert "stays in memory" in caplog.text


def test_small_files_leave_nothing_behind(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.data.decoded, "_WORTH_BYTES", 1 << 20)
    decoded("test", [source], Decoder(source))
    assert not cache.exists()


def test_a_text_from_the_cache_is_the_text_itself(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_corpus(str(text_folder))
    _from_files.cache_clear()
    mapped = load_corpus(str(text_folder))
    monkeypatch.setattr(trainers.data.decoded, "_WORTH_BYTES", 1 << 30)
    _from_files.cache_clear()
    plain = load_corpus(str(text_folder))
    for corpus in (first, mapped):
        assert (corpus.fingerprint, corpus.vocabulary) == (plain.fingerprint, plain.vocabulary)
        assert torch.equal(corpus.train, plain.train)
        assert torch.equal(corpus.test, plain.test)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
def test_two_processes_map_the_same_files(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "cifar"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch"):
        records = np.random.default_rng(len(name)).integers(0, 256, (400, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    program = (
        "import sys; from pathlib import Path; from trainers.data.images import load_images\n"
        "data = load_images(sys.argv[1]); address = data.train_images.data_ptr()\n"
        "for line in Path('/proc/self/maps').read_text().splitlines():\n"
        "    span, mode, _, device, inode, *name = line.split()\n"
        "    first, last = (int(part, 16) for part in span.split('-'))\n"
        "    if first <= address < last: print(mode, device, inode, *name)\n"
    )
    seen = [
        subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert seen[0] == seen[1]
    assert seen[0].startswith("rw-p")
    (entry,) = cache.iterdir()
    assert seen[0].strip().endswith(str(entry / "train_images.npy"))
