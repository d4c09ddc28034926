"""The command that a cluster is given for a driver, run by a real shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.cluster.jobs import entrypoint
from sweeper.store.run_dir import RunDir

STRANGE = "a $(touch gone) `touch gone` \"b' %s"


@pytest.fixture
def place(tmp_path: Path) -> tuple[RunDir, Path]:
    run_dir = RunDir(tmp_path / STRANGE)
    run_dir.create()
    folder = tmp_path / "it's here"
    folder.mkdir()
    return run_dir, folder


def program(path: Path, script: str) -> Path:
    """A program of some lines of shell, in the place of a Python."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)


def test_it_runs_clipsweep_in_the_folder_with_the_arguments_as_they_are(place: tuple[RunDir, Path], tmp_path: Path):
    run_dir, folder = place
    (run_dir.staging / "job-1").touch()
    # Tells what it was given; the first call is the one that looks whether clipsweep is there.
    python = program(tmp_path / "python", '[ "$2" = -c ] && exit 0\npwd; echo "$CLIPSWEEP_JOB"; printf "%s\\n" "$@"')
    arguments = ["run", STRANGE, "--out", "x y"]
    done = run(entrypoint("job-1", arguments, run_dir=run_dir, folder=folder, python=str(python)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder), "job-1", "-P", "-m", "sweeper", *arguments]
    assert not list(tmp_path.rglob("gone"))


def test_a_node_that_has_another_folder_of_that_name_says_so(place: tuple[RunDir, Path]):
    run_dir, folder = place
    done = run(entrypoint("job-1", ["run"], run_dir=run_dir, folder=folder, python=sys.executable))
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: {run_dir.path}: is not the same folder on ")
    assert "file system that all nodes share" in done.stderr
    assert not list(folder.parent.rglob("gone"))


def test_a_node_without_clipsweep_says_so(place: tuple[RunDir, Path], tmp_path: Path):
    run_dir, folder = place
    (run_dir.staging / "job-1").touch()
    python = program(tmp_path / "python", "exit 1")
    done = run(entrypoint("job-1", ["run"], run_dir=run_dir, folder=folder, python=str(python)))
    assert done.returncode == 3
    assert f"error: {python} on " in done.stderr
    assert "has no clipsweep" in done.stderr


def test_a_node_without_the_submitters_python_takes_its_own(place: tuple[RunDir, Path], tmp_path: Path):
    run_dir, folder = place
    (run_dir.staging / "job-1").touch()
    command = entrypoint("job-1", ["run"], run_dir=run_dir, folder=folder, python=str(tmp_path / "not there"))
    own = program(tmp_path / "bin" / "python3", '[ "$2" = -c ] && exit 0\necho own')
    found = subprocess.run(
        ["sh", "-c", command], env={"PATH": f"{own.parent}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60
    )
    assert found.stdout == "own\n"
