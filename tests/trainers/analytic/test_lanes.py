"""Lanes give what plain loops and closed forms give, whoever runs beside them."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.analytic.functions import Extremal, Logistic, Power, Quadratic, ScalarNetwork
from trainers.analytic.lane import Lane
from trainers.analytic.lanes import Block, run_lanes, watch_lanes
from trainers.analytic.noise import NoiseStream
from trainers.analytic.state import norms
from trainers.analytic.theorem4 import Theorem4Flat, Theorem4Steep
from trainers.analytic.theory import StepRule

CLIPPED = StepRule(eta=0.3, numerator=0.06)


def result_of(lane):
    ((_, result),) = run_lanes([lane])
    return result


def lane_of(function, **changes):
    defaults = {"start": 1.7, "epsilon": 1e-3, "rule": StepRule(eta=0.05), "steps": 5000}
    return Lane(function=function, **defaults | changes)


def plain(value):
    """Everything of a result that can be compared with ==."""
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    rows = {name: column.tolist() for name, column in fields.pop("rows").items()}
    return repr(fields), repr(rows)


def reference(lane):
    """Status, number of steps, clipped ones among them, last iterate: a loop over floats, one dimension, no noise."""
    x, v, clipped = lane.start, 0.0, 0
    rule = lane.rule
    for k in range(lane.steps + 1):
        g = float(lane.function.gradient(np.array([[x]]))[0, 0])
        if not (math.isfinite(x) and math.isfinite(g)):
            return "diverged", k, clipped, x
        if abs(g) <= lane.epsilon:
            return "hit", k, clipped, x
        if k == lane.steps:
            break
        h = min(rule.eta, rule.numerator / (abs(g) + rule.offset))
        clipped += h < rule.eta and rule.numerator != math.inf
        s = h * g
        v = lane.momentum * v + (s if k == 0 else (1 - lane.dampening) * s)
        x -= s + lane.momentum * v if lane.nesterov else v
    return "capped", lane.steps, clipped, x


RULES = {
    "descent": {"rule": StepRule(eta=0.05)},
    "clipped": {"rule": CLIPPED},
    "normalised": {"rule": StepRule(eta=math.inf, numerator=0.05, offset=0.5)},
    "theorem 7": {"rule": StepRule(eta=0.1, numerator=0.05, offset=0.2)},
    "heavy ball": {"rule": StepRule(eta=0.02), "momentum": 0.9},
    "dampened": {"rule": CLIPPED, "momentum": 0.5, "dampening": 0.2},
    "Nesterov": {"rule": StepRule(eta=0.02), "momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_lane_takes_the_steps_of_a_plain_loop(line_function, rule):
    lane = lane_of(line_function, **RULES[rule])
    result = result_of(lane)
    with np.errstate(all="ignore"):
        status, steps, clipped, x = reference(lane)
        value = float(line_function.value(np.array([[x]]))[0])
    assert (result.status, result.num_steps, result.num_clipped) == (status, steps, clipped)
    assert result.hitting_time == (steps if status == "hit" else None)
    assert result.diverged_step == (steps if status == "diverged" else None)
    assert result.rows["step"][-1] == steps
    if status != "diverged":
        assert result.rows["train_loss"][-1] == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.5, 1.99])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-7])
def test_descent_on_a_quadratic_hits_when_the_closed_form_says_so(rate, epsilon):
    """g_k = (1 - h)^k g_0: the first k with |1 - h|^k <= epsilon / g_0."""
    result = result_of(lane_of(Quadratic(eigenvalues=(1.0,)), start=3.0, epsilon=epsilon, rule=StepRule(eta=rate)))
    assert result.hitting_time == math.ceil(math.log(epsilon / 3) / math.log(abs(1 - rate)))


def test_clipped_descent_walks_the_flat_valley_in_steps_of_equal_length():
    """On the sides every step is h 2 epsilon; the valley's own curve is a plain loop's business."""
    flat = Theorem4Flat(epsilon=0.01)
    start = flat.start_of_gap(2.0)
    lane = lane_of(flat, start=start, epsilon=0.01, rule=StepRule(eta=0.5), steps=10**6)
    sides = math.ceil((start - 1) / (0.5 * 0.02))
    _, inside, _, _ = reference(dataclasses.replace(lane, start=start - sides * 0.5 * 0.02))
    assert result_of(lane).hitting_time == sides + inside


@pytest.mark.parametrize("M", [10.0, 100.0, 1e4])
def test_descent_on_the_extremal_function_diverges_beyond_its_exact_largest_step(M):
    """h* = 2 log(1 + L1 M / L0)/(L1 M): the step that ends at -x_0."""
    function = Extremal(L0=0.5, L1=2.0)
    start = function.start_of_gradient_norm(M)
    largest = 2 * math.log1p(2.0 * M / 0.5) / (2.0 * M)
    below, above = (
        result_of(lane_of(function, start=start, rule=StepRule(eta=h), steps=10**6))
        for h in (largest * (1 - 1e-9), largest * (1 + 1e-9))
    )
    assert below.status == "hit"
    assert above.status == "diverged"
    assert above.diverged_step is not None
    assert above.hitting_time is None


def test_a_diverged_lane_tells_its_first_infinite_gradient_and_its_last_finite_loss():
    function = Power(exponent=4.0)
    lane = lane_of(function, start=2.0, rule=StepRule(eta=1.0), steps=1000, log_every=1)
    losses, x = [], np.array([[2.0]])
    with np.errstate(over="ignore"):
        while np.isfinite(function.gradient(x)).all():
            losses.append(float(function.value(x)[0]))
            x = x - function.gradient(x)
    result = result_of(lane)
    assert result.diverged_step == len(losses)
    assert result.last_finite_loss == [loss for loss in losses if math.isfinite(loss)][-1]
    assert not math.isfinite(result.rows["full_grad_norm"][-1])
    assert result.rows["step"].tolist() == list(range(len(losses) + 1))


def test_a_cycling_lane_ends_at_once_with_what_it_would_have_at_the_cap():
    """Clipped steps longer than twice the distance swing from side to side for ever."""
    function = Extremal()
    quick = lane_of(function, start=2.0, rule=StepRule(eta=3.0, numerator=3.0), steps=20_001)
    slow = dataclasses.replace(quick, log_every=20_000)  # rows in the middle are owed, so that it has to go on

    def watched(lane):
        items = list(watch_lanes([lane]))
        ((_, result),) = (item for item in items if not isinstance(item, Block))
        return result, sum(item.lane_steps for item in items if isinstance(item, Block))

    (fast, taken), (whole, all_taken) = watched(quick), watched(slow)
    assert taken < 1000
    assert all_taken == 20_001
    assert (fast.status, fast.num_steps, fast.num_clipped) == ("capped", 20_001, whole.num_clipped)
    for name in fast.rows:
        assert fast.rows[name][-1] == whole.rows[name][-1] or math.isnan(fast.rows[name][-1])


MIXED = [
    lane_of(Extremal(L1=L1), start=start, rule=rule, seed=seed, noise=noise, log_every=log_every, steps=300)
    for L1 in (0.5, 1.5)
    for start in (0.5, 3.0)
    for rule in (StepRule(eta=0.05), StepRule(eta=2.5), CLIPPED)
    for seed, noise in ((0, 0.0), (1, 0.05), (2, 0.05))
    for log_every in (None, 7)
] + [
    lane_of(function, steps=200, **RULES[rule])
    for n in range(1, 5)
    # Enough of each for whole vectors of the processor and a rest, which torch may compute in another way.
    for function in (
        Quadratic(eigenvalues=(1.0, float(n))),
        Quadratic(eigenvalues=tuple(np.linspace(0.5, n, 7))),
        Power(exponent=2.5 + n),
        Logistic(slope=float(n)),
        ScalarNetwork(depth=n),
        Theorem4Steep(L1=float(n)),
        Theorem4Flat(epsilon=0.1 * n),
    )
    for rule in ("clipped", "heavy ball", "normalised")
]


@given(st.lists(st.sampled_from(range(len(MIXED))), min_size=1, max_size=60, unique=True))
@settings(max_examples=25, deadline=None)
def test_what_a_lane_gives_does_not_hang_on_its_neighbours(chosen):
    together = dict(run_lanes([MIXED[index] for index in chosen]))
    assert sorted(together) == list(range(len(chosen)))
    for place, index in enumerate(chosen):
        assert plain(together[place]) == plain(result_of(MIXED[index]))


def test_every_logged_row_speaks_of_its_own_step():
    function = Extremal()
    lane = lane_of(function, start=2.0, rule=CLIPPED, steps=30, log_every=1, epsilon=1e-12)
    rows = result_of(lane).rows
    assert rows["step"].tolist() == list(range(31))
    x = 2.0
    for k in range(30):
        g = float(function.gradient(np.array([[x]]))[0, 0])
        h = min(0.3, 0.06 / abs(g))
        assert rows["full_grad_norm"][k] == rows["grad_norm"][k] == pytest.approx(abs(g), rel=1e-12)
        assert rows["step_size"][k] == pytest.approx(h, rel=1e-12)
        assert rows["clipped"][k] == (h < 0.3)
        assert rows["update_norm"][k] == pytest.approx(h * abs(g), rel=1e-12)
        assert rows["gap"][k] == pytest.approx(float(function.value(np.array([[x]]))[0]), rel=1e-12)
        x -= h * g
    assert math.isnan(rows["update_norm"][-1])
    assert rows["threshold"][:-1] == pytest.approx([0.2] * 30)
    assert math.isnan(rows["threshold"][-1])


def test_a_threshold_that_was_given_is_in_the_rows_to_the_last_bit():
    given = StepRule(eta=0.1, numerator=0.1 * 0.1, clip_norm=0.1)
    assert given.numerator / given.eta != 0.1
    for rule, expected in (
        (given, 0.1),
        (StepRule(eta=0.3), math.nan),
        (StepRule(eta=math.inf, numerator=0.1, offset=1), math.nan),
    ):
        rows = result_of(lane_of(Extremal(), start=2.0, rule=rule, steps=3, log_every=1, epsilon=1e-12)).rows
        np.testing.assert_array_equal(rows["threshold"], [expected] * 3 + [math.nan])


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_that_of_torch(nesterov):
    lane = lane_of(
        Quadratic(eigenvalues=(1.0, 3.0)),
        rule=StepRule(eta=0.05),
        momentum=0.9,
        nesterov=nesterov,
        steps=40,
        epsilon=1e-12,
        log_every=1,
    )
    x = torch.full((2,), 1.7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.05, momentum=0.9, nesterov=nesterov)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    losses = []
    for _ in range(41):
        optimizer.zero_grad()
        loss = 0.5 * (weights * x * x).sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    np.testing.assert_allclose(result_of(lane).rows["train_loss"], losses, rtol=1e-12)


@pytest.mark.parametrize("kind", ["sphere", "ball"])
@pytest.mark.parametrize("dimension", [1, 3])
def test_noise_is_bounded_centred_and_a_function_of_seed_and_step(kind, dimension):
    stream = NoiseStream(kind, range(2000), dimension)
    noise = stream.at(5).numpy()
    lengths = np.sqrt((noise**2).sum(axis=0))
    assert lengths.max() <= 1 + 1e-12
    if kind == "sphere":
        assert lengths.min() >= 1 - 1e-12
    assert np.abs(noise.mean(axis=1)).max() < 0.1
    stream.at(700)
    assert (stream.at(5).numpy() == noise).all()
    assert (NoiseStream(kind, [7], dimension).at(5).numpy()[:, 0] == noise[:, 7]).all()
    assert not (stream.at(6).numpy() == noise).all()


def test_trials_of_one_seed_see_the_same_noise_under_every_rule():
    lanes = [
        lane_of(Logistic(), rule=StepRule(eta=eta), noise=0.1, seed=seed, steps=1, log_every=1, epsilon=1e-9)
        for eta in (0.1, 0.2)
        for seed in (0, 1, 2, 3)
    ]
    results = dict(run_lanes(lanes))
    first = [results[i].rows["grad_norm"][0] for i in range(8)]
    assert first[:4] == first[4:]
    assert len(set(first[:4])) == 2


def test_a_lane_that_goes_on_after_its_hit_reports_the_floor_that_noise_leaves():
    """On x^2/2 with h and noise +-tau: E x^2 = h^2 tau^2/(1 - (1-h)^2), and |x| is below that root on average."""
    h, tau = 0.1, 0.2
    lanes = [
        lane_of(
            Quadratic(eigenvalues=(1.0,)),
            rule=StepRule(eta=h),
            noise=tau,
            seed=seed,
            steps=4000,
            stops_at_hit=False,
            epsilon=0.01,
        )
        for seed in range(8)
    ]
    floors = [result.tail_grad_norm for _, result in run_lanes(lanes)]
    root = math.sqrt(h**2 * tau**2 / (1 - (1 - h) ** 2))
    assert np.mean(floors) == pytest.approx(root * math.sqrt(2 / math.pi), rel=0.05)
    assert all(result.status == "hit" and result.num_steps == 4000 for _, result in run_lanes(lanes))


def test_a_lane_ends_at_its_first_hit_even_where_it_would_leave_again():
    network = ScalarNetwork(depth=2)
    result = result_of(lane_of(network, start=1.0, epsilon=1e-3))
    assert (result.hitting_time, result.num_steps, result.status) == (0, 0, "hit")


def test_stopping_leaves_what_is_unfinished():
    lanes = [lane_of(Theorem4Steep(), steps=10**9, rule=StepRule(eta=1e-9)), lane_of(Quadratic(eigenvalues=(1.0,)))]
    asked = iter([False, False, True, True])
    items = list(watch_lanes(lanes, should_stop=lambda: next(asked)))
    assert items
    assert all(isinstance(item, Block) for item in items)


# Norms beyond the range of squares


def test_norms_of_points_are_right_where_their_squares_fit_into_no_float() -> None:
    points = [[3e200, 3e-200, 3.0, 0.0, math.inf, math.nan], [4e200, 4e-200, 4.0, 0.0, 1.0, 1.0]]
    found = norms(torch.tensor(points, dtype=torch.float64)).tolist()
    assert found[:4] == pytest.approx([5e200, 5e-200, 5.0, 0.0], rel=1e-15)
    assert found[4] == math.inf
    assert math.isnan(found[5])
    assert norms(torch.empty((2, 0), dtype=torch.float64)).tolist() == []


def test_a_gradient_of_1e200_is_clipped_and_no_divergence() -> None:
    """f = x^2 / 2 + y^2 / 2 from (s, s): a step of length 1 along the gradient, of norm s sqrt 2."""
    start = 1e200
    lane = Lane(
        function=Quadratic(eigenvalues=(1.0, 1.0)),
        start=start,
        epsilon=1e-3,
        rule=StepRule(eta=0.5, numerator=0.5e200),
        steps=1,
    )
    ((_, result),) = run_lanes([lane])
    assert result.status == "capped"
    assert result.num_clipped == 1
    assert result.rows["grad_norm"][0] == pytest.approx(math.sqrt(2) * start)
    assert result.rows["update_norm"][0] == pytest.approx(0.5e200)
