"""The race by itself: what it finds, what it spends, and that its interval is honest about the choice."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from sweeper.search.best import Best, Point, Race, Round
from sweeper.search.protocol import Base, History, Score, Seen, Space

RATES, THRESHOLDS = "update_rule.learning_rate", "update_rule.clip_norm"
RACE = Race(between=((1e-3, 10.0),), seeds=tuple(range(8)), confirm=tuple(range(8, 13)), budget=40)


def raced(race: Race, loss: Callable[[Point, int], float]) -> tuple[dict[Point, dict[int, float]], Round]:
    """A race to its end."""
    results: dict[Point, dict[int, float]] = {}
    while not (step := race.next_round(results)).finished:
        assert step.asks, step
        for point, seed in step.asks:
            assert seed not in results.get(point, {})
            results.setdefault(point, {})[seed] = loss(point, seed)
        assert sum(map(len, results.values())) <= race.budget
    return results, step


def valley(optimum: float, *, noise: float, number: int = 0, edge: float = math.inf) -> Callable[[Point, int], float]:
    """A loss with one optimum in the logarithm, noise of seeds and of trials, and an edge of stability."""

    def loss(point: Point, seed: int) -> float:
        if point[0] > edge:
            return math.inf
        of_seed = random.Random(f"{number} {seed}").gauss(0, 0.2)
        own = random.Random(f"{number} {seed} {point}").gauss(0, noise)
        return 0.1 * math.log(point[0] / optimum) ** 2 + of_seed + own

    return loss


@pytest.mark.parametrize("optimum", [0.004, 0.05, 0.3, 2.0])
def test_without_noise_it_finds_the_optimum_within_the_factor_that_is_asked_for(optimum: float) -> None:
    results, step = raced(RACE, valley(optimum, noise=0, edge=5 * optimum))
    assert step.best is not None
    assert 1 / RACE.within <= step.best[0] / optimum <= RACE.within
    assert sum(map(len, results.values())) < RACE.budget


def test_beside_a_cliff_it_does_not_fit_a_parabola() -> None:
    def loss(point: Point, seed: int) -> float:
        return 1e55 if point[0] > 1.0 else (1.0 - point[0]) ** 2

    _, step = raced(RACE, loss)
    assert step.best is not None
    assert step.best[0] > 0.7


def test_its_interval_holds_what_the_best_value_is_worth_although_it_was_chosen() -> None:
    held = 0
    for number in range(200):
        _, step = raced(RACE, valley(0.2, noise=0.1, number=number, edge=1.5))
        assert step.best is not None
        assert step.confirmed is not None
        assert step.confirmed.seeds == 5
        truth = 0.1 * math.log(step.best[0] / 0.2) ** 2
        held += step.confirmed.low <= truth <= step.confirmed.high
    # Of 200 at 95 %: four standard deviations.
    assert abs(held / 200 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 200)


def test_it_comes_closer_than_random_search_with_as_many_trials() -> None:
    ours, theirs = 0.0, 0.0
    for number in range(100):
        loss = valley(0.2, noise=0.1, number=number, edge=1.5)
        _, step = raced(RACE, loss)
        assert step.best is not None
        draw = random.Random(number)
        rates = [math.exp(draw.uniform(math.log(1e-3), math.log(10))) for _ in range(RACE.budget)]
        chosen = min(rates, key=lambda rate, loss=loss: loss((rate,), 0))  # type: ignore[misc]
        ours += math.log(step.best[0] / 0.2) ** 2
        theirs += math.log(chosen / 0.2) ** 2
    assert ours < theirs


def test_a_value_that_diverged_for_one_seed_is_out_of_the_race() -> None:
    def loss(point: Point, seed: int) -> float:
        return math.inf if point[0] > 0.3 and seed == 1 else math.log(point[0] / 1.0) ** 2

    _, step = raced(RACE, loss)
    assert step.best is not None
    assert step.best[0] <= 0.3
    assert all(point[0] <= 0.3 for point in step.left)


def test_where_everything_diverges_it_ends_and_says_so() -> None:
    results, step = raced(RACE, lambda point, seed: math.inf)
    assert step.reason == "every value diverged"
    assert sum(map(len, results.values())) == 12


def test_two_paths_are_refined_along_both() -> None:
    race = Race(between=((1e-3, 10.0), (1e-2, 10.0)), seeds=(0, 1, 2), budget=90, within=1.3)

    def loss(point: Point, seed: int) -> float:
        return math.log(point[0] / 0.2) ** 2 + 0.5 * math.log(point[1] / 0.7) ** 2

    _, step = raced(race, loss)
    assert step.best is not None
    assert 1 / 1.5 < step.best[0] / 0.2 < 1.5
    assert 1 / 1.5 < step.best[1] / 0.7 < 1.5


def test_whole_numbers_stay_whole() -> None:
    race = Race(between=((1.0, 64.0),), seeds=(0, 1), budget=40, whole=frozenset({0}))
    results, step = raced(race, lambda point, seed: abs(math.log(point[0] / 11)))
    assert all(float(point[0]).is_integer() for point in results)
    assert step.best == (11,)


def test_arms_have_equal_budgets_however_many_cells_they_have() -> None:
    bases = (Base(key="a", arm="sgd"), *(Base(key=key, arm="sgd + clip_norm") for key in "bcd"))
    space = Space(bases=bases, seeds=(0, 1, 2), over={RATES: (0.01, 10.0)})
    searcher = Best(over={RATES: (0.01, 10.0)}, budget=60)
    assert [searcher.race(space, base).budget for base in bases] == [60, 20, 20, 20]
    assert searcher.extent(space).worst == 120


def test_a_metric_that_is_to_be_large_is_told_as_it_is() -> None:
    space = Space(
        bases=(Base(key="a", arm="sgd"),), seeds=(0, 1), over={RATES: (0.01, 10.0)}, better={"accuracy": "max"}
    )
    searcher = Best(over={RATES: (0.01, 10.0)}, metric="accuracy", budget=20, confirm_seeds=2)
    seen: list[Seen] = []
    while True:
        decision = searcher.decide(space, History(seen=seen))
        if not decision.asks:
            break
        for ask in decision.asks:
            value = 0.9 - 0.01 * math.log(ask.values[RATES] / 0.5) ** 2 + 0.001 * ask.seed
            logged = [(10, {"accuracy": Score(first=0.1, last=value, low=0.1, high=value)})]
            seen.append(Seen(base="a", seed=ask.seed, values=ask.values, outcome="done", logged=logged))
    known = decision.known[0]
    assert decision.finished
    assert 0.3 < known.values["best"][RATES] < 0.8
    assert known.values["confirmed"]["mean"] == pytest.approx(0.9025, abs=0.003)
    assert known.values["confirmed"]["low"] <= known.values["confirmed"]["mean"] <= known.values["confirmed"]["high"]
    assert "accuracy 0.90" in known.text
