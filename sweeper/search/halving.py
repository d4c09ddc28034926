"""``halving``: every cell is trained a little, the better ones longer, and so on; no cell is stopped for good.

The asynchronous rule of Li et al. (2020), "A system for massively parallel hyperparameter tuning", Algorithm 2 (ASHA):
a cell goes on as soon as it is among the best 1/eta of those that have come as far, so that no trainer waits for the
slowest cell of a rung. Here a cell has come to a rung when all its seeds have, and its result is the mean over them:
cells are compared on the same seeds. Arms do not compete with one another unless asked to.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.search.protocol import Ask, Base, Decision, Extent, History, Known, Seen, Space

__all__ = ["Halving", "rungs_of"]

_PER_TRAINER = 2
"""Trials on their way for each trainer: one at work, and one that waits, so that no trainer does."""


def rungs_of(steps: int, *, first: int, factor: float) -> tuple[int, ...]:
    """The steps at which trials are compared.

    Args:
        steps: Steps of a whole trial.
        first: The first rung.
        factor: eta: the ratio of one rung to the next, above 1.

    Returns:
        Rising steps, the last of them ``steps``.

    Example:
        >>> rungs_of(1000, first=100, factor=3)
        (100, 300, 900, 1000)
    """
    rungs = []
    at = float(first)
    while round(at) < steps:
        rungs.append(round(at))
        at *= factor
    return (*rungs, steps)


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell with all its seeds.

    Attributes:
        key: Of its base.
        reached: How many rungs all its seeds have come to; a trial that has diverged has come to all.
        asked: How many rungs any of its seeds was asked for.
        results: Its result at each rung that it has reached, smaller is better.
        is_moving: Whether a trial of it is on its way.
        failed: Trials of it that were given up.
    """

    key: str
    reached: int
    asked: int
    results: tuple[float, ...]
    is_moving: bool
    failed: int


class Halving:
    """Successive halving over the steps, asynchronously.

    Args:
        metric: What is compared: ``train_loss``, or a metric of the problem.
        first: Steps of the first rung.
        factor: eta: one in so many goes on, for so many times the steps.
        across_arms: Whether cells of different arms compete.
    """

    def __init__(self, *, metric: str, first: int, factor: float = 3.0, across_arms: bool = False) -> None:
        self._metric = metric
        self._first = first
        self._factor = factor
        self._across_arms = across_arms

    def decide(self, space: Space, history: History) -> Decision:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        lanes = history.by_lane()
        cells = {base.key: self._cell(space, base, lanes) for base in space.bases}
        asks = [ask for base in space.bases for ask in self._lacking(space, base, lanes, cells[base.key])]
        for group in self._groups(space):
            asks += self._promoted(space, [cells[base.key] for base in group])
        moving = sum(one.outcome is None for one in history.seen) + len(asks)
        room = math.inf if space.trainers is None else _PER_TRAINER * space.trainers - moving
        # Not in the order of the spec: along a grid whose values get better, every newcomer would be among the best.
        fresh = sorted((key for key, cell in cells.items() if cell.asked == 0), key=_shuffled)
        begun = []
        for key in fresh:
            if room <= 0:
                break
            asks += self._asks(space, key, 0)
            begun.append(key)
            room -= len(space.seeds)
        left = len(fresh) - len(begun)
        going_on = {ask.base for ask in asks}
        known = tuple(self._known(space, cells[base.key], going_on) for base in space.bases)
        whole = sum(cell.reached == len(self._rungs(space, key)) for key, cell in cells.items())
        text = (
            f"{len(cells) - left} of {len(cells)} cells begun, {whole} trained to the end; rungs at "
            f"{', '.join(map(str, self._rungs(space, space.bases[0].key)))} steps"
            if cells
            else "no cells"
        )
        return Decision(asks=tuple(asks), known=known, text=text)

    def extent(self, space: Space) -> Extent:
        """See :class:`~sweeper.search.protocol.Searcher`; counted in whole trials, by their steps."""
        seeds = len(space.seeds)
        expected = worst = 0.0
        for group in self._groups(space):
            if not group:
                continue
            rungs = self._rungs(space, group[0].key)
            before = 0
            for number, rung in enumerate(rungs):
                share = (rung - before) / rungs[-1]
                expected += max(1.0, len(group) / self._factor**number) * share
                # Asynchronously, early cells go on that later ones would have displaced.
                worst += min(len(group), max(1.0, 2 * len(group) / self._factor**number)) * share
                before = rung
        grid = len(space.bases) * seeds
        return Extent(
            worst=min(grid, math.ceil(worst * seeds)),
            expected=math.ceil(expected * seeds),
            grid=grid,
            note="counted in whole trials, by their steps",
        )

    def _groups(self, space: Space) -> list[list[Base]]:
        """The cells that compete with one another."""
        groups: dict[str, list[Base]] = {}
        for base in space.bases:
            groups.setdefault("" if self._across_arms else base.arm, []).append(base)
        return list(groups.values())

    def _rungs(self, space: Space, key: str) -> tuple[int, ...]:
        return rungs_of(space.steps[key], first=self._first, factor=self._factor)

    def _asks(self, space: Space, key: str, rung: int) -> list[Ask]:
        """Every seed of a cell, up to a rung."""
        rungs = self._rungs(space, key)
        until = rungs[rung] if rung + 1 < len(rungs) else None
        return [Ask(base=key, seed=seed, values={}, until=until) for seed in space.seeds]

    def _cell(self, space: Space, base: Base, lanes: Mapping[tuple[str, int], Sequence[Seen]]) -> _Cell:
        rungs = self._rungs(space, base.key)
        seen = [one for seed in space.seeds for one in lanes.get((base.key, seed), ())]
        asked = 0
        for one in seen:
            target = rungs[-1] if one.until is None else one.until
            asked = max(asked, sum(rung <= target for rung in rungs))
        failed = sum(one.outcome == "failed" for one in seen)
        if failed or len(seen) < len(space.seeds):
            # More seeds than in an earlier spec: those are asked for as far as the others.
            moving = bool(seen) and not failed
            return _Cell(key=base.key, reached=0, asked=asked, results=(), is_moving=moving, failed=failed)
        reached = min(self._reached(one, rungs) for one in seen)
        results = tuple(self._result(space, seen, rung) for rung in rungs[:reached])
        moving = any(one.outcome is None for one in seen)
        return _Cell(key=base.key, reached=reached, asked=asked, results=results, is_moving=moving, failed=0)

    def _lacking(
        self, space: Space, base: Base, lanes: Mapping[tuple[str, int], Sequence[Seen]], cell: _Cell
    ) -> list[Ask]:
        """The seeds of a cell that was begun without them, as far as the others have come."""
        lacking = {seed for seed in space.seeds if (base.key, seed) not in lanes}
        if not cell.asked or not lacking or cell.failed:
            return []
        return [ask for ask in self._asks(space, base.key, cell.asked - 1) if ask.seed in lacking]

    @staticmethod
    def _reached(one: Seen, rungs: Sequence[int]) -> int:
        if one.outcome in {"done", "diverged"}:
            return len(rungs)
        return sum(rung <= one.step for rung in rungs)

    def _result(self, space: Space, seen: Sequence[Seen], rung: int) -> float:
        """The mean over the seeds at a rung, smaller is better; infinite where a seed has diverged by then.

        Returns:
            The mean; NaN where a trial has logged nothing to compare.
        """
        values = [self._value(space, one, rung) for one in seen]
        return math.inf if math.inf in values else sum(values) / len(values)

    def _value(self, space: Space, one: Seen, rung: int) -> float:
        if one.outcome == "diverged" and one.step <= rung:
            return math.inf
        score = one.score(self._metric, until=rung)
        if score is None:
            # Of a trial that was not held here, as of a grid, what its first stretch beyond says.
            stops = [stop for stop, scores in one.logged if self._metric in scores]
            score = one.score(self._metric, until=min(stops)) if stops else None
        if score is None:
            return math.nan
        return space.result(self._metric, score)

    def _promoted(self, space: Space, cells: Sequence[_Cell]) -> list[Ask]:
        """The cells that go on, the longest trained first."""
        cells = [cell for cell in cells if not cell.failed]
        if not cells:
            return []
        asks: list[Ask] = []
        last = len(self._rungs(space, cells[0].key)) - 1
        for rung in range(last - 1, -1, -1):
            here = [cell for cell in cells if cell.reached > rung]
            for cell in _ranked(here, rung)[: math.floor(len(here) / self._factor)]:
                if cell.asked == rung + 1:
                    asks += self._asks(space, cell.key, rung + 1)
        if asks or any(cell.is_moving or cell.asked == 0 for cell in cells):
            return asks
        # Fewer than eta have come to the last rung that any has, and no more will: the best of them goes on.
        furthest = min(max(cell.reached for cell in cells), last)
        best = _ranked([cell for cell in cells if cell.reached >= furthest], furthest - 1)[:1]
        return [ask for cell in best if cell.asked == furthest for ask in self._asks(space, cell.key, furthest)]

    def _known(self, space: Space, cell: _Cell, going_on: set[str]) -> Known:
        rungs = self._rungs(space, cell.key)
        value = cell.results[-1] if cell.results else None
        if value is not None and space.is_max(self._metric):
            value = -value
        at = rungs[cell.reached - 1] if cell.reached else 0
        told = "" if value is None else f"{self._metric} {value:.4g}"
        if value is not None and not math.isfinite(value):
            told = f"no {self._metric}" if math.isnan(value) else "diverged"
        if cell.failed:
            text = f"{cell.failed} failed, so that `clipsweep retry` goes on"
        elif cell.is_moving or cell.key in going_on:
            target = rungs[min(cell.asked, len(rungs) - 1)] if cell.key in going_on else rungs[max(0, cell.asked - 1)]
            text = f"{told} at {at} steps, goes on to {target}" if told else f"on its way to {target} steps"
        elif not told:
            text = "waits"
        elif cell.reached == len(rungs):
            text = f"{told} at the end"
        elif value is not None and not math.isfinite(value):
            text = told
        else:
            text = f"{told} at {at} steps, held: others are better"
        return Known(
            base=cell.key,
            seed=None,
            text=text,
            values={
                "steps": at,
                "rung": cell.reached,
                self._metric: value if value is not None and math.isfinite(value) else None,
                "failed": cell.failed,
            },
            finished=not cell.is_moving and cell.key not in going_on and cell.asked > 0,
        )


def _shuffled(key: str) -> tuple[int, str]:
    """An order without meaning, the same in every process."""
    return zlib.crc32(key.encode()), key


def _ranked(cells: Sequence[_Cell], rung: int) -> list[_Cell]:
    """The cells by their results at a rung, those that have diverged left out; in the order of the spec where equal."""
    return sorted((cell for cell in cells if math.isfinite(cell.results[rung])), key=lambda cell: cell.results[rung])
