"""Snapshots that cannot be measured are said once per error, counted, and never passed over in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.errors import ClipsweepError
from sweeper.monitor.status import run_status
from sweeper.report.fits import build_fits
from sweeper.report.plots.draw import draw
from sweeper.report.summary import build_report
from sweeper.tables.run import Run
from tests.sweeper.conftest import KINKED

PROBLEM = """
import torch
from torch import nn
from trainers.problem import Problem


def line(*, seed, moody=False):
    model, batch = nn.Linear(1, 1), torch.linspace(-1, 1, 8)[:, None]

    def loss(given, inputs, carry):
        # Estimators measure a copy.
        if given is not model and (not moody or float(given.bias) > 0):
            raise RuntimeError("mat1 and mat2\\nmust have the same dtype")
        return (given(inputs) - inputs - 3).square().mean(), carry

    nn.init.constant_(model.bias, -1.0)
    return Problem(model=model, loss=loss, batch=lambda step: batch, probe=lambda fraction: [batch],
                   evaluate=lambda model: {"valid_loss": 0.0}, steps_per_epoch=5, fingerprint="line")
"""

SPEC = """
name: unmeasured
problem: {use: "unmeasured_lines:line"}
update_rule: {learning_rate: 0.01}
train: {steps: 8, checkpoint_every: 3}
measure: {every: 1, estimators: [{use: directional_smoothness}]}
sweep: {seeds: 2}
"""

LINE = "16 of 16 snapshots could not be measured: RuntimeError: mat1 and mat2"


@pytest.fixture
def run(inline_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "unmeasured_lines.py").write_text(PROBLEM)
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    return inline_run(SPEC)(max_attempts=1)


def test_the_first_snapshot_of_each_error_is_said_and_the_others_are_counted(run: Any) -> None:
    told = [line for line in run.listener.lines if "could not be measured" in line]
    assert len(told) == 1
    assert told[0].endswith("step 0 could not be measured: RuntimeError: mat1 and mat2")
    unmeasured = Run(run.run_dir.path).state.unmeasured()
    assert unmeasured.lines == (LINE,)
    assert Run(run.run_dir.path).measurements()["error"].eq("RuntimeError: mat1 and mat2").all()


def test_status_report_fit_and_plots_say_how_many_and_why(run: Any, tmp_path: Path) -> None:
    path = run.run_dir.path
    assert run_status(path)["unmeasured"] == {"snapshots": 16, "errors": {"RuntimeError: mat1 and mat2": 16}}
    opened = Run(path)
    assert build_report(opened).notes[0] == LINE
    with pytest.raises(ClipsweepError, match=f"nothing to fit\n  {LINE}"):
        build_fits(opened)
    for kind in ("fit", "smoothness"):
        with pytest.raises(ClipsweepError, match=LINE):
            draw(opened, kind, tmp_path / "picture.png")
    shown = CliRunner().invoke(app, ["status", str(path)])
    assert LINE in shown.output
    assert LINE in CliRunner().invoke(app, ["report", str(path)]).output


def test_snapshots_that_fail_among_others_are_counted_among_them(
    inline_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moody").mkdir()
    (tmp_path / "moody" / "unmeasured_lines.py").write_text(PROBLEM)
    monkeypatch.syspath_prepend(str(tmp_path / "moody"))
    spec = SPEC.replace('line"}', 'line", moody: true}').replace("0.01", "0.1")
    moody = inline_run(spec, name="moody")(max_attempts=1)
    opened = Run(moody.run_dir.path)
    unmeasured = opened.state.unmeasured()
    rows = opened.measurements()
    assert 0 < rows["error"].notna().sum() < 16
    assert sum(unmeasured.errors.values()) == rows["error"].notna().sum()
    assert unmeasured.total == len(rows) == 16


def test_where_all_are_measured_nothing_is_said(inline_run: Callable[..., Any]) -> None:
    text = SPEC.replace('"unmeasured_lines:line"', "deep_linear, layers: 2, width: 3")
    state = Run(inline_run(text, name="sound")().run_dir.path).state
    assert state.unmeasured().lines == ()
    assert state.unmeasured().total == 16


ONCE = (
    KINKED
    + """

def line(*, seed):
    batch = torch.linspace(-1, 1, 8)[:, None]
    return Problem(model=nn.Linear(1, 1), loss=lambda model, x, carry: (Kinked.apply(model(x) - x - 3).mean(), carry),
                   batch=lambda step: batch, probe=lambda fraction: [batch], steps_per_epoch=5, fingerprint="once")
"""
)


def test_an_estimator_that_fails_everywhere_is_counted_by_name_and_the_others_are_reported(
    inline_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "once").mkdir()
    (tmp_path / "once" / "kinked_line.py").write_text(ONCE)
    monkeypatch.syspath_prepend(str(tmp_path / "once"))
    spec = SPEC.replace("unmeasured_lines", "kinked_line")
    spec = spec.replace("{use: directional_smoothness}", "{use: directional_smoothness}, {use: directional_curvature}")
    run = inline_run(spec, name="once")(max_attempts=1)
    told = [line for line in run.listener.lines if "could not be measured" in line]
    assert len(told) == 1
    assert "step 0 could not be measured by directional_curvature: RuntimeError: no second derivative" in told[0]
    opened = Run(run.run_dir.path)
    assert opened.measurements()["error"].isna().all()
    assert (opened.measurements()["smoothness"] > 0).all()
    failed = opened.measurements("directional_curvature")
    assert failed["error"].str.startswith("directional_curvature: RuntimeError: ").all()
    assert failed["smoothness"].isna().all()
    assert len(failed) == 16
    (line,) = opened.state.unmeasured().lines
    assert line.startswith("16 of 16 snapshots could not be measured by directional_curvature: RuntimeError: ")
    assert build_report(opened).notes[0] == line
    logs = "".join(path.read_text() for path in run.run_dir.logs.rglob("*") if path.is_file())
    assert logs.count("measuring step 0: directional_curvature") == 2
