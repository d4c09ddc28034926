"""User code that is bad for its process, on a real Ray: no other trial notices, and its own says what happened."""

from __future__ import annotations

import re
import subprocess
import sys
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


def leave():
    print("cannot go on without a licence")
    sys.stderr.write("licence server: no answer\\n")
    os._exit(7)


def one(*, does, seed, device):
    if does == "spoil":
        threading.Thread(target=spoil).start()
    data = torch.linspace(-1, 1, 12).reshape(4, 3)

    def loss(model, batch, carry):
        if does == "exit" and batch is data:
            leave()
        return nn.functional.relu(model(batch.to(model.weight.dtype))).square().mean(), carry

    def measured(model, batch, carry):
        if does == "exit when measured":
            leave()
        return loss(model, batch, carry)

    print("built", does)
    return Problem(model=nn.Linear(3, 2), loss=loss, batch=lambda step: data, probe=lambda share: [data + 0],
                   measured_loss=measured, steps_per_epoch=5, fingerprint="offender")
"""

SPEC = """
name: {name}
problem: {{use: 'offending_problem:one', does: nothing}}
update_rule: {{learning_rate: 0.1}}
train: {{steps: 20}}
measure: {{every: 10, data_fraction: 1}}
resources: {{trainers: {{count: 1}}, estimators: {{count: 1}}, max_attempts: 2}}
sweep: {{grid: {{problem.does: [{does}]}}, seeds: {seeds}}}
"""


def run(cli: Cli, name: str, does: str, *, seeds: int = 1, code: int = 0) -> str:
    (cli.folder / "offending_problem.py").write_text(CODE)
    (cli.folder / f"{name}.yaml").write_text(SPEC.format(name=name, does=does, seeds=seeds))
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
    assert len(equal) == 1
    for table in ("metrics.parquet", "measurements/directional_smoothness.parquet"):
        mixed = pd.read_parquet(folder / "mixed" / table)
        alone = pd.read_parquet(folder / "alone" / table)
        mixed = mixed[mixed["trial_id"].isin(equal)].reset_index(drop=True)
        pd.testing.assert_frame_equal(mixed, alone, check_exact=True, obj=table)


def test_a_trial_whose_process_exits_says_what_it_printed_and_the_others_go_on(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    said = run(cli, "exits", "exit, exit when measured, nothing", code=1)
    trials = pd.read_parquet(cli.folder / "runs" / "exits" / "trials.parquet")
    trials = trials.set_index("problem.does")
    assert trials["status"].to_dict() == {"exit": "lost", "exit when measured": "done", "nothing": "done"}
    words = "process exited, crashed or was killed; it printed last: licence server: no answer; if the system was short"
    assert trials.loc["exit", "error"].startswith(f"the trainer's {words}")
    assert f"the estimator's {words}" in said
    shown = cli("logs", "runs/exits", trials.loc["exit", "trial_id"]).stdout
    assert shown.count("Its last lines:\nbuilt exit\ncannot go on without a licence\nlicence server: no answer") == 2
    shown = cli("logs", "runs/exits", trials.loc["exit when measured", "trial_id"]).stdout
    last = "Its last lines:\nbuilt exit when measured\ncannot go on without a licence\nlicence server: no answer"
    assert "measuring step 0" in shown
    assert last in shown
    assert "Its last lines" not in cli("logs", "runs/exits", trials.loc["nothing", "trial_id"]).stdout


ELSEWHERE = """
import socket, sys
here = socket.gethostname
socket.gethostname = lambda: "far" if sys._getframe(1).f_globals["__name__"] == "sweeper.cluster.pools" else here()
from sweeper.cli.app import main
main()
"""


def test_what_was_printed_on_another_node_is_asked_from_that(make_cli: Callable[[], Cli]) -> None:
    cli = make_cli()
    (cli.folder / "offending_problem.py").write_text(CODE)
    (cli.folder / "far.yaml").write_text(SPEC.format(name="far", does="exit", seeds=1).replace("measure:", "#"))
    ended = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "run", "far.yaml"],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("the trainer's process exited, crashed or was killed; it printed last") == 2
    (trial,) = pd.read_parquet(cli.folder / "runs" / "far" / "trials.parquet")["trial_id"]
    assert "cannot go on without a licence\nlicence server: no answer" in cli("logs", "runs/far", trial).stdout
