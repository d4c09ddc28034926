"""``clipsweep fit --along``: L0 and L1 in directions that training did not take."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.errors import ClipsweepError
from sweeper.report.other_fits import fit_direction
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 3, width: 6, samples: 32, batch_size: 16}
update_rule: {learning_rate: 0.05}
train: {steps: 50}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness}, {use: other_directions}]}
sweep: {grid: {update_rule.clip_norm: [null, 0.5]}, seeds: 2}
"""


@pytest.fixture(scope="module")
def measured(module_inline_run) -> Run:
    return Run(module_inline_run(SPEC).run_dir.path)


@pytest.mark.parametrize("along", ["gradient", "random"])
def test_a_run_is_fitted_by_what_was_measured_in_that_direction(measured, along):
    cells = fit_direction(measured, measured.trials, along)
    assert [cell.along for cell in cells] == [along, along]
    rows = measured.measurements("other_directions")
    for cell in cells:
        own = rows[rows["trial_id"].isin(measured.trials.loc[measured.trials["cell_id"] == cell.cell_id, "trial_id"])]
        assert cell.points == own[f"{along}_smoothness"].notna().sum() == 50
        assert cell.bound.count == 2, "its own bound, of the points at that distance"
        assert cell.control.count == 0, "the curvature along the step is no control of another direction"
    medians = rows[["gradient_smoothness", "random_smoothness"]].median()
    assert medians["random_smoothness"] < medians["gradient_smoothness"], "few directions have the curvature"


def test_the_command_names_the_direction(measured):
    path = str(measured.path)
    said = CliRunner().invoke(app, ["fit", path, "--along", "gradient"])
    assert "smoothness along the gradient against gradient norm" in said.output
    rows = csv.DictReader(
        io.StringIO(CliRunner().invoke(app, ["fit", path, "--along", "random", "--format", "csv"]).output)
    )
    assert {row["along"] for row in rows} == {"random"}
    cells = json.loads(CliRunner().invoke(app, ["fit", path, "--json"]).output)["cells"]
    assert {cell["along"] for cell in cells} == {"step"}
    for cell in cells:
        assert math.isfinite(cell["spearman"]["mean"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--along", "sideways"], "--along 'sideways': unknown; known: step, gradient, random"),
        (["--along", "random", "--by-layer"], "--by-layer is measured along the step: leave out --along random"),
    ],
)
def test_a_wrong_direction_is_refused(measured, options, words):
    said = CliRunner().invoke(app, ["fit", str(measured.path), *options])
    assert said.exit_code != 0
    assert words in str(said.exception) + said.output


def test_a_run_without_the_estimator_says_how_to_measure_it(measured, monkeypatch):
    monkeypatch.setattr(type(measured), "estimators", ("directional_smoothness",))
    with pytest.raises(ClipsweepError, match="--estimator other_directions` measures kept snapshots"):
        fit_direction(measured, measured.trials, "gradient")
