"""``best``: the best value of one or two paths for every arm, by a race over paired seeds, at equal budgets.

Each cell goes its own way, in rounds: it asks again only when all that it asked before have ended, so that what it
tries depends neither on the order in which trials end nor on how often its driver was killed.

1. A coarse ladder of values, each with the same few seeds.
2. A value is out of the race if it diverged where the best one did not, or if it is worse by more than chance: a
   one-sided t test of its differences from the best on their common seeds, with one variance for all values.
3. While more than the best value and its neighbours are left, those that are left get another seed.
4. Then the neighbourhood is refined: at the lowest point of a parabola through the values around the best, in the
   logarithm, or else in the middle of the wider gap beside it; until its neighbours are within the factor asked for.
5. At last the best value is trained with fresh seeds, which had no part in choosing it: theirs are its result and its
   interval.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from scipy.special import gammaincinv, stdtrit

from sweeper.search.protocol import Ask, Base, Decision, Extent, History, Known, Space, whole_or_not

__all__ = ["Best", "Confirmed", "Race", "Round"]

_DIGITS = 4
_LADDER = {1: 6, 2: 4}
"""Values along each path of the first round."""

_FIRST_SEEDS = 2

_CLIFF = 10.0
"""How much more the loss may rise on one side than on the other for a parabola to be a fair picture of it."""

Point: TypeAlias = tuple[float, ...]
"""Values along the searched paths, in their order."""

Results: TypeAlias = Mapping[Point, Mapping[int, float]]
"""Point to seed to result, smaller is better; infinite where the trial diverged."""


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """The mean over fresh seeds with its Student interval of 95 %.

    Attributes:
        mean: The mean; infinite if one of them diverged.
        low: Lower end; NaN with fewer than two seeds.
        high: Upper end.
        seeds: How many seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a race wants next.

    Attributes:
        asks: Points and seeds to try.
        best: The best point so far; None without any result.
        left: Points that are still in the race, the best among them.
        finished: Whether nothing more is wanted.
        reason: Why, for people.
        confirmed: The result of the best on fresh seeds, once they have ended.
    """

    asks: tuple[tuple[Point, int], ...] = ()
    best: Point | None = None
    left: tuple[Point, ...] = ()
    finished: bool = False
    reason: str = ""
    confirmed: Confirmed | None = None


@dataclass(frozen=True, kw_only=True)
class Race:
    """The race of one cell.

    Attributes:
        between: Smallest and largest value along each path, positive.
        seeds: The seeds of the race, in the order in which they are used.
        confirm: The fresh seeds; none to take the race's own results.
        budget: How many trials it may take, those of the fresh seeds among them.
        within: The factor within which the best value is sought.
        confidence: Of the test that a value is worse.
        whole: The places of paths that take whole numbers only.
    """

    between: tuple[tuple[float, float], ...]
    seeds: tuple[int, ...]
    confirm: tuple[int, ...] = ()
    budget: int = 40
    within: float = 1.25
    confidence: float = 0.95
    whole: frozenset[int] = field(default_factory=frozenset)

    def next_round(self, results: Results, *, pending: int = 0) -> Round:
        """What to try next.

        Args:
            results: What is known so far.
            pending: Trials that were asked for and have not ended.

        Returns:
            Points and seeds that are not among the results, or none.
        """
        spent = sum(len(of_seed) for of_seed in results.values())
        racing = self._racing(results)
        best = _best_of(racing)
        left = self._left(racing, best)
        if pending:
            return Round(best=best, left=left, reason=f"{pending} being tried")
        room = self.budget - spent - len(self.confirm)
        if missing := self._ladder(racing, max(room, 0)):
            return Round(asks=missing, reason="a coarse ladder of values")
        if best is None or not math.isfinite(_mean(racing[best])):
            return Round(best=best, finished=True, reason="every value diverged")
        asks: Sequence[tuple[Point, int]] = ()
        reason = ""
        apart = set(left) - {best, *self._beside(racing, best)}
        if apart:
            asks, reason = self._another_seed(racing, left), f"{len(left)} values are too close to tell"
        if not asks:
            asks, reason = self._refined(racing, best), "between the best value and its neighbours"
        if not asks and len(left) > 1:
            asks, reason = self._another_seed(racing, left), f"{len(left)} values are too close to tell"
        if asks and len(asks) <= room:
            return Round(asks=tuple(asks), best=best, left=left, reason=reason)
        ended = "the budget is spent" if asks else "nothing more to tell apart"
        if fresh := [(best, seed) for seed in self.confirm if seed not in results.get(best, {})]:
            return Round(asks=tuple(fresh), best=best, left=left, reason=f"{ended}: the best value on fresh seeds")
        confirmed = _confirmed([results[best][seed] for seed in self.confirm]) if self.confirm else None
        return Round(best=best, left=left, finished=True, reason=ended, confirmed=confirmed)

    def _racing(self, results: Results) -> dict[Point, dict[int, float]]:
        """The results on the seeds of the race, for points that have any."""
        found = {point: {s: of[s] for s in self.seeds if s in of} for point, of in results.items()}
        return {point: of for point, of in found.items() if of}

    def _ladder(self, racing: Results, room: int) -> tuple[tuple[Point, int], ...]:
        """What is missing of the first round."""
        seeds = self.seeds[:_FIRST_SEEDS]
        dimensions = len(self.between)
        rungs = _LADDER[dimensions]
        # At least three values along each path: fewer have no middle.
        while rungs > 3 and rungs**dimensions * len(seeds) > self.budget / 2:
            rungs -= 1
        axes = []
        for place, (low, high) in enumerate(self.between):
            ratio = (high / low) ** (1 / rungs)
            # In the middle of equal parts: the ends themselves are seldom the best.
            axes.append([self._asked(place, low * ratio ** (k + 0.5)) for k in range(rungs)])
        points = [point for point in itertools.product(*axes)]
        missing = [(point, seed) for point in points for seed in seeds if seed not in racing.get(point, {})]
        return tuple(dict.fromkeys(missing))[:room] if not racing or room >= len(missing) else ()

    def _asked(self, place: int, value: float) -> float:
        low, high = self.between[place]
        return whole_or_not(min(max(value, low), high), is_whole=place in self.whole, digits=_DIGITS)

    def _left(self, racing: Results, best: Point | None) -> tuple[Point, ...]:
        """The points that are not worse than the best by more than chance, the best first."""
        if best is None:
            return ()
        others = [point for point in racing if point != best]
        differences = {point: _differences(racing[point], racing[best]) for point in others}
        # The noise of a difference is about the same for all; that of two seeds alone would tell little. The median, as
        # near the edge of stability a value may have a noise, and a loss, of another order of magnitude.
        finite = [d for d in differences.values() if len(d) > 1 and all(map(math.isfinite, d))]
        freedom = sum(len(d) - 1 for d in finite)
        variance = statistics.median([_variance(d) for d in finite]) if finite else math.nan
        left = [best]
        for point in others:
            found = differences[point]
            if not found or any(x == math.inf for x in found):
                continue
            mean = math.fsum(found) / len(found)
            if freedom:
                error = math.sqrt(variance / len(found))
                if mean > float(stdtrit(freedom, self.confidence)) * error:
                    continue
            left.append(point)
        return tuple(left)

    def _line(self, racing: Results, best: Point, place: int) -> list[Point]:
        """The points that differ from the best along one path alone, with the best, in order."""
        return sorted(
            point
            for point in racing
            if all(point[other] == best[other] for other in range(len(best)) if other != place)
        )

    def _beside(self, racing: Results, best: Point) -> list[Point]:
        """The neighbours of the best along each path."""
        found = []
        for place in range(len(best)):
            line = self._line(racing, best, place)
            at = line.index(best)
            found += line[max(0, at - 1) : at] + line[at + 1 : at + 2]
        return found

    def _refined(self, racing: Results, best: Point) -> list[tuple[Point, int]]:
        """New points around the best, with the seeds that it has."""
        points: dict[Point, None] = {}
        for place, (low, high) in enumerate(self.between):
            line = self._line(racing, best, place)
            at = line.index(best)
            here = best[place]
            left = line[at - 1][place] if at else low
            right = line[at + 1][place] if at + 1 < len(line) else high
            # Gaps of at most this are narrow enough: the best is within the factor of its neighbours.
            gaps = {value: abs(math.log(value / here)) for value in (left, right) if value != here}
            wide = {value: gap for value, gap in gaps.items() if gap > math.log(self.within) * (1 + 10**-_DIGITS)}
            if not wide:
                continue
            wanted = self._lowest(racing, line, at, place)
            tried = [point[place] for point in line]
            is_new = wanted is not None and all(abs(math.log(wanted / t)) > math.log(self.within) / 2 for t in tried)
            if wanted is None or not is_new:
                wanted = math.sqrt(here * max(wide, key=lambda value: wide[value]))
            value = self._asked(place, wanted)
            if value not in tried:
                points[(*best[:place], value, *best[place + 1 :])] = None
        seeds = list(racing[best])
        return [(point, seed) for point in points for seed in seeds]

    def _lowest(self, racing: Results, line: Sequence[Point], at: int, place: int) -> float | None:
        """The lowest point of a parabola through the values around the best; None where it has none between them."""
        if not 0 < at < len(line) - 1:
            return None
        here, beside = _mean(racing[line[at]]), [_mean(racing[line[at - 1]]), _mean(racing[line[at + 1]])]
        rises = [value - here for value in beside]
        # No parabola where one side is a cliff: near the edge of stability.
        if not math.isfinite(max(rises)) or max(rises) > _CLIFF * min(rises):
            return None
        near = [
            point
            for offset, point in enumerate(line[max(0, at - 2) : at + 3], start=max(0, at - 2) - at)
            if abs(offset) < 2 or _mean(racing[point]) - here <= _CLIFF * max(rises)
        ]
        x = [math.log(point[place]) for point in near]
        y = [_mean(racing[point]) for point in near]
        fitted = _parabola([one - math.log(line[at][place]) for one in x], y, [len(racing[point]) for point in near])
        if fitted is None or fitted[0] <= 0:
            return None
        vertex = math.exp(math.log(line[at][place]) - fitted[1] / (2 * fitted[0]))
        return vertex if line[at - 1][place] < vertex < line[at + 1][place] else None

    def _another_seed(self, racing: Results, left: Sequence[Point]) -> list[tuple[Point, int]]:
        """The next seed for the points that have the fewest of those that are left."""
        fewest = min(len(racing[point]) for point in left)
        if fewest >= len(self.seeds):
            return []
        seeds = self.seeds[: fewest + 1]
        return [(point, seed) for point in left for seed in seeds if seed not in racing[point]]


def _mean(of_seed: Mapping[int, float]) -> float:
    values = list(of_seed.values())
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.inf


def _best_of(racing: Results) -> Point | None:
    """The point with the smallest mean, seeds that only some have accounted for; diverged ones last."""
    finite = {point: of for point, of in racing.items() if math.isfinite(_mean(of))}
    if not finite:
        return min(racing, default=None)
    # Seeds differ: one that is easy must not favour the points that happen to have it.
    seeds = {seed for of in finite.values() for seed in of}
    most = max(len(of) for of in finite.values())
    full = [of for of in finite.values() if len(of) == most]
    level = {seed: statistics.median([of[seed] for of in full if seed in of] or [0.0]) for seed in seeds}
    return min(finite, key=lambda point: (_level_mean(finite[point], level), point))


def _level_mean(of_seed: Mapping[int, float], level: Mapping[int, float]) -> float:
    return math.fsum(value - level[seed] for seed, value in of_seed.items()) / len(of_seed)


def _differences(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """One minus the other, by common seed; infinite where the one alone diverged, and none where both did."""
    common = [(one[seed], other[seed]) for seed in one if seed in other]
    return [first - second if math.isfinite(first) else math.inf for first, second in common if math.isfinite(second)]


def _variance(values: Sequence[float]) -> float:
    """A variance whose median over samples of normal noise is that of the noise."""
    freedom = len(values) - 1
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / float(2 * gammaincinv(freedom / 2, 0.5))


def _parabola(x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> tuple[float, float] | None:
    """Coefficients a and b of the least-squares parabola a x^2 + b x + c; None where it is not determined."""
    import numpy as np

    design = np.stack([np.square(x), np.asarray(x, dtype=float), np.ones(len(x))], axis=1)
    root = np.sqrt(np.asarray(weights, dtype=float))
    found, _, rank, _ = np.linalg.lstsq(design * root[:, None], np.asarray(y) * root, rcond=None)
    return (float(found[0]), float(found[1])) if rank == 3 else None


def _confirmed(values: Sequence[float]) -> Confirmed:
    mean = math.fsum(values) / len(values)
    if not math.isfinite(mean) or len(values) < 2:
        return Confirmed(mean=mean, low=math.nan, high=math.nan, seeds=len(values))
    spread = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(stdtrit(len(values) - 1, 0.975)) * math.sqrt(spread / len(values))
    return Confirmed(mean=mean, low=mean - half, high=mean + half, seeds=len(values))


class Best:
    """The best value of one or two paths, for every base, with equal budgets for every arm.

    Args:
        over: Path to its smallest and largest value.
        metric: What is compared: ``train_loss``, or a metric of the problem.
        budget: Trials of each arm; an arm of several cells shares it among them.
        within: The factor within which the best value is sought.
        confirm_seeds: How many fresh seeds the best value is trained with at last.
        confidence: Of the test by which a value is out of the race.
    """

    def __init__(
        self,
        *,
        over: Mapping[str, Sequence[float]],
        metric: str = "train_loss",
        budget: int = 40,
        within: float = 1.25,
        confirm_seeds: int = 5,
        confidence: float = 0.95,
    ) -> None:
        self._over = {path: (float(ends[0]), float(ends[1])) for path, ends in over.items()}
        self._metric = metric
        self._budget = budget
        self._within = within
        self._confirm_seeds = confirm_seeds
        self._confidence = confidence

    def race(self, space: Space, base: Base) -> Race:
        """The race of a base.

        Args:
            space: Where to look.
            base: The base.

        Returns:
            The race, with the base's part of its arm's budget.
        """
        of_arm = sum(other.arm == base.arm for other in space.bases)
        first = max(space.seeds) + 1
        return Race(
            between=tuple(self._over.values()),
            seeds=space.seeds,
            confirm=tuple(range(first, first + self._confirm_seeds)),
            budget=self._budget // of_arm,
            within=self._within,
            confidence=self._confidence,
            whole=frozenset(place for place, path in enumerate(self._over) if path in space.whole),
        )

    def decide(self, space: Space, history: History) -> Decision:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        asks: list[Ask] = []
        known: list[Known] = []
        for base in space.bases:
            race = self.race(space, base)
            results: dict[Point, dict[int, float]] = {}
            pending = failed = silent = 0
            for one in history.seen:
                if one.base != base.key:
                    continue
                point = tuple(float(one.values[path]) for path in self._over)
                if one.outcome is None:
                    pending += 1
                elif one.outcome == "held":
                    # By a search of an earlier spec: what is compared is whole trials.
                    asks.append(Ask(base=base.key, seed=one.seed, values=one.values))
                    pending += 1
                elif one.outcome == "failed":
                    failed += 1
                elif one.outcome == "diverged":
                    results.setdefault(point, {})[one.seed] = math.inf
                elif (score := one.score(self._metric)) is None:
                    # No finite value of the metric: as bad as a divergence.
                    silent += 1
                    results.setdefault(point, {})[one.seed] = math.inf
                else:
                    results.setdefault(point, {})[one.seed] = space.result(self._metric, score)
            found = race.next_round(results, pending=pending)
            if not failed:
                asks += [
                    Ask(base=base.key, seed=seed, values=dict(zip(self._over, point, strict=True)))
                    for point, seed in found.asks
                ]
            known.append(self._known(space, base, race, results, found, failed=failed, silent=silent))
        done = sum(one.finished for one in known)
        text = f"{done} of {len(known)} races have ended; {len(history.seen)} trials asked for"
        return Decision(asks=tuple(asks), known=tuple(known), text=text)

    def refuse(self, space: Space) -> str:
        """Why it cannot be run in a space.

        Args:
            space: Where to look.

        Returns:
            The reason, with how to mend it; empty if it can.
        """
        if len(space.seeds) < 2:
            return "needs two seeds or more, to tell a difference from noise: sweep.seeds: 2"
        least = self._confirm_seeds + _FIRST_SEEDS * 3 ** len(self._over)
        for base in space.bases:
            if self.race(space, base).budget < least:
                cells = sum(other.arm == base.arm for other in space.bases)
                shared = f", shared by its {cells} cells" if cells > 1 else ""
                return (
                    f"a budget of {self._budget} trials for {base.arm}{shared}, is too small for a ladder of three "
                    f"values with two seeds and {self._confirm_seeds} fresh ones: budget: {least * cells} or more"
                )
        return ""

    def extent(self, space: Space) -> Extent:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        worst = sum(self.race(space, base).budget for base in space.bases)
        values = math.prod(
            math.ceil(math.log(high / low) / math.log(self._within) - 1e-9) + 1 for low, high in self._over.values()
        )
        grid = len(space.bases) * values * len(space.seeds)
        return Extent(worst=worst, expected=worst, grid=grid)

    def _known(
        self, space: Space, base: Base, race: Race, results: Results, found: Round, *, failed: int, silent: int
    ) -> Known:
        spent = sum(len(of_seed) for of_seed in results.values())
        names = [path.rpartition(".")[2] for path in self._over]
        sign = -1 if space.is_max(self._metric) else 1
        text = found.reason
        values: dict[str, object] = {
            "best": None if found.best is None else dict(zip(self._over, found.best, strict=True)),
            "left": [dict(zip(self._over, point, strict=True)) for point in found.left],
            "spent": spent,
            "budget": race.budget,
            "metric": self._metric,
            "confirmed": None,
            "failed": failed,
        }
        if found.best is not None and results:
            told = ", ".join(f"{name}={value:g}" for name, value in zip(names, found.best, strict=True))
            text = (
                f"best {told}; {len(found.left)} of {len(results)} values left, {spent} of {race.budget} trials; {text}"
            )
        if (sure := found.confirmed) is not None:
            ends = sorted((sign * sure.low, sign * sure.high)) if math.isfinite(sure.low) else [None, None]
            values["confirmed"] = {
                "mean": sign * sure.mean if math.isfinite(sure.mean) else None,
                "low": ends[0],
                "high": ends[1],
                "seeds": sure.seeds,
                "by_seed": {
                    str(seed): sign * value
                    for seed, value in (results[found.best] if found.best is not None else {}).items()
                    if seed in race.confirm and math.isfinite(value)
                },
            }
            interval = "" if ends[0] is None else f" [{ends[0]:.4g}, {ends[1]:.4g}]"
            result = f"{sign * sure.mean:.4g}{interval}" if math.isfinite(sure.mean) else "diverged"
            fresh = "1 fresh seed" if sure.seeds == 1 else f"{sure.seeds} fresh seeds"
            text = f"{text}; {self._metric} {result} on {fresh}"
        if failed:
            text = f"{text}; {failed} failed, so that `clipsweep retry` goes on"
        if silent:
            text = f"{text}; {silent} logged no finite {self._metric}"
        is_finished = found.finished or bool(failed)
        return Known(base=base.key, seed=None, text=text, values=values, finished=is_finished)
