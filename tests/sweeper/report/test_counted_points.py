"""Report, fit and pictures count the same points, whatever was superseded or measured twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from sweeper.errors import RunDirectoryError
from sweeper.planning.plan import measurement_id
from sweeper.protocol.consent import Consent
from sweeper.report.fits import build_fits
from sweeper.report.plots.fit import fit
from sweeper.report.plots.trajectories import smoothness
from sweeper.report.select import positive, select, trusted_points
from sweeper.report.summary import build_report
from sweeper.run import run_sweep
from sweeper.spec import loads_spec
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 8}
update_rule: {learning_rate: 0.05}
train: {steps: 20}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {grid: {update_rule.learning_rate: [0.01, 0.05]}, seeds: 2}
"""
LATER = measurement_id(loads_spec(SPEC, folder=Path()).measure)


@pytest.fixture
def changed_run(
    inline_run: Callable[..., Any], new_listener: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A finished run whose spec was changed, so that each of its two cells stands beside a superseded one."""
    first = inline_run(SPEC)()
    changed = SPEC.replace("batch_size: 8", "batch_size: 4")
    with monkeypatch.context() as patched:
        patched.setattr("sweeper.run._drive", lambda *arguments, **options: False)
        sweep = loads_spec(changed, folder=first.run_dir.path.parent)
        run_sweep(
            sweep, out=first.run_dir.path, listener=new_listener(), consent=Consent(change=True, new_measurement=True)
        )
    return Run(inline_run(changed)().run_dir.path)


def drawn(figure: Any) -> list[int]:
    """Points in each panel that has any."""
    scatters = [[dots for dots in axis.collections if isinstance(dots, PathCollection)] for axis in figure.axes]
    return [sum(len(np.asarray(dots.get_offsets())) for dots in found) for found in scatters if found]


def test_the_fit_s_picture_leaves_superseded_cells_out_unless_asked_for_them(changed_run: Run) -> None:
    cells = build_fits(changed_run)
    assert [cell.cell_id for cell in cells] == list(dict.fromkeys(select(changed_run, [])["cell_id"]))
    assert drawn(fit(changed_run, select(changed_run, []))) == [20, 20]
    assert drawn(fit(changed_run, select(changed_run, ["superseded=True"]))) == [20, 20]


def test_the_fit_s_picture_of_one_seed_has_its_points_alone(changed_run: Run) -> None:
    assert drawn(fit(changed_run, select(changed_run, ["seed=1"]))) == [10, 10]


def measured_as(run: Run, change: Callable[[Any], Any]) -> Run:
    """The run with another table of measurements."""
    file = run.path / "measurements" / "directional_smoothness.parquet"
    change(run.measurements()).to_parquet(file)
    return Run(run.path)


def under_two_settings(rows: Any) -> Any:
    """Every snapshot measured once more under the run's later setting, whose rows come first in the table."""
    later = rows.assign(measurement_id=LATER, smoothness=2 * rows["smoothness"])
    noise = rows.head(3).assign(step=1, snr=0.5)
    nothing = rows.head(3).assign(step=3, smoothness=0.0, snr=None)
    elsewhere = rows.assign(measurement_id="of an estimate command", smoothness=1e6)
    return pd.concat([later, rows.assign(measurement_id="m"), noise, nothing, elsewhere])


@pytest.mark.parametrize("change", [under_two_settings, lambda rows: rows], ids=["measured twice", "superseded"])
def test_report_fit_and_both_pictures_count_the_same_points(changed_run: Run, change: Callable[[Any], Any]) -> None:
    run = measured_as(changed_run, change)
    trials = select(run, [])
    assert [cell.points for cell in build_report(run).cells] == [20, 20]
    assert [cell.points for cell in build_fits(run)] == [20, 20]
    assert drawn(fit(run, trials)) == [20, 20]
    assert drawn(smoothness(run, trials)) == [20, 20]


def test_the_later_setting_of_a_run_counts_whatever_the_table_s_order(changed_run: Run) -> None:
    before = trusted_points(changed_run)
    after = trusted_points(measured_as(changed_run, under_two_settings))
    after = after[after["smoothness"] > 0]
    assert len(after) == len(before)
    assert after["smoothness"].sum() == pytest.approx(2 * before["smoothness"].sum())


def test_the_correlation_in_a_panel_s_title_is_the_report_s(changed_run: Run) -> None:
    run = measured_as(changed_run, under_two_settings)
    titles = [axis.get_title() for axis in smoothness(run, select(run, [])).axes]
    for cell, title in zip(build_report(run).cells, titles, strict=False):
        assert f"r = {cell.correlation.mean:.2f}" in title


def test_a_report_names_the_settings_under_which_its_points_were_measured(changed_run: Run) -> None:
    assert not any("several settings" in note for note in build_report(changed_run).notes)
    run = measured_as(changed_run, lambda rows: rows.assign(measurement_id=["m", LATER] * (len(rows) // 2)))
    (note,) = (note for note in build_report(run).notes if "several settings" in note)
    assert f"measurement_id m, {LATER}" in note


def test_a_measurement_can_be_chosen_by_the_beginning_of_its_id(changed_run: Run) -> None:
    run = measured_as(changed_run, under_two_settings)
    latest, chosen = trusted_points(run), trusted_points(Run(run.path, measurement="m"))
    assert set(chosen["measurement_id"]) == {"m"}
    assert len(positive(chosen)) == len(positive(latest))
    assert build_report(Run(run.path, measurement=LATER[:6])).cells[0].points == 20
    with pytest.raises(RunDirectoryError, match=f"no measurement .* begins with 'zzz'; there are: m, {LATER}"):
        Run(run.path, measurement="zzz")


def test_a_new_measure_section_with_nothing_left_to_train_leaves_the_correlations_as_they_were(
    inline_run: Callable[..., Any], new_listener: Callable[[], Any]
) -> None:
    first = inline_run(SPEC)()
    before = build_report(Run(first.run_dir.path)).cells
    sweep = loads_spec(SPEC.replace("every: 2", "every: 3"), folder=first.run_dir.path.parent)
    run_sweep(sweep, out=first.run_dir.path, listener=new_listener(), consent=Consent(new_measurement=True))
    after = build_report(Run(first.run_dir.path)).cells
    assert [cell.correlation for cell in after] == [cell.correlation for cell in before]
    assert all(cell.points == 20 for cell in after)
