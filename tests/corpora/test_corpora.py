"""What fuzzing has found, and what it began from: every file of the corpora is read, or refused with an error of ours.

``tests/corpora/<reader>/`` holds small files. ``fuzz.py`` beside this adds to them what breaks a reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.monitor.status import list_runs, run_status, trial_log, trial_rows
from sweeper.remeasure import remeasure_section
from sweeper.spec import load_spec
from sweeper.store.journal import read_journal, replay
from sweeper.store.lock import DriverLock
from sweeper.store.records import Part
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir, file_hash
from sweeper.tables.parts import read_parts, read_table, sort_rows
from sweeper.tables.readable import trials_table
from sweeper.workers.snapshots import read_header, read_iterates
from trainers.errors import TrainerError
from trainers.training.checkpoint import dump, load

CORPORA = Path(__file__).parent
OURS = (ClipsweepError, TrainerError)
"""The errors that a reader may raise: the project's two families."""


def read_spec(data: bytes, folder: Path) -> None:
    """A spec file."""
    path = folder / "sweep.yaml"
    path.write_bytes(data)
    assert load_spec(path).cells


def read_raw_journal(data: bytes, folder: Path) -> None:
    """A journal of any bytes."""
    (folder / "journal.jsonl").write_bytes(data)
    look_at_run(folder)


def read_sealed_journal(data: bytes, folder: Path) -> None:
    """A journal whose every line has the right hash and number, as one has that somebody made up."""
    lines = []
    for number, line in enumerate(data.split(b"\n")):
        body = b'{"n":%d,' % number + line.removeprefix(b"{").removesuffix(b"}")
        lines.append(body + b',"xxh3":"' + xxhash.xxh3_64_hexdigest(body).encode() + b'"}\n')
    (folder / "journal.jsonl").write_bytes(b"".join(lines))
    look_at_run(folder)


def look_at_run(folder: Path) -> None:
    """What status, ls, logs, and the tables read."""
    state = replay(read_journal(folder / "journal.jsonl")[0])
    run_status(folder)
    trial_rows(folder)
    list_runs(folder.parent)
    for name in list(state.trials)[:2]:
        trial_log(folder, name)
    trials_table(state, None)


def read_side_files(data: bytes, folder: Path) -> None:
    """The files beside the journal that tell who runs it and what is being done."""
    (folder / "journal.jsonl").touch()
    for name in ("driver.json", "live.json", "environment.json", "resolved.yaml"):
        (folder / name).write_bytes(data)
    # With the driver's pid it is believed that one is at work, and what it does is read.
    run_status(folder)
    (folder / "driver.json").write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    run_status(folder)
    with contextlib.suppress(RunDirectoryError), DriverLock(RunDir(folder)).hold():
        pass


def read_resolved(data: bytes, folder: Path) -> None:
    """The settings that a run was last given, and what is measured again by them."""
    run_dir = RunDir(folder)
    run_dir.resolved.write_bytes(data)
    resolved_settings(run_dir)
    remeasure_section(run_dir, "directional_curvature", [])


def read_checkpoint(data: bytes, folder: Path) -> None:
    """A training state: what is read can be written."""
    dump(load(data))


def read_snapshot(data: bytes, folder: Path) -> None:
    """A kept snapshot."""
    path = folder / "step-0000000000.safetensors"
    path.write_bytes(data)
    read_header(path, {})
    read_iterates(path)


def read_part(data: bytes, folder: Path) -> None:
    """Committed rows whose hash is right, and a readable table."""
    run_dir = RunDir(folder)
    run_dir.parts.mkdir(exist_ok=True)
    (run_dir.parts / "rows").write_bytes(data)
    part = Part(table="metrics", file="rows", rows=1, xxh3=file_hash(data), void={"a": 3})
    for tables in read_parts(run_dir, [part]).values():
        sort_rows(tables[0], ["a"])
    read_table(run_dir.parts / "rows")


READERS: Mapping[str, Callable[[bytes, Path], None]] = {
    "spec": read_spec,
    "journal": read_raw_journal,
    "records": read_sealed_journal,
    "side_files": read_side_files,
    "resolved": read_resolved,
    "checkpoint": read_checkpoint,
    "snapshot": read_snapshot,
    "part": read_part,
}


def read_or_refuse(reader: str, data: bytes) -> None:
    """Let a reader read; anything but an error of ours is a finding."""
    with tempfile.TemporaryDirectory(prefix="clipsweep-corpus-") as folder, contextlib.suppress(*OURS):
        inside = Path(folder) / "run"
        inside.mkdir()
        READERS[reader](data, inside)


KEPT = [(folder, file) for folder in READERS for file in sorted((CORPORA / folder).iterdir())]


@pytest.mark.parametrize(("reader", "file"), KEPT, ids=[f"{reader}/{file.name}" for reader, file in KEPT])
def test_a_file_of_the_corpora_is_read_or_refused_with_an_error_of_ours(reader: str, file: Path) -> None:
    assert file.stat().st_size <= 10_000, "corpora are of small files"
    read_or_refuse(reader, file.read_bytes())


@pytest.mark.parametrize("reader", READERS)
def test_some_file_of_each_corpus_is_sound(reader: str, tmp_path: Path) -> None:
    # Otherwise what is made from it would never reach beyond the first check.
    sound = sorted((CORPORA / reader).glob("sound*"))
    assert sound
    for number, file in enumerate(sound):
        folder = tmp_path / str(number) / "run"
        folder.mkdir(parents=True)
        READERS[reader](file.read_bytes(), folder)


@st.composite
def damaged(draw: st.DrawFn, reader: str) -> bytes:
    """A file of the corpus with a few of its bytes replaced, left out, doubled, or with others put between."""
    data = bytearray(draw(st.sampled_from([file for folder, file in KEPT if folder == reader])).read_bytes())
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 8)))
        other = draw(st.binary(max_size=8) | st.sampled_from([*PIECES, bytes(data[start : start + 200])]))
        data[start:stop] = other
    return bytes(data)


PIECES = [
    b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 30, b'""', b"[]", b"{}", b'"\\u0000"', b"[" * 2_000,
    b'{"a":' * 2_000,
    b"../..", b"\x00" * 8, b"\xff" * 8, b"\x1b[31m", b"*a", b"&a ", b"<<: ", b"\n", b"1.5",
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_files_made_from_the_corpora_are_read_or_refused_with_an_error_of_ours(reader: str) -> None:
    @given(data=damaged(reader))
    @settings(max_examples=60, deadline=None, database=None)
    def some_of_them(data: bytes) -> None:
        read_or_refuse(reader, data)

    some_of_them()


@given(
    lines=st.lists(st.integers(0, 7) | st.tuples(st.integers(0, 7), st.text(max_size=8), st.integers()), max_size=12)
)
@settings(max_examples=100, deadline=None, database=None)
def test_records_in_any_order_and_with_any_value_are_understood_or_refused(lines: list[Any]) -> None:
    known = (CORPORA / "records" / "sound").read_bytes().split(b"\n")
    made = []
    for line in lines:
        index, key, value = line if isinstance(line, tuple) else (line, None, None)
        record = json.loads(known[index % len(known)])
        if key is not None:
            record[sorted(record)[abs(value) % len(record)]] = {key: value}
        made.append(json.dumps(record).encode())
    read_or_refuse("records", b"\n".join(made))
