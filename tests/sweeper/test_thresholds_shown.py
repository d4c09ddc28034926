"""Rules whose threshold changes from step to step, from a spec to the tables and everything that shows cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeper.monitor.status import trial_rows
from sweeper.report.answers import build_answers
from sweeper.report.plots.cells import drawn_cells, tell_apart
from sweeper.report.plots.draw import PLOTS
from sweeper.report.render.answers import render_answers
from sweeper.report.select import select
from sweeper.report.summary import build_report
from sweeper.tables import parts
from sweeper.tables.parts import metric_rows
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 4, noise: 0.5}
update_rule: {learning_rate: 0.01}
train: {steps: 24, checkpoint_every: 8}
measure:
  every: 2
  data_fraction: 1
  estimators:
    - {use: directional_smoothness, delta: 0.5}
    - {use: critical_sharpness}
    - {use: directional_curvature}
    - {use: layer_smoothness}
    - {use: other_directions}
sweep:
  grid: {update_rule.learning_rate: [0.01, 0.02]}
  cases:
    - {}
    - {update_rule.clip_norm: 2}
    - {update_rule.clip_norm: 2, update_rule.when_exceeded: skip}
    - {update_rule.clip_threshold: {use: percentile, percentile: 50}}
    - {update_rule.clip_threshold: {use: percentile, percentile: 20}}
    - {update_rule.clip_threshold: {use: z_score, z: 0.1, warmup: 3}}
    - {update_rule.clip_groups: [{match: "*", clip_norm: 0.5}]}
"""
RULES = [
    "no clipping",
    "clip_norm=2",
    "clip_norm=2 when_exceeded=skip",
    "clip_threshold=percentile(50)",
    "clip_threshold=percentile(20)",
    "clip_threshold=z_score",
    "clip_groups=[*: 0.5]",
]
ARMS = [
    "sgd",
    "sgd + clip_norm",
    "sgd + clip_norm(skip)",
    "sgd + clip_threshold(percentile)",
    "sgd + clip_threshold(percentile)",
    "sgd + clip_threshold(z_score)",
    "sgd + clip_groups",
]


@pytest.fixture(scope="module")
def run(module_inline_run: Callable[[str], Any]) -> Run:
    return Run(module_inline_run(SPEC).run_dir.path)


def test_cells_are_called_by_what_sets_their_threshold(run: Run) -> None:
    labels = [f"learning_rate={rate} {rule}" for rate in ("0.01", "0.02") for rule in RULES]
    assert [cell.label for cell in build_report(run).cells] == labels
    assert [row["trial"] for row in trial_rows(run.path)] == [f"{label} seed=0" for label in labels]
    assert list(run.trials["arm"]) == 2 * ARMS


def test_pictures_call_them_by_the_same_names_and_place_them_by_their_numbers(run: Run) -> None:
    cells = drawn_cells(run, select(run, []))[: len(RULES)]
    assert [cell.threshold for cell in cells] == [None, 2, 2, 50, 20, 0.1, None]
    assert [cell.rule for cell in cells][2:5] == [
        "clip_norm(skip)=2",
        "clip_threshold(percentile)=50",
        "clip_threshold(percentile)=20",
    ]
    assert len(set(tell_apart([cell.swept for cell in cells]))) == len(cells)
    assert all(not cell.options for cell in cells), "they share panels with those of another threshold"
    figure = PLOTS["frontier"](run, select(run, []))
    words = {axis.get_xlabel().replace("\n", " ") for axis in figure.axes}
    assert {"percentile of the gradient norms", "standard deviations above the mean norm"} <= words


def test_panels_hold_cells_that_differ_in_the_number_alone(inline_run: Callable[..., Any]) -> None:
    sections = [
        "clip_threshold: {use: percentile, percentile: 10}",
        "clip_threshold: {use: percentile, percentile: 20}",
        "clip_threshold: {use: percentile, percentile: 20, window: 3}",
        "clip_groups: [{match: '*', clip_norm: 1}]",
        "clip_groups: [{match: '*', clip_norm: 2}]",
    ]
    cases = "".join(f"    - {{update_rule.{section}}}\n" for section in sections)
    text = (
        SMALL.replace(", clip_norm: 0.5", "") + "sweep:\n  grid: {update_rule.learning_rate: [0.01, 0.02]}\n  cases:\n"
    )
    found = Run(inline_run(text + cases)().run_dir.path)
    figure = PLOTS["frontier"](found, select(found, []))
    panels = [(axis.get_title(), [tick.get_text() for tick in axis.get_xticklabels()]) for axis in figure.axes[:4]]
    assert [ticks for _, ticks in panels] == [["10", "20"], ["20"], ["several"], ["several"]]
    # A title is broken where its panel is narrow.
    titles = [title.replace("\n", "") for title, _ in panels]
    expected = [
        "clip_threshold=percentile(10000)",
        "clip_threshold=percentile(3)",
        "clip_groups=[*: 1]",
        "clip_groups=[*: 2]",
    ]
    assert all(title.startswith(name) for title, name in zip(titles, expected, strict=True)), titles


def test_the_threshold_of_every_step_is_a_column(run: Run) -> None:
    metrics = run.metrics.set_index("trial_id")
    trials = run.trials.set_index("trial_id")
    for trial, arm in trials["arm"].items():
        rows = metrics.loc[trial].sort_values("step")
        threshold, norms = rows["threshold"].to_numpy(float)[:-1], rows["grad_norm"].to_numpy(float)[:-1]
        assert np.isnan(rows["threshold"].to_numpy(float)[-1]), "of the last iterate there is no step"
        if arm in {"sgd", "sgd + clip_groups"}:
            assert np.isnan(threshold).all()
            continue
        if arm == "sgd + clip_threshold(z_score)":
            assert np.isnan(threshold[:3]).all(), "the warm-up"
            threshold, norms, rows = threshold[3:], norms[3:], rows[3:]
        assert np.isfinite(threshold).all()
        clipped = rows["clipped"].astype(bool).to_numpy()[:-1]
        assert (clipped == (norms > threshold)).all()
        factor = 0 if "skip" in arm else threshold / norms
        scale = rows["step_size"].to_numpy(float)[:-1] / rows["learning_rate"].to_numpy(float)[:-1]
        assert scale == pytest.approx(np.where(clipped, factor, 1))


def test_the_share_of_clipped_steps_counts_skipped_ones(run: Run) -> None:
    shares = {str(cell.label): cell.clipped_fraction for cell in build_report(run).cells}
    metrics = run.metrics[run.metrics["step"] < 24]
    by_trial = metrics.assign(clipped=metrics["clipped"].astype(bool)).groupby("trial_id")["clipped"].mean()
    expected = [by_trial[trial] for trial in run.trials["trial_id"]]
    assert list(shares.values())[1:7] == pytest.approx(expected[1:7])
    assert np.isnan(shares["learning_rate=0.01 no clipping"])
    assert shares["learning_rate=0.01 clip_norm=2 when_exceeded=skip"] > 0


def test_estimators_have_nulls_for_steps_that_were_skipped(run: Run) -> None:
    moved = run.metrics.set_index(["trial_id", "step"])["update_norm"]
    for name, column in {
        "directional_smoothness": "smoothness",
        "critical_sharpness": "critical_curvature",
        "directional_curvature": "curvature",
        "layer_smoothness": "smoothness_by_layer",
        "other_directions": "gradient_smoothness",
    }.items():
        rows = run.measurements(name)
        assert rows["error"].isna().all()
        skipped = pd.Series([moved[key] == 0 for key in zip(rows["trial_id"], rows["step"], strict=True)])
        assert skipped.any()
        assert rows.loc[skipped.to_numpy(), column].map(lambda value: bool(np.all(np.isnan(value)))).all()


def test_frontiers_do_not_mix_settings_and_are_compared_with_training_without_clipping(run: Run) -> None:
    answers = build_answers(run)
    assert [(one.arm, one.clip_norm, one.setting) for one in answers.frontiers] == [
        (arm, clip_norm, setting)
        for arm, clip_norm, setting in zip(
            ARMS,
            [None, 2, 2, None, None, None, None],
            ["", "", "", "percentile(50)", "percentile(20)", "z_score", "[*: 0.5]"],
            strict=True,
        )
    ]
    shown = render_answers(answers, "md")
    assert "sgd + clip_threshold(percentile) | percentile(50)" in " ".join(shown.split())


def test_a_percentile_is_swept_by_its_name(inline_run: Callable[..., Any]) -> None:
    text = SPEC[: SPEC.index("  cases")].replace(
        "{learning_rate: 0.01}", "{learning_rate: 0.01, clip_threshold: {use: percentile}}"
    )
    text = text.replace("grid: {", "grid: {update_rule.clip_threshold.percentile: [10, 25], ")
    found = Run(inline_run(text)().run_dir.path)
    labels = [f"percentile={p} learning_rate={rate}" for p in (10, 25) for rate in ("0.01", "0.02")]
    assert [cell.label for cell in build_report(found).cells] == labels
    cells = drawn_cells(found, select(found, []))
    assert [cell.threshold for cell in cells] == [10, 10, 25, 25]
    assert {cell.rule for cell in cells} == {"clip_threshold(percentile)=10", "clip_threshold(percentile)=25"}
    assert [one.setting for one in build_answers(found).frontiers] == ["10", "25"]


def test_a_pattern_that_matches_nothing_fails_its_trial_alone(inline_run: Callable[..., Any]) -> None:
    groups = 'sweep: {cases: [{}, {update_rule.clip_groups: [{match: "embedding*", clip_norm: 1}]}]}'
    text = f"problem: {{use: deep_linear}}\nupdate_rule: {{learning_rate: 0.01}}\ntrain: {{steps: 3}}\n{groups}\n"
    trials = Run(inline_run(text)(max_attempts=2).run_dir.path).trials
    assert list(trials["status"]) == ["done", "failed"]
    assert "no parameter's name matches 'embedding*'; the names are weights.0, weights.1" in trials["error"].iloc[1]


SMALL = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01, clip_norm: 0.5}
train: {steps: 40, checkpoint_every: 4}
"""


@pytest.mark.parametrize("keep", [True, False], ids=["from a checkpoint", "from the start"])
def test_runs_of_versions_without_the_column_are_read_and_resumed(
    inline_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    whole = inline_run(SMALL, name="whole")()
    with monkeypatch.context() as before:
        before.setattr(parts, "metric_rows", lambda segments: metric_rows(segments).drop_columns(["threshold"]))
        stopped = inline_run(SMALL)
        stopped.stop_requested = lambda: stopped.pools.polls >= 8
        stopped()
    (step,) = (trial.step for trial in Run(stopped.run_dir.path).state.trials.values())
    assert 0 < step < 40
    old = Run(stopped.run_dir.path).metrics
    assert "threshold" not in old.columns
    if not keep:
        for checkpoint in stopped.run_dir.checkpoints.glob("*/*"):
            checkpoint.unlink()
    resumed = inline_run(SMALL)()
    assert list(Run(resumed.run_dir.path).trials["status"]) == ["done"]
    found, expected = (Run(one.run_dir.path).metrics for one in (resumed, whole))
    pd.testing.assert_frame_equal(
        found.drop(columns="threshold"), expected.drop(columns="threshold"), check_exact=True, check_like=True
    )
    assert found["threshold"].isna().tolist() == [at < step or at == 40 for at in range(41)]
    assert (found["threshold"].dropna() == 0.5).all()
