"""What a searcher sees and what it answers.

A searcher is a pure function of the history: no clock, no chance of its own, no disk. So its state is the journal, and
a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Ask", "Base", "Decision", "Extent", "History", "Known", "Score", "Searcher", "Seen", "Space"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """A cell without the values that are searched over.

    Attributes:
        key: Tells it from the others; the same in every run of the spec.
        arm: Its update rule in words, without numbers.
        swept: Its swept values.
    """

    key: str
    arm: str
    swept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where a search looks.

    Attributes:
        bases: The cells without what is searched over.
        seeds: The seeds of the spec.
        over: Searched path to its smallest and largest value.
        whole: The paths that take whole numbers only.
        steps: Base to the steps of its trials.
        trainers: How many trials can run at a time; None where that is not known before they do.
        better: Metric to ``min`` or ``max``, as the spec declares.
    """

    bases: tuple[Base, ...]
    seeds: tuple[int, ...]
    over: Mapping[str, tuple[float, float]]
    whole: frozenset[str] = frozenset()
    steps: Mapping[str, int] = field(default_factory=dict)
    trainers: int | None = None
    better: Mapping[str, str] = field(default_factory=dict)

    def is_max(self, metric: str) -> bool:
        """Whether a metric gets better as it grows."""
        return self.better.get(metric) == "max"

    def result(self, metric: str, score: Score) -> float:
        """What counts of a metric, smaller is better: the last training loss, the best value of every other one."""
        return score.last if metric == "train_loss" else -score.high if self.is_max(metric) else score.low


@dataclass(frozen=True, kw_only=True)
class Score:
    """What was logged of a loss or a metric, finite values only.

    Attributes:
        first: The first value.
        last: The last; of the training loss, the mean over the last tenth of those logged.
        low: The smallest.
        high: The largest.
    """

    first: float
    last: float
    low: float
    high: float

    def then(self, later: Score) -> Score:
        """What was logged of both stretches, one after the other.

        Args:
            later: Of the later one.

        Returns:
            The score of both.

        Example:
            >>> Score(first=3, last=2, low=1, high=4).then(Score(first=2, last=1, low=0, high=2))
            Score(first=3, last=1, low=0, high=4)
        """
        return Score(first=self.first, last=later.last, low=min(self.low, later.low), high=max(self.high, later.high))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A trial that was asked for.

    Attributes:
        base: Key of its base.
        seed: Its seed.
        values: The searched paths with the values that were asked for.
        until: The step up to which it was asked for; None for its end.
        step: The step up to which it is trained.
        outcome: ``done``, ``diverged``, ``failed`` (given up), or ``held`` at the step up to which it was asked for;
            None while it is on its way.
        logged: The steps at which stretches of it ended, rising, each with what was logged in that stretch: loss or
            metric to its score; the training loss is ``train_loss``.
        asked_after: How many outcomes of the run were known when it was asked for, the last time.
        ended_at: How many were known before its own; None while it is on its way.
    """

    base: str
    seed: int
    values: Mapping[str, float]
    until: int | None = None
    step: int = 0
    outcome: str | None = None
    logged: Sequence[tuple[int, Mapping[str, Score]]] = ()
    asked_after: int = 0
    ended_at: int | None = None

    def score(self, name: str, *, until: int | None = None) -> Score | None:
        """What was logged of a loss or metric.

        Args:
            name: Its name.
            until: Of the stretches up to this step; None for all.

        Returns:
            The score; None where no finite value was logged.
        """
        found: Score | None = None
        for stop, scores in self.logged:
            if name in scores and (until is None or stop <= until):
                found = scores[name] if found is None else found.then(scores[name])
        return found


@dataclass(frozen=True, kw_only=True)
class History:
    """Every trial of a search that was asked for, in the order of asking."""

    seen: Sequence[Seen] = ()

    def by_lane(self) -> dict[tuple[str, int], list[Seen]]:
        """The trials of each base and seed, in the order of asking."""
        found: dict[tuple[str, int], list[Seen]] = {}
        for one in self.seen:
            found.setdefault((one.base, one.seed), []).append(one)
        return found


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A trial that is wanted, or more steps of one that is held.

    Attributes:
        base: Key of its base.
        seed: Its seed.
        values: Searched path to value.
        until: The step up to which it is wanted, where it is held with a checkpoint; None for its end. Analytic trials
            are always trained to their end.
    """

    base: str
    seed: int
    values: Mapping[str, float]
    until: int | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a search knows about one base.

    Attributes:
        base: Key of the base.
        seed: The seed that it is about; None for all of them.
        text: What is known, and why more is or is not asked for, in words.
        values: The same as numbers, for programs: names to numbers, texts, flags and lists of them.
        finished: Whether nothing more is wanted here.
    """

    base: str
    seed: int | None
    text: str
    values: Mapping[str, Any]
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a searcher answers.

    Attributes:
        asks: Trials to add, and trials to go on with; without those that are on their way, or have ended.
        known: What it knows, one entry for each base, or base and seed.
        text: Where the search stands, in one line.
    """

    asks: tuple[Ask, ...] = ()
    known: tuple[Known, ...] = ()
    text: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more is wanted anywhere."""
        return not self.asks and all(one.finished for one in self.known)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How many trials a search takes.

    Attributes:
        worst: At most so many.
        expected: About so many.
        grid: So many trials would an equal grid take.
        note: Under which condition, or counted how; empty for nothing to say.
    """

    worst: int
    expected: int
    grid: int
    note: str = ""


class Searcher(Protocol):
    """Finds the next trials.

    It may also have a method ``refuse(space)``, which says in words why it cannot be run there; an empty text for none.

    The answer must depend on the arguments alone: the same history gives the same decision, in every process.
    """

    def decide(self, space: Space, history: History) -> Decision:
        """What to try next.

        Args:
            space: Where to look.
            history: What was asked for so far, and what became of it.

        Returns:
            Trials to add, and what is known. A trial that has failed for good never ends otherwise: do not wait for it.
        """

    def extent(self, space: Space) -> Extent:
        """How many trials it takes.

        Args:
            space: Where to look.

        Returns:
            Bounds that hold before anything is known.
        """


def whole_or_not(value: float, *, is_whole: bool, digits: int) -> float:
    """A value as it is asked for.

    Args:
        value: The value.
        is_whole: Whether only whole numbers may be asked for.
        digits: Significant digits of others.

    Returns:
        A whole number, or the value rounded: nobody wants to read more, and ids do not depend on the last bits.

    Example:
        >>> whole_or_not(0.123456, is_whole=False, digits=4), whole_or_not(12.6, is_whole=True, digits=4)
        (0.1235, 13)
    """
    if is_whole:
        return round(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value


def lanes(space: Space) -> Iterator[tuple[Base, int]]:
    """Every base with every seed.

    Yields:
        Base by base.
    """
    for base in space.bases:
        for seed in space.seeds:
            yield base, seed
