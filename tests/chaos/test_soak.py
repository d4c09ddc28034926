"""Five hundred trials under a killer that strikes a random process every few seconds until the sweep is done."""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow]

Cli = Any

SPEC = """
name: soak
problem: {use: deep_linear, layers: 3, width: 24, samples: 256, batch_size: 64}
train: {steps: 120, log_every: 10, evaluate_every: 60, checkpoint_every: 40}
measure: {every: 60, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.25}]}
resources: {max_attempts: 100}
sweep:
  grid:
    update_rule.learning_rate: [0.001, 0.002, 0.005, 0.01, 5.0]
    update_rule.clip_norm: [null, 0.25]
  seeds: 50
"""

# A trainer or an estimator is what fails most often; the driver and Ray's own processes take everything with them.
VICTIMS = {"driver": 1, "trainer": 4, "estimator": 4, "raylet": 1, "gcs_server": 1}


def processes_of(driver: subprocess.Popen[str]) -> dict[str, list[psutil.Process]]:
    """The processes of a sweep that may be struck, by kind."""
    found: dict[str, list[psutil.Process]] = {kind: [] for kind in VICTIMS}
    with contextlib.suppress(psutil.NoSuchProcess):
        found["driver"].append(psutil.Process(driver.pid))
        for process in psutil.Process(driver.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Ray names its workers by what they run.
                title = " ".join(process.cmdline()[:1])
                kind = {"ray::TrainerActor": "trainer", "ray::EstimatorActor": "estimator"}.get(
                    title.split(".")[0], process.name()
                )
                if kind in found:
                    found[kind].append(process)
    return {kind: some for kind, some in found.items() if some}


def test_five_hundred_trials_under_a_killer_end_with_the_tables_of_a_quiet_run(
    make_cli: Callable[[], Cli], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = make_cli()
    quiet = type(cli)(tmp_path_factory.mktemp("quiet"))
    for one in (cli, quiet):
        (one.folder / "soak.yaml").write_text(SPEC)
    started = time.monotonic()
    quiet("run", "soak.yaml", timeout_s=600)
    quiet_s = time.monotonic() - started

    run = cli.folder / "runs" / "soak"
    fate = random.Random(5)
    kills: Counter[str] = Counter()
    recoveries: list[float] = []
    starts = 0
    started = time.monotonic()
    while True:
        starts += 1
        process = cli.start("run", "soak.yaml")
        # Not before it has done something: whoever is killed at every start gets nowhere.
        arrived = _time_to_commit(cli, cli.num_commits("runs/soak"), process, until=time.monotonic() + 120)
        strike_at = arrived + fate.uniform(0, 2)
        while process.poll() is None:
            time.sleep(0.05)
            if time.monotonic() < strike_at:
                continue
            strike_at = time.monotonic() + fate.uniform(1, 4)
            living = processes_of(process)
            if not living:
                continue
            kind = fate.choices(list(living), [VICTIMS[kind] for kind in living])[0]
            before, struck = cli.num_commits("runs/soak"), time.monotonic()
            with contextlib.suppress(psutil.NoSuchProcess):
                fate.choice(living[kind]).kill()
                kills[kind] += 1
            if process.poll() is None:
                recoveries.append(_time_to_commit(cli, before, process, until=strike_at) - struck)
        _, err = process.communicate()
        assert "Traceback" not in err
        assert "internal error" not in err
        if process.returncode == 0:
            break
        # The driver itself, or Ray under it: the same command goes on.
        assert process.returncode in {-9, 3}, err
        assert starts < 200
    took = time.monotonic() - started

    for name in ("trials", "metrics", "measurements/directional_smoothness"):
        ours, theirs = (
            pd.read_parquet(folder / "runs" / "soak" / f"{name}.parquet") for folder in (cli.folder, quiet.folder)
        )
        timings = [
            column for column in ours if column in {"attempts", "started_at", "ended_at", "train_s", "estimate_s"}
        ]
        pd.testing.assert_frame_equal(ours.drop(columns=timings), theirs.drop(columns=timings), check_exact=True)
    attempts = pd.read_parquet(run / "trials.parquet")["attempts"]
    assert kills.total() >= 10
    within = sorted(seconds for seconds in recoveries if seconds < 1e9)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{kills.total()} kills {dict(kills)} in {took:.0f} s (undisturbed {quiet_s:.0f} s), {starts} starts; "
            f"attempts beyond the first: {attempts.sum() - len(attempts)}; next commit after "
            f"{statistics.median(within):.1f} s (median of {len(within)}), worst {within[-1]:.1f} s"
        )


def _time_to_commit(cli: Cli, before: int, process: subprocess.Popen[str], *, until: float) -> float:
    """When the next commit came; infinity where the next blow or the end of the process was sooner."""
    while time.monotonic() < until and process.poll() is None:
        if cli.num_commits("runs/soak") > before:
            return time.monotonic()
        time.sleep(0.05)
    return float("inf")
