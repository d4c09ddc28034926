"""Kept snapshots measured again on a real Ray, killed in between; and the null test on the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.store.journal import read_journal

pytestmark = pytest.mark.ray

Cli = Any


def remeasured(run: Path) -> int:
    """How many commits of measurements that were made again the journal holds."""
    return sum(record["type"] == "remeasured" for record in read_journal(run / "journal.jsonl")[0])


def test_a_killed_estimate_goes_on_where_it_was(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    run = cli.folder / "runs" / "small"
    values = {
        "measure.keep": "true",
        "measure.every": "5",
        "train.steps": "1000",
        "sweep.grid.update_rule.learning_rate": "[0.005]",
        "sweep.grid.update_rule.clip_norm": "[0.25]",
    }
    sweep = ["run", "small.yaml", *(word for key, value in values.items() for word in ("--set", f"{key}={value}"))]
    cli(*sweep)
    command = ["estimate", "runs/small", "--estimator", "hessian_spectral_norm"]
    process = cli.start(*command)
    deadline = time.monotonic() + 120
    while remeasured(run) < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    done = sum(len(r["snapshots"]) for r in read_journal(run / "journal.jsonl")[0] if r["type"] == "remeasured")
    assert 0 < done < 400
    resumed = cli(*command)
    assert f"400 snapshots kept: {done} measured, {400 - done} to measure" in resumed.stderr
    assert resumed.stdout.strip() == "runs/small/measurements/hessian_spectral_norm.parquet"
    rows = pd.read_parquet(run / "measurements" / "hessian_spectral_norm.parquet")
    assert len(rows) == 400
    assert not rows.duplicated(["trial_id", "step"]).any()
    assert rows["spectral_norm"].gt(0).all()
    assert "0 to measure" in cli(*command).stderr
    assert "2 done" in cli(*sweep).stderr, "the sweep itself is as it was"


def test_a_run_that_kept_nothing_says_how_to_keep(finished: Cli) -> None:
    refused = finished("estimate", "runs/small", "--estimator", "directional_curvature", code=2)
    assert "no snapshots were kept" in refused.stderr
    assert "keep: true" in refused.stderr


def test_the_null_test_passes_on_the_command_line(finished: Cli) -> None:
    assert "passed  deep_linear" in finished("null-test", "small.yaml").stdout
    document = json.loads(finished("null-test", "small.yaml", "--json").stdout)
    assert document["passed"]
    assert document["problems"][0]["again"] == 0
