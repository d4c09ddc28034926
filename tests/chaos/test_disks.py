"""Real file systems that fill up, run out of inodes or turn read-only under a running sweep."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.tables.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

Cli = Any


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 16 megabytes and 2,000 files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=16m,nr_inodes=2000,mode=755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_space(disk: Path) -> None:
    """Not quite to the last byte: a line of the journal still fits, a checkpoint does not."""
    descriptor = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.ftruncate(descriptor, os.fstat(descriptor).st_size - 8192)
    os.close(descriptor)


def take_inodes(disk: Path) -> None:
    (disk / "many").mkdir()
    with contextlib.suppress(OSError):
        for number in range(2000):
            (disk / "many" / str(number)).touch()
    assert os.statvfs(disk).f_favail == 0


def turn_read_only(disk: Path) -> None:
    # Like a kernel that has met a bad block: whoever writes at this moment must not hold it up.
    for _ in range(200):
        if subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False).returncode == 0:
            return
    pytest.skip("there was always a file open for writing")


def repair(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    (disk / "ballast").unlink(missing_ok=True)
    for path in disk.glob("many/*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(fill_space, "No space left on device", marks=pytest.mark.slow),
        (take_inodes, "it has free space, but no free inodes, so it cannot hold more files"),
    ],
    ids=["space", "inodes"],
)
def test_a_disk_that_fills_up_ends_the_sweep_blames_no_trial_and_the_next_run_ends_with_the_same_tables(
    finished: Cli, make_cli: Callable[[], Cli], disk: Path, spoil: Callable[[Path], None], said: str
) -> None:
    cli = make_cli()
    run = disk / "run"
    process = cli.start("run", "small.yaml", "--out", str(run))
    cli.wait_for(lambda: cli.num_commits(str(run)) >= 1, process, "a commit")
    spoil(disk)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert said in err
    assert "what was committed is safe: fix the disk and run the same command to continue" in err
    assert "Traceback" not in err
    assert list((run / "staging").iterdir()) == []
    state = Run(run).state
    assert state.parts
    for part in state.parts:
        assert len(pd.read_parquet(run / "parts" / part.file)) == part.rows
    assert not any(trial.failures for trial in state.trials.values())
    repair(disk)
    cli("run", "small.yaml", "--out", str(run))
    cli.assert_same(str(run), str(finished.folder / "runs" / "small"))


def test_a_disk_that_is_read_only_or_has_no_inode_is_an_error_before_ray_starts(
    make_cli: Callable[[], Cli], disk: Path
) -> None:
    cli = make_cli()
    # Were Ray started, it would find no place for its own files.
    cli.environment["TMPDIR"] = "/nowhere"
    run = str(disk / "run")
    take_inodes(disk)
    refused = cli("run", "small.yaml", "--out", run, code=2)
    assert f"{run}: cannot be written: No space left on device" in refused.stderr
    repair(disk)
    turn_read_only(disk)
    refused = cli("run", "small.yaml", "--out", run, code=2)
    assert f"{run}: cannot be written: Read-only file system; choose another directory with --out" in refused.stderr
    assert list(disk.glob("run/*")) == []
