"""Stability, edges and advice on runs whose answers are known."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.report.advice import build_advice
from sweeper.report.answers import build_answers, extended_grid
from sweeper.report.fits import build_fits, fit_cells, fit_hessians
from sweeper.report.noise import noise_of_cells
from sweeper.report.plots.draw import draw
from sweeper.report.plots.frontier import frontier as frontier_figure
from sweeper.report.render.answers import _ratios, render_answers
from sweeper.report.render.fits import render_fits
from sweeper.report.render.summary import render
from sweeper.report.select import select
from sweeper.report.stability import (
    Edge,
    divergence_rate,
    edge_of,
    frontier_ratios,
    frontiers,
    grid_override,
    grown,
    unstable,
)
from sweeper.report.summary import build_report
from sweeper.spec import loads_spec
from sweeper.spec.bounds import bounds_of
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 3, width: 6, samples: 32, batch_size: 16}
update_rule: {learning_rate: 0.01}
train: {steps: 60}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid:
    update_rule.learning_rate: [0.01, 0.1, 1, 10]
    update_rule.clip_norm: [null, 0.5]
  seeds: 2
"""


@pytest.fixture(scope="module")
def finished(module_inline_run):
    return Run(module_inline_run(SPEC).run_dir.path)


def trials_of(outcomes, clip=None, arm="sgd", seed=0):
    """Trials of one rule: learning rate to whether it diverged."""
    return pd.DataFrame([
        {"arm": arm, "clip_norm": clip, "learning_rate": rate, "seed": seed, "diverged": float(lost)}
        for rate, lost in outcomes.items()
    ])


# Divergence


@pytest.mark.parametrize("count", [1, 3, 10])
def test_no_divergence_in_few_trials_excludes_little(count):
    rate = divergence_rate(0, count)
    assert rate.low == 0
    # Wilson: z^2/(n + z^2).
    assert rate.high == pytest.approx(1.959964**2 / (count + 1.959964**2), rel=1e-5)


def test_a_share_s_interval_holds_the_share():
    rate = divergence_rate(2, 5)
    assert rate.low < 0.4 < rate.high
    assert math.isnan(divergence_rate(0, 0).low)


# The frontier


def test_a_frontier_is_bracketed_by_the_last_stable_and_the_first_unstable_rate():
    (found,) = frontiers(trials_of({0.1: 0, 0.3: 0, 1.0: 1, 3.0: 1}), {})
    assert (found.stable, found.unstable, found.rates) == (0.3, 1.0, 4)


def test_a_rate_beyond_the_first_unstable_one_that_happens_to_survive_does_not_count():
    (found,) = frontiers(trials_of({0.1: 0, 0.3: 1, 1.0: 0}), {})
    assert (found.stable, found.unstable) == (0.1, 0.3)


@pytest.mark.parametrize(("outcomes", "bracket"), [({1.0: 0, 2.0: 0}, (2.0, None)), ({1.0: 1, 2.0: 1}, (None, 1.0))])
def test_a_grid_that_ends_too_soon_leaves_the_bracket_open(outcomes, bracket):
    (found,) = frontiers(trials_of(outcomes), {})
    assert (found.stable, found.unstable) == bracket


def test_the_ratio_is_what_the_brackets_of_every_seed_allow():
    plain = [trials_of({1: 0, 2: 0, 4: 1, 8: 1, 16: 1}, seed=0), trials_of({1: 0, 2: 1, 4: 1, 8: 1, 16: 1}, seed=1)]
    clipped = [
        trials_of({1: 0, 2: 0, 4: 0, 8: 0, 16: 1}, clip=0.5, arm="sgd + clip_norm", seed=0),
        trials_of({1: 0, 2: 0, 4: 0, 8: 1, 16: 1}, clip=0.5, arm="sgd + clip_norm", seed=1),
    ]
    (ratio,) = frontier_ratios(frontiers(pd.concat([*plain, *clipped]), {}))
    # Seed 0: clipped in [8, 16], plain in [2, 4]; seed 1: [4, 8] and [1, 2].
    assert (ratio.low, ratio.high, ratio.seeds) == (2.0, 8.0, 2)


def test_a_ratio_is_open_where_the_clipped_rule_never_diverged():
    plain = trials_of({1: 0, 2: 1, 4: 1})
    clipped = trials_of({1: 0, 2: 0, 4: 0}, clip=0.5, arm="sgd + clip_norm")
    (ratio,) = frontier_ratios(frontiers(pd.concat([plain, clipped]), {}))
    assert (ratio.low, ratio.high) == (2.0, math.inf)


def test_rules_are_compared_with_their_own_optimiser_only():
    plain = trials_of({1: 0, 2: 1}, arm="adam")
    clipped = trials_of({1: 0, 2: 0}, clip=0.5, arm="sgd + clip_norm")
    assert frontier_ratios(frontiers(pd.concat([plain, clipped]), {})) == ()


OVERSHOOT = """
problem: {use: deep_linear, layers: 2, width: 6, samples: 32, batch_size: 16}
update_rule: {learning_rate: 0.01}
train: {steps: 40}
sweep:
  grid:
    update_rule.learning_rate: [0.01, 0.1, 1]
    update_rule.clip_norm: [null, 0.5, 50]
  seeds: 2
"""
"""A threshold of 50 keeps the loss finite at rate 1, and far above its start."""


@pytest.fixture(scope="module")
def overshoot(module_inline_run):
    return Run(module_inline_run(OVERSHOOT).run_dir.path)


def test_a_trial_that_is_done_but_ended_above_its_start_is_unstable(overshoot):
    trials = overshoot.trials
    high = trials[(trials["learning_rate"] == 1) & (trials["clip_norm"] == 50)]
    assert set(high["status"]) == {"done"}
    flags = unstable(overshoot, trials)
    assert set(trials.loc[flags & (trials["status"] == "done"), "trial_id"]) == set(high["trial_id"])
    assert flags[trials["status"] == "diverged"].all()
    found = {row.clip_norm: row for row in build_answers(overshoot).frontiers}
    assert (found[50].stable, found[50].unstable, found[50].above_start) == (0.1, 1, (1.0,))
    assert (found[0.5].stable, found[0.5].unstable, found[0.5].above_start) == (1, None, ())
    assert found[None].above_start == ()


def test_advise_names_the_cells_that_ended_above_their_start(overshoot):
    answers = build_answers(overshoot)
    for style in ("table", "md"):
        shown = render_answers(answers, style)
        assert "done, but ended above their start: learning_rate=1 clip_norm=50; counted as unstable" in shown
        assert "max_loss in the spec would have stopped them" in shown
        assert "not bounded by this grid" in shown
        assert "∞" not in shown
    document = json.loads(render_answers(answers, "json"))
    assert document["above_start"] == ["learning_rate=1 clip_norm=50"]


def test_where_nothing_ended_above_its_start_nothing_is_said_of_it(overshoot):
    answers = build_answers(overshoot, where=["clip_norm=0.5"])
    assert answers.above_start == ()
    assert "above their start" not in render_answers(answers, "table")


def test_the_picture_of_the_frontier_has_the_table_s_stability(overshoot):
    figure = frontier_figure(overshoot, select(overshoot, ()))
    drawn = {
        tuple(place): share
        for dots in figure.axes[0].collections
        for place, share in zip(dots.get_offsets().tolist(), dots.get_array(), strict=True)
    }
    assert (drawn[50.0, 1.0], drawn[0.5, 1.0], drawn[50.0, 0.1]) == (1, 0, 0)


def test_a_loss_that_is_not_finite_is_above_any_start_and_one_of_which_nothing_was_logged_is_not(overshoot):
    trials = overshoot.trials[overshoot.trials["status"] == "done"].head(3).copy()
    trials["final_train_loss"] = [math.inf, math.nan, 0.0]
    assert unstable(overshoot, trials).tolist() == [True, True, False]
    assert unstable(overshoot, trials.assign(trial_id="nobody")).tolist() == [False, False, False]


def test_half_of_the_seeds_above_their_start_make_a_rate_unstable():
    trials = pd.concat([trials_of({1: 0, 2: 0, 4: 0}, seed=seed) for seed in (0, 1)])
    trials["above_start"] = (trials["learning_rate"] == 2) & (trials["seed"] == 1)
    (found,) = frontiers(trials, {})
    assert (found.stable, found.unstable, found.above_start) == (1, 2, (2.0,))
    assert found.by_seed == {0: (4.0, None), 1: (1.0, 2.0)}


def test_a_ratio_without_bounds_says_so_in_words():
    plain = trials_of({1: 0, 2: 0})
    clipped = trials_of({1: 1, 2: 1}, clip=0.5, arm="sgd + clip_norm")
    (low,) = frontier_ratios(frontiers(pd.concat([plain, clipped]), {}))
    assert shown_bounds(low) == ["not bounded by this grid", "0.5"]
    (both,) = frontier_ratios(frontiers(pd.concat([plain, clipped.assign(diverged=0.0)]), {}))
    assert shown_bounds(both) == ["not bounded by this grid"] * 2


def shown_bounds(ratio):
    return [column.cells[0] for column in _ratios([ratio]).columns if column.head in ("at least", "at most")]


# Edges


@pytest.mark.parametrize(
    ("values", "best", "expected"),
    [
        ([0.01, 0.03, 0.1], 0.1, ("largest", (0.333, 1.11))),
        ([1.0, 10.0, 100.0], 1.0, ("smallest", (0.1, 0.01))),
        ([1.0, 10.0, 100.0], 10.0, None),
        ([1.0, 10.0], 10.0, None),
        ([0.0, 1.0, 2.0], 2.0, ("largest", (4.0, 8.0))),
        ([0.0, 1.0, 2.0], 0.0, None),
    ],
)
def test_an_edge_goes_on_in_the_grid_s_own_spacing(values, best, expected):
    assert edge_of(values, best) == expected


@pytest.mark.parametrize(
    ("path", "values", "best", "expected"),
    [
        ("update_rule.momentum", [0.8, 0.9, 0.99], 0.99, ("largest", (0.999, 0.9999))),
        ("update_rule.momentum", [0.0, 0.5, 0.9], 0.9, ("largest", (0.98, 0.996))),
        ("update_rule.momentum", [0.0, 0.5, 0.9], 0.0, None),
        ("update_rule.momentum", [0.1, 0.2, 0.3], 0.1, ("smallest", (0.05, 0.025))),
        ("update_rule.learning_rate", [1.0, 10.0, 100.0], 1.0, ("smallest", (0.1, 0.01))),
        ("update_rule.schedule.final_fraction", [0.1, 0.5, 1.0], 1.0, None),
        ("problem.batch_size", [1, 2, 4], 1, None),
        ("problem.batch_size", [2, 3, 4], 2, ("smallest", (1.0,))),
        ("problem.batch_size", [4, 6, 9], 9, ("largest", (14.0, 20.0))),
    ],
)
def test_an_edge_never_leaves_what_the_option_can_be(path, values, best, expected):
    found = edge_of(values, best, bounds_of(path))
    assert found == expected
    assert all(value in bounds_of(path) for value in (found or ("", ()))[1])


def test_a_momentum_at_its_edge_gives_an_override_that_loads(inline_run):
    text = SPEC.replace("learning_rate: [0.01, 0.1, 1, 10]", "momentum: [0.6, 0.8, 0.9]")
    text = text.replace("learning_rate: 0.01", "learning_rate: 0.0003")
    run = inline_run(text)()
    overrides = extended_grid(run.run_dir.path, run.sweep)
    assert overrides == ["sweep.grid.update_rule.momentum=[0.6, 0.8, 0.9, 0.95, 0.975]"]
    assert len(loads_spec(text, folder=run.run_dir.path, overrides=overrides).cells) == 10


def test_only_paths_of_the_grid_grow():
    edges = [
        Edge(path=path, arm="sgd", context="", side="largest", value=3.0, add=(9.0, 27.0))
        for path in ("a", "elsewhere")
    ]
    assert grid_override({"a": [None, 1.0, 3.0], "b": [1.0]}, edges) == {"a": [None, 1.0, 3.0, 9.0, 27.0]}
    assert grown([1.0, 3.0], [edges[0], edges[0]]) == [1.0, 3.0, 9.0, 27.0]


def test_a_best_cell_at_an_edge_gives_an_override_that_loads(inline_run):
    text = SPEC.replace("[0.01, 0.1, 1, 10]", "[0.0001, 0.0003, 0.001]")
    run = inline_run(text)()
    overrides = extended_grid(run.run_dir.path, run.sweep)
    assert overrides[0].startswith("sweep.grid.update_rule.learning_rate=[0.0001, 0.0003, 0.001, 0.00333")
    grown_sweep = loads_spec(text, folder=run.run_dir.path, overrides=overrides)
    assert len(grown_sweep.cells) > len(run.sweep.cells)
    answers = build_answers(Run(run.run_dir.path))
    assert {edge.side for edge in answers.edges if edge.path.endswith("learning_rate")} == {"largest"}
    assert "update_rule.learning_rate: [0.0001, 0.0003, 0.001, 0.00333, 0.0111]" in render_answers(answers, "table")


# Fits and advice


def points(L0, L1, *, high=10.0, n=200, seed=0):
    g = np.random.default_rng(seed).permutation(np.geomspace(0.05, high, n))
    return g, L0 + L1 * g


class Measured:
    """Just enough of a run for its fits."""

    def __init__(self, cells, *, arm="sgd", hessian=None, tau=None):
        self.path = "made-up"
        self.swept = ["update_rule.learning_rate"]
        self.estimators = ["directional_smoothness"]
        self.state = SimpleNamespace(measurements={"m": None}, cases={})
        self.measurement = None
        rows, trials, self.values = [], [], {}
        for rate, by_seed in cells.items():
            for seed, (g, smoothness) in by_seed.items():
                name = f"{rate}-{seed}"
                self.values[name] = {"update_rule.learning_rate": rate}
                trials.append({
                    "trial_id": name,
                    "cell_id": str(rate),
                    "case": None,
                    "arm": arm if isinstance(arm, str) else arm[rate],
                    "seed": seed,
                    "update_rule.learning_rate": rate,
                })
                rows += [
                    {
                        "trial_id": name,
                        "step": step,
                        "grad_norm": x,
                        "smoothness": y,
                        "mechanical_bound": 1.0 + x,
                        "snr": 100.0,
                        "measurement_id": "m",
                    }
                    for step, (x, y) in enumerate(zip(g, smoothness, strict=True))
                ]
        self.trials, self._rows = pd.DataFrame(trials), pd.DataFrame(rows)
        if hessian is not None:
            self.estimators.append("hessian_spectral_norm")
        if tau is not None:
            self.estimators.append("gradient_noise")
        self._hessian, self._tau = hessian, tau

    def measurements(self, name):
        at = self._rows[["trial_id", "step", "measurement_id"]]
        if name == "hessian_spectral_norm":
            return at.assign(spectral_norm=self._hessian(self._rows["grad_norm"]))
        return self._rows if name == "directional_smoothness" else at.assign(tau=self._tau)


def advised(run):
    """The advice on all of a run."""
    fits, hessian = fit_cells(run, run.trials), fit_hessians(run, run.trials)
    return build_advice(fits, steps=100, tau=noise_of_cells(run, run.trials), hessian=hessian)


def of_three_seeds(L0, L1, **more):
    """Seeds whose constants lie a few per cent apart."""
    return {seed: points(L0 * factor, L1 * factor, seed=seed, **more) for seed, factor in enumerate((0.97, 1.0, 1.03))}


def test_advice_follows_from_the_widest_cell_s_constants_and_has_their_intervals():
    run = Measured({1.0: of_three_seeds(2.0, 0.5), 0.1: of_three_seeds(9.0, 3.0, high=0.2)})
    (advice,) = advised(run)
    assert advice.source == "learning_rate=1"
    assert advice.measured == "directional_smoothness"
    vankov, theorem3 = advice.rules
    # Of three seeds the geometric mean of 0.97, 1 and 1.03 is 0.9997; thresholds divide the factor out.
    assert vankov.learning_rate.mean == pytest.approx(1 / 4, rel=1e-3)
    assert vankov.clip_norm.mean == pytest.approx(2 * 2 / (3 * 0.5), rel=1e-6)
    assert theorem3.learning_rate.mean == pytest.approx(1 / 20, rel=1e-3)
    assert theorem3.clip_norm.mean == pytest.approx(4.0, rel=1e-6)
    # t of two degrees of freedom, over the logs.
    spread = 4.302653 * np.std(np.log([0.97, 1.0, 1.03]), ddof=1) / math.sqrt(3)
    assert math.log(vankov.learning_rate.high / vankov.learning_rate.mean) == pytest.approx(spread, rel=1e-5)
    assert math.log(vankov.learning_rate.mean / vankov.learning_rate.low) == pytest.approx(spread, rel=1e-5)
    assert advice.L0.high / advice.L0.mean == pytest.approx(math.exp(spread), rel=1e-5)


def test_one_seed_gives_the_ends_that_its_own_intervals_allow():
    g, smoothness = points(2.0, 0.5, n=400)
    smoothness = smoothness * np.exp(0.1 * np.random.default_rng(5).normal(size=400))
    run = Measured({1.0: {0: (g, smoothness)}})
    (advice,) = advised(run)
    (fit,) = fit_cells(run, run.trials)[0].trajectories.values()
    rate, threshold = advice.rules[0].learning_rate, advice.rules[0].clip_norm
    assert (rate.low, rate.high) == pytest.approx((1 / (2 * fit.L0.high), 1 / (2 * fit.L0.low)))
    assert threshold.low == pytest.approx(2 * fit.L0.low / (3 * fit.L1.high))
    assert threshold.high == pytest.approx(2 * fit.L0.high / (3 * fit.L1.low))
    assert rate.low < rate.mean < rate.high


def test_noise_brings_theorem_7_and_every_threshold_below_it_a_warning():
    (advice,) = advised(Measured({1.0: of_three_seeds(2.0, 0.5)}, tau=3.0))
    vankov, theorem3, theorem7 = advice.rules
    assert advice.tau == 3.0
    assert "the threshold is below tau = 3: it clips noise" in vankov.note, "2.67"
    assert "clips noise" not in theorem3.note, "4"
    assert "clips noise" not in theorem7.note, "it is at least seven times tau"
    assert theorem7.learning_rate.mean == pytest.approx(min(1 / 40, 1 / (128 * 0.5 * 3.0), 0.1), rel=1e-3)


def test_a_threshold_that_may_lie_below_the_noise_says_so():
    cells = {1.0: {seed: points(2.0, L1, seed=seed) for seed, L1 in enumerate((0.4, 0.5))}}
    (advice,) = advised(Measured(cells, tau=2.0))
    assert advice.rules[0].clip_norm.low < 2.0 < advice.rules[0].clip_norm.mean
    assert "may be below tau = 2" in advice.rules[0].note


def test_the_noise_is_the_largest_that_the_run_s_own_measurements_saw():
    run = Measured({1.0: of_three_seeds(2.0, 0.5)}, tau=1.0)
    at = run._rows[["trial_id", "step", "measurement_id"]].iloc[:4]
    seen = pd.concat([at.assign(tau=[1.0, 7.0, 2.0, np.nan]), at.assign(measurement_id="again", tau=99.0)])
    run.measurements = lambda name: seen
    assert noise_of_cells(run, run.trials) == {"1.0": 7.0}


def test_rules_of_gradient_descent_take_no_constants_from_other_optimisers():
    cells = {1.0: of_three_seeds(2.0, 0.5), 2.0: of_three_seeds(9.0, 0.5, high=100.0)}
    (advice,) = advised(Measured(cells, arm={1.0: "sgd + clip_norm", 2.0: "adamw"}))
    assert advice.source == "learning_rate=1", "although the other one visited a wider range"
    (advice,) = advised(Measured(cells, arm="adamw"))
    assert advice.rules == ()
    assert "no cell descends along the gradient (adamw)" in advice.silent
    (advice,) = advised(Measured(cells, arm="sgd(momentum)"))
    assert "measured along the updates of sgd(momentum)" in advice.conditions


def test_the_hessian_s_norm_comes_before_a_lower_bound_of_it():
    (advice,) = advised(Measured({1.0: of_three_seeds(2.0, 0.5)}, hessian=lambda g: 4.0 + 1.5 * g))
    assert advice.measured == "hessian_spectral_norm"
    assert (advice.L0.mean, advice.L1.mean) == pytest.approx((4.0, 1.5), rel=1e-6)
    assert "the Hessian's norm" in advice.conditions[1]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ({0: (1, 1, 0.06)}, "not identifiable"),
        ({0: (3.0, 0.0, 10), 1: (3.1, 0.0, 10)}, "call for no threshold"),
        ({0: (0.0, 1.0, 10), 1: (0.5, 1.0, 10)}, "L0 may be 0 (its upper end is 8.24e+04)"),
        ({0: (1.0, 0.0, 10), 1: (1.0, 1.0, 10)}, "L1 may be 0 (its upper end is 1.65e+05)"),
    ],
)
def test_theory_is_silent_where_nothing_bounds_its_rules(seeds, words):
    cells = {seed: points(L0, L1, high=high, seed=seed) for seed, (L0, L1, high) in seeds.items()}
    (advice,) = advised(Measured({1.0: cells}))
    assert advice.rules == ()
    assert words in advice.silent


def test_points_below_their_noise_floor_and_measured_twice_stay_out():
    run = Measured({1.0: {0: points(1, 1)}})
    noisy = run._rows.assign(snr=1.0, smoothness=1e6)
    run._rows = pd.concat([noisy, run._rows])
    (cell,) = build_fits(run)
    assert cell.points == 200
    assert cell.trajectories[0].upper[1] == pytest.approx(1.0, rel=1e-6)


def test_snapshots_measured_again_on_other_data_are_another_function():
    run = Measured({1.0: {0: points(1, 1)}})
    run._rows = pd.concat([run._rows, run._rows.assign(measurement_id="again", smoothness=1e6)])
    (cell,) = build_fits(run)
    assert cell.points == 200
    assert cell.trajectories[0].upper[1] == pytest.approx(1.0, rel=1e-6)


def test_a_cell_of_one_seed_has_its_trajectory_s_interval_and_one_of_several_the_spread_over_seeds():
    alone, several = build_fits(Measured({1.0: {0: points(1, 1)}, 2.0: {0: points(1, 1), 1: points(1, 1.1)}}))
    assert not math.isnan(alone.trajectories[0].L1.low)
    assert math.isnan(alone.L1.low)
    assert several.L1.count == 2
    # 1 and 1.1: exp(12.7062 log(1.1) / 2) to either side of their geometric mean.
    assert several.L1.high / several.L1.mean == pytest.approx(1.1 ** (12.7062 / 2), rel=1e-4)
    assert "1.05 [0.57, 1.92]" in render_fits("here", [alone, several], "table")


def test_what_lies_on_its_boundary_is_an_upper_end_and_not_zero():
    cells = {}
    for seed in range(3):
        g, smoothness = points(3.0, 0.0, seed=seed)
        cells[seed] = g, smoothness * np.exp(0.2 * np.random.default_rng(seed).normal(size=g.size))
    (cell,) = build_fits(Measured({1.0: cells}))
    assert cell.L1.low == 0.0 < cell.L1.high
    text = render_fits("here", [cell], "table")
    assert f"≤ {cell.L1.high:.2g}" in text, "far below a hundred"
    assert " 0 ± 0 " not in text


# What a correlation is to be read beside


def followed(*, bound, control=None):
    """A run whose smoothness follows the gradient norm, alone or as its bound does, and its curvature if asked for."""
    run = Measured({1.0: {seed: points(1.0, 1.0, seed=seed) for seed in range(2)}})
    rows, noise = run._rows, np.random.default_rng(0)
    base = rows["grad_norm"] * np.exp(0.3 * noise.normal(size=len(rows)))
    rows["mechanical_bound"] = base if bound else np.exp(noise.normal(size=len(rows)))
    rows["smoothness"] = (base if bound else rows["grad_norm"]) * np.exp(0.3 * noise.normal(size=len(rows)))
    if control is not None:
        run.estimators.append("directional_curvature")
        curvature = rows["grad_norm"] if control else np.exp(noise.normal(size=len(rows)))
        measured = rows[["trial_id", "step", "measurement_id"]].assign(curvature=-curvature)
        run.measurements = lambda name: measured if name == "directional_curvature" else rows
    return run


def test_a_correlation_that_arithmetic_makes_is_called_that():
    (cell,) = build_fits(followed(bound=True))
    assert cell.spearman.mean > 0.8
    assert cell.bound.mean > cell.spearman.mean
    assert abs(cell.partial.mean) < 0.4
    assert cell.control.count == 0
    text = render_fits("here", [cell], "table")
    assert f"{cell.bound.mean:.2f} / {cell.partial.mean:.2f} / –" in text
    assert "by arithmetic alone" in text
    assert "the estimator directional_curvature is the control" in text


@pytest.mark.parametrize(("bound", "control"), [(False, None), (True, True)])
def test_a_correlation_beyond_arithmetic_or_of_the_curvature_too_is_not_questioned(bound, control):
    (cell,) = build_fits(followed(bound=bound, control=control))
    assert "by arithmetic alone" not in render_fits("here", [cell], "table")
    if control:
        assert cell.control.mean > 0.99, "negative curvature counts by its size"


def test_a_control_that_shows_nothing_leaves_the_doubt():
    (cell,) = build_fits(followed(bound=True, control=False))
    assert "nor does the curvature show it" in render_fits("here", [cell], "table")


# All of it, on a real run


def test_the_answers_of_a_real_run(finished):
    answers = build_answers(finished)
    by_clip = {frontier.clip_norm: frontier for frontier in answers.frontiers}
    assert by_clip[None].unstable is not None
    assert by_clip[0.5].stable is not None
    assert by_clip[None].stable is not None
    assert by_clip[0.5].stable >= by_clip[None].stable
    assert len(answers.activity) == 8
    text = render_answers(answers, "table")
    for words in ("what the rule did", "how large a rate is stable", "clipped / unclipped", "theory"):
        assert words in text


def test_a_threshold_that_never_fired_is_called_so(inline_run):
    run = inline_run(SPEC.replace("[null, 0.5]", "[null, 1e6]"))()
    answers = build_answers(Run(run.run_dir.path))
    assert "| never |" in render_answers(answers, "md")
    assert "| never |" in render(build_report(Run(run.run_dir.path)), "md"), "in the same word"


@pytest.mark.parametrize("style", ["table", "md", "json"])
def test_every_format_renders(finished, style):
    answers = render_answers(build_answers(finished), style)
    fits = render_fits(str(finished.path), build_fits(finished), style)
    if style == "json":
        assert json.loads(answers)["frontiers"]
        assert json.loads(fits)["cells"][0]["trajectories"]


@pytest.mark.parametrize("kind", ["fit", "frontier"])
def test_pictures_are_drawn(finished, tmp_path, kind):
    file = tmp_path / "picture.png"
    draw(finished, kind, file)
    assert file.stat().st_size > 5000


def test_a_run_without_measurements_still_has_a_frontier(inline_run):
    text = "\n".join(line for line in SPEC.splitlines() if not line.startswith("measure"))
    answers = build_answers(Run(inline_run(text)().run_dir.path))
    assert answers.advice == ()
    assert any("no advice from theory" in note for note in answers.notes)
    with pytest.raises(ClipsweepError, match="no directional smoothness was measured"):
        build_fits(Run(inline_run(text)().run_dir.path))
