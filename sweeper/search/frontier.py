"""``stability_frontier``: the largest stable value of one path, by bisection of its logarithm.

A lane is one cell with one seed. What it asks next depends on the outcomes of the values it has tried and on nothing
else, and it asks only when all that it asked before have ended; so the trials of a search depend neither on the order
in which they end, nor on how often its driver was killed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.search.protocol import Ask, Decision, Extent, History, Known, Seen, Space, lanes, whole_or_not

__all__ = ["Bracket", "Frontier", "StabilityFrontier", "Step", "bracket_of", "is_stable"]

_DIGITS = 4
"""Significant digits of a value that is asked for: enough for a bracket of 1 %, few enough to be read."""

_MOST_POINTS = 15
"""Values that are tried at a time for one cell and seed: more of them find little more, for many more trials."""

_ROUNDING = 1e-9
"""Relative: a mean of equal losses may be a little above them."""


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What a lane knows.

    Attributes:
        stable: The largest value below the smallest unstable one that was found stable; None if none was.
        unstable: The smallest value that was found unstable; None if none was.
        islands: Stable values above ``unstable``.
    """

    stable: float | None
    unstable: float | None
    islands: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a lane wants.

    Attributes:
        ask: Values to try; empty if it has finished, or waits.
        finished: Whether nothing more is wanted.
        reason: Why, for people.
    """

    ask: tuple[float, ...]
    finished: bool
    reason: str


def bracket_of(seen: Mapping[float, bool]) -> Bracket:
    """What outcomes say of the largest stable value.

    Args:
        seen: Value to whether it was stable.

    Returns:
        The bracket.

    Example:
        >>> bracket_of({1.0: True, 4.0: True, 8.0: False, 16.0: True})
        Bracket(stable=4.0, unstable=8.0, islands=(16.0,))
    """
    unstable = min((value for value, is_stable in seen.items() if not is_stable), default=None)
    stable = [value for value, is_stable in seen.items() if is_stable]
    if unstable is None:
        return Bracket(stable=max(stable, default=None), unstable=None)
    return Bracket(
        stable=max((value for value in stable if value < unstable), default=None),
        unstable=unstable,
        islands=tuple(sorted(value for value in stable if value > unstable)),
    )


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The search of one lane.

    Attributes:
        between: Smallest and largest value that may be tried, positive.
        within: The ratio of a bracket's ends at which it is narrow enough, above 1.
        verify: How many values outside the bracket are tried, too, above and below in turn.
        points: Values that are tried at a time: the bracket shrinks to its (points + 1)-th part, in the logarithm.
        is_whole: Whether only whole numbers may be tried.

    Example:
        >>> search, seen = Frontier(between=(0.01, 1000.0), within=1.1, verify=0), {}
        >>> while not (step := search.step(seen)).finished:
        ...     seen |= {value: value < 2.0 for value in step.ask}
        >>> len(seen), step.reason
        (7, 'stable at 1.844, unstable at 2.017')
    """

    between: tuple[float, float]
    within: float = 1.1
    verify: int = 2
    points: int = 1
    is_whole: bool = False

    def step(self, seen: Mapping[float, bool], *, pending: int = 0) -> Step:
        """What to try next.

        Args:
            seen: Value to whether it was stable.
            pending: How many of those that were asked for have not ended.

        Returns:
            Values that are not among those seen, or none.
        """
        known = bracket_of(seen)
        low, high = self.between
        bottom = known.stable if known.stable is not None else low
        top = known.unstable if known.unstable is not None else high
        if pending:
            return Step(ask=(), finished=False, reason=f"{_within(known, self.between)}; {pending} being tried")
        if top / bottom > self.within * (1 + 10.0**-_DIGITS):
            ratio = (top / bottom) ** (1 / (self.points + 1))
            if fresh := self._fresh([bottom * ratio**k for k in range(1, self.points + 1)], seen, bottom, top):
                return Step(ask=fresh, finished=False, reason=_within(known, self.between))
        if known.stable is None and low not in seen:
            return Step(ask=(low,), finished=False, reason=f"unstable down to {top:g}, so the smallest value is tried")
        if known.unstable is None and high not in seen:
            return Step(ask=(high,), finished=False, reason=f"stable up to {bottom:g}, so the largest value is tried")
        if fresh := self._checks(seen, known):
            return Step(
                ask=fresh, finished=False, reason=f"{_within(known, self.between)}; values further away are tried, too"
            )
        return Step(ask=(), finished=True, reason=_told(known, self.between))

    def most(self) -> int:
        """The most values that it tries where stability is monotone."""
        low, high = self.between
        rounds = math.ceil(math.log(math.log(high / low) / math.log(self.within)) / math.log(self.points + 1) - 1e-9)
        # One more round where rounding has left a bracket a little too wide, and one of the ends.
        return max(1, rounds + 1) * self.points + 1 + self.verify

    def likely(self) -> int:
        """About how many values it tries, where the frontier is inside the range."""
        low, high = self.between
        rounds = math.ceil(math.log(math.log(high / low) / math.log(self.within)) / math.log(self.points + 1) - 1e-9)
        return max(1, rounds) * self.points + self.verify

    def grid(self) -> int:
        """How many values a grid would have whose neighbours are as close as the ends of the bracket."""
        low, high = self.between
        return math.ceil(math.log(high / low) / math.log(self.within) - 1e-9) + 1

    def _fresh(
        self, wanted: Sequence[float], seen: Mapping[float, bool], bottom: float, top: float
    ) -> tuple[float, ...]:
        asked = dict.fromkeys(whole_or_not(value, is_whole=self.is_whole, digits=_DIGITS) for value in wanted)
        return tuple(value for value in asked if value not in seen and bottom <= value <= top)

    def _checks(self, seen: Mapping[float, bool], known: Bracket) -> tuple[float, ...]:
        """Values evenly spread above and below the bracket, in the logarithm, where nothing near was tried."""
        low, high = self.between
        wanted: list[float] = []
        above, below = self.verify - self.verify // 2, self.verify // 2
        if known.unstable is not None:
            ratio = (high / known.unstable) ** (1 / (above + 1))
            wanted += [known.unstable * ratio**k for k in range(1, above + 1)]
        if known.stable is not None:
            ratio = (known.stable / low) ** (1 / (below + 1))
            wanted += [known.stable / ratio**k for k in range(1, below + 1)]
        near = dict.fromkeys(whole_or_not(value, is_whole=self.is_whole, digits=_DIGITS) for value in wanted)
        return tuple(
            value
            for value in near
            if low <= value <= high and all(max(value / s, s / value) > self.within for s in seen)
        )


def _within(known: Bracket, between: tuple[float, float]) -> str:
    bottom = f"stable at {known.stable:g}" if known.stable is not None else f"nothing stable yet from {between[0]:g} on"
    top = f"unstable at {known.unstable:g}" if known.unstable is not None else f"nothing unstable yet to {between[1]:g}"
    return f"{bottom}, {top}{_islands(known)}"


def _told(known: Bracket, between: tuple[float, float]) -> str:
    if known.unstable is None:
        return f"stable up to {between[1]:g}, the largest value that may be tried"
    if known.stable is None:
        return f"unstable from {between[0]:g} on, the smallest value that may be tried{_islands(known)}"
    return f"stable at {known.stable:g}, unstable at {known.unstable:g}{_islands(known)}"


def _islands(known: Bracket) -> str:
    return f", stable again at {', '.join(f'{value:g}' for value in known.islands)}" if known.islands else ""


def is_stable(one: Seen, *, worse_than_start: bool = True) -> bool | None:
    """Whether a trial is stable, as far as it is trained.

    Args:
        one: The trial.
        worse_than_start: Whether one whose last logged training loss is above the first is unstable.

    Returns:
        The answer; None where nothing is known: it has failed or not ended, or nothing was logged.

    Example:
        >>> from sweeper.search.protocol import Score
        >>> scores = {"train_loss": Score(first=1, last=2, low=1, high=2)}
        >>> grew = Seen(base="", seed=0, values={}, outcome="done", logged=[(9, scores)])
        >>> is_stable(grew), is_stable(grew, worse_than_start=False)
        (False, True)
    """
    if one.outcome == "diverged":
        return False
    if one.outcome not in {"done", "held"}:
        return None
    if not worse_than_start:
        return True
    loss = one.score("train_loss")
    return None if loss is None else loss.last <= loss.first + _ROUNDING * abs(loss.first)


class StabilityFrontier:
    """The largest stable value of one path, for every base and seed.

    Args:
        over: The path.
        between: Smallest and largest value that may be tried.
        within: The ratio of a bracket's ends at which it is narrow enough.
        verify: How many values outside of the bracket are tried.
        points: Values that are tried at a time for a base and seed; ``auto`` for as many as keep the trainers busy.
        loss_above: A training loss above it is unstable; trials are trained with it as ``train.max_loss``, so that one
            that has come there has diverged, and stops.
        worse_than_start: Whether a trial whose last logged training loss is above the first is unstable.
        decide_after: A trial that is stable after so many steps is held there, and counts as stable; None for all of
            its steps.
    """

    def __init__(
        self,
        *,
        over: str,
        between: Sequence[float],
        within: float = 1.1,
        verify: int = 2,
        points: int | str = "auto",
        loss_above: float | None = None,
        worse_than_start: bool = True,
        decide_after: int | None = None,
    ) -> None:
        self._over = over
        self._between = (float(between[0]), float(between[1]))
        self._within = within
        self._verify = verify
        self._points = points
        self._loss_above = loss_above
        self._worse_than_start = worse_than_start
        self._decide_after = decide_after

    def lane(self, space: Space) -> Frontier:
        """The search of each lane.

        Args:
            space: Where to look.

        Returns:
            The search; the same for all lanes.
        """
        points = self._points
        if not isinstance(points, int):
            num_lanes = max(1, len(space.bases) * len(space.seeds))
            points = max(1, (space.trainers or 1) // num_lanes)
        return Frontier(
            between=self._between,
            within=self._within,
            verify=self._verify,
            points=min(_MOST_POINTS, points),
            is_whole=self._over in space.whole,
        )

    def decide(self, space: Space, history: History) -> Decision:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        search = self.lane(space)
        asked = history.by_lane()
        asks: list[Ask] = []
        wanted: list[tuple[float, ...]] = []
        known: list[Known] = []
        for base, seed in lanes(space):
            tried = asked.get((base.key, seed), [])
            stable: dict[float, bool] = {}
            lost, pending, unknown = 0, 0, 0
            for one in tried:
                answer = is_stable(one, worse_than_start=self._worse_than_start)
                is_early = one.outcome == "held" and (self._decide_after is None or one.step < self._decide_after)
                if one.outcome == "held" and (is_early or not answer):
                    # Held too early for this spec, or not plainly stable: the rest of its steps will tell.
                    until = self._decide_after if is_early else None
                    asks.append(Ask(base=base.key, seed=seed, values=one.values, until=until))
                    pending += 1
                elif answer is not None:
                    stable[one.values[self._over]] = answer
                elif one.outcome is None:
                    pending += 1
                elif one.outcome == "failed":
                    lost += 1
                else:
                    unknown += 1
            step = search.step(stable, pending=pending)
            reason, finished = step.reason, step.finished
            if lost or unknown:
                # Without its answer the next value is not known; another one beside it would fail in the same way.
                why = (
                    f"{lost} failed, so that `clipsweep retry` goes on"
                    if lost
                    else f"{unknown} logged no training loss"
                )
                reason, finished = f"{reason}; {why}", True
            else:
                wanted.append(step.ask)
                asks += [
                    Ask(base=base.key, seed=seed, values={self._over: value}, until=self._decide_after)
                    for value in step.ask
                ]
            found = bracket_of(stable)
            known.append(
                Known(
                    base=base.key,
                    seed=seed,
                    text=reason,
                    values={
                        "stable": found.stable,
                        "unstable": found.unstable,
                        "islands": list(found.islands),
                        "tried": len(tried),
                        "failed": lost,
                        "is_narrow": step.finished and found.stable is not None and found.unstable is not None,
                    },
                    finished=finished,
                )
            )
        narrow = sum(one.values["is_narrow"] for one in known)
        open_ended = sum(one.finished and not one.values["is_narrow"] and not one.values["failed"] for one in known)
        failed = sum(one.values["failed"] > 0 for one in known)
        text = (
            f"{narrow} of {len(known)} brackets are within {self._within:g}"
            f"{f', {open_ended} open: all stable or all unstable' if open_ended else ''}"
            f"{f', {failed} with failed trials' if failed else ''}; "
            f"asked {len(history.seen) + sum(len(step) for step in wanted)} of the {len(known) * search.grid()} trials "
            "of an equal grid"
        )
        return Decision(asks=tuple(asks), known=tuple(known), text=text)

    def extent(self, space: Space) -> Extent:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        search = self.lane(space)
        count = len(space.bases) * len(space.seeds)
        return Extent(
            worst=count * search.most(),
            expected=count * search.likely(),
            grid=count * search.grid(),
            note="where stability is monotone" if self._verify else "",
        )
