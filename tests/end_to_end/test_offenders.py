"""User code that is bad for its process, on a real Ray: no other trial notices, and its own says what happened."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.ray

CODE = """
import os, sys, threading, time
import torch
from torch import nn
from trainers.problem import Problem


def spoil():
    while True:
        torch.set_default_dtype(torch.float64)
        nn.functional.relu = nn.functional.gelu
        time.sleep(0.0005)


def one(*, does, seed, device):
    if does == "spoil":
        threading.Thread(target=spoil).start()
    data = torch.linspace(-1, 1, 12).reshape(4, 3)

    def loss(model, batch, carry):
        return nn.functional.relu(model(batch.to(model.weight.dtype))).square().mean(), carry

    return Problem(model=nn.Linear(3, 2), loss=loss, batch=lambda step: data, probe=lambda share: [data],
                   steps_per_epoch=5, fingerprint="offender")
"""

SPEC = """
name: {name}
problem: {{use: 'offending_problem:one', does: nothing}}
update_rule: {{learning_rate: 0.1}}
train: {{steps: 20}}
measure: {{every: 5, data_fraction: 1}}
resources: {{trainers: {{count: 1}}, estimators: {{count: 1}}, max_attempts: 2}}
sweep: {{grid: {{problem.does: [{does}]}}, seeds: 2}}
"""


def run(cli: Cli, name: str, does: str, *, code: int = 0) -> str:
    (cli.folder / "offending_problem.py").write_text(CODE)
    (cli.folder / f"{name}.yaml").write_text(SPEC.format(name=name, does=does))
    return cli("run", f"{name}.yaml", code=code).stderr


def test_a_trial_that_cannot_be_put_back_costs_its_workers_and_leaves_the_others_rows_alone(
    make_cli: Callable[[], Cli],
) -> None:
    cli = make_cli()
    run(cli, "alone", "nothing")
    said = run(cli, "mixed", "spoil, nothing")
    assert len(re.findall(r"trainer 0 is replaced: .*leaves behind what cannot be put back", said)) == 1
    assert "a thread that goes on" in said
    folder = cli.folder / "runs"
    trials = pd.read_parquet(folder / "mixed" / "trials.parquet")
    assert (trials["status"] == "done").all()
    equal = trials[trials["problem.does"] == "nothing"]["trial_id"]
    assert len(equal) == 2
    for table in ("metrics.parquet", "measurements/directional_smoothness.parquet"):
        mixed = pd.read_parquet(folder / "mixed" / table)
        alone = pd.read_parquet(folder / "alone" / table)
        mixed = mixed[mixed["trial_id"].isin(equal)].reset_index(drop=True)
        pd.testing.assert_frame_equal(mixed, alone, check_exact=True, obj=table)
