"""Every registered searcher keeps the promises that a resume relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sweeper.search.protocol import Ask, Base, Decision, Extent, History, Known, Searcher, Space
from sweeper.search.registry import SEARCHERS, build_searcher
from sweeper.search.trying import BrokenPromise, play, try_searcher
from sweeper.spec.sections.search import SEARCHES

RATES = "update_rule.learning_rate"
OPTIONS: dict[str, dict[str, Any]] = {
    "best": {"over": {RATES: [0.01, 100]}, "budget": 30},
    "halving": {"first": 10},
    "optuna": {"over": {RATES: [0.01, 100]}, "budget": 20, "options": {"n_startup_trials": 4}},
    "stability_frontier": {"over": RATES, "between": [0.01, 100]},
}
SPACE = Space(
    bases=tuple(Base(key=key, arm=arm) for key, arm in (("a", "sgd"), ("b", "sgd + clip_norm"), ("c", "sgd"))),
    seeds=(0, 1, 2),
    over={RATES: (0.01, 100.0)},
    steps=dict.fromkeys("abc", 100),
    trainers=4,
)


def maker(name: str) -> Callable[[], Searcher]:
    section = SEARCHES[name].model_validate({"use": name, **OPTIONS[name]}).model_dump(mode="json")
    return lambda: build_searcher(section)


def space_of(name: str) -> Space:
    over: Mapping[str, tuple[float, float]] = {} if name == "halving" else SPACE.over
    return Space(bases=SPACE.bases, seeds=SPACE.seeds, over=over, steps=SPACE.steps, trainers=SPACE.trainers)


def test_every_searcher_is_tested_here_and_has_its_options_in_the_spec() -> None:
    assert OPTIONS.keys() == SEARCHERS.keys() == SEARCHES.keys()


@pytest.mark.parametrize("name", SEARCHERS)
def test_searchers_keep_their_promises(name: str) -> None:
    extent = try_searcher(maker(name), space_of(name))
    assert extent.grid >= extent.expected


@pytest.mark.parametrize("name", SEARCHERS)
def test_no_search_takes_more_trials_than_it_says(name: str) -> None:
    where = space_of(name)
    most = maker(name)().extent(where).worst
    for order in range(5):
        seen, _ = play(maker(name), where, order=order)
        steps = sum(max(one.step, 100 if one.outcome == "diverged" else 0) for one in seen)
        assert steps / 100 <= most + 1e-9


class Own:
    """A searcher of one's own that can be told to break a promise."""

    def __init__(self, breaks: str = "") -> None:
        self.breaks = breaks
        self.calls = 0

    def decide(self, space: Space, history: History) -> Decision:
        self.calls += 1
        base = space.bases[0].key
        value = {"range": 1e6, "twice": 1.0}.get(self.breaks, float(1 + len(history.seen)))
        if self.breaks == "pure":
            value += self.calls / 1000
        wants = len(history.seen) < 5 and all(one.outcome is not None for one in history.seen)
        if self.breaks == "waits" and len(history.seen) == 2:
            wants = False
        asks = (Ask(base=base, seed=0, values={RATES: value}),) if wants else ()
        finished = not asks and self.breaks != "waits"
        return Decision(asks=asks, known=(Known(base=base, seed=0, text="", values={}, finished=finished),))

    def extent(self, space: Space) -> Extent:
        return Extent(worst=5, expected=5, grid=5)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("range", r"asks for update_rule\.learning_rate = 1000000\.0, outside of 0\.01 to 100"),
        ("twice", "asks twice"),
        ("pure", "it is not pure"),
        ("waits", "neither asks nor has finished"),
    ],
)
def test_a_broken_promise_is_named(breaks: str, message: str) -> None:
    assert try_searcher(Own, SPACE).worst == 5
    with pytest.raises(BrokenPromise, match=message):
        try_searcher(lambda: Own(breaks), SPACE)
