"""Successive halving by itself: who goes on, that no arm starves another, whatever the order in which trials end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from sweeper.search.halving import Halving, rungs_of
from sweeper.search.protocol import Base, Decision, History, Score, Seen, Space


def space(cells: int, *, seeds: int = 1, trainers: int | None = None, arms: int = 1, steps: int = 900) -> Space:
    bases = tuple(Base(key=str(at), arm=f"arm{at % arms}") for at in range(cells))
    return Space(
        bases=bases,
        seeds=tuple(range(seeds)),
        over={},
        steps={base.key: steps for base in bases},
        trainers=trainers,
        better={"accuracy": "max"},
    )


def simulate(
    searcher: Halving, where: Space, loss: Callable[[Seen, int], float], *, seed: int = 0, metric: str = "train_loss"
) -> tuple[list[Seen], Decision]:
    """Run a search to its end, its trials ending in an order of chance."""
    draws = random.Random(seed)
    seen: list[Seen] = []
    for _ in range(10_000):
        decision = searcher.decide(where, History(seen=seen))
        for ask in decision.asks:
            known = next((at for at, one in enumerate(seen) if (one.base, one.seed) == (ask.base, ask.seed)), None)
            if known is None:
                seen.append(Seen(base=ask.base, seed=ask.seed, values={}, until=ask.until))
            else:
                assert seen[known].outcome == "held", "only a trial that is held can go on"
                seen[known] = replace(seen[known], until=ask.until, outcome=None)
        moving = [at for at, one in enumerate(seen) if one.outcome is None]
        if not moving:
            assert decision.finished
            return seen, decision
        at = draws.choice(moving)
        one = seen[at]
        step = where.steps[one.base] if one.until is None else one.until
        value = loss(one, step)
        if math.isinf(value):
            seen[at] = replace(one, step=step // 2, outcome="diverged")
            continue
        score = Score(first=value, last=value, low=value, high=value)
        outcome = "done" if one.until is None else "held"
        seen[at] = replace(one, step=step, outcome=outcome, logged=[*one.logged, (step, {metric: score})])
    raise AssertionError("no end")


def reached(seen: list[Seen]) -> dict[int, int]:
    """How many trials have ended at each step."""
    steps = [one.step for one in seen]
    return {step: steps.count(step) for step in sorted(set(steps))}


def test_one_cell_in_three_goes_on_and_the_best_one_comes_to_the_end() -> None:
    searcher = Halving(metric="train_loss", first=100, factor=3)
    seen, decision = simulate(searcher, space(9, trainers=1), lambda one, step: float(one.base))
    assert min(one.base for one in seen if one.outcome == "done") == "0"
    assert sum(one.step for one in seen) < 9 * 900 / 2
    assert sum(one.outcome == "held" for one in seen) >= 6
    assert "9 of 9 cells begun" in decision.text


@pytest.mark.parametrize("order", range(10))
@pytest.mark.parametrize("trainers", [1, 4, None])
def test_whatever_the_order_the_best_cell_is_trained_to_its_end(order: int, trainers: int | None) -> None:
    searcher = Halving(metric="train_loss", first=100, factor=3)
    seen, _ = simulate(searcher, space(20, seeds=2, trainers=trainers), lambda one, step: float(one.base), seed=order)
    finished = {one.base for one in seen if one.outcome == "done"}
    assert "0" in finished
    assert len(finished) <= 7


def test_seeds_of_a_cell_go_on_together() -> None:
    searcher = Halving(metric="train_loss", first=100, factor=3)
    seen, _ = simulate(searcher, space(9, seeds=3), lambda one, step: float(one.base) + 0.3 * one.seed)
    for base in {one.base for one in seen}:
        assert len({one.step for one in seen if one.base == base}) == 1


def test_arms_do_not_starve_one_another_unless_asked_to() -> None:
    def loss(one: Seen, step: int) -> float:
        return float(one.base) + (100 if int(one.base) % 2 else 0)

    for across in (False, True):
        searcher = Halving(metric="train_loss", first=100, factor=3, across_arms=across)
        seen, _ = simulate(searcher, space(12, arms=2), loss)
        finished = {int(one.base) % 2 for one in seen if one.outcome == "done"}
        assert finished == ({0} if across else {0, 1})


def test_a_cell_of_which_a_seed_has_diverged_does_not_go_on() -> None:
    searcher = Halving(metric="train_loss", first=100, factor=2)
    seen, _ = simulate(
        searcher, space(4, seeds=2), lambda one, step: math.inf if (one.base, one.seed) == ("0", 1) else float(one.base)
    )
    assert {one.base for one in seen if one.outcome == "done"} == {"1"}
    assert {one.step for one in seen if (one.base, one.seed) == ("0", 0)} == {100}


def test_a_metric_that_is_to_be_large_is_compared_that_way() -> None:
    searcher = Halving(metric="accuracy", first=100, factor=3)
    seen, decision = simulate(searcher, space(9, trainers=1), lambda one, step: float(one.base), metric="accuracy")
    assert "8" in {one.base for one in seen if one.outcome == "done"}
    assert decision.known[8].text == "accuracy 8 at the end"


def test_new_cells_wait_while_all_trainers_have_work() -> None:
    searcher = Halving(metric="train_loss", first=100, factor=3)
    assert len(searcher.decide(space(50, trainers=2), History()).asks) == 4
    assert len(searcher.decide(space(50), History()).asks) == 50


def test_the_last_rung_is_the_whole_trial() -> None:
    assert rungs_of(100, first=100, factor=3) == (100,)
    assert rungs_of(101, first=100, factor=3) == (100, 101)


def test_it_is_expected_to_take_a_fraction_of_the_grid() -> None:
    extent = Halving(metric="train_loss", first=10, factor=3).extent(space(81, steps=810))
    assert extent.grid == 81
    assert extent.expected < 81 / 10
    assert extent.expected <= extent.worst <= 81
