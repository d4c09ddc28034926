"""What a local Ray has no room for is refused at once, by plan and by run, and nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.cluster import machine
from sweeper.cluster.machine import misfit, num_gpus
from sweeper.errors import ClusterError
from sweeper.run import run_sweep
from sweeper.spec import loads_spec
from sweeper.spec.sections.settings import Resources, TrainerPool

SPEC = """
problem: {use: deep_linear}
update_rule: {learning_rate: 0.1}
train: {steps: 5}
resources: {trainers: {gpus: 1}}
"""


@pytest.mark.parametrize(
    ("visible", "number"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", 1)]
)
def test_gpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch, visible: str, number: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_gpus() == number


def test_gpus_are_counted_by_their_driver_s_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    tool.chmod(0o755)
    assert num_gpus() == 2
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert num_gpus() is None, "something is there, and only Ray may know"


@pytest.mark.parametrize(
    ("gpus", "trainers", "message"),
    [
        (0, TrainerPool(gpus=1), "no room for 1 GPU (1 trainer): the cluster has none; set resources.trainers.gpus: 0"),
        (1, TrainerPool(gpus=1), None),
        (None, TrainerPool(gpus=1), None),
        (0, TrainerPool(count=9, cpus=1), "9 trainers and 0 estimators take 9 CPUs, but the cluster has 4"),
        (0, TrainerPool(count=3, cpus=1), None),
    ],
)
def test_a_misfit_says_what_is_missing_and_what_to_set(
    monkeypatch: pytest.MonkeyPatch, gpus: int | None, trainers: TrainerPool, message: str | None
) -> None:
    monkeypatch.setattr(machine, "num_gpus", lambda: gpus)
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    found = misfit(Resources(trainers=trainers), measures=False, num_trials=5)
    assert (found is None) == (message is None)
    assert message is None or message in str(found)


def test_nothing_is_missing_where_nothing_is_left_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_gpus", lambda: 0)
    assert misfit(Resources(trainers=TrainerPool(gpus=1)), measures=False, num_trials=0) is None


def test_run_refuses_before_it_writes_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_listener: Callable[[], Any]
) -> None:
    monkeypatch.setattr(machine, "num_gpus", lambda: 0)
    with pytest.raises(ClusterError, match=r"set resources\.trainers\.gpus: 0"):
        run_sweep(loads_spec(SPEC, folder=tmp_path), out=tmp_path / "run", listener=new_listener())
    assert not (tmp_path / "run").exists()


def test_an_address_that_nobody_answers_leaves_no_run_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_listener: Callable[[], Any]
) -> None:
    text = SPEC.replace("{trainers: {gpus: 1}}", "{}")
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:1"):
        run_sweep(
            loads_spec(text, folder=tmp_path), out=tmp_path / "run", listener=new_listener(), address="127.0.0.1:1"
        )
    assert not (tmp_path / "run").exists()


def test_plan_says_that_a_run_would_be_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "num_gpus", lambda: 0)
    (tmp_path / "sweep.yaml").write_text(SPEC)
    said = CliRunner().invoke(app, ["plan", str(tmp_path / "sweep.yaml")])
    assert said.exit_code == 0
    assert "a run would be refused: this machine is too small" in said.output
    document = json.loads(CliRunner().invoke(app, ["plan", str(tmp_path / "sweep.yaml"), "--json"]).output)
    assert "set resources.trainers.gpus: 0" in document["misfit"]
    fine = CliRunner().invoke(
        app, ["plan", str(tmp_path / "sweep.yaml"), "--set", "resources.trainers.gpus=0", "--json"]
    )
    assert json.loads(fine.output)["misfit"] is None


def test_gpus_that_a_local_ray_is_told_of_need_not_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    wanted = Resources(trainers=TrainerPool(gpus=1, count=2))
    assert "the cluster has none" in (misfit(wanted, measures=False, num_trials=5) or "")
    assert misfit(wanted, measures=False, num_trials=5, gpus=2) is None
    assert "the cluster has 1" in (misfit(wanted, measures=False, num_trials=5, gpus=1) or "")
    # Which model it is only Ray can tell.
    typed = Resources(trainers=TrainerPool(gpus=1, accelerator_type="H100"))
    assert misfit(typed, measures=False, num_trials=5, gpus=1) is None
