"""What the orchestration costs: a sweep's wall time against the same work in a bare PyTorch loop, in one run.

Both sides take the same training steps on the same batches and evaluate the same number of probe gradients. The sweep
runs one-thread trainers and estimators on all cores; the bare loop is one process with as many threads as cores.

    python benchmarks/efficiency.py                # a few minutes
    python benchmarks/efficiency.py --steps 50     # a quick look
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPEC = """
name: efficiency
problem:
  use: language_modeling
  model: {{use: lstm, layers: 2, hidden: 100, embedding: 100, tied: true}}
update_rule: {{learning_rate: 5, clip_norm: 0.25}}
train: {{steps: {steps}, evaluate_every: {steps}}}
measure: {{every: 10, data_fraction: 0.02, estimators: [{{use: directional_smoothness, delta: 0.1}}]}}
sweep:
  grid:
    update_rule.learning_rate: [1, 5]
  seeds: {seeds}
"""

FRACTIONS = 10


def sweep_seconds(steps: int, seeds: int) -> tuple[float, float]:
    """Wall seconds of the whole command, and of the part between the first trial's start and the last one's end."""
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "efficiency.yaml"
        spec.write_text(SPEC.format(steps=steps, seeds=seeds))
        out = Path(folder) / "run"
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sweeper", "run", str(spec), "--out", str(out)], check=True, capture_output=True
        )
        wall = time.perf_counter() - started
        trials = pd.read_parquet(out / "trials.parquet")
        assert (trials["status"] == "done").all()
        telemetry = pd.read_parquet(out / "telemetry.parquet")
        measured = pd.read_parquet(out / "measurements" / "directional_smoothness.parquet")
        assert len(measured) == 2 * seeds * (steps // 10)
        return wall, (telemetry["ended_at"].max() - telemetry["started_at"].min()).total_seconds()


def bare_seconds(steps: int, seeds: int) -> tuple[float, float]:
    """The same steps and gradients in a loop; wall seconds of the process, and of the loops in it."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--bare", str(steps), str(seeds)], check=True, capture_output=True, text=True
    )
    return time.perf_counter() - started, float(done.stdout.split()[-1])


def bare(steps: int, seeds: int) -> None:
    import torch

    from trainers.problems import build_problem

    torch.set_num_threads(os.cpu_count() or 1)
    started = time.perf_counter()
    model_options = {"use": "lstm", "layers": 2, "hidden": 100, "embedding": 100, "tied": True}
    for rate in (1.0, 5.0):
        for seed in range(seeds):
            problem = build_problem("language_modeling", {"model": model_options}, seed=seed)
            model, probe = problem.model, list(problem.probe(0.02))
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            carry = problem.initial_carry()
            for step in range(steps):
                optimizer.zero_grad()
                loss, carry = problem.loss(model, problem.batch(step), carry)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
                optimizer.step()
                if step % 10 == 0:
                    for _ in range(FRACTIONS + 1):
                        optimizer.zero_grad()
                        for batch in probe:
                            probe_loss, _ = problem.loss(model, batch, problem.initial_carry())
                            probe_loss.backward()
            problem.evaluate(model)
    print(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bare", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.bare:
        bare(*options.bare)
        return
    sides = {"bare loop": bare_seconds, "clipsweep": sweep_seconds}
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side, seconds in sides.items():
            runs[side].append(seconds(options.steps, options.seeds))
    print(
        f"{2 * options.seeds} trials x {options.steps} steps, a snapshot every 10 steps, {FRACTIONS + 1} gradients each"
    )
    for side in sides:
        wall, work = (statistics.median(run[i] for run in runs[side]) for i in (0, 1))
        print(f"{side:<10} {wall:7.1f} s in all, {work:7.1f} s from the first step to the last")
    for i, what in enumerate(("in all", "from the first step to the last")):
        ratio = statistics.median(
            sweep[i] / loop[i] for sweep, loop in zip(runs["clipsweep"], runs["bare loop"], strict=True)
        )
        print(f"clipsweep / bare loop, {what}: {ratio:.2f}")


if __name__ == "__main__":
    main()
