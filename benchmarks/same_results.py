"""Whether two versions of clipsweep give the same results: trial ids, all tables row for row, all answers as JSON.

A refactoring promises to move code without changing results. This tests that promise: small sweeps of every kind
(language model, analytic function, images, a user's own code, kept snapshots measured again) are run by the
command line of one tree, recorded, and compared with a recording of another tree.

    git worktree add /tmp/before 04505f6
    python benchmarks/same_results.py record /tmp/a --tree /tmp/before    # about two minutes
    python benchmarks/same_results.py record /tmp/b
    python benchmarks/same_results.py compare /tmp/a /tmp/b               # exit code 1 where they differ
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parents[1]

QUICKSTART = ("train.steps=40", "train.evaluate_every=20", "train.checkpoint_every=20", "measure.data_fraction=0.002")

ANALYTIC = """
name: analytic
problem: {use: analytic, function: {use: extremal, L0: 1, L1: 1}, start_gradient_norm: 100, epsilon: 0.001}
train: {steps: 2000}
sweep:
  grid:
    update_rule.learning_rate: {log: [0.001, 10, 6]}
    update_rule.clip_norm: [null, 0.1, 10]
"""

IMAGES = """
name: images
problem: {use: image_classification, dataset: digits, model: {use: resnet20, width: 4}, batch_size: 32}
update_rule: {learning_rate: 0.5}
train: {steps: 12, log_every: 1, evaluate_every: 6, checkpoint_every: 6}
measure:
  every: 3
  data_fraction: 0.05
  estimators: [{use: directional_smoothness, method: adaptive}, {use: gradient_noise}, {use: hessian_spectral_norm}]
sweep:
  grid: {update_rule.clip_norm: [null, 0.25]}
  seeds: 2
"""

OWN_CODE = """
name: own
problem: {use: "parabola:problem", width: 3}
train: {steps: 60, log_every: 2, evaluate_every: 20, checkpoint_every: 20}
measure: {every: 5, keep: true, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.25}]}
sweep:
  grid:
    update_rule.learning_rate: [0.05, 0.2, 50]
    update_rule.clip_norm: [null, 0.5]
  seeds: 2
"""

CODE = '''
"""A small network on noisy points of a parabola."""
import torch
from torch import nn
from trainers.problem import Problem

x = torch.linspace(-1, 1, 64)[:, None]
y = x**2 + 0.1 * torch.randn(64, 1, generator=torch.Generator().manual_seed(0))


def loss(model, batch, carry):
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets), carry


def problem(*, seed: int, width: int = 3) -> Problem:
    def batch(step: int):
        generator = torch.Generator().manual_seed(1000 * seed + step)
        rows = torch.randperm(64, generator=generator)[:16]
        return x[rows], y[rows]

    return Problem(
        model=nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)),
        loss=loss,
        batch=batch,
        probe=lambda fraction: [(x, y)],
        evaluate=lambda model: {"valid_loss": float(nn.functional.mse_loss(model(x), y))},
        steps_per_epoch=4,
        fingerprint="parabola",
    )
'''

TIMES = {"attempts", "started_at", "ended_at", "train_s", "estimate_s", "evaluate_s", "waited_s", "host", "node", "pid"}
"""Columns that differ between two runs of the same version."""

RENAMED = {("telemetry", "epoch"): "driver_epoch"}
"""Columns that a later version renamed."""


def record(folder: Path, tree: Path) -> None:
    """Run every sweep with a tree's command line, and keep its answers about them."""
    folder.mkdir(parents=True)
    (folder / "analytic.yaml").write_text(ANALYTIC)
    (folder / "images.yaml").write_text(IMAGES)
    (folder / "own.yaml").write_text(OWN_CODE)
    (folder / "parabola.py").write_text(CODE)
    (folder / "quickstart.yaml").write_bytes((tree / "specs" / "quickstart.yaml").read_bytes())
    sets = [word for override in QUICKSTART for word in ("--set", override)]
    for name, extra in (("analytic", []), ("quickstart", sets), ("images", []), ("own", [])):
        _say(folder, tree, f"{name}.plan", "plan", f"{name}.yaml", *extra, "--json")
        _run(folder, tree, "run", f"{name}.yaml", *extra)
    _run(folder, tree, "estimate", "runs/own", "--estimator", "hessian_spectral_norm")
    for name in ("quickstart", "images", "own"):
        for answer in ("report", "fit", "advise"):
            _say(folder, tree, f"{name}.{answer}", answer, f"runs/{name}", "--format", "json")
    _say(folder, tree, "analytic.report", "report", "runs/analytic", "--format", "json")
    _say(folder, tree, "analytic.theory", "theory", "runs/analytic", "--format", "json")


def _run(folder: Path, tree: Path, *arguments: str) -> str:
    # The tree before the installed package, in the driver and in the workers, which inherit this.
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sweeper", *arguments]
    print("$ clipsweep", *arguments, file=sys.stderr)
    return subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def _say(folder: Path, tree: Path, name: str, *arguments: str) -> None:
    said = json.loads(_run(folder, tree, *arguments).replace(str(folder.resolve()), ""))
    (folder / f"{name}.json").write_text(json.dumps(said, indent=1, sort_keys=True))


def differences(before: Path, after: Path) -> Iterator[str]:
    """The differences between two recordings, one per line; none if they agree to the last bit."""
    one, other = (
        {path.relative_to(folder) for path in [*folder.glob("*.json"), *folder.glob("runs/*/**/*.parquet")]}
        for folder in (before, after)
    )
    # Parts are named after their bytes and their position in time; the tables made of them hold their rows.
    one, other = ({path for path in paths if "parts" not in path.parts} for paths in (one, other))
    if not one:
        yield f"{before}: nothing is recorded there"
    for path in sorted(one ^ other):
        yield f"{path}: only in {before if path in one else after}"
    for path in sorted(one & other):
        if path.suffix == ".json":
            yield from _documents(path, json.loads((before / path).read_text()), json.loads((after / path).read_text()))
        else:
            yield from _tables(path, pd.read_parquet(before / path), pd.read_parquet(after / path))


def _documents(path: Path, one: Any, other: Any, where: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if key not in TIMES and not key.endswith("_s"):
                yield from _documents(path, one.get(key), other.get(key), f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _documents(path, left, right, f"{where}[{number}]")
    elif repr(one) != repr(other):
        yield f"{path}{where}: {one!r} against {other!r}"


def _tables(path: Path, one: pd.DataFrame, other: pd.DataFrame) -> Iterator[str]:
    table = path.stem
    one, other = (
        frame.rename(columns={column: RENAMED.get((table, column), column) for column in frame.columns})
        for frame in (one, other)
    )
    if table == "telemetry":
        # Where a segment ran is random.
        one, other = (frame.drop(columns="environment_id", errors="ignore") for frame in (one, other))
    one, other = (frame.drop(columns=TIMES & set(frame.columns)) for frame in (one, other))
    try:
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    except AssertionError as error:
        yield f"{path}: {' '.join(str(error).split())}"


def main() -> int:
    """Record or compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--tree", type=Path, default=HERE)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.folder, arguments.tree.resolve())
        return 0
    found = list(differences(arguments.before, arguments.after))
    print("\n".join(found) or "the same: trial ids, tables and answers")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
