"""Divergence as data: how often a cell diverges, and up to which learning rate each threshold is stable.

A trial is unstable if it diverged, or if it is done but its loss ended above its start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.cell_labels import Labels, is_transform
from sweeper.labels import plain_value
from sweeper.report.cells import rows_of
from sweeper.spec.bounds import Bounds
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Edge",
    "Frontier",
    "FrontierRatio",
    "Proportion",
    "divergence_rate",
    "edge_of",
    "ended_above_start",
    "frontier_ratios",
    "frontiers",
    "grid_override",
    "grown",
    "is_clipped",
    "unstable",
    "without_transform",
]

UNSTABLE = 0.5
"""A cell is unstable if at least this share of its seeds is."""

_ANY_NUMBER = Bounds()

_ROUNDING = 1e-9
"""Relative: a mean of equal losses may be a little above them."""


def unstable(run: Run, trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials were unstable: those that diverged, and those that are done but ended above their start.

    Args:
        run: The run.
        trials: Rows of its trials table.

    Returns:
        One flag per row.
    """
    return (trials["status"] == "diverged") | ended_above_start(run, trials)


def ended_above_start(run: Run, trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials are done although their final training loss is above the first one logged, or not finite.

    Without ``train.max_loss`` only a loss that is not finite counts as divergence.

    Args:
        run: The run.
        trials: Rows of its trials table.

    Returns:
        One flag per row.
    """
    done = trials["status"] == "done"
    if "final_train_loss" not in trials or not run.has("metrics"):
        return done & False
    logged = run.metrics.loc[run.metrics["trial_id"].isin(trials["trial_id"]), ["trial_id", "step", "train_loss"]]
    first = logged.dropna(subset=["train_loss"]).sort_values("step").groupby("trial_id")["train_loss"].first()
    start = trials["trial_id"].map(first).astype(float)
    final = trials["final_train_loss"].astype(float)
    # Of a trial of which nothing was logged, nothing is known.
    below = (final <= start + _ROUNDING * start.abs()) & (final < math.inf)
    return done & start.notna() & ~below


@dataclass(frozen=True, kw_only=True)
class Proportion:
    """A share with its 95 % interval (Wilson, 1927).

    Attributes:
        hits: Trials that count.
        count: All trials.
        low: Lower end; NaN without trials.
        high: Upper end.
    """

    hits: int
    count: int
    low: float
    high: float


def divergence_rate(diverged: int, count: int) -> Proportion:
    """How often trials of a cell diverge.

    Args:
        diverged: Trials that diverged.
        count: Trials that ended.

    Returns:
        The share and its interval.

    Example:
        >>> rate = divergence_rate(0, 3)
        >>> rate.low, round(rate.high, 2)
        (0.0, 0.56)
    """
    if count == 0:
        return Proportion(hits=0, count=0, low=math.nan, high=math.nan)
    from scipy import stats  # half a second, which other answers need not wait for

    interval = stats.binomtest(diverged, count).proportion_ci(method="wilson")
    return Proportion(
        hits=diverged, count=count, low=max(0.0, float(interval.low)), high=min(1.0, float(interval.high))
    )


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The learning rate up to which training is stable under one threshold.

    Attributes:
        arm: The arm.
        clip_norm: The threshold; None for no clipping by norm at a fixed one.
        setting: The swept values of another transform, for example the percentile of ``clip_threshold``.
        context: What tells the values of everything else that is swept from those of other contexts.
        stable: The largest rate tried below the first unstable one; None if the smallest is unstable.
        unstable: The smallest unstable rate; None if all rates tried are stable.
        rates: How many rates were tried.
        above_start: The rates at which some trial is done, but ended above its start.
        by_seed: Seed to the same bracket, for the seeds that every rate has.
    """

    arm: str
    clip_norm: float | None
    context: str
    stable: float | None
    unstable: float | None
    rates: int
    above_start: tuple[float, ...] = ()
    setting: str = ""
    by_seed: dict[int, tuple[float | None, float | None]]


@dataclass(frozen=True, kw_only=True)
class FrontierRatio:
    """Largest stable rate with a threshold over the one without, for the same optimiser.

    Attributes:
        arm: The clipped arm.
        clip_norm: Its threshold.
        context: Values of everything else that is swept.
        low: Smallest ratio that the brackets of all common seeds allow; 0 if nothing bounds it.
        high: Largest one; infinite if the grid ends before the clipped rule is unstable.
        seeds: Common seeds.
    """

    arm: str
    clip_norm: float
    context: str
    low: float
    high: float
    seeds: int


def frontiers(
    trials: pd.DataFrame, context_columns: Mapping[str, str], transform_columns: Mapping[str, str] | None = None
) -> tuple[Frontier, ...]:
    """The stability frontier of every rule and threshold that was tried with at least two rates.

    Args:
        trials: Trials that ended; ``diverged`` is 1 for those that did, and
            ``above_start``, where there is such a column, is true for those that are done but ended above their start.
        context_columns: Swept columns outside the update rule, each to its short name.
        transform_columns: The same of transforms, besides ``clip_norm``.

    Returns:
        Frontiers, in the order of the trials.
    """
    found = []
    transform_columns = transform_columns or {}
    settings = Labels([_named(group, transform_columns) for group in rows_of(trials, list(transform_columns))])
    contexts = Labels([_named(group, context_columns) for group in rows_of(trials, list(context_columns))])
    above = trials["above_start"] if "above_start" in trials else trials["diverged"] != trials["diverged"]
    trials = trials.assign(above_start=above.astype(bool), unstable=(trials["diverged"] > 0) | above.astype(bool))
    for group in rows_of(trials, [*context_columns, *transform_columns, "arm", "clip_norm"]):
        rates = sorted(group["learning_rate"].dropna().unique())
        if len(rates) < 2:
            continue
        share = group.groupby("learning_rate")["unstable"].mean()
        stable, unstable = _bracket(rates, {rate: share[rate] >= UNSTABLE for rate in rates})
        found.append(
            Frontier(
                arm=str(group["arm"].iloc[0]),
                clip_norm=plain_value(group["clip_norm"].iloc[0]),
                setting=", ".join(
                    settings.text(name, value)
                    for name, value in _named(group, transform_columns).items()
                    if value is not None
                ),
                context=contexts.label(_named(group, context_columns)),
                stable=stable,
                unstable=unstable,
                rates=len(rates),
                above_start=tuple(
                    float(rate) for rate in sorted(group.loc[group["above_start"], "learning_rate"].unique())
                ),
                by_seed={
                    int(of_seed["seed"].iloc[0]): _bracket(
                        rates, dict(zip(of_seed["learning_rate"], of_seed["unstable"], strict=True))
                    )
                    for _, of_seed in group.groupby("seed")
                    if len(of_seed) == len(rates)
                },
            )
        )
    return tuple(found)


def frontier_ratios(found: Sequence[Frontier]) -> tuple[FrontierRatio, ...]:
    """Every clipped frontier over the unclipped one of the same optimiser and context.

    The interval is what the brackets allow: each seed's true limit is between its last stable and its first unstable
    rate. A finer grid narrows the interval; more seeds can only widen it.

    Args:
        found: The frontiers.

    Returns:
        Ratios, in the order of the frontiers.
    """
    plain = {(one.arm, one.context): one for one in found if one.clip_norm is None and not is_clipped(one.arm)}
    ratios = []
    for one in found:
        base = plain.get((without_transform(one.arm), one.context))
        if one.clip_norm is None or base is None:
            continue
        pairs = [(one.by_seed[seed], base.by_seed[seed]) for seed in one.by_seed.keys() & base.by_seed.keys()]
        if not pairs:
            continue
        ratios.append(
            FrontierRatio(
                arm=one.arm,
                clip_norm=one.clip_norm,
                context=one.context,
                low=min((stable or 0.0) / (above or math.inf) for (stable, _), (_, above) in pairs),
                high=max((unstable or math.inf) / below if below else math.inf for (_, unstable), (below, _) in pairs),
                seeds=len(pairs),
            )
        )
    return tuple(ratios)


def is_clipped(arm: str) -> bool:
    """Whether an arm clips or normalises.

    Args:
        arm: As the trials table has it.

    Returns:
        Whether there is a transform in it.

    Example:
        >>> is_clipped("sgd(momentum) + clip_norm(momentum) + cosine"), is_clipped("sgd + cosine")
        (True, False)
    """
    return without_transform(arm) != arm


def without_transform(arm: str) -> str:
    """The arm without its transform, so that clipped and unclipped rules can be matched.

    Args:
        arm: As the trials table has it.

    Returns:
        The other parts.
    """
    return " + ".join(part for part in arm.split(" + ") if not is_transform(part))


def _bracket(rates: Sequence[float], unstable: dict[float, Any]) -> tuple[float | None, float | None]:
    """The last stable rate before the first unstable one, and the first unstable one."""
    stable = None
    for rate in rates:
        if unstable[rate]:
            return stable, float(rate)
        stable = float(rate)
    return stable, None


def _named(group: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, Any]:
    """What a group's trials have in common, by short name."""
    return {name: plain_value(group[column].iloc[0]) for column, name in columns.items()}


_ADDED = 2


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The best cell of an arm has the largest or smallest value tried.

    Attributes:
        path: The swept path.
        arm: The arm.
        context: The best cell's other values, for example its threshold.
        side: ``largest`` or ``smallest``.
        value: The value.
        add: Values that continue beyond it, with the grid's own spacing.
    """

    path: str
    arm: str
    context: str
    side: str
    value: float
    add: tuple[float, ...]


def edge_of(values: Sequence[float], best: float, bounds: Bounds = _ANY_NUMBER) -> tuple[str, tuple[float, ...]] | None:
    """Whether the best value is the largest or smallest of those tried, and how to extend the grid there.

    Args:
        values: Values tried.
        best: One of them.
        bounds: What values there can be.

    Returns:
        The side and up to two more values, with the ratio of the outermost two; where that would leave the bounds, with
        the ratio of their distances to the bound. None if the best value is inside, if there are fewer than three
        values, or if nothing lies beyond.

    Example:
        >>> edge_of([0.01, 0.03, 0.1], 0.1)
        ('largest', (0.333, 1.11))
        >>> edge_of([1, 2, 4], 2) is None
        True
        >>> edge_of([0.8, 0.9, 0.99], 0.99, Bounds(low=0, high=1, has_high=False))
        ('largest', (0.999, 0.9999))
    """
    tried = sorted(set(values))
    if len(tried) < 3 or best not in {tried[0], tried[-1]}:
        return None
    side, beside, bound = (
        ("largest", tried[-2], bounds.high) if best == tried[-1] else ("smallest", tried[1], bounds.low)
    )
    added: list[float] = []
    if min(best, beside) > 0:
        ratio = best / beside
        added = [_rounded(best * ratio**power) for power in range(1, _ADDED + 1)]
    if math.isfinite(bound) and not all(value in bounds for value in added):
        ratio = (best - bound) / (beside - bound)
        added = [_rounded_from(bound, (best - bound) * ratio**power) for power in range(1, _ADDED + 1)]
    if bounds.is_whole:
        added = [float(round(value)) for value in added]
    beyond = [value for value in dict.fromkeys(added) if value in bounds and value not in tried]
    return (side, tuple(beyond)) if beyond else None


def grown(values: Sequence[Any], edges: Sequence[Edge]) -> list[Any]:
    """A swept list with the values that its edges add, in order; null stays first.

    Args:
        values: The values in the sweep.
        edges: Edges of one path.

    Returns:
        The longer list.

    Example:
        >>> edge = Edge(path="a", arm="sgd", context="", side="largest", value=3.0, add=(9.0,))
        >>> grown([None, 1.0, 3.0], [edge])
        [None, 1.0, 3.0, 9.0]
    """
    added = {value for edge in edges for value in edge.add}
    numbers = sorted({value for value in values if value is not None} | added)
    return ([None] if None in values else []) + numbers


def grid_override(grid: Mapping[str, Sequence[Any]], edges: Sequence[Edge]) -> dict[str, list[Any]]:
    """The paths of a grid that are extended, with all their values.

    Args:
        grid: Path to values, as in the sweep.
        edges: The edges that were found.

    Returns:
        Path to the longer list; empty if no edge is in the grid.
    """
    paths = dict.fromkeys(edge.path for edge in edges if edge.path in grid)
    return {path: grown(grid[path], [edge for edge in edges if edge.path == path]) for path in paths}


def _rounded(value: float) -> float:
    """Rounded to three digits, as a person would write it."""
    return float(f"{value:.3g}") if math.isfinite(value) else value


def _rounded_from(bound: float, distance: float) -> float:
    """A value near a bound, its distance rounded to three digits: 0.99912 is 0.99912, not 0.999."""
    return float(f"{bound + _rounded(distance):.12g}")
