"""The figure of curvature beside the edge of stability, and where it sees a catapult."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import ClipsweepError
from sweeper.report.plots.draw import PLOTS, draw
from sweeper.report.plots.sharpness import catapults
from sweeper.report.select import select
from sweeper.tables.run import Run

SPEC = """
problem: {{use: deep_linear, layers: 2, width: 4}}
update_rule: {{learning_rate: 0.05}}
train: {{steps: 30}}
measure:
  every: 3
  data_fraction: 1
  estimators: [{}]
sweep: {{grid: {{update_rule.clip_norm: [null, 0.1]}}, seeds: 2}}
"""
# Steps are short here, a hundredth of the critical ones: nine passes would not always be enough.
CRITICAL = "{use: critical_sharpness, max_forward_passes: 30}"
ALL = f"{{use: directional_smoothness, delta: 0.5}}, {CRITICAL}, {{use: hessian_spectral_norm}}"


@pytest.fixture
def run(inline_run: Callable[..., Any]) -> Run:
    return Run(inline_run(SPEC.format(ALL))().run_dir.path)


def test_every_median_over_the_seeds_is_in_the_numbers(run: Run, tmp_path: Path) -> None:
    drawn = pd.DataFrame(draw(run, "sharpness", tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 20_000
    assert set(drawn["quantity"]) == {"smoothness", "critical_curvature", "spectral_norm", "stability_edge"}
    critical = run.measurements("critical_sharpness").merge(run.trials[["trial_id", "cell_id"]], on="trial_id")
    assert set(critical["trust"]) == {"trusted"}
    expected = critical.groupby(["cell_id", "step"])["critical_curvature"].median()
    rows = drawn[drawn["quantity"] == "critical_curvature"]
    assert len(rows) == len(expected) == 20
    for row in rows.to_dict("records"):
        assert (row["median"], row["seeds"]) == (pytest.approx(expected[row["cell_id"], row["step"]]), 2)
        assert row["low"] <= row["median"] <= row["high"]


def test_the_edge_is_two_over_the_step_size_of_the_rule(run: Run) -> None:
    critical = run.measurements("critical_sharpness").merge(run.metrics, on=["trial_id", "step"], suffixes=("", "_of"))
    # The whole data is one batch, so that the step is along the gradient of f.
    assert critical["descent_cosine"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert (critical["stability_edge"] * critical["step_size"]).to_numpy() == pytest.approx(2, rel=1e-4)
    clipped = set(run.trials.loc[run.trials["clip_norm"].notna(), "trial_id"])
    known = critical[critical["critical_clip_norm"].notna()]
    assert set(known["trial_id"]) == clipped, "of the cell that clips"
    assert known["critical_clip_norm"].to_numpy() == pytest.approx(
        (known["critical_fraction"] * known["update_norm"] / known["learning_rate"]).to_numpy()
    )


def test_a_catapult_is_marked_below_its_curves(run: Run, tmp_path: Path) -> None:
    name = run.trials["trial_id"].iloc[0]
    for table in run.estimators:
        rows = run.measurements(table)
        at = (rows["trial_id"] == name) & (rows["step"] == 6)
        rows.assign(loss=rows["loss"].mask(at, 10 * rows["loss"].max())).to_parquet(
            run.path / "measurements" / f"{table}.parquet"
        )
    changed = Run(run.path)
    drawn = draw(changed, "sharpness", tmp_path / "picture.svg")
    assert [(row["trial_id"], row["step"]) for row in drawn if row["quantity"] == "catapult"] == [(name, 6)]
    figure = PLOTS["sharpness"](changed, select(changed, []))
    marks = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "^"]
    assert [list(line.get_xdata()) for line in marks] == [[6]]
    assert "a catapult" in figure.legends[0].get_title().get_text()


def test_where_nothing_of_it_was_measured_the_error_says_what_measures_it(
    inline_run: Callable[..., Any], tmp_path: Path
) -> None:
    run = Run(inline_run(SPEC.format("{use: directional_smoothness, delta: 0.5}"))().run_dir.path)
    with pytest.raises(ClipsweepError, match=r"clipsweep estimate .* --estimator critical_sharpness"):
        draw(run, "sharpness", tmp_path / "picture.png")


def test_one_estimator_is_enough(inline_run: Callable[..., Any], tmp_path: Path) -> None:
    run = Run(inline_run(SPEC.format(CRITICAL))().run_dir.path)
    drawn = draw(run, "sharpness", tmp_path / "picture.png")
    assert {row["quantity"] for row in drawn} == {"critical_curvature", "stability_edge"}


@given(losses=st.lists(st.floats(0, 100) | st.just(float("nan")), max_size=30))
def test_a_catapult_is_above_all_before_and_below_all_after(losses: list[float]) -> None:
    finite = [loss for loss in losses if loss == loss]
    places = [at for at, loss in enumerate(losses) if loss == loss]
    peaks = catapults(range(len(losses)), losses)
    assert peaks == sorted(set(peaks))
    for peak in peaks:
        at = places.index(peak)
        assert finite[at] >= max(finite[:at])
        # From somewhere before it, the loss rose by a tenth above all it had been; afterwards it is below that.
        assert any(
            finite[start] > 1.1 * max(finite[:start]) and min(finite[at:]) < min(finite[:start])
            for start in range(1, at + 1)
        )


@given(losses=st.lists(st.floats(0, 100), max_size=30))
def test_a_loss_that_only_falls_or_only_rises_has_no_catapult(losses: list[float]) -> None:
    for ordered in (sorted(losses), sorted(losses, reverse=True)):
        assert catapults(range(len(ordered)), ordered) == []


def test_two_catapults_are_two() -> None:
    losses = [2, 3, 1, 0.5, 4, 5, 0.4]
    assert catapults(range(7), losses) == [1, 5]
    assert all(a < b for a, b in itertools.pairwise(catapults(range(7), losses)))
