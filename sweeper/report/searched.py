"""What the search of a run has found, over its seeds: frontiers with intervals, and clipped over unclipped by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimators.fits.intervals import Interval, geometric_interval, mean_interval
from sweeper.planning.search_found import Found, found_by_search
from sweeper.report.stability import is_clipped, without_transform
from sweeper.report.summary import Report, build_report
from sweeper.search.protocol import Base
from sweeper.store.journal import open_state
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run
from sweeper.tables.several import SeveralRuns

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Searched",
    "SearchedDifference",
    "SearchedFrontier",
    "SearchedRatio",
    "build_searched",
    "report_with_search",
]

_TRANSFORMS = ("clip", "normalize", "transform")


@dataclass(frozen=True, kw_only=True)
class SearchedFrontier:
    """The largest stable value of one cell, over its seeds.

    Attributes:
        label: What the cell is called, without the value that is searched for.
        arm: Its update rule.
        value: Geometric mean over the seeds of the middle of their brackets. Its low end is that of the 95 % interval
            of the lower ends over the seeds, its high end that of the upper ends: it holds what brackets leave open.
        median: Median over the seeds of the middle of their brackets; NaN without any.
        by_seed: Seed to its bracket: the largest stable value below the smallest unstable one, and that one; None for
            an end that was not found.
        islands: Seed to stable values above its smallest unstable one, for the seeds that have any.
        tried: How many trials were asked for.
        is_finished: Whether every bracket is narrow enough.
    """

    label: str
    arm: str
    value: Interval
    median: float
    by_seed: Mapping[int, tuple[float | None, float | None]]
    islands: Mapping[int, tuple[float, ...]]
    tried: int
    is_finished: bool


@dataclass(frozen=True, kw_only=True)
class SearchedRatio:
    """Largest stable value with a transform over the one without, paired by seed.

    Attributes:
        label: The cell with the transform.
        base: The cell without.
        ratio: Geometric mean over the common seeds, its interval made as that of a frontier.
        seeds: Common seeds with both brackets.
    """

    label: str
    base: str
    ratio: Interval
    seeds: int


@dataclass(frozen=True, kw_only=True)
class SearchedDifference:
    """The best values of two cells against each other, on the fresh seeds that both were confirmed with.

    Attributes:
        label: One cell.
        other: The other one.
        metric: What was compared.
        difference: Mean of the first less the second, by seed, with its interval.
    """

    label: str
    other: str
    metric: str
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search has found.

    Attributes:
        found: What it knows of each cell and seed.
        frontiers: The largest stable values; none of other searches.
        ratios: Clipped over unclipped; none of other searches.
        differences: Between the best values of cells; none of other searches than ``best``.
    """

    found: Found
    frontiers: tuple[SearchedFrontier, ...] = ()
    ratios: tuple[SearchedRatio, ...] = ()
    differences: tuple[SearchedDifference, ...] = ()


def report_with_search(
    run: Run,
    *,
    by: Sequence[str] = (),
    where: Sequence[str] = (),
    sort: str | None = None,
    trials: pd.DataFrame | None = None,
) -> tuple[Report, Searched | None]:
    """A run's report, and what its search has found.

    Args:
        run: The run.
        by: As for :func:`~sweeper.report.summary.build_report`.
        where: As there.
        sort: As there.
        trials: As there.

    Returns:
        Both; None for a run without a search, and for several side by side.

    Raises:
        ClipsweepError: As there.
    """
    searched = None if isinstance(run, SeveralRuns) else build_searched(run.path)
    report = build_report(run, by=by, where=where, sort=sort, by_values=searched is not None, trials=trials)
    if searched is not None and searched.found.use == "best":
        # What is best was decided by the race and confirmed on fresh seeds: not a second time, by another rule.
        cells = tuple(replace(cell, is_best=False) for cell in report.cells)
        report = replace(report, cells=cells, bests=(), comparisons=())
    return report, searched


def build_searched(path: Path) -> Searched | None:
    """What the search of a run has found.

    Args:
        path: The run directory.

    Returns:
        What it has found; None for a run without a search.
    """
    run_dir = RunDir(path)
    found = found_by_search(run_dir, open_state(run_dir))
    if found is None:
        return None
    if found.use == "best":
        return Searched(found=found, differences=tuple(_differences(found)))
    if found.use != "stability_frontier":
        return Searched(found=found)
    frontiers = tuple(_frontier(found, base) for base in found.space.bases)
    of_base = {base.key: one for base, one in zip(found.space.bases, frontiers, strict=True)}
    return Searched(found=found, frontiers=frontiers, ratios=tuple(_ratios(found.space.bases, of_base)))


def _differences(found: Found) -> list[SearchedDifference]:
    """Every cell less the first one that was confirmed: they share their fresh seeds."""
    confirmed = [one for one in found.decision.known if (one.values.get("confirmed") or {}).get("by_seed")]
    differences = []
    for one in confirmed[1:]:
        first, second = (each.values["confirmed"]["by_seed"] for each in (one, confirmed[0]))
        pairs = [first[seed] - second[seed] for seed in first if seed in second]
        if len(pairs) > 1:
            differences.append(
                SearchedDifference(
                    label=found.labels[one.base],
                    other=found.labels[confirmed[0].base],
                    metric=one.values["metric"],
                    difference=mean_interval(pairs),
                )
            )
    return differences


def _frontier(found: Found, base: Base) -> SearchedFrontier:
    known = [one for one in found.decision.known if one.base == base.key and one.values["tried"]]
    by_seed = {one.seed: (one.values["stable"], one.values["unstable"]) for one in known if one.seed is not None}
    islands = {
        one.seed: tuple(one.values["islands"]) for one in known if one.seed is not None and one.values["islands"]
    }
    both = [(low, high) for low, high in by_seed.values() if low is not None and high is not None]
    middles = [math.log(low * high) / 2 for low, high in both]
    return SearchedFrontier(
        label=found.labels[base.key],
        arm=base.arm,
        value=_over_seeds(both),
        median=math.exp(statistics.median(middles)) if middles else math.nan,
        by_seed=by_seed,
        islands=islands,
        tried=sum(one.values["tried"] for one in known),
        is_finished=all(one.finished for one in known),
    )


def _over_seeds(brackets: Sequence[tuple[float, float]]) -> Interval:
    """The geometric mean of what lies somewhere in each bracket, as far as seeds and brackets tell."""
    if not brackets:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=0)
    low, high = (geometric_interval([bracket[side] for bracket in brackets]) for side in (0, 1))
    return Interval(mean=math.sqrt(low.mean * high.mean), low=low.low, high=high.high, count=len(brackets))


def _ratios(bases: Sequence[Base], of_base: Mapping[str, SearchedFrontier]) -> list[SearchedRatio]:
    """Every rule with a transform over that without, of the same optimiser and everything else."""
    plain = {_without_transform(base): base for base in bases if _is_plain(base)}
    found = []
    for base in bases:
        other = plain.get(_without_transform(base))
        if _is_plain(base) or other is None:
            continue
        clipped, unclipped = of_base[base.key], of_base[other.key]
        pairs = []
        for seed in clipped.by_seed.keys() & unclipped.by_seed.keys():
            (low, high), (base_low, base_high) = clipped.by_seed[seed], unclipped.by_seed[seed]
            if low is not None and high is not None and base_low is not None and base_high is not None:
                pairs.append((low / base_high, high / base_low))
        if pairs:
            found.append(
                SearchedRatio(
                    label=clipped.label, base=unclipped.label, ratio=_over_seeds(sorted(pairs)), seeds=len(pairs)
                )
            )
    return found


def _is_plain(base: Base) -> bool:
    return not is_clipped(base.arm)


def _without_transform(base: Base) -> str:
    """What a rule has in common with the same one without its transform."""
    arm = without_transform(base.arm)
    others: dict[str, Any] = {
        path: value
        for path, value in base.swept.items()
        if not path.removeprefix("update_rule.").startswith(_TRANSFORMS)
    }
    return repr((arm, sorted((path, repr(value)) for path, value in others.items())))
