"""What a trial costs besides its training: clipsweep against Ray Tune, both in one run.

Trivial trials (a linear regression with four weights, 1 or 20 steps, one report per step) under clipsweep; a function
trainable with as many reports under Ray Tune, by default and with ``reuse_actors=True``. Every measurement is
a separate process with its own Ray. Prints a table of medians, and JSON with ``--json``.

    python benchmarks/orchestration.py                 # clipsweep and reused actors: a few minutes
    python benchmarks/orchestration.py --default-tune  # Ray Tune's default too: about a second more per trial
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPEC = """
name: trivial
problem: {{use: deep_linear, layers: 1, width: 2, samples: 4}}
update_rule: {{learning_rate: 0.1}}
train: {{steps: {reports}}}
sweep:
  grid:
    update_rule.learning_rate: {{linear: [0.001, 0.1, {cells}]}}
  seeds: 1
"""


def run_clipsweep(trials: int, reports: int, folder: Path) -> dict[str, float]:
    from sweeper.run import run_sweep
    from sweeper.spec import loads_spec

    sweep = loads_spec(SPEC.format(reports=reports, cells=trials), folder=folder)
    outcome = run_sweep(sweep, out=folder / "run")
    assert outcome.counts == {"done": trials}, outcome.counts

    import pandas as pd

    rows = pd.read_parquet(folder / "run" / "metrics.parquet")
    assert len(rows) == trials * (reports + 1)
    table = pd.read_parquet(folder / "run" / "trials.parquet")
    span = (table["ended_at"].max() - table["started_at"].min()).total_seconds()
    return {"trials_s": span}


def run_tune(trials: int, reports: int, folder: Path, *, reuse_actors: bool) -> dict[str, float]:
    import logging

    import ray
    from ray import tune

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def trainable(config: dict[str, Any]) -> None:
        for step in range(reports):
            tune.report({"loss": config["learning_rate"] * step})

    started = time.perf_counter()
    results = tune.Tuner(
        trainable,
        param_space={"learning_rate": tune.grid_search([0.001 * (i + 1) for i in range(trials)])},
        tune_config=tune.TuneConfig(reuse_actors=reuse_actors, max_concurrent_trials=2),
        run_config=tune.RunConfig(name="trivial", storage_path=str(folder), verbose=0),
    ).fit()
    span = time.perf_counter() - started
    assert len(results) == trials
    assert not results.errors
    ray.shutdown()
    return {"trials_s": span}


SIDES = {
    "clipsweep": run_clipsweep,
    "ray tune, reused actors": lambda *args: run_tune(*args, reuse_actors=True),
    "ray tune, default": lambda *args: run_tune(*args, reuse_actors=False),
}


def child(side: str, trials: int, reports: int, folder: Path) -> None:
    result = SIDES[side](trials, reports, folder)
    result["driver_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(result), flush=True)


def measure(side: str, trials: int, reports: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="orchestration-") as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--child", side, str(trials), str(reports), str(folder)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
        wall = time.perf_counter() - started
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            raise SystemExit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        result: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT "))
        files = [path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts]
        return {
            "end_to_end_s": wall,
            "startup_s": wall - result["trials_s"],
            "ms_per_trial": 1000 * result["trials_s"] / trials,
            "driver_mb": result["driver_mb"],
            "files_per_trial": len(files) / trials,
            "bytes_per_trial": sum(path.stat().st_size for path in files) / trials,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--reports", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--default-tune", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.child:
        side, trials, reports, folder = options.child
        child(side, int(trials), int(reports), Path(folder))
        return
    sides = [side for side in SIDES if options.default_tune or side != "ray tune, default"]
    rows = []
    for trials in options.trials:
        for reports in options.reports:
            # Taking turns, so that a busy spell of the machine affects every side.
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(options.repeats):
                for side in sides:
                    runs[side].append(measure(side, trials, reports))
            for side in sides:
                medians = {key: statistics.median(run[key] for run in runs[side]) for key in runs[side][0]}
                rows.append({"side": side, "trials": trials, "reports": reports, **medians})
                if not options.json:
                    print(_line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['side']:<24} {row['trials']:>4} trials x {row['reports']:>2} reports: "
        f"{row['end_to_end_s']:7.1f} s in all, {row['startup_s']:5.1f} s start-up and end, "
        f"{row['ms_per_trial']:8.2f} ms per trial, driver {row['driver_mb']:5.0f} MB, "
        f"{row['files_per_trial']:6.3f} files and {row['bytes_per_trial']:8.0f} bytes per trial"
    )


if __name__ == "__main__":
    main()
