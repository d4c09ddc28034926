"""The same snapshots under two settings, side by side."""

import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.report.plots.agreement import agreement, paired_measurements
from sweeper.report.plots.draw import draw
from sweeper.report.select import select
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 2, width: 4}
update_rule: {learning_rate: 0.05}
train: {steps: 30}
measure: {every: 3, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.5}]}
"""


@pytest.fixture
def run(inline_run):
    return Run(inline_run(SPEC)().run_dir.path)


def measured_again(run, factor):
    """The run with every snapshot measured once more, off by a factor, as a later setting."""
    rows = run.measurements("directional_smoothness")
    again = rows.assign(
        measurement_id="later", data_fraction=1.0, smoothness=factor * rows["smoothness"], grad_norm=rows["grad_norm"]
    )
    pd.concat([rows, again]).to_parquet(run.path / "measurements" / "directional_smoothness.parquet")
    return Run(run.path)


def test_snapshots_are_paired_by_trial_and_step(run):
    pairs = paired_measurements(measured_again(run, 1.1))
    assert len(pairs) == 10
    assert (pairs["smoothness_last"] / pairs["smoothness_first"]).to_numpy() == pytest.approx(1.1)
    assert set(pairs["data_fraction_first"]) == {0.5}
    assert set(pairs["data_fraction_last"]) == {1.0}


def test_the_picture_is_drawn(run, tmp_path):
    draw(measured_again(run, 1.05), "agreement", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_run_with_one_setting_says_how_to_measure_again(run, tmp_path):
    with pytest.raises(ClipsweepError, match="clipsweep estimate RUN"):
        draw(run, "agreement", tmp_path / "picture.png")


def test_the_axes_name_their_quantity_and_their_setting(run):
    run = measured_again(run, 1.1)
    figure = agreement(run, select(run, []))
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "gradient norm, 50 % of the data",
        "local smoothness, 50 % of the data",
    ]
    assert figure.axes[1].get_ylabel() == "local smoothness, 100 % of the data"
    assert len(figure.drawn) == 10
