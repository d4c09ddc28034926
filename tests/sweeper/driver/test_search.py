"""A search within the driver: exact answers on functions with known thresholds, the same after any number of kills."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.planning.search_found import found_by_search
from sweeper.store.journal import RunState, open_state

InlineRun = Callable[..., Any]

L0, L1, M = 1.0, 4.0, 10.0
EXTREMAL = f"""
name: extremal
problem:
  use: analytic
  function: {{use: extremal, L0: {L0}, L1: {L1}}}
  start_gradient_norm: {M}
  after_hit: go_on
  epsilon: 0.1
update_rule: {{optimizer: sgd}}
train: {{steps: 400}}
sweep:
  seeds: 1
  search:
    use: stability_frontier
    over: update_rule.learning_rate
    between: [1.0e-3, 10]
    within: 1.02
    points: 1
"""

SPEC = """
name: searched
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {optimizer: sgd}
train: {steps: 24, checkpoint_every: 5}
sweep:
  grid: {update_rule.clip_norm: [null, 0.25]}
  search:
    use: stability_frontier
    over: update_rule.learning_rate
    between: [1.0e-2, 1.0e3]
    within: 1.5
    decide_after: 12
  seeds: 2
"""


def brackets(path: Path) -> dict[tuple[str, int | None], tuple[float | None, float | None]]:
    """What a run's search knows, by cell and seed."""
    run_dir, state = opened(path)
    found = found_by_search(run_dir, state)
    assert found is not None
    assert found.decision.finished
    return {(one.base, one.seed): (one.values["stable"], one.values["unstable"]) for one in found.decision.known}


def opened(path: Path) -> tuple[Any, RunState]:
    from sweeper.store.run_dir import RunDir

    run_dir = RunDir(path)
    return run_dir, open_state(run_dir)


def rows(path: Path) -> dict[str, pd.DataFrame]:
    """The tables of a run, by trial and step: the order in which trials were asked for is not part of the result."""
    trials = pd.read_parquet(path / "trials.parquet").sort_values("trial_id").reset_index(drop=True)
    timings = ["attempts", "started_at", "ended_at", "train_s", "estimate_s"]
    metrics = pd.read_parquet(path / "metrics.parquet").sort_values(["trial_id", "step"]).reset_index(drop=True)
    assert not metrics.duplicated(["trial_id", "step"]).any()
    return {"trials": trials.drop(columns=timings), "metrics": metrics}


def assert_same_tables(one: Path, other: Path) -> None:
    left, right = rows(one), rows(other)
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def assert_same(one: Path, other: Path) -> None:
    assert_same_tables(one, other)
    assert brackets(one) == brackets(other)


def test_the_bracket_holds_the_exact_threshold_of_an_extremal_function(inline_run: InlineRun) -> None:
    path = inline_run(EXTREMAL)().run_dir.path
    [(stable, unstable)] = brackets(path).values()
    # Beyond 2 log(1 + L1 M / L0) / (L1 M), gradient descent from a gradient of norm M diverges.
    exact = 2 * math.log(1 + L1 * M / L0) / (L1 * M)
    assert stable is not None
    assert unstable is not None
    assert stable <= exact < unstable
    assert unstable / stable <= 1.02 * 1.0002
    trials = len(pd.read_parquet(path / "trials.parquet"))
    assert trials <= math.ceil(math.log2(math.log(1e4) / math.log(1.02))) + 2


@pytest.fixture(scope="module")
def undisturbed(module_inline_run: InlineRun) -> Path:
    """The run directory of the search when nothing happens, which tests only read."""
    path: Path = module_inline_run(SPEC).run_dir.path
    return path


def test_every_lane_ends_with_a_narrow_bracket_and_held_trials_count_as_stable(undisturbed: Path) -> None:
    for stable, unstable in brackets(undisturbed).values():
        assert stable is not None
        assert unstable is not None
        assert 1 < unstable / stable <= 1.5001
    trials = pd.read_parquet(undisturbed / "trials.parquet")
    held = trials[trials["status"] == "held"]
    assert len(held) > 4
    metrics = pd.read_parquet(undisturbed / "metrics.parquet")
    last = metrics.groupby("trial_id")["step"].max()
    assert set(last[held["trial_id"]]) == {11}, "twelve steps, and nothing of the last iterate"


@pytest.mark.parametrize("seed", range(4))
def test_under_random_deaths_of_workers_the_search_ends_with_the_same_trials_and_rows(
    inline_run: InlineRun, seed: int, undisturbed: Path
) -> None:
    disturbed = inline_run(SPEC, name="disturbed", chaos=0.05, seed=seed)()
    assert disturbed.pools.deaths > 2
    assert_same(disturbed.run_dir.path, undisturbed)


class Crash(BaseException):
    """The driver's process ends here."""


def killed(make: Callable[[int], Any], moments: random.Random, *, longest: int) -> tuple[Any, int]:
    """A run to its end, whose driver was killed up to twenty times.

    Args:
        make: The number of kills so far to the next run of the same directory.
        moments: Draws after how many polls the driver is killed.
        longest: The most of these.

    Returns:
        The last run, and how often it was killed.
    """
    kills = 0
    while True:
        run = make(kills)
        deadline = moments.randint(1, longest) if kills < 20 else 10**9

        def crash(run: Any = run, deadline: int = deadline) -> None:
            if run.pools.polls >= deadline:
                raise Crash

        run.pools.before_poll = crash
        try:
            run()
        except Crash:
            kills += 1
            continue
        return run, kills


def test_a_driver_killed_at_twenty_random_moments_ends_with_the_same_trials_and_rows(
    inline_run: InlineRun, undisturbed: Path
) -> None:
    run, kills = killed(lambda kills: inline_run(SPEC, name="killed", seed=kills), random.Random(5), longest=12)
    assert kills == 20
    assert_same(run.run_dir.path, undisturbed)


def test_a_narrower_target_goes_on_from_what_is_there(inline_run: InlineRun) -> None:
    first = inline_run(EXTREMAL)()
    before = set(pd.read_parquet(first.run_dir.path / "trials.parquet")["trial_id"])
    second = inline_run(EXTREMAL.replace("within: 1.02", "within: 1.001"))()
    after = set(pd.read_parquet(second.run_dir.path / "trials.parquet")["trial_id"])
    assert before < after
    assert len(after) - len(before) <= 6
    [(stable, unstable)] = brackets(second.run_dir.path).values()
    assert stable is not None
    assert unstable is not None
    assert unstable / stable <= 1.001 * 1.0002


def test_the_live_view_says_what_the_search_knows(inline_run: InlineRun) -> None:
    run = inline_run(EXTREMAL)()
    assert run.listener.views[-1].search.startswith("1 of 1 brackets are within 1.02; asked ")


RACE = """
name: race
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
train: {steps: 24, checkpoint_every: 5, evaluate_every: 2}
sweep:
  grid: {update_rule.learning_rate: {log: [1.0e-4, 5.0, 9]}, update_rule.clip_norm: [null, 0.25]}
  search: {use: halving, metric: valid_loss, first: 4, factor: 3}
  seeds: 2
resources: {trainers: {count: 2}}
"""


def raced(path: Path) -> pd.DataFrame:
    """A race's trials, with the step up to which each has rows."""
    metrics = pd.read_parquet(path / "metrics.parquet")
    assert not metrics.duplicated(["trial_id", "step"]).any()
    trials = pd.read_parquet(path / "trials.parquet").set_index("trial_id")
    trials["last"] = metrics.groupby("trial_id")["step"].max()
    assert all(metrics.groupby("trial_id")["step"].apply(lambda steps: sorted(steps) == list(range(len(steps)))))
    return trials


def test_halving_holds_most_cells_early_and_trains_the_best_of_each_arm_to_the_end(inline_run: InlineRun) -> None:
    trials = raced(inline_run(RACE)().run_dir.path)
    assert len(trials) == 36
    assert set(trials.loc[trials["status"] == "held", "last"]) <= {3, 11}
    assert (trials.loc[trials["status"] == "done", "last"] == 24).all()
    finished = trials[trials["status"] == "done"].groupby("arm")["cell_id"].nunique()
    assert set(finished.index) == {"sgd", "sgd + clip_norm"}
    # Asynchronously a few go on that later ones displace: less than half of all steps are trained all the same.
    assert (trials["last"] + 1).sum() < 36 * 24 / 2


@pytest.mark.parametrize("seed", range(3))
def test_halving_survives_deaths_and_kills_of_its_driver(inline_run: InlineRun, seed: int) -> None:
    quiet = inline_run(RACE, name="quiet")().run_dir.path
    run, kills = killed(
        lambda kills: inline_run(RACE, name="killed", seed=kills, chaos=0.02), random.Random(seed), longest=7
    )
    assert kills == 20
    trials = raced(run.run_dir.path)
    assert set(trials["status"]) <= {"held", "done", "diverged"}
    assert len(trials[trials["status"] == "done"].groupby("arm")) == 2
    # Who goes on depends on who came first; what a trial has logged does not.
    one, other = (pd.read_parquet(path / "metrics.parquet") for path in (quiet, run.run_dir.path))
    both = one.merge(other, on=["trial_id", "step"], suffixes=("", "_other"))
    assert len(both) > len(one) / 2
    for name in ("train_loss", "grad_norm"):
        pd.testing.assert_series_equal(both[name], both[f"{name}_other"], check_names=False, check_exact=True)


def test_without_the_search_the_trials_that_it_held_go_on_to_their_end(inline_run: InlineRun) -> None:
    first = inline_run(RACE)()
    search = "  search: {use: halving, metric: valid_loss, first: 4, factor: 3}\n"
    assert search in RACE
    again = inline_run(RACE.replace(search, ""))()
    trials = raced(again.run_dir.path)
    assert first.run_dir.path == again.run_dir.path
    assert set(trials["status"]) == {"done", "diverged"}


def test_the_search_goes_by_the_final_loss_that_the_tables_have(undisturbed: Path) -> None:
    _, state = opened(undisturbed)
    final = pd.read_parquet(undisturbed / "trials.parquet").set_index("trial_id")["final_train_loss"]
    compared = 0
    for name, trial in state.trials.items():
        if trial.outcome == "done" and len(trial.segments) > 1:
            last = trial.segments[-1].facts.scores["train_loss"][1]
            assert last == pytest.approx(final[name], rel=1e-12)
            compared += 1
    assert compared


QUADRATIC = """
name: others
problem: {use: analytic, function: {use: quadratic, eigenvalues: [2.0, 0.1]}, start: 1.0, epsilon: 1.0e-9}
update_rule: {optimizer: sgd}
train: {steps: 30}
sweep:
  grid: {update_rule.clip_norm: [null, 1.0]}
  search: SEARCH
  seeds: 3
resources: {trainers: {count: 2}}
"""
OTHERS = {
    "best": "{use: best, over: {update_rule.learning_rate: [1.0e-3, 10]}, budget: 24, confirm_seeds: 3}",
    "optuna": "{use: optuna, over: {update_rule.learning_rate: [1.0e-3, 10]}, budget: 24}",
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_searchers_survive_twenty_kills_of_their_driver(inline_run: InlineRun, name: str) -> None:
    text = QUADRATIC.replace("SEARCH", OTHERS[name])
    quiet = inline_run(text, name="quiet")().run_dir.path
    run, kills = killed(lambda kills: inline_run(text, name="killed", seed=kills), random.Random(3), longest=5)
    assert kills >= 10
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet")
    assert set(trials["status"]) <= {"done", "diverged"}
    assert not trials.duplicated(["update_rule.learning_rate", "clip_norm", "seed"]).any()
    run_dir, state = opened(run.run_dir.path)
    found = found_by_search(run_dir, state)
    assert found is not None
    assert found.decision.finished
    if name == "best":
        # What it tries does not depend on the order in which trials end.
        assert_same_tables(run.run_dir.path, quiet)
    else:
        assert len(trials) == len(pd.read_parquet(quiet / "trials.parquet")) == 48


def test_what_best_found_is_near_the_optimum_and_confirmed_on_fresh_seeds(inline_run: InlineRun) -> None:
    text = QUADRATIC.replace("SEARCH", OTHERS["best"])
    run_dir, state = opened(inline_run(text)().run_dir.path)
    found = found_by_search(run_dir, state)
    assert found is not None
    plain = found.decision.known[0]
    # Of the two rates of contraction, |1 - 2 h| and |1 - 0.1 h|, the larger is smallest at h = 2 / 2.1.
    assert plain.values["best"]["update_rule.learning_rate"] == pytest.approx(2 / 2.1, rel=0.25)
    assert plain.values["confirmed"]["seeds"] == 3
    assert sorted(plain.values["confirmed"]["by_seed"]) == ["3", "4", "5"]
    assert plain.values["spent"] <= 24


def known_of(path: Path) -> list[str]:
    """What the search of a run says of each cell, in words."""
    run_dir, state = opened(path)
    found = found_by_search(run_dir, state)
    assert found is not None
    assert found.decision.finished, found.decision
    return [one.text for one in found.decision.known]


HALVED = RACE.replace("{log: [1.0e-4, 5.0, 9]}", "{log: [1.0e-3, 0.1, 4]}").replace("seeds: 2", "seeds: 1")


def test_halving_goes_on_with_more_seeds_and_with_other_rungs(inline_run: InlineRun) -> None:
    inline_run(HALVED)()
    trials = raced(inline_run(HALVED.replace("seeds: 1", "seeds: 2"))().run_dir.path)
    assert len(trials) == 16
    steps = trials.groupby("cell_id")["last"].nunique()
    assert (steps == 1).all(), "the new seed of a cell goes as far as the one before"
    again = inline_run(HALVED.replace("seeds: 1", "seeds: 2").replace("first: 4", "first: 3"))().run_dir.path
    assert not any("diverged" in text for text in known_of(again))
    assert set(raced(again)["status"]) == {"held", "done"}


@pytest.mark.parametrize("searcher", ["best", "optuna"])
def test_trials_that_halving_held_are_trained_to_their_end_by_a_search_that_compares_whole_ones(
    inline_run: InlineRun, searcher: str
) -> None:
    text = HALVED.replace("seeds: 1", "seeds: 2")
    first = raced(inline_run(text)().run_dir.path)
    assert (first["status"] == "held").any()
    start = text.index("sweep:")
    over = f"{{use: {searcher}, over: {{update_rule.learning_rate: [1.0e-3, 0.1]}}, metric: valid_loss, budget: 30}}"
    grid = f"sweep:\n  grid: {{update_rule.clip_norm: [null, 0.25]}}\n  search: {over}\n  seeds: 2\n"
    path = inline_run(text[:start] + grid)().run_dir.path
    trials = pd.read_parquet(path / "trials.parquet")
    assert set(trials["status"]) <= {"done", "diverged"}
    assert set(first.index) < set(trials["trial_id"])
    assert len(known_of(path)) == 2


def test_without_decide_after_the_trials_that_it_held_are_trained_to_their_end(inline_run: InlineRun) -> None:
    inline_run(SPEC)()
    path = inline_run(SPEC.replace("    decide_after: 12\n", ""))().run_dir.path
    assert "held" not in set(pd.read_parquet(path / "trials.parquet")["status"])
    known_of(path)


MEASURED = """
name: measured
problem: {use: deep_linear, layers: 2, width: 4, samples: 16}
update_rule: {optimizer: sgd}
train: {steps: 20}
measure: {steps: [0], data_fraction: 1.0, estimators: [{use: hessian_spectral_norm}]}
sweep:
  grid: {update_rule.clip_norm: [null, 0.25]}
  search: {use: stability_frontier, over: update_rule.learning_rate, between: [1.0e-2, 1.0e3], within: 1.5}
  seeds: 2
"""


def test_the_picture_of_a_frontier_has_every_bracket_and_twice_the_inverse_of_the_curvature(
    inline_run: InlineRun,
) -> None:
    from sweeper.report.plots.frontier import frontier
    from sweeper.report.select import select
    from sweeper.tables.run import Run

    run = Run(inline_run(MEASURED)().run_dir.path)
    picture = frontier(run, select(run, ()))
    norms = run.measurements("hessian_spectral_norm")["spectral_norm"]
    (line,) = [row for row in picture.drawn if row["drawn"] == "2 / lambda"]
    assert line["learning_rate"] == pytest.approx(2 / norms.median(), rel=1e-9)
    low, high = picture.axes[0].get_ylim()
    assert low < line["learning_rate"] < high
    heights = {
        tuple(round(float(y), 6) for y in drawn.get_ydata())
        for axis in picture.axes
        for drawn in axis.get_lines()
        if len(drawn.get_ydata()) == 2 and drawn.get_xdata()[0] == drawn.get_xdata()[1]
    }
    for stable, unstable in brackets(run.path).values():
        assert stable is not None
        assert unstable is not None
        assert (round(stable, 6), round(unstable, 6)) in heights
