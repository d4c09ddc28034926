"""Disks that are full, read-only or in the way: said before Ray starts where it can be known, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.driver.session import disk_errors
from sweeper.errors import RunDirectoryError
from sweeper.run import run_sweep
from sweeper.spec import loads_spec
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

SPEC = """
name: small
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 60, log_every: 1, evaluate_every: 10, checkpoint_every: 3}
measure: {every: 4, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {seeds: 3}
"""

InlineRun = Callable[..., Any]


def fill_up(ballast: Path) -> None:
    """Write until nothing more fits, to the last byte."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    free = os.statvfs(ballast.parent)
    assert free.f_bavail == 0


@pytest.fixture(scope="module")
def undisturbed(module_inline_run: InlineRun) -> Path:
    """The run directory of the sweep on a sound disk, which tests only read."""
    path: Path = module_inline_run(SPEC).run_dir.path
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a megabyte."""
    folder = tmp_path / "here"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_is_really_full_what_was_published_stays_and_the_rest_follows_when_there_is_room(
    inline_run: InlineRun, small_disk: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    full = inline_run(SPEC, name="here")
    ballast = small_disk / "ballast"

    def fill() -> None:
        if full.pools.polls == 40:
            fill_up(ballast)

    full.pools.before_poll = fill
    with pytest.raises(RunDirectoryError, match="No space left on device; what was committed is safe: fix the disk"):
        with disk_errors(full.run_dir):
            full()
    state = Run(full.run_dir.path).state
    assert any(trial.segments for trial in state.trials.values())
    assert all((full.run_dir.parts / part.file).exists() for part in state.parts)
    ballast.unlink()
    resumed = inline_run(SPEC, name="here")()
    assert list(resumed.run_dir.staging.iterdir()) == []
    for table in ("metrics.parquet", "measurements/directional_smoothness.parquet"):
        left, right = (pd.read_parquet(path / table) for path in (resumed.run_dir.path, undisturbed))
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=table)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("what", ["checkpoints", "parts"])
def test_what_a_disk_does_to_a_trainer_or_to_the_driver_is_blamed_on_no_trial(
    inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch, number: int, what: str, undisturbed: Path
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    run = inline_run(SPEC)
    real = RunDir.publish

    def publish(run_dir: RunDir, target: Path, write: Any) -> None:
        if what in target.parts and run.pools.polls > 40:
            raise OSError(number, os.strerror(number), str(target))
        real(run_dir, target, write)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "publish", publish)
        with pytest.raises(RunDirectoryError, match=f"{what}.*: {os.strerror(number)}; what was committed is safe"):
            with disk_errors(run.run_dir):
                run(max_attempts=3)
    state = Run(run.run_dir.path).state
    assert any(trial.segments for trial in state.trials.values())
    assert not any(trial.failures for trial in state.trials.values())
    assert list(run.run_dir.staging.iterdir()) == []
    resumed = inline_run(SPEC)()
    for table in ("metrics.parquet", "measurements/directional_smoothness.parquet"):
        left, right = (pd.read_parquet(path / table) for path in (resumed.run_dir.path, undisturbed))
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=table)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_is_an_error_before_ray_starts(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, new_listener: Callable[[], Any]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("sweeper.run._drive", lambda *arguments, **options: pytest.fail("workers were started"))
    monkeypatch.setattr(os, "mkdir", refuse)
    match = f"cannot be written: {os.strerror(number)}; choose another directory with --out"
    with pytest.raises(RunDirectoryError, match=match):
        run_sweep(loads_spec(SPEC, folder=tmp_path), out=tmp_path / "run", listener=new_listener())


def test_a_disk_that_is_full_when_a_run_is_opened_again_is_an_error_before_ray_starts(
    inline_run: InlineRun, small_disk: Path, monkeypatch: pytest.MonkeyPatch, new_listener: Callable[[], Any]
) -> None:
    run = inline_run(SPEC, name="here")
    run.run_dir.create()
    fill_up(small_disk / "ballast")
    monkeypatch.setattr("sweeper.run._drive", lambda *arguments, **options: pytest.fail("workers were started"))
    with pytest.raises(RunDirectoryError, match="No space left on device; what was committed is safe"):
        run_sweep(run.sweep, out=run.run_dir.path, listener=new_listener())
