"""Theory sweeps from spec to table and picture, through the driver and the committer, without Ray."""

import csv
import io
import json
import math

import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.report.plots.draw import draw
from sweeper.report.render.summary import render
from sweeper.report.render.theory import render_theory
from sweeper.report.summary import build_report
from sweeper.report.theory import build_theory, hitting_time, largest_stable_step
from sweeper.tables.run import Run

THEOREM4 = """
problem: {use: analytic, assume: {L0: 1, L1: 1}, epsilon: 0.1}
train: {steps: 100000}
sweep:
  zip:
    problem.function.use: [theorem4_steep, theorem4_steep, theorem4_flat]
    problem.start_gradient_norm: [10, 1000, null]
    problem.start_gap: [null, null, 1]
  cases:
    - {update_rule.from_theory: theorem3}
    - {update_rule.learning_rate: 0.6}
    - {update_rule.learning_rate: 0.3}
    - {update_rule.learning_rate: 0.015}
    - {update_rule.learning_rate: 0.01}
"""
PHASE = """
problem: {use: analytic, function: {use: extremal}, start_gradient_norm: 100, epsilon: 0.01}
train: {steps: 2000}
sweep:
  grid:
    update_rule.learning_rate: {log: [0.001, 10, 9]}
    update_rule.clip_norm: {log: [0.1, 10000, 6]}
"""
NOISE = """
problem:
  {use: analytic, function: {use: logistic, slope: 2, L1: 1}, start_gap: 1, epsilon: 0.3, noise: 0.1, after_hit: go_on}
train: {steps: 400}
sweep:
  grid:
    update_rule.learning_rate: [0.1, 1]
    update_rule.clip_norm: [0.01, 0.1, 1]
  seeds: 4
"""


def finished(inline_run, text, **chaos):
    return Run(inline_run(text, **chaos)().run_dir.path)


@pytest.fixture
def theorem4(inline_run):
    return finished(inline_run, THEOREM4)


def test_hitting_times_are_columns_of_the_trials_table_that_pandas_reads(theorem4):
    trials = pd.read_parquet(theorem4.path / "trials.parquet")
    assert set(trials["hitting_status"]) == {"hit", "diverged"}
    hit = trials[trials["hitting_status"] == "hit"]
    assert (hit["committed_step"] == hit["hitting_time"]).all()
    assert trials.loc[trials["hitting_status"] == "diverged", "hitting_time"].isna().all()
    assert set(trials["status"]) == {"done", "diverged"}
    theory = trials[trials["arm"] == "theorem3"]
    assert (theory["learning_rate"] == 0.1).all()
    assert (theory["clip_norm"] == 1.0).all()
    assert (theory["iteration_bound"] >= theory["hitting_time"]).all()


def test_the_final_loss_of_an_analytic_trial_is_that_of_its_last_iterate(theorem4):
    for table in (pd.read_parquet(theorem4.path / "trials.parquet"), theorem4.trials):
        done = table[table["status"] == "done"]
        start = theorem4.metrics.groupby("trial_id")[["train_loss", "gap"]].first()
        minimum = (start["train_loss"] - start["gap"]).loc[done["trial_id"]].to_numpy()
        assert done["final_train_loss"].to_numpy() == pytest.approx(minimum + done["final_gap"].to_numpy())
        assert (done["final_gap"] < done["initial_gap"]).all()
        assert table.loc[table["status"] == "diverged", "final_train_loss"].isna().all()


def test_the_final_loss_is_right_in_tables_of_an_earlier_version_too(theorem4):
    path = theorem4.path / "trials.parquet"
    table = pd.read_parquet(path)
    truth = table["final_train_loss"].copy()
    table["final_train_loss"] = table["initial_gap"]
    table.to_parquet(path)
    pd.testing.assert_series_equal(Run(theorem4.path).trials["final_train_loss"][truth.notna()], truth.dropna())


def test_without_noise_a_report_points_to_theory_once_and_compares_no_single_seeds(theorem4, inline_run):
    report = build_report(theorem4)
    shown = render(report, "table")
    assert "one seed says nothing about chance" not in shown
    assert shown.count("`clipsweep theory ") == 1
    assert report.comparisons == ()
    assert report.bests, "the best cells are named all the same"
    noisy_run = finished(inline_run, NOISE, name="noisy")
    noisy = render(build_report(noisy_run), "table")
    assert "clipsweep theory" not in noisy
    assert all(math.isfinite(loss.high) for cell in build_report(noisy_run).cells for loss in cell.losses.values())


def test_a_rule_is_judged_by_the_worse_of_the_two_instances(theorem4):
    report = build_theory(theorem4)
    low, high = report.speedups
    assert (low.M, high.M) == (pytest.approx(10), pytest.approx(1000))
    assert low.rule == high.rule == "theorem3"
    assert low.rule_time == high.rule_time
    assert (low.descent_rate, high.descent_rate) == (0.6, 0.015)
    assert low.ratio < 1 < high.ratio
    assert low.rates_tried == 4


def test_the_same_tables_come_out_however_often_workers_die(inline_run):
    calm = finished(inline_run, THEOREM4, name="calm")
    wild = finished(inline_run, THEOREM4, name="wild", chaos=0.3, seed=5)
    columns = ["trial_id", "hitting_time", "hitting_status", "clipped_fraction", "final_gap", "learning_rate"]
    pd.testing.assert_frame_equal(calm.trials[columns], wild.trials[columns])
    pd.testing.assert_frame_equal(calm.metrics, wild.metrics)


def test_a_stopped_theory_sweep_goes_on_where_it_was(inline_run):
    whole = finished(inline_run, THEOREM4, name="whole")
    run = inline_run(THEOREM4, name="cut")
    run.stop_requested = lambda: run.pools.polls > 6
    run()
    done = Run(run.run_dir.path).trials
    done = set(done.loc[done["hitting_status"].notna(), "trial_id"]) if "hitting_status" in done else set()
    again = inline_run(THEOREM4, name="cut")
    again()
    trained = {assignment.trial for assignment in again.pools.assignments}
    assert 0 < len(trained) < 15
    assert not trained & done
    pd.testing.assert_frame_equal(Run(again.run_dir.path).metrics, whole.metrics)


@pytest.mark.parametrize("style", ["table", "md", "csv", "json"])
def test_every_format_tells_the_same_times(theorem4, style):
    report = build_theory(theorem4)
    text = render_theory(report, style)
    times = [row.time for row in report.rows if math.isfinite(row.time)]
    if style == "json":
        document = json.loads(text)
        assert [row["T"] for row in document["rows"] if row["T"] is not None] == times
        assert document["speedups"][0]["ratio"] == report.speedups[0].ratio
    elif style == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [float(row["T"]) for row in rows if row["T"]] == times
    else:
        assert "∞" in text
        assert all(f"{int(time):,}" in text if time >= 1000 else f" {int(time)} " in text for time in times)


def test_a_theorem_s_numbers_stand_where_the_spec_s_own_would(theorem4):
    rows = build_theory(theorem4).rows
    (row,) = [row for row in rows if row.arm == "theorem3" and row.function == "theorem4_flat"]
    assert row.values["learning_rate"] == 0.1
    assert row.slack is not None
    assert row.slack > 1


def test_functions_that_are_swept_as_sections_are_named_with_their_numbers(inline_run):
    swept = "{problem.function: [{use: logistic, slope: 2, L1: 1}, {use: logistic, slope: 4, L1: 1}]}"
    text = f"{NOISE.partition('sweep:')[0]}sweep: {{grid: {swept}}}\nupdate_rule: {{learning_rate: 1}}\n"
    run = finished(inline_run, text)
    rows = build_theory(run).rows
    assert [row.function for row in rows] == ["logistic slope=2 L1=1", "logistic slope=4 L1=1"]
    assert "slope" in render_theory(build_theory(run), "md")
    assert [cell.values["function"]["slope"] for cell in build_report(run).cells] == [2, 4]


def test_seeds_are_summed_up_by_the_time_at_which_half_of_them_have_hit(inline_run):
    run = finished(inline_run, NOISE)
    report = build_theory(run)
    trials = run.trials
    for row in report.rows:
        chosen = (trials["learning_rate"] == row.values["learning_rate"]) & (
            trials["clip_norm"] == row.values["clip_norm"]
        )
        times = sorted(trials.loc[chosen, "hitting_time"].astype(float).fillna(math.inf))
        assert row.time == times[1]
        assert row.seeds == 4
    assert any("half of 4 seeds" in note for note in report.notes)
    assert "tail ‖∇f‖" in render_theory(report, "table")


def test_one_run_s_time_is_that_of_equation_7():
    assert hitting_time([12]) == 12
    assert hitting_time([math.inf]) == math.inf


def test_the_largest_stable_step_ends_at_the_mirror_image_of_its_start():
    start = math.log1p(2 * 30 / 0.5) / 2
    assert start - largest_stable_step(0.5, 2, 30) * 30 == pytest.approx(-start)


@pytest.mark.parametrize(("text", "kind"), [(THEOREM4, "speedup"), (PHASE, "phase"), (NOISE, "floor")])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_every_picture_is_drawn(inline_run, tmp_path, text, kind, suffix):
    file = tmp_path / f"picture{suffix}"
    draw(finished(inline_run, text), kind, file)
    assert file.stat().st_size > 5000


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (PHASE, "speedup", "needs both instances of Theorem 4"),
        (PHASE, "floor", "needs noise, thresholds, and after_hit: go_on"),
        (THEOREM4, "phase", "needs several values of learning_rate and of clip_norm"),
    ],
)
def test_a_picture_that_a_run_cannot_fill_says_what_it_needs(inline_run, tmp_path, text, kind, message):
    with pytest.raises(ClipsweepError, match=message):
        draw(finished(inline_run, text), kind, tmp_path / "picture.png")


def test_a_run_without_analytic_trials_is_no_theory(inline_run):
    text = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.01}\ntrain: {steps: 3}\n"
    with pytest.raises(ClipsweepError, match="no analytic trial has ended"):
        build_theory(finished(inline_run, text))
