"""A newcomer's commands, on a real Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper import Run

pytestmark = pytest.mark.ray

Cli = Any


def test_a_sweep_ends_with_its_tables_and_says_where_they_are(finished: Cli) -> None:
    assert finished.first.stdout == "", "data goes to stdout, and a run prints none"
    assert "6 done, 2 diverged" in finished.first.stderr
    assert "clipsweep report runs/small" in finished.first.stderr
    for noise in ("raylet", "Token authentication", "Warning", "Traceback", "Started a local Ray"):
        assert noise not in finished.first.stderr
    trials = pd.read_parquet(finished.folder / "runs" / "small" / "trials.parquet")
    assert set(trials["status"]) == {"done", "diverged"}
    assert (trials["train_s"] > 0).all()
    telemetry = pd.read_parquet(finished.folder / "runs" / "small" / "telemetry.parquet")
    assert telemetry["pid"].nunique() == 2, "two trainers, used again for every trial"


def test_a_finished_run_does_nothing_again(finished: Cli) -> None:
    before = (finished.folder / "runs" / "small" / "metrics.parquet").read_bytes()
    again = finished("run", "small.yaml")
    assert "8 trials: 0 new, 0 paused, 8 done, 0 failed" in again.stderr
    assert "trainers and" not in again.stderr, "Ray is not even started"
    assert (finished.folder / "runs" / "small" / "metrics.parquet").read_bytes() == before


def test_the_report_answers_in_every_format(finished: Cli) -> None:
    table = finished("report", "runs/small").stdout
    assert "best sgd" in table
    assert re.search(r"sgd \+ clip_norm (against|is better than|is worse than) sgd\b.* in best valid loss", table)
    document = json.loads(finished("report", "runs/small", "--format", "json").stdout)
    assert sum(cell["seeds"] for cell in document["cells"]) == 8
    assert finished("report", "runs/small", "--format", "csv").stdout.startswith("learning_rate,clip_norm,arm")
    missing = finished("report", "runs/small", "--by", "colour", code=2)
    assert "no column 'colour'; known: learning_rate, clip_norm" in missing.stderr
    assert missing.stdout == ""


def test_status_ls_and_logs_read_the_run_without_ray(finished: Cli) -> None:
    assert "finished, 100 %" in finished("status", "runs/small").stdout
    document = json.loads(finished("status", "runs/small", "--json").stdout)
    assert document["counts"] == {"done": 6, "diverged": 2}
    assert "runs/small: 6 done, 2 diverged" in finished("ls").stdout
    trial = document["trial_rows"][0]["trial_id"]
    assert "steps 0 to 40" in finished("logs", "runs/small", trial[:6]).stdout
    assert "driver starts" in finished("logs", "runs/small").stdout
    assert "'zzz' matches no trial of this run" in finished("logs", "runs/small", "zzz", code=2).stderr


def test_plots_are_written_where_they_are_said_to_be(finished: Cli) -> None:
    for kind in ("smoothness", "loss"):
        file = finished("plot", "runs/small", kind).stdout.strip()
        assert (finished.folder / file).read_bytes().startswith(b"\x89PNG")


def test_pandas_sees_the_run_through_run_as_through_its_files(finished: Cli) -> None:
    run = Run(finished.folder / "runs" / "small")
    assert len(run.trials) == 8
    assert set(run.measurements("directional_smoothness")["trial_id"]) == set(run.trials["trial_id"])
    pd.testing.assert_frame_equal(run.metrics, pd.read_parquet(run.path / "metrics.parquet"))


def test_a_changed_measure_section_is_explained_before_anything_runs(finished: Cli) -> None:
    changed = finished("run", "small.yaml", "--set", "measure.every=7", code=2)
    assert "what is measured changed" in changed.stderr
    assert "--new-measurement" in changed.stderr


def test_a_new_measurement_is_kept_apart_and_trains_nothing_again(finished: Cli, make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    shutil.copytree(finished.folder / "runs", cli.folder / "runs")
    before = len(cli.tables("runs/small")["smoothness"])
    grown = ["small.yaml", "--set", "measure.every=50", "--set", "sweep.seeds=3", "--new-measurement"]
    assert "4 new, 0 paused, 8 done" in cli("run", *grown).stderr
    rows = cli.tables("runs/small")["smoothness"]
    assert rows["measurement_id"].nunique() == 2
    counts = rows.groupby("measurement_id").size()
    assert sorted(counts)[-1] == before
    assert "measured under several settings" in cli("report", "runs/small").stdout


def test_plan_tells_what_is_done_and_what_is_new(finished: Cli) -> None:
    grown = finished("plan", "small.yaml", "--set", "sweep.seeds=3")
    assert "4 cells x 3 seeds = 12 trials" in grown.stdout
    assert "4 new, 0 paused, 8 done, 0 failed" in grown.stdout


OWN = """
import torch
from torch import nn
from trainers.problem import Problem
from own_code.constants import TARGET

def one(*, fail_at=None, seed, device):
    def loss(model, batch, carry):
        if fail_at is not None and int(batch) == fail_at:
            raise RuntimeError(f"cannot take step {fail_at}")
        return (model.weight - TARGET).square().mean(), carry

    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""


def test_a_problem_of_ones_own_is_shipped_to_the_workers_and_fails_alone(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    package = cli.folder / "own_code"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "constants.py").write_text("TARGET = 1.0\n")
    (package / "problem.py").write_text(OWN)
    (cli.folder / "own.yaml").write_text(
        "problem: {use: own_code.problem:one}\nupdate_rule: {learning_rate: 0.1}\n"
        "train: {steps: 6, checkpoint_every: 2}\nmeasure: {every: 2, data_fraction: 1}\n"
        "sweep: {grid: {problem.fail_at: [3, 99]}}\n"
    )
    failed = cli("run", "own.yaml", code=1)
    assert "1 failed, 1 done" in failed.stderr or "1 done, 1 failed" in failed.stderr
    trials = pd.read_parquet(cli.folder / "runs" / "own" / "trials.parquet").set_index("problem.fail_at")
    assert trials["status"].to_dict() == {3: "failed", 99: "done"}
    assert trials["attempts"].to_dict() == {3: 3, 99: 1}
    assert "Traceback" in cli("logs", "runs/own", trials.loc[3, "trial_id"]).stdout
    assert "0 new, 0 paused, 1 done, 1 failed" in cli("run", "own.yaml", code=1).stderr
    assert "1 trial queued" in cli("retry", "runs/own").stderr
    assert "0 failed" in cli("plan", "own.yaml").stdout


def test_code_from_elsewhere_runs_with_the_users_word_alone(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    library = cli.folder / "library" / "far_code"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "constants.py").write_text("TARGET = 1.0\n")
    (library / "problem.py").write_text(OWN.replace("own_code", "far_code"))
    cli.environment["PYTHONPATH"] = str(library.parent)
    (cli.folder / "specs").mkdir()
    (cli.folder / "specs" / "far.yaml").write_text(
        "problem: {use: far_code.problem:one, fail_at: 99}\nupdate_rule: {learning_rate: 0.1}\n"
        "train: {steps: 4}\nmeasure: {every: 2, data_fraction: 1, keep: true}\n"
    )
    sweep = ["run", "specs/far.yaml", "--out", "far"]
    assert "--allow-code" in cli(*sweep, code=2).stderr
    assert not (cli.folder / "far").exists()
    assert "1 done" in cli(*sweep, "--allow-code").stderr
    assert "--allow-code" in cli(*sweep, code=2).stderr, "the word is for one command"
    measure = ["estimate", "far", "--estimator", "directional_curvature"]
    assert "--allow-code" in cli(*measure, code=2).stderr
    assert "2 measured" in cli(*measure, "--allow-code").stderr
    table = pd.read_parquet(cli.folder / "far" / "measurements" / "directional_curvature.parquet")
    assert table["error"].isna().all()


def test_a_theory_sweep_runs_on_a_real_cluster_and_stands_in_the_same_tables(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    spec = str(Path(__file__).resolve().parents[2] / "specs" / "theory" / "bounds.yaml")
    assert "32 done" in cli("run", spec).stderr
    trials = pd.read_parquet(cli.folder / "runs" / "bounds" / "trials.parquet")
    assert (trials["hitting_status"] == "hit").all()
    bounded = trials[trials["iteration_bound"].notna()]
    assert (bounded["hitting_time"] <= bounded["iteration_bound"]).all()
    table = cli("theory", "runs/bounds").stdout
    assert "runs/bounds: 32 hit" in table
    assert "bound / T" in table
    assert "no analytic trial" not in table


@pytest.mark.ray
def test_the_readme_s_recipe_works_as_it_is_written(make_cli: Callable[[], Cli]) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "clipsweep init" in block]
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    assert [words[1] for words in lines] == ["init", "plan", "run", "report"]
    cli = make_cli()
    for words in lines:
        # Fewer steps than the starter's, which take a minute.
        fewer = ["--set", "train.steps=20", "--set", "sweep.seeds=1"] if words[1] in {"plan", "run"} else []
        said = cli(*words[1:], *fewer)
    assert "best valid loss" in said.stdout


def test_ctrl_c_while_ray_starts_is_answered_and_leaves_nothing_behind(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    process = cli.start("run", "small.yaml")
    # The last file that is written before Ray starts.
    cli.wait_for((cli.folder / "runs" / "small" / "environment.json").exists, process, "environment.json")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "the same command continues it" in err
    assert cli("status", "runs/small").stdout.startswith("runs/small: stopped, 0 %")


TOLD = """
name: told
problem: {use: deep_linear, layers: 2, width: 8, samples: 64, batch_size: 16}
update_rule: {learning_rate: 0.01}
train: {steps: 20}
sweep: {grid: {update_rule.learning_rate: [0.01, 500.0]}}
on:
  diverged: {command: [./told.sh], timeout_s: 60}
  done: {command: [./told.sh], timeout_s: 60}
  failed: {command: [./told.sh], timeout_s: 60}
"""


def test_machines_read_events_from_stdout_and_hooks_get_the_same_ones(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    (cli.folder / "told.yaml").write_text(TOLD)
    (cli.folder / "told.sh").write_text("#!/bin/sh\ncat > told-$$\n")
    (cli.folder / "told.sh").chmod(0o755)
    ran = cli("run", "told.yaml", "--events", "jsonl")
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_ended")
    assert sorted(event["event"] for event in events[1:-1]) == [
        *["segment_committed"] * 2,
        "trial_diverged",
        "trial_done",
        *["trial_started"] * 2,
    ]
    assert (events[-1]["exit_code"], events[-1]["counts"]) == (0, {"done": 1, "diverged": 1})
    told = [json.loads(file.read_text()) for file in cli.folder.glob("told-*")]
    expected = [event for event in events if event["event"] in {"trial_diverged", "run_ended"}]
    assert sorted(told, key=str) == sorted(expected, key=str)
    assert "1 done, 1 diverged" in ran.stderr
