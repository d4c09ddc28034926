"""Nodes of a real cluster that join, die and come back, and a head that is gone."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow]

Cli = Any
Nodes = Any

LONGER = ("--set", "train.steps=1600", "--set", "train.checkpoint_every=200", "--set", "measure.every=100")


@pytest.fixture
def nodes(ray_nodes: Callable[..., Any]) -> Iterator[Nodes]:
    """A cluster whose head has no CPU."""
    with ray_nodes() as cluster:
        cluster.start_head("--num-cpus=0")
        yield cluster


@pytest.fixture
def joined(nodes: Nodes, make_cli: Callable[[], Cli]) -> Cli:
    """The command line, with the cluster's token."""
    cli = make_cli()
    cli.environment |= {"RAY_AUTH_TOKEN": nodes.token}
    return cli


@pytest.fixture(scope="module")
def quiet(finished: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A longer sweep undisturbed, on this machine alone."""
    cli = type(finished)(tmp_path_factory.mktemp("quiet"))
    cli("run", "small.yaml", *LONGER)
    return cli


def log_of(run: Path) -> str:
    path = run / "logs" / "driver.log"
    return path.read_text() if path.exists() else ""


def trainer_pid(run: Path) -> int:
    """The process of the only trainer that has started."""
    (pid,) = re.findall(r"trainer 0 is up: .*pid=(\d+)", log_of(run))
    return int(pid)


def trainers_up(run: Path) -> int:
    return len(re.findall(r"trainer \d+ is up", log_of(run)))


def test_pools_grow_onto_a_node_that_joins_and_go_on_when_another_is_killed(
    nodes: Nodes, joined: Cli, quiet: Cli
) -> None:
    run = joined.folder / "runs" / "small"
    nodes.add("first")
    process = joined.start("run", "small.yaml", *LONGER, "--address", nodes.address)
    joined.wait_for(lambda: joined.num_commits("runs/small") >= 1, process, "a commit")
    pid = trainer_pid(run)
    # The trainer waits meanwhile, or it would be done with everything before a node is up.
    os.kill(pid, signal.SIGSTOP)
    nodes.add("second")
    joined.wait_for(lambda: trainers_up(run) == 2, process, "a trainer on the second node")
    os.kill(pid, signal.SIGCONT)
    assert "now has room for 2 trainers and 2 estimators" in log_of(run)
    before = joined.num_commits("runs/small")
    joined.wait_for(lambda: joined.num_commits("runs/small") > before, process, "another commit")
    nodes.kill("first")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    # Told by the line of its trial, where one was under way.
    assert re.search(r"trainer 0 died|attempt 1 .*; it will be tried again", err)
    assert "Traceback" not in err
    joined.assert_same("runs/small", str(quiet.folder / "runs" / "small"))
    assert not pd.read_parquet(run / "metrics.parquet").duplicated(["trial_id", "step"]).any()


def test_when_the_last_node_is_gone_the_sweep_ends_with_how_to_go_on_and_goes_on_when_there_is_one(
    nodes: Nodes, joined: Cli, quiet: Cli
) -> None:
    nodes.add("only")
    options = (*LONGER, "--address", nodes.address, "--set", "cluster.patience_s=5")
    process = joined.start("run", "small.yaml", *options)
    joined.wait_for(lambda: joined.num_commits("runs/small") >= 1, process, "a commit")
    # The raylet alone, as when a node's daemon crashes: what it started must go with it.
    nodes.find("only", "raylet").kill()
    _, err = process.communicate(timeout=180)
    assert process.returncode == 3, err
    assert "run the same command to continue" in err
    assert "Traceback" not in err
    nodes.kill("only")
    nodes.add("other")
    resumed = joined("run", "small.yaml", *options)
    assert "6 done, 2 diverged" in resumed.stderr
    joined.assert_same("runs/small", str(quiet.folder / "runs" / "small"))


def test_when_the_clusters_head_dies_the_sweep_ends_with_how_to_go_on_and_never_hangs(
    nodes: Nodes, joined: Cli, quiet: Cli
) -> None:
    nodes.add("only")
    process = joined.start("run", "small.yaml", *LONGER, "--address", nodes.address)
    joined.wait_for(lambda: joined.num_commits("runs/small") >= 1, process, "a commit")
    # The trainer waits, or a quick machine would be done before the silence is long enough.
    os.kill(trainer_pid(joined.folder / "runs" / "small"), signal.SIGSTOP)
    nodes.find("head", "gcs_server").send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 3, err
    assert "run the same command to continue" in err
    assert "Traceback" not in err
    # Anywhere that there is a Ray, here too.
    joined("run", "small.yaml", *LONGER)
    joined.assert_same("runs/small", str(quiet.folder / "runs" / "small"))
