"""What the theorems prescribe and promise, to the last iteration where that can be computed, and the text's slips."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.analytic.functions import Extremal, Logistic, Quadratic
from trainers.analytic.lane import Lane
from trainers.analytic.lanes import run_lanes
from trainers.analytic.theorem4 import Theorem4Flat, Theorem4Steep
from trainers.analytic.theory import (
    THEORIES,
    Setting,
    StepRule,
    bound_of,
    iteration_lower_bound,
    proven_theorem7_bound,
    rule_of,
    theorem7_gap,
)
from trainers.errors import TrainerError

UNIT = Setting(L0=1.0, L1=1.0, gap=10.0, epsilon=0.01, M=100.0, tau=0.0, horizon=10_000)
DETERMINISTIC = ["theorem3", "theorem6", "vankov2024"]


def setting_of(function, start, *, epsilon, tau=0.0, horizon=10_000):
    x = np.full((function.num_coordinates, 1), start)
    L0, L1 = function.smoothness()
    return Setting(
        L0=L0,
        L1=L1,
        gap=float(function.value(x)[0] - function.minimum),
        epsilon=epsilon,
        M=function.sublevel_gradient_norm(start),
        tau=tau,
        horizon=horizon,
        gradient_bound=function.gradient_bound,
    )


def hitting_times(function, start, rules, *, epsilon, steps=10**6, **options):
    lanes = [Lane(function=function, start=start, epsilon=epsilon, rule=r, steps=steps, **options) for r in rules]
    results = dict(run_lanes(lanes))
    times = [results[index].hitting_time for index in range(len(lanes))]
    return [math.inf if time is None else time for time in times]


def hitting_time(function, start, rule, **options):
    return hitting_times(function, start, [rule], **options)[0]


@pytest.mark.parametrize(
    ("theory", "expected"),
    [
        ("theorem3", StepRule(eta=0.1, numerator=0.1)),
        ("theorem6", StepRule(eta=1 / 202)),
        ("normalized", StepRule(eta=math.inf, numerator=0.1, offset=1.0)),
        ("vankov2024", StepRule(eta=0.5, numerator=1 / 3)),
    ],
)
def test_parameters_are_those_of_the_text(theory, expected):
    assert rule_of(theory, UNIT) == expected


def test_theorem_3_clips_gradients_at_the_smaller_of_ten_L0_and_L0_over_L1():
    def threshold(L1):
        return rule_of("theorem3", dataclasses.replace(UNIT, L0=2.0, L1=L1)).threshold

    assert threshold(4.0) == pytest.approx(0.5)
    assert threshold(0.01) == pytest.approx(20.0)
    assert threshold(0.0) == pytest.approx(20.0)


def test_vankov_s_threshold_is_two_thirds_of_L0_over_L1():
    assert rule_of("vankov2024", dataclasses.replace(UNIT, L0=6.0, L1=2.0)).threshold == pytest.approx(2.0)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6))
def test_normalised_steps_lie_between_half_the_clipped_ones_and_all_of_them(L0, L1, norm):
    """Section 3.1 claims 2 h_c above, which is loose: h_n = eta_n/(||g|| + beta) never exceeds h_c."""
    setting = dataclasses.replace(UNIT, L0=L0, L1=L1)
    clipped, normalised = (rule_of(theory, setting) for theory in ("theorem3", "normalized"))
    h_c = min(clipped.eta, clipped.numerator / norm)
    h_n = normalised.numerator / (norm + normalised.offset)
    assert h_c / 2 * (1 - 1e-12) <= h_n <= h_c * (1 + 1e-12)


@pytest.mark.parametrize("theory", DETERMINISTIC)
@pytest.mark.parametrize("gap", [0.5, 3.0])
def test_every_step_of_a_theorem_falls_as_its_proof_says_and_the_bound_holds(function, theory, gap):
    start, epsilon = function.start_of_gap(gap), 0.05
    setting = setting_of(function, start, epsilon=epsilon)
    if setting.L0 == 0 and theory != "theorem6":
        with pytest.raises(TrainerError, match="needs L0 > 0"):
            rule_of(theory, setting)
        return
    rule = rule_of(theory, setting)
    x = np.full((function.num_coordinates, 1), start)
    for _ in range(300):
        g = function.gradient(x)
        norm = float(np.sqrt((g**2).sum()))
        if norm <= epsilon:
            break
        h = min(rule.eta, rule.numerator / (norm + rule.offset))
        following = x - h * g
        fall = float(function.value(x)[0] - function.value(following)[0])
        assert fall >= h * norm**2 / 2 * (1 - 1e-9) - 1e-15
        x = following
    bound = bound_of(theory, setting)
    if bound < 20_000:
        assert hitting_time(function, start, rule, epsilon=epsilon, steps=20_000) <= bound


def test_theorem_3_takes_the_same_time_whatever_M_is_while_descent_takes_M_over_log_M():
    """Section 4.1 on its own two instances, L0 = L1 = 1 and a fixed gap. At M = 10 plain descent wins."""
    epsilon, gap = 0.1, 1.0
    steep, flat = Theorem4Steep(), Theorem4Flat(epsilon=epsilon)
    valley = flat.start_of_gap(gap)
    clipped, descent, lower = [], [], []
    for M in (10.0, 100.0, 1000.0):
        wall = steep.start_of_gradient_norm(M)
        instances = [(steep, wall), (flat, valley)]
        rule = rule_of("theorem3", dataclasses.replace(UNIT, gap=gap, epsilon=epsilon, M=M))
        clipped.append(max(hitting_time(f, x0, rule, epsilon=epsilon) for f, x0 in instances))
        # The best fixed step is the worse of the two at its best: just below the largest step that does not diverge.
        largest = 2 * wall / M
        rates = largest * np.concatenate([np.linspace(0.3, 0.999, 40), [1 - 1e-6]])
        rules = [StepRule(eta=h) for h in rates]
        times = [hitting_times(f, x0, rules, epsilon=epsilon) for f, x0 in instances]
        descent.append(np.max(times, axis=0).min())
        # The steep instance, with L0 = L1, lets steps be longer than the extremal function of the class does.
        lower.append(M * (gap - 5 * epsilon / 4) / (8 * epsilon**2 * (math.log(M) + 1)))
    # On the flat side the gradient is 2 epsilon < 1, so that every step is epsilon / 5 long, whatever M is.
    assert len(set(clipped)) == 1
    sides = math.ceil((valley - 1) / (epsilon / 5))
    assert sides < clipped[0] < sides + 60
    assert descent[0] < clipped[0] < descent[2]
    growth = [M / (math.log(M) + 1) for M in (10.0, 100.0, 1000.0)]
    for (before, after), (low, high) in zip(pairwise(descent), pairwise(growth), strict=True):
        assert after / before == pytest.approx(high / low, rel=0.1)
    assert all(time >= bound for time, bound in zip(descent, lower, strict=True))


def test_the_best_step_for_one_function_and_one_start_is_meaningless():
    """h = x0 / M lands on the minimum at once, whatever M is; so the lower bound takes the worse of two functions."""
    steep = Theorem4Steep()
    for M in (10.0, 1e6):
        start = steep.start_of_gradient_norm(M)
        assert hitting_time(steep, start, StepRule(eta=start / M), epsilon=1e-6) == 1


def test_the_step_that_is_printed_in_theorem_7_breaks_its_own_proof_and_diverges():
    """The proof needs (5 L0 + 4 L1 ||grad f||) h <= 1/2; with 1/(16 eta L1 (||g|| + tau)) that fails for small eta."""
    function = Extremal()
    start = function.start_of_gradient_norm(1e5)
    setting = setting_of(function, start, epsilon=0.01, tau=0.01, horizon=10**6)
    corrected = rule_of("theorem7", setting)
    printed = dataclasses.replace(corrected, numerator=corrected.numerator / corrected.eta)

    def step(rule, norm):
        return min(rule.eta, rule.numerator / (norm + rule.offset))

    def needed(rule, norm):
        return (5 * setting.L0 + 4 * setting.L1 * norm) * step(rule, norm + setting.tau)

    norms = np.geomspace(1e-3, 1e5, 200)
    assert max(needed(corrected, norm) for norm in norms) <= 0.5
    assert max(needed(printed, norm) for norm in norms) > 100
    options = {"noise": 0.01, "seed": 1}
    assert hitting_time(function, start, corrected, epsilon=0.05, steps=10**5, **options) < math.inf
    assert hitting_time(function, start, printed, epsilon=0.05, steps=10**5, **options) == math.inf


def test_theorem_7_s_rule_hits_within_its_bound_for_at_least_half_of_the_seeds():
    """Eq. (8): T is the time by which half of all runs have hit; the bound's T sets eta = 1/sqrt(T)."""
    function = Logistic(slope=2.0, L1=1.0)
    start, epsilon, tau = function.start_of_gap(1.0), 0.3, 0.1
    bound = bound_of("theorem7", setting_of(function, start, epsilon=epsilon, tau=tau))
    setting = setting_of(function, start, epsilon=epsilon, tau=tau, horizon=math.ceil(bound))
    rule = rule_of("theorem7", setting)
    lanes = [
        Lane(function=function, start=start, epsilon=epsilon, rule=rule, steps=10**5, noise=tau, seed=seed)
        for seed in range(40)
    ]
    times = sorted(r.hitting_time or math.inf for _, r in run_lanes(lanes))
    assert times[19] <= bound


def test_theorem_8_is_refused_where_the_gradient_is_not_bounded_on_the_whole_space():
    """With noise the iterates leave the sublevel set on which Assumption 4 has its M."""
    with pytest.raises(TrainerError, match="bounded on the whole space"):
        rule_of("theorem8", UNIT)
    bounded = dataclasses.replace(UNIT, gradient_bound=2.0, tau=0.5)
    assert rule_of("theorem8", bounded).eta == pytest.approx(min(1 / 100, 1 / 2.5))
    assert bound_of("theorem8", bounded) == pytest.approx(16 * (10 + 13 * 2.5**2) ** 2 / 0.01**4)


@pytest.mark.parametrize("tau", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("L1", [0.1, 1.0, 20.0])
def test_theorem_7_s_proof_needs_more_iterations_than_are_printed(tau, epsilon, L1):
    """It bounds the mean of the smallest gradient; Markov's inequality makes a median of that only below epsilon/2."""

    def mean_of_smallest(T):
        setting = Setting(L0=1.0, L1=L1, gap=1.0, epsilon=epsilon, M=1.0, tau=tau, horizon=max(1, math.ceil(T)))
        D, eta = theorem7_gap(setting), rule_of("theorem7", setting).eta
        # Half of the steps or more are of one kind; sums of h ||grad f||^2 are at most 4 D, not D.
        return max(math.sqrt(2 / T * 4 * D / eta), 2 / T * 4 * D * 32 * L1)

    setting = Setting(L0=1.0, L1=L1, gap=1.0, epsilon=epsilon, M=1.0, tau=tau, horizon=1)
    printed, proven = bound_of("theorem7", setting), proven_theorem7_bound(setting)
    assert mean_of_smallest(printed) > epsilon / 2
    assert mean_of_smallest(proven) <= epsilon / 2
    assert 4 <= proven / printed <= 1024


@pytest.mark.parametrize("M", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_theorem_8_needs_parentheses_and_enough_iterations_that_its_step_is_one_over_their_root(M, tau):
    """Its proof takes h = 1/sqrt(T), and writes 5 L0 + 4 L1 M (M + tau)^2 for (5 L0 + 4 L1 M)(M + tau)^2."""
    L0, L1, epsilon = 1.0, 2.0, 0.01
    setting = Setting(L0=L0, L1=L1, gap=1.0, epsilon=epsilon, M=M, tau=tau, horizon=1, gradient_bound=M)
    bound = bound_of("theorem8", setting)
    assert rule_of("theorem8", dataclasses.replace(setting, horizon=math.ceil(bound))).eta == 1 / math.sqrt(
        math.ceil(bound)
    ), "where a gradient is not below epsilon from the start, the bound itself is enough"
    # The mean of ||grad f||^2 over T steps of 1/sqrt(T), of which Jensen's and Markov's inequality need epsilon/2.
    mean = (setting.gap + (5 * L0 + 4 * L1 * M) * (M + tau) ** 2 / 2) / math.sqrt(bound)
    assert math.sqrt(mean) <= epsilon / 2
    if M + tau > 1:
        without = 16 * (setting.gap + (5 * L0 + 4 * L1 * M * (M + tau) ** 2) / 2) ** 2 / epsilon**4
        mean = (setting.gap + (5 * L0 + 4 * L1 * M) * (M + tau) ** 2 / 2) / math.sqrt(without)
        assert math.sqrt(mean) > epsilon / 2, "what the proof's last line would give is not enough"


def test_theorem_8_takes_the_largest_gradient_of_the_whole_space_and_not_of_a_sublevel_set():
    """The logistic loss of slope 2 has |f'| < 2 everywhere, and 0.0049 at most where f <= f(3)."""
    function = Logistic(slope=2.0)
    setting = setting_of(function, 3.0, epsilon=0.01, tau=0.1)
    assert setting.M == pytest.approx(0.0049, rel=0.02)
    assert setting.gradient_bound == 2.0
    assert setting.L0 == pytest.approx(1.0)
    assert bound_of("theorem8", setting) == pytest.approx(16 * (setting.gap + 5 * 2.1**2) ** 2 / 0.01**4)
    x = np.linspace(-50, 50, 1001)[None]
    assert np.abs(function.gradient(x)).max() <= 2.0
    flat = Theorem4Flat(epsilon=0.1)
    assert np.abs(flat.gradient(x)).max() == flat.gradient_bound == 0.2


def test_theorem_4_s_bound_as_printed_is_beaten_by_a_fixed_step_and_as_corrected_it_is_not():
    """Its 5 epsilon/8 and log M + 1 are slips: at L0 = 1, L1 = 4, M = 10, epsilon = 0.1, 140 steps beat 141.9."""
    L0, L1, M, epsilon, gap = 1.0, 4.0, 10.0, 0.1, 1.0
    steep, flat = Extremal(L0=L0, L1=L1), Theorem4Flat(epsilon=epsilon)
    instances = [(steep, steep.start_of_gradient_norm(M)), (flat, flat.start_of_gap(gap))]
    rules = [StepRule(eta=h) for h in np.linspace(0.05, 0.25, 4001)]
    times = [hitting_times(f, x0, rules, epsilon=epsilon, steps=10**4) for f, x0 in instances]
    best = np.max(times, axis=0).min()
    printed = L1 * M * (gap - 5 * epsilon / 8) / (8 * epsilon**2 * (math.log(M) + 1))
    corrected = iteration_lower_bound(L0=L0, L1=L1, M=M, gap=gap, epsilon=epsilon)
    assert printed == pytest.approx(141.9, abs=0.05)
    assert corrected <= best < printed
    # The first slip by itself: the proof's own algebra, gap = 2 Delta + 5 epsilon/4 at Delta = 1.
    assert flat.start_of_gap(2 + 5 * epsilon / 4) == pytest.approx(1 + 1 / epsilon)


@pytest.mark.parametrize("theory", ["theorem3", "vankov2024", "normalized"])
def test_a_function_without_L0_is_refused(theory):
    with pytest.raises(TrainerError, match="needs L0 > 0"):
        rule_of(theory, dataclasses.replace(UNIT, L0=0.0))


def test_a_quadratic_has_no_slope_for_theorem_7():
    with pytest.raises(TrainerError, match="theorem7 needs L1 > 0"):
        rule_of("theorem7", setting_of(Quadratic(eigenvalues=(1.0,)), 1.0, epsilon=0.1))


def test_bounds_grow_with_the_gap():
    for theory, (_, bound) in THEORIES.items():
        if bound is not None:
            low, high = (
                bound_of(theory, dataclasses.replace(UNIT, gap=gap, tau=0.1, gradient_bound=3.0)) for gap in (1.0, 2.0)
            )
            assert low is not None
            assert high is not None
            assert low < high
