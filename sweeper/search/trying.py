"""Whether a searcher keeps its promises: run against trials that are made up, in many orders."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace

from sweeper.search.protocol import Ask, Decision, Extent, History, Score, Searcher, Seen, Space

__all__ = ["BrokenPromise", "check_ask", "loss_of", "play", "try_searcher"]

_MOST_ROUNDS = 100_000
_METRICS = ("train_loss", "valid_loss")


class BrokenPromise(ValueError):
    """A searcher did what it must not; the text says what."""


def loss_of(
    ask: Mapping[str, float], over: Mapping[str, tuple[float, float]], *, seed: int, step: int, base: int
) -> float:
    """A made-up loss: a valley in the logarithm of every value, that of each base elsewhere, and an end of stability.

    Args:
        ask: Searched path to value.
        over: Searched path to its smallest and largest value.
        seed: The trial's seed, for its noise.
        step: How far it is trained; more steps are better.
        base: The number of the base.

    Returns:
        The loss; infinite beyond the end of stability.
    """
    loss = 1.0 / (1 + step)
    for path, (low, high) in over.items():
        # As a share of the range, in the logarithm where there is one.
        share = math.log(ask[path] / low) / math.log(high / low) if low > 0 else (ask[path] - low) / (high - low)
        if share > 0.8 - 0.05 * (base % 3):
            return math.inf
        loss += (share - 0.4 - 0.05 * (base % 3)) ** 2
    return loss + 0.01 * random.Random(f"{seed} {sorted(ask.items())}").random()  # made up, not secret  # nosec B311


def play(
    make: Callable[[], Searcher], space: Space, *, order: int = 0, fresh: bool = False, fails: int = 0
) -> tuple[list[Seen], Decision]:
    """Run a searcher against made-up trials to its end.

    Args:
        make: Makes the searcher.
        space: Where it looks.
        order: Seed of the order in which trials end.
        fresh: Whether a new searcher is made for every decision, as after a kill of the driver.
        fails: How many trials fail for good, the first that end.

    Returns:
        The trials, and the last decision.

    Raises:
        BrokenPromise: It did what it must not.
    """
    draws = random.Random(order)  # made up, not secret  # nosec B311
    searcher = make()
    places = {base.key: number for number, base in enumerate(space.bases)}
    seen: list[Seen] = []
    num_ended = 0
    for _ in range(_MOST_ROUNDS):
        searcher = make() if fresh else searcher
        decision = searcher.decide(space, History(seen=tuple(seen)))
        for ask in decision.asks:
            _take(seen, ask, space, num_ended)
        moving = [at for at, one in enumerate(seen) if one.outcome is None]
        if not moving:
            if not decision.finished:
                raise BrokenPromise(f"it neither asks nor has finished: {decision.text or decision}")
            return seen, decision
        at = draws.choice(moving)
        seen[at] = _ended(seen[at], space, places, num_ended, failed=num_ended < fails)
        num_ended += 1
    raise BrokenPromise(f"it has not finished after {_MOST_ROUNDS:,} outcomes")


def check_ask(ask: Ask, space: Space) -> None:
    """Refuse a trial that no search may ask for.

    Args:
        ask: What is asked for.
        space: Where the search looks.

    Raises:
        BrokenPromise: There is no such cell, a value is missing or outside of its range, or the seed is none.
    """
    if ask.base not in {base.key for base in space.bases}:
        raise BrokenPromise(f"it asks for the cell {ask.base!r}, which there is not")
    if ask.values.keys() != space.over.keys():
        raise BrokenPromise(f"it asks for {dict(ask.values)}, but is over {', '.join(space.over) or 'nothing'}")
    for path, value in ask.values.items():
        low, high = space.over[path]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise BrokenPromise(f"it asks for {path} = {value!r}, outside of {low:g} to {high:g}")
        if path in space.whole and not float(value).is_integer():
            raise BrokenPromise(f"it asks for {path} = {value!r}, which takes whole numbers")
    if isinstance(ask.seed, bool) or not isinstance(ask.seed, int) or ask.seed < 0:
        raise BrokenPromise(f"it asks for the seed {ask.seed!r}")


def _take(seen: list[Seen], ask: Ask, space: Space, num_ended: int) -> None:
    """Add a trial, or let one that is held go on."""
    check_ask(ask, space)
    for at, one in enumerate(seen):
        if (one.base, one.seed, dict(one.values)) == (ask.base, ask.seed, dict(ask.values)):
            if one.outcome != "held":
                raise BrokenPromise(f"it asks twice for {dict(ask.values)} with seed {ask.seed}")
            if ask.until is not None and ask.until <= one.step:
                raise BrokenPromise(f"it asks for {ask.until} steps of a trial that has {one.step}")
            seen[at] = replace(one, until=ask.until, outcome=None, asked_after=num_ended, ended_at=None)
            return
    seen.append(Seen(base=ask.base, seed=ask.seed, values=dict(ask.values), until=ask.until, asked_after=num_ended))


def _ended(one: Seen, space: Space, places: Mapping[str, int], num_ended: int, *, failed: bool) -> Seen:
    if failed:
        return replace(one, outcome="failed", ended_at=num_ended)
    steps = space.steps.get(one.base, 100)
    step = min(one.until or steps, steps)
    loss = loss_of(one.values, space.over, seed=one.seed, step=step, base=places[one.base])
    if math.isinf(loss):
        return replace(one, outcome="diverged", step=1, ended_at=num_ended)
    score = Score(first=3.0, last=loss, low=loss, high=3.0)
    logged = (*one.logged, (step, dict.fromkeys(_METRICS, score)))
    return replace(one, outcome="done" if step == steps else "held", step=step, logged=logged, ended_at=num_ended)


def try_searcher(make: Callable[[], Searcher], space: Space, *, orders: int = 3) -> Extent:
    """Hold a searcher to its promises: to be pure, to stay in range, to ask for nothing twice, to come to an end.

    Args:
        make: Makes the searcher.
        space: Where it looks.
        orders: In how many orders trials end.

    Returns:
        What it says of how many trials it takes.

    Raises:
        BrokenPromise: It breaks one; the text says which, and with what.
    """
    extent = make().extent(space)
    if not 0 < extent.expected <= extent.worst:
        raise BrokenPromise(f"it expects {extent.expected} trials, at most {extent.worst}")
    for order in range(orders):
        seen, decision = play(make, space, order=order)
        history = History(seen=tuple(seen))
        before = deepcopy(history)
        again = make().decide(space, history)
        if history != before:
            raise BrokenPromise("it changes the history that it is given")
        if again != decision:
            raise BrokenPromise("the same history gives another decision in another process: it is not pure")
        resumed, _ = play(make, space, order=order, fresh=True)
        if resumed != seen:
            raise BrokenPromise(
                "made anew for each decision, as after a kill, it asks for other trials: it is not pure"
            )
    play(make, space, fails=2)
    return extent
