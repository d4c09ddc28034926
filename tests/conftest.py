"""Shared by all tests: one thread per process, real data if available, the command line and Ray nodes as processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from hypothesis import settings

from sweeper.store.journal import read_journal

# No deadline: how long an example takes depends on the machine, which may be busy.
settings.register_profile("clipsweep", deadline=None)
settings.load_profile("clipsweep")

# Results are compared bit for bit, and with two OpenMP threads a busy machine slows to a crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An empty cache: the user's own must neither influence tests nor be written to by them.
os.environ["CLIPSWEEP_CACHE"] = tempfile.mkdtemp(prefix="clipsweep-test-cache-")
atexit.register(shutil.rmtree, os.environ["CLIPSWEEP_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real PTB and CIFAR-10 files; skips the test if there is none."""
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
        """How many commits a run's journal holds; 0 if there is no journal yet."""
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
        """The readable tables, without the columns that differ between two runs of the same trial."""
        path = self.folder / run
        return {
            "trials": pd.read_parquet(path / "trials.parquet").drop(columns=TIMINGS),
            "metrics": pd.read_parquet(path / "metrics.parquet"),
            "smoothness": pd.read_parquet(path / "measurements" / "directional_smoothness.parquet"),
        }

    def assert_same(self, run: str, reference: str) -> None:
        """Check that the tables of two runs agree row for row, bit for bit."""
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
    """``clipsweep`` in the caller's folder, for fixtures that serve several tests."""
    return Cli


@pytest.fixture
def make_cli(tmp_path: Path) -> Callable[[], Cli]:
    """A fresh folder with ``small.yaml``."""
    return lambda: Cli(tmp_path)


# Clusters of this machine


class Nodes:
    """A cluster of Ray nodes, each started as users start them, that can be killed.

    Args:
        folder: Where Ray keeps its files: a short path, for Unix sockets.
        guarded: Whether it asks for a token.
        loopback: Whether only this machine can reach it.
    """

    def __init__(self, folder: Path, *, guarded: bool, loopback: bool) -> None:
        self.folder = folder
        self.token = secrets.token_hex(32)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if guarded else {"RAY_AUTH_MODE": "disabled"}),
            "RAY_USAGE_STATS_ENABLED": "0",
            # At Ray's default of +15, workers on a busy machine get almost no CPU time.
            "RAY_worker_niceness": "0",
            # How long Ray Client waits for the process that it starts for each client.
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
        }
        # Ray chooses these ports itself: one that is free now may be taken by the time it starts.
        self.options = ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        if loopback:
            self.options.append("--node-ip-address=127.0.0.1")
            # Ray would replace it by another address.
            self.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = self.client = self.job_server = ""

    def start_head(self, *options: str, dashboard: bool = False) -> None:
        """Start the first node and note its address; it takes jobs if it has a dashboard."""
        client = quiet_port()
        options += (f"--include-dashboard={str(dashboard).lower()}", "--dashboard-port=0")
        options += (f"--ray-client-server-port={client}", f"--temp-dir={self.folder}/ray")
        said = self._start("head", "--head", "--port=0", *options)
        port = (self.folder / "ray" / "ray_current_cluster").read_text().rpartition(":")[2]
        self.address, self.client = f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
        if dashboard:
            (self.job_server,) = re.findall(r"RAY_API_SERVER_ADDRESS='(http://[^']+)'", said)

    def add(self, name: str) -> None:
        """Add a node with one CPU."""
        self._start(name, f"--address={self.address}", "--num-cpus=1")

    def kill(self, name: str) -> None:
        """Kill every process of a node at once."""
        process = self.processes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
        process.wait(timeout=30)

    def find(self, name: str, program: str) -> psutil.Process:
        """The process of a node that runs a program."""
        for process in psutil.Process(self.processes[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if Path(process.exe()).name == program:
                    return process
        raise AssertionError(f"{name} runs no {program}")

    def close(self) -> None:
        """Kill all nodes."""
        for name in list(self.processes):
            self.kill(name)

    def _start(self, name: str, *options: str) -> str:
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *self.options, *options]
        with log.open("w") as sink:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=sink, stderr=sink, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while "will now block forever" not in (said := log.read_text()):
            assert self.processes[name].poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        return said


def quiet_port() -> int:
    """A free port outside the ranges that Linux and Ray assign automatically."""
    # Linux assigns ports from 32,768 on, Ray those from 10,002 to 19,999 and from 23,000 to 24,000.
    for port in random.sample(range(24_001, 32_768), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("every port is taken")


@contextlib.contextmanager
def _ray_nodes(*, guarded: bool = True, loopback: bool = False) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="cs-", ignore_cleanup_errors=True) as folder:
        nodes = Nodes(Path(folder), guarded=guarded, loopback=loopback)
        try:
            yield nodes
        finally:
            nodes.close()


@pytest.fixture(scope="session")
def ray_nodes() -> Callable[..., AbstractContextManager[Nodes]]:
    """``with ray_nodes() as nodes``: a cluster without nodes at first; all nodes are killed after the block."""
    return _ray_nodes


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text small enough for models of some units."""
    folder = tmp_path_factory.mktemp("text")
    for split, count in (("train", 25), ("valid", 6), ("test", 2)):
        (folder / f"{split}.txt").write_text("the cat sat on the mat\na dog ran\n" * count)
    return folder
