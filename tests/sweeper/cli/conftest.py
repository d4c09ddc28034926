"""Runs of every kind of trial, made without Ray, and every command that prints data, asked about them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.app import main
from sweeper.protocol.view import Active, View
from sweeper.remeasure import Remeasured
from sweeper.run import Outcome
from sweeper.store.journal import Unmeasured
from sweeper.store.run_dir import RunDir

PROBLEM = """
import torch
from torch import nn
from trainers.problem import Problem

def product(*, fails=False, seed):
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False))
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))

    def loss(model, batch, carry):
        if fails and seed == 1:
            raise RuntimeError("no such step")
        return (model(batch) - batch[:, :2]).square().mean(), carry

    def measured_loss(model, batch, carry):
        if model[0].weight.abs().max() > 100:
            raise RuntimeError("too large to measure")
        return loss(model, batch, carry)

    return Problem(
        model=model, loss=loss, measured_loss=measured_loss, batch=lambda step: inputs[16 * (step % 2) :][:16],
        probe=lambda share, draw=0: [inputs - draw],
        evaluate=lambda model: {"valid_loss": float(loss(model, inputs, None)[0])},
        steps_per_epoch=2, fingerprint="product",
    )
"""

SPEC = """
name: shown
problem: {use: "shown_problem:product"}
update_rule: {learning_rate: 0.1}
train: {steps: 60, evaluate_every: 30}
measure:
  every: 3
  keep: true
  probes: 2
  estimators: [{use: directional_smoothness, delta: 0.5}, {use: gradient_noise}]
sweep:
  grid:
    update_rule.learning_rate: [0.3, 3, 30]
    update_rule.clip_norm: [null, 0.5]
    problem.fails: [false, true]
  seeds: 2
"""

STEP = """
import torch

def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""

THEORY = """
name: theory
problem: {use: analytic, assume: {L0: 1, L1: 1}, epsilon: 0.1}
train: {steps: 4000}
sweep:
  zip:
    problem.function.use: [theorem4_steep, theorem4_flat]
    problem.start_gradient_norm: [10, null]
    problem.start_gap: [null, 1]
  cases:
    - {update_rule.from_theory: theorem3}
    - {update_rule.learning_rate: 0.6}
    - {update_rule.learning_rate: 0.01}
"""


ISLANDS = """
import torch
from torch import nn
from trainers.problem import Problem

def islands(*, size, seed):
    model = nn.Linear(2, 1, bias=False)
    breaks = 2 < size < 6 or size > 60
    return Problem(
        model=model, loss=lambda model, batch, carry: (model.weight.square().sum() / (0.0 if breaks else 1.0), carry),
        batch=lambda step: None, probe=lambda share: [None], steps_per_epoch=1, fingerprint="islands",
        evaluate=lambda model: {"valid_loss": float(model.weight.square().sum()) + (size - 1) ** 2},
    )
"""

SEARCHED = """
name: searched
problem: {use: "shown_islands:islands"}
update_rule: {learning_rate: 0.1}
train: {steps: 3}
sweep:
  grid: {update_rule.clip_norm: [null, 0.5]}
  search: {use: stability_frontier, over: problem.size, between: [0.5, 100], within: 1.5, verify: 4, points: 1}
  seeds: 2
"""

RACED = """
name: raced
problem: {use: "shown_islands:islands"}
update_rule: {learning_rate: 0.1}
train: {steps: 3}
sweep:
  grid: {update_rule.clip_norm: [null, 0.5]}
  search: {use: best, over: {problem.size: [0.5, 100]}, metric: valid_loss, budget: 20, confirm_seeds: 2}
  seeds: 2
"""

LIVE = View(
    counts={"running": 1, "queued": 1},
    total=2,
    steps_done=30,
    steps_total=120,
    active=(Active(trial="learning_rate=3 seed=0", step=30, steps=60, loss=0.5, clipped_fraction=0.25),),
    waiting=1,
    queued_snapshots=2,
    measuring=1,
    measured=7,
    held_back=False,
    stopping=False,
    waiting_for="waiting for 1 CPU",
    search="1 of 2 brackets are within 1.1",
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a command printed.

    Attributes:
        code: Its exit code.
        out: What stood on stdout.
        err: What stood on stderr.
    """

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON on stdout, which holds nothing else and no number that JSON does not have."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


@pytest.fixture(scope="module")
def shown_folder(tmp_path_factory: pytest.TempPathFactory, module_hostile_run: Callable[..., Any]) -> Path:
    """A folder with ``shown.yaml`` and its run, one of analytic functions, one that is driven now, and a damaged one.

    Trials of ``runs/shown`` are done, diverged and failed, and one snapshot of it could not be measured.
    """
    folder = tmp_path_factory.mktemp("shown")
    (folder / "shown_problem.py").write_text(PROBLEM)
    (folder / "shown_step.py").write_text(STEP)
    (folder / "shown_islands.py").write_text(ISLANDS)
    (folder / "shown.yaml").write_text(SPEC)
    (folder / "searched.yaml").write_text(SEARCHED)
    runs = folder / "runs"
    runs.mkdir()
    for name, text in (("shown", SPEC), ("theory", THEORY), ("searched", SEARCHED), ("raced", RACED)):
        made: Path = module_hostile_run(text, folder).run_dir.path
        ended = {"exit_code": 1, "text": "some failed", "job": None, "ended_at": "2026-01-01T00:00:00+00:00"}
        RunDir(made).publish_json(RunDir(made).ended, ended)
        made.rename(runs / name)
    shutil.copytree(runs / "shown", runs / "driven")
    driven = RunDir(runs / "driven")
    driven.publish_json(driven.driver, {"host": os.uname().nodename, "pid": os.getpid(), "job": "raysubmit_1"})
    driven.publish_json(driven.live, {**vars(LIVE), "active": [vars(active) for active in LIVE.active]})
    shutil.copytree(runs / "shown", runs / "damaged")
    journal = runs / "damaged" / "journal.jsonl"
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    return folder


Ask = Callable[..., Shown]


@pytest.fixture
def ask(shown_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ask:
    """``ask("status", "runs/shown", "--json")``: what the command line prints in that folder."""
    monkeypatch.chdir(shown_folder)

    def asked(*words: str) -> Shown:
        monkeypatch.setattr("sys.argv", ["clipsweep", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr()
        return Shown(code=int(left.value.code or 0), out=said.out, err=said.err)

    return asked


@pytest.fixture
def without_ray(shown_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run`` and ``estimate`` end at once, as if they had just made what is there."""
    path = shown_folder / "runs" / "shown"
    outcome = Outcome(
        run_dir=path,
        counts={"done": 20, "failed": 2},
        interrupted=False,
        seconds=3.0,
        earlier_s=0.0,
        spent=None,
        unmeasured=Unmeasured(total=10, errors={"RuntimeError: too few rows": 2}),
    )
    table = path / "measurements" / "directional_curvature.parquet"
    remeasured = Remeasured(
        table=table, measurement="m2", measured=3, failed=1, before=0, interrupted=False, seconds=2.0
    )
    monkeypatch.setattr("sweeper.run.run_sweep", lambda *arguments, **options: outcome)
    monkeypatch.setattr("sweeper.remeasure.estimate_run", lambda *arguments, **options: remeasured)
