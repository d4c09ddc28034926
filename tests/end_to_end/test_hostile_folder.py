"""A folder that holds packages by the names of clipsweep's own, on a real Ray: clipsweep's are imported everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sweeper.own_packages import NAMES

pytestmark = pytest.mark.ray

HOSTILE = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\nraise SystemExit('hostile')\n"
MINE = """
import torch
from torch import nn
from trainers.problem import Problem
from trainers.numbers_of_mine import TARGET

def one(*, seed, device):
    def loss(model, batch, carry):
        # While it is trained, when nothing of the factory's surroundings is left.
        from estimators.late_of_mine import FACTOR
        return FACTOR * (model.weight - TARGET).square().mean(), carry

    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""
REST = (
    "update_rule: {learning_rate: 0.1}\ntrain: {steps: 6, checkpoint_every: 2}\nmeasure: {every: 2, data_fraction: 1}\n"
)


@pytest.mark.parametrize("use", ["deep_linear", "trainers.mine:one"])
def test_workers_and_driver_import_clipsweep_s_packages_and_the_user_s_modules_beside_them(
    tmp_path: Path, use: str
) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(HOSTILE)
    (tmp_path / "trainers" / "mine.py").write_text(MINE)
    (tmp_path / "trainers" / "numbers_of_mine.py").write_text("TARGET = 1.0\n")
    (tmp_path / "estimators" / "late_of_mine.py").write_text("FACTOR = 2.0\n")
    (tmp_path / "own.yaml").write_text(f"problem: {{use: '{use}'}}\n{REST}")
    # Unlike ``python -m sweeper``, the command does not have the current folder in front of Python's path.
    command = [str(Path(sys.executable).with_name("clipsweep")), "run", "own.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 done" in done.stderr
    rows = pd.read_parquet(tmp_path / "runs" / "own" / "measurements" / "directional_smoothness.parquet")
    assert len(rows) == 3
    assert rows["error"].isna().all()
    assert not list(tmp_path.glob("*/imported"))
