"""Real processes, really killed: the tables end up those of an undisturbed run, row for row and bit for bit."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from sweeper.store.journal import read_journal

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

Cli = Any

WORKER = re.compile(r"(trainer|estimator) (\d+) is up: WorkerFacts\(host='[^']*', pid=(\d+)")


def hold_with_a_trial_under_way(run: Path, driver: subprocess.Popen[str]) -> str:
    """Freeze a driver at a moment when a trial has a committed segment and is to have more; returns the trial."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        driver.send_signal(signal.SIGSTOP)
        commits = [r for r in read_journal(run / "journal.jsonl")[0] if r["type"] == "committed"]
        outcomes = {segment["trial"]: segment["outcome"] for record in commits for segment in record["segments"]}
        for trial, outcome in outcomes.items():
            if outcome is None:
                return trial
        driver.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    raise AssertionError(f"no trial under way: {driver.poll()}")


def each(processes: list[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    """Do something to those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            do(process)


def workers(run: Path) -> dict[str, list[int]]:
    """The pids of the workers that have started, by kind, in the order in which they did."""
    log = run / "logs" / "driver.log"
    found: dict[str, list[int]] = {"trainer": [], "estimator": []}
    for kind, _, pid in WORKER.findall(log.read_text() if log.exists() else ""):
        found[kind].append(int(pid))
    return found


def test_a_driver_killed_again_and_again_leaves_no_gap_and_no_duplicate(
    finished: Cli, make_cli: Callable[[], Cli]
) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    moments = random.Random(7)
    for kill in range(3):
        process = cli.start("run", "small.yaml")
        before = cli.num_commits("runs/small")
        # The first kill strikes before anything is committed, the others somewhere between commits.
        wanted = before + (0 if kill == 0 else 1)
        up = len(workers(run)["trainer"])
        cli.wait_for(lambda up=up: len(workers(run)["trainer"]) > up, process, "a trainer")
        cli.wait_for(lambda wanted=wanted: cli.num_commits("runs/small") >= wanted, process, "a commit")
        time.sleep(moments.uniform(0, 0.8))
        process.kill()
        process.communicate()
    resumed = cli("run", "small.yaml")
    assert "6 done, 2 diverged" in resumed.stderr
    cli.assert_same("runs/small", str(finished.folder / "runs" / "small"))
    metrics = pd.read_parquet(run / "metrics.parquet")
    assert not metrics.duplicated(["trial_id", "step"]).any()


@pytest.mark.slow
def test_a_driver_killed_at_twenty_random_moments_ends_with_the_tables_of_a_quiet_run(
    finished: Cli, make_cli: Callable[[], Cli]
) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    moments = random.Random(11)
    kills = 0
    while kills < 20:
        process = cli.start("run", "small.yaml")
        # From before the lock is taken to well into training.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moments.uniform(0.3, 12.0))
        if process.poll() is not None:
            # It was done before the blow fell: what is left to strike at is a fresh run.
            assert process.returncode == 0
            cli.assert_same("runs/small", str(finished.folder / "runs" / "small"))
            shutil.rmtree(run)
            continue
        process.kill()
        process.communicate()
        kills += 1
    cli("run", "small.yaml")
    cli.assert_same("runs/small", str(finished.folder / "runs" / "small"))
    assert not pd.read_parquet(run / "metrics.parquet").duplicated(["trial_id", "step"]).any()


def test_killed_trainers_and_estimators_are_replaced_and_their_trials_resumed(
    finished: Cli, make_cli: Callable[[], Cli]
) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    process = cli.start("run", "small.yaml")
    cli.wait_for(lambda: cli.num_commits("runs/small") >= 1, process, "a commit")
    # The second trainer is asked for after an estimator; until it is up, the first must not do everything.
    os.kill(workers(run)["trainer"][0], signal.SIGSTOP)
    cli.wait_for(lambda: len(workers(run)["trainer"]) == 2, process, "the second trainer")
    victims = workers(run)
    os.kill(victims["trainer"][0], signal.SIGKILL)
    os.kill(victims["estimator"][0], signal.SIGKILL)
    # The other trainer waits, or it would have done everything before the new one is up.
    os.kill(victims["trainer"][1], signal.SIGSTOP)
    cli.wait_for(lambda: len(workers(run)["trainer"]) == 3, process, "another trainer")
    os.kill(victims["trainer"][1], signal.SIGCONT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert re.search(r"attempt 1 .*; it will be tried again", err), "the trial's line tells the death of its trainer"
    assert len(workers(run)["trainer"]) == 3
    cli.assert_same("runs/small", str(finished.folder / "runs" / "small"))
    assert pd.read_parquet(run / "trials.parquet")["attempts"].max() == 2
    assert out == ""


@pytest.mark.slow
def test_a_trainer_that_outlives_its_driver_is_fenced_off(finished: Cli, make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    first = cli.start("run", "small.yaml")
    cli.wait_for(lambda: cli.num_commits("runs/small") >= 1, first, "a commit")
    # All of its Ray is frozen, so that nothing notices the driver's death: neither the raylet nor the trainers.
    left = psutil.Process(first.pid).children(recursive=True)
    each(left, psutil.Process.suspend)
    first.kill()
    try:
        second = cli.start("run", "small.yaml")
        before = cli.num_commits("runs/small")
        cli.wait_for(lambda: cli.num_commits("runs/small") > before, second, "a commit of the second driver")
        # What a trainer of the first driver would write now, into a trial that the second has under way.
        trial = hold_with_a_trial_under_way(run, second)
        stale = run / "checkpoints" / trial / "step-0000000599-e1-a1.safetensors"
        stale.parent.mkdir(exist_ok=True)
        stale.write_bytes(b"not of this epoch")
        second.send_signal(signal.SIGCONT)
        each(left, psutil.Process.resume)
        _, err = second.communicate(timeout=240)
        assert second.returncode == 0, err
    finally:
        each(left, psutil.Process.kill)
        first.communicate()
    assert not stale.exists()
    assert re.search(
        r"-e1-a\d+\.safetensors: stale, written under driver epoch 1; the epoch is now 2: removed",
        (run / "logs/driver.log").read_text(),
    )
    cli.assert_same("runs/small", str(finished.folder / "runs" / "small"))
    assert not pd.read_parquet(run / "metrics.parquet").duplicated(["trial_id", "step"]).any()


def test_an_interrupt_checkpoints_says_how_to_go_on_and_a_second_one_leaves_at_once(
    finished: Cli, make_cli: Callable[[], Cli]
) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    process = cli.start("run", "small.yaml")
    cli.wait_for(lambda: cli.num_commits("runs/small") >= 1, process, "a commit")
    # As a terminal does it: to every process of the group at once.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run `clipsweep run small.yaml` again to continue" in err
    assert "Traceback" not in err
    assert pd.read_parquet(run / "trials.parquet")["committed_step"].max() > 0

    process = cli.start("run", "small.yaml")
    up = len(workers(run)["trainer"])
    cli.wait_for(lambda: len(workers(run)["trainer"]) > up, process, "a trainer")
    # Whichever they are.
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err

    cli("run", "small.yaml")
    cli.assert_same("runs/small", str(finished.folder / "runs" / "small"))


SLOW = """
import os
import time
import torch
from torch import nn
from trainers.problem import Problem

def slow(*, seed, device):
    def loss(model, batch, carry):
        time.sleep(0 if batch < 5 else float(os.environ["STEP_S"]))
        return (model.weight - 1.0).square().mean(), carry
    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""

SLOW_SPEC = """
problem: {use: slow_steps:slow}
update_rule: {learning_rate: 0.1}
train: {steps: 9, checkpoint_every: 2}
measure: {every: 2, estimators: [{use: directional_smoothness, delta: 0.5}]}
resources: {trainers: {count: 1}, estimators: {count: 1}}
"""


def write_slow(cli: Cli) -> None:
    """A sweep ``slow.yaml`` whose steps take ``$STEP_S`` seconds from the sixth on."""
    (cli.folder / "slow_steps.py").write_text(SLOW)
    (cli.folder / "slow.yaml").write_text(SLOW_SPEC)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, cli_in: Callable[[Path], Cli]) -> Path:
    """The run of ``slow.yaml``, undisturbed and with quick steps."""
    cli = cli_in(tmp_path_factory.mktemp("quick"))
    write_slow(cli)
    cli.environment["STEP_S"] = "0"
    cli("run", "slow.yaml")
    return Path(cli.folder / "runs" / "slow")


def runs(process: psutil.Process) -> bool:
    """Whether a process is there and works; in a container nobody may bury the dead."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def assert_gone(processes: list[psutil.Process], *, within_s: float) -> None:
    """Nothing of a driver's offspring is left, some seconds after it has gone."""
    deadline = time.monotonic() + within_s
    while any(map(runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [process for process in processes if runs(process)]
    each(left, psutil.Process.kill)
    assert not left, "left behind"


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        pytest.param(signal.SIGINT, "group", id="SIGINT to the group", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "all", id="SIGTERM to all"),
        pytest.param(signal.SIGUSR1, "all", id="SIGUSR1 to all", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "driver", id="SIGUSR1 to the driver", marks=pytest.mark.slow),
    ],
)
def test_a_signal_lets_trials_finish_their_step_and_checkpoint_within_the_grace_of_a_batch_system(
    quick: Path, make_cli: Callable[[], Cli], number: signal.Signals, whom: str
) -> None:
    cli = make_cli()
    write_slow(cli)
    cli.environment["STEP_S"] = "3.5"
    run = cli.folder / "runs" / "slow"
    process = cli.start("run", "slow.yaml")
    cli.wait_for(lambda: cli.num_commits("runs/slow") >= 1, process, "a commit")
    offspring = psutil.Process(process.pid).children(recursive=True)
    # The step that is going on takes longer than the 2 s that trainers outlive a driver that is gone.
    sent = time.monotonic()
    match whom:
        case "driver":  # as `--signal=B:USR1@120` of Slurm does
            process.send_signal(number)
        case "group":  # as a terminal does
            os.killpg(process.pid, number)
        case "all":  # as `scancel` and systemd do, who go by the control group
            each([psutil.Process(process.pid), *offspring], lambda one: one.send_signal(number))
    time.sleep(1)
    assert all(map(runs, offspring)), "Ray's processes are to outlive the signal"
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 30, "what Slurm gives by default between SIGTERM and SIGKILL"
    assert process.returncode == 130, err
    # Nothing is left for the SIGKILL that follows.
    assert_gone(offspring, within_s=0)
    stopped = re.search(r"stopped at step (\d), checkpointed", err)
    assert stopped is not None, err
    assert "again to continue" in err
    for trouble in ("died", "lost", "Traceback"):
        assert trouble not in err.replace("0 failed or lost", "")
    assert pd.read_parquet(run / "trials.parquet")["committed_step"].tolist() == [int(stopped[1])]
    cli.environment["STEP_S"] = "0"
    cli("run", "slow.yaml")
    cli.assert_same("runs/slow", str(quick))


@pytest.mark.parametrize(
    "ending",
    [
        "a second SIGINT",
        pytest.param("a second SIGTERM to all", marks=pytest.mark.slow),
        pytest.param("SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_a_driver_that_is_ended_in_the_middle_of_a_step_damages_nothing_and_leaves_nothing_behind(
    quick: Path, make_cli: Callable[[], Cli], ending: str
) -> None:
    cli = make_cli()
    write_slow(cli)
    cli.environment["STEP_S"] = "60"
    process = cli.start("run", "slow.yaml")
    cli.wait_for(lambda: cli.num_commits("runs/slow") >= 1, process, "a commit")
    driver = psutil.Process(process.pid)
    offspring = driver.children(recursive=True)
    assert len(offspring) > 5
    number = signal.SIGTERM if "SIGTERM" in ending else signal.SIGINT
    if ending == "SIGKILL":
        process.kill()
    else:
        for _ in range(2):
            each([driver, *offspring] if "to all" in ending else [driver], lambda one: one.send_signal(number))
            time.sleep(1)
    # Long before the step that is going on would end.
    _, err = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if ending == "SIGKILL" else 130), err
    assert "Traceback" not in err
    if ending == "SIGKILL":
        # Ray notices by itself; its agents, which hold no trial, only when they have sought its head for a minute.
        workers_of = [one for pids in workers(cli.folder / "runs" / "slow").values() for one in pids]
        assert_gone([one for one in offspring if one.pid in workers_of], within_s=20)
    assert_gone(offspring, within_s=120 if ending == "SIGKILL" else 0)
    cli.environment["STEP_S"] = "0"
    cli("run", "slow.yaml")
    cli.assert_same("runs/slow", str(quick))


def test_a_second_driver_is_refused_while_the_first_runs(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    process = cli.start("run", "small.yaml")
    try:
        cli.wait_for(lambda: (run / "driver.json").exists(), process, "a driver")
        refused = cli("run", "small.yaml", code=2)
        assert f"pid {process.pid} on" in refused.stderr
        assert "is running this sweep" in refused.stderr
        assert "running (pid" in cli("status", "runs/small").stdout
    finally:
        process.kill()
        process.communicate()
