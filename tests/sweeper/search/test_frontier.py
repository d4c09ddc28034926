"""The bisection by itself: what it asks, what it knows, and that neither depends on the order of answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.search.frontier import Frontier, StabilityFrontier, bracket_of
from sweeper.search.protocol import Base, Decision, History, Score, Seen, Space

RATES = "update_rule.learning_rate"


def searched(search: Frontier, is_stable: Callable[[float], bool]) -> dict[float, bool]:
    """All that a search tries until it has finished."""
    seen: dict[float, bool] = {}
    while not (step := search.step(seen)).finished:
        assert step.ask, step
        assert not seen.keys() & set(step.ask)
        seen |= {value: is_stable(value) for value in step.ask}
        assert len(seen) < 200
    return seen


@given(
    log_threshold=st.floats(math.log(1.2e-2), math.log(0.9e3)),
    within=st.sampled_from([1.01, 1.1, 1.5, 2.0]),
    points=st.integers(1, 4),
    verify=st.integers(0, 4),
)
def test_the_bracket_holds_the_threshold_after_as_many_trials_as_bisection_takes(
    log_threshold: float, within: float, points: int, verify: int
) -> None:
    threshold = math.exp(log_threshold)
    search = Frontier(between=(1e-2, 1e3), within=within, verify=verify, points=points)
    seen = searched(search, lambda value: value <= threshold)
    found = bracket_of(seen)
    assert found.stable is not None
    assert found.unstable is not None
    assert found.stable <= threshold < found.unstable
    assert found.unstable / found.stable <= within * 1.0002
    assert not found.islands
    rounds = math.ceil(math.log(math.log(1e5) / math.log(within)) / math.log(points + 1))
    # One more round where four digits were too few for the last one.
    assert len(seen) <= (rounds + 1) * points + 1 + verify
    assert len(seen) <= search.most()


def test_one_value_at_a_time_takes_the_logarithm_of_what_a_grid_takes() -> None:
    search = Frontier(between=(1e-2, 1e3), within=1.1, verify=2)
    draws = random.Random(3)
    thresholds = [math.exp(draws.uniform(math.log(2e-2), math.log(9e2))) for _ in range(500)]
    counts = [len(searched(search, threshold.__ge__)) for threshold in thresholds]
    assert max(counts) <= math.ceil(math.log2(math.log(1e5) / math.log(1.1))) + 2
    assert search.grid() == 122


@pytest.mark.parametrize(("is_stable", "words"), [(True, "stable up to 1000"), (False, "unstable from 0.01 on")])
def test_a_threshold_outside_of_the_range_is_said_to_be_there(is_stable: bool, words: str) -> None:
    search = Frontier(between=(1e-2, 1e3))
    seen = searched(search, lambda value: is_stable)
    assert words in search.step(seen).reason
    assert (1e3 if is_stable else 1e-2) in seen, "the end itself is tried"


def test_islands_of_stability_are_found_by_the_checks_and_reported() -> None:
    search = Frontier(between=(1e-2, 1e3), verify=4)
    seen = searched(search, lambda value: value <= 1.0 or 80 < value < 200)
    assert bracket_of(seen).islands
    assert "stable again at" in search.step(seen).reason


def test_an_unstable_value_found_below_the_bracket_moves_it_there() -> None:
    search = Frontier(between=(1e-2, 1e3), verify=4)
    seen = searched(search, lambda value: value <= 0.05 or 0.3 < value < 5)
    found = bracket_of(seen)
    assert found.unstable is not None
    assert found.unstable < 0.3
    assert found.islands


def test_whole_numbers_end_at_neighbours() -> None:
    search = Frontier(between=(1, 64), within=1.01, verify=0, is_whole=True)
    found = bracket_of(searched(search, lambda value: value <= 23))
    assert (found.stable, found.unstable) == (23, 24)


def space(*, seeds: int = 3, trainers: int = 1) -> Space:
    bases = tuple(Base(key=key, arm="sgd") for key in ("a", "b"))
    return Space(bases=bases, seeds=tuple(range(seeds)), over={RATES: (1e-2, 1e3)}, trainers=trainers)


def simulate(
    searcher: StabilityFrontier, where: Space, threshold: Callable[[Seen], float], *, seed: int
) -> tuple[list[Seen], Decision]:
    """Run a search whose trials end in an order of chance, some of them failing to end for long."""
    draws = random.Random(seed)
    seen: list[Seen] = []
    while True:
        decision = searcher.decide(where, History(seen=seen))
        for ask in decision.asks:
            seen.append(Seen(base=ask.base, seed=ask.seed, values=ask.values, until=ask.until))
        waiting = [at for at, one in enumerate(seen) if one.outcome is None]
        if not waiting:
            assert decision.finished
            return seen, decision
        at = draws.choice(waiting)
        one = seen[at]
        outcome = "done" if one.values[RATES] <= threshold(one) else "diverged"
        loss = {"train_loss": Score(first=2.0, last=1.0, low=1.0, high=2.0)}
        seen[at] = Seen(base=one.base, seed=one.seed, values=one.values, outcome=outcome, logged=[(50, loss)])


@pytest.mark.parametrize("trainers", [1, 24])
def test_what_is_tried_does_not_depend_on_the_order_in_which_trials_end(trainers: int) -> None:
    searcher = StabilityFrontier(over=RATES, between=(1e-2, 1e3))

    def threshold(one: Seen) -> float:
        return 0.7 * (1 + one.seed) * (5 if one.base == "a" else 1)

    runs = [simulate(searcher, space(trainers=trainers), threshold, seed=seed) for seed in range(8)]
    tried = {frozenset((one.base, one.seed, one.values[RATES]) for one in seen) for seen, _ in runs}
    assert len(tried) == 1
    for seen, decision in runs:
        assert [one.values["stable"] for one in decision.known] == [one.values["stable"] for one in runs[0][1].known]
        assert f"asked {len(seen)} of the 732 trials of an equal grid" in decision.text


def test_idle_trainers_are_given_several_values_of_a_lane_at_once() -> None:
    searcher = StabilityFrontier(over=RATES, between=(1e-2, 1e3))
    assert len(searcher.decide(space(trainers=2), History()).asks) == 6
    assert len(searcher.decide(space(trainers=24), History()).asks) == 24


def test_a_lane_whose_trial_failed_waits_for_a_retry_and_says_so() -> None:
    searcher = StabilityFrontier(over=RATES, between=(1e-2, 1e3))
    lost = Seen(base="a", seed=0, values={RATES: 3.162}, outcome="failed")
    decision = searcher.decide(space(seeds=1), History(seen=[lost]))
    assert [ask.base for ask in decision.asks] == ["b"]
    assert "1 failed, so that `clipsweep retry` goes on" in decision.known[0].text


def test_a_trial_that_ends_above_its_start_is_unstable_unless_the_spec_says_otherwise() -> None:
    grew = {"train_loss": Score(first=1.0, last=2.0, low=1.0, high=2.0)}
    seen = [Seen(base="a", seed=0, values={RATES: 3.162}, outcome="done", logged=[(50, grew)])]
    for strict, key in ((True, "unstable"), (False, "stable")):
        searcher = StabilityFrontier(over=RATES, between=(1e-2, 1e3), worse_than_start=strict)
        known = searcher.decide(space(seeds=1), History(seen=seen)).known[0]
        assert known.values[key] == 3.162


def test_a_stable_trial_is_held_where_the_spec_decides_and_a_doubtful_one_goes_on() -> None:
    searcher = StabilityFrontier(over=RATES, between=(1e-2, 1e3), decide_after=50)
    where = space(seeds=1)
    assert all(ask.until == 50 for ask in searcher.decide(where, History()).asks)

    def held(last: float) -> Seen:
        loss = {"train_loss": Score(first=1.0, last=last, low=0.5, high=2.0)}
        return Seen(base="a", seed=0, values={RATES: 3.162}, until=50, step=50, outcome="held", logged=[(50, loss)])

    doubtful = searcher.decide(where, History(seen=[held(1.5)]))
    assert [(ask.values, ask.until) for ask in doubtful.asks if ask.base == "a"] == [({RATES: 3.162}, None)]
    plain = searcher.decide(where, History(seen=[held(0.5)]))
    assert plain.known[0].values["stable"] == 3.162
    assert all(ask.values[RATES] > 3.162 for ask in plain.asks if ask.base == "a")
