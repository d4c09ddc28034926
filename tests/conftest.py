"""Shared by all: one thread a process, real data where there is any, and the command line in processes of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sweeper.journal import read_journal

# Results are compared bit for bit, and two OpenMP threads on a busy machine collapse.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nobody's own cache decides what a test sees, or is written to by one; there is nothing in this one.
os.environ["CLIPSWEEP_CACHE"] = tempfile.mkdtemp(prefix="clipsweep-test-cache-")
atexit.register(shutil.rmtree, os.environ["CLIPSWEEP_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real PTB and CIFAR-10 files, where there is one."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("CLIPSWEEP_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data here; CLIPSWEEP_TEST_DATA names a folder with ptb/ and cifar10-subset/")
    return folder


# The command line on a real Ray

TIMINGS = ["attempts", "started_at", "ended_at", "train_s", "estimate_s"]

SPEC = """
name: small
problem: {use: deep_linear, layers: 3, width: 48, samples: 512, batch_size: 128}
update_rule: {learning_rate: 0.01}
train: {steps: 600, log_every: 10, evaluate_every: 200, checkpoint_every: 40}
measure: {every: 20, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.25}]}
sweep:
  grid:
    update_rule.learning_rate: [0.005, 5.0]
    update_rule.clip_norm: [null, 0.25]
  seeds: 2
"""


class Cli:
    """``clipsweep`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}
        (folder / "small.yaml").write_text(SPEC)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "sweeper", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, code: int = 0, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def num_commits(self, run: str) -> int:
        """How many commits a run's journal holds; none where there is no journal yet."""
        journal = self.folder / run / "journal.jsonl"
        if not journal.exists():
            return 0
        return sum(record["type"] == "committed" for record in read_journal(journal)[0])

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
        """Wait until something holds while a command runs, two minutes at most."""
        deadline = time.monotonic() + 120
        while not condition():
            assert process.poll() is None, f"the sweep ended before {what}: {process.communicate()}"
            assert time.monotonic() < deadline, f"no {what} within two minutes"
            time.sleep(0.02)

    def tables(self, run: str) -> dict[str, pd.DataFrame]:
        """The tables as anybody reads them, without what differs between two runs of the same trial."""
        path = self.folder / run
        return {
            "trials": pd.read_parquet(path / "trials.parquet").drop(columns=TIMINGS),
            "metrics": pd.read_parquet(path / "metrics.parquet"),
            "smoothness": pd.read_parquet(path / "measurements" / "directional_smoothness.parquet"),
        }

    def assert_same(self, run: str, reference: str) -> None:
        """The tables of two runs agree row for row, bit for bit."""
        left, right = self.tables(run), self.tables(reference)
        for name in left:
            pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=f"{run}: {name}")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """One uninterrupted run, ``runs/small``, that tests only read."""
    cli = Cli(tmp_path_factory.mktemp("finished"))
    cli.first = cli("run", "small.yaml")  # type: ignore[attr-defined]
    return cli


@pytest.fixture(scope="session")
def cli_in() -> Callable[[Path], Cli]:
    """``clipsweep`` in a folder of the caller's, for fixtures that serve several tests."""
    return Cli


@pytest.fixture
def make_cli(tmp_path: Path) -> Callable[[], Cli]:
    """A fresh folder with ``small.yaml``."""
    return lambda: Cli(tmp_path)
