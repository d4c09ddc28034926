"""What a search has found as tables and as JSON."""

from __future__ import annotations

import math
from typing import Any

from estimators.fits.intervals import Interval
from sweeper.labels import short_names
from sweeper.planning.search_found import search_document
from sweeper.report.render.numbers import bracket_text, interval_text, json_number, number_text
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.searched import Searched, SearchedFrontier, SearchedRatio

__all__ = ["searched_document", "searched_lines", "searched_tables"]

_MOST_LANES = 12
"""Cells and seeds that are listed one by one."""


def searched_tables(searched: Searched | None) -> list[Table]:
    """What a search has found, as tables.

    Args:
        searched: What it has found; None without a search.

    Returns:
        The tables; none without a search.
    """
    if searched is None:
        return []
    over = ", ".join(short_names(list(searched.found.over)).values())
    tables = []
    if searched.frontiers:
        tables.append(_frontiers(searched.frontiers, over))
    if searched.ratios:
        tables.append(_ratios(searched.ratios, over))
    if not searched.frontiers or len(searched.found.decision.known) <= _MOST_LANES:
        tables.append(_known(searched, over))
    return tables


def searched_lines(searched: Searched | None) -> list[str]:
    """Where a search stands, in a line.

    Args:
        searched: What it has found; None without a search.

    Returns:
        Lines; none without a search.
    """
    if searched is None:
        return []
    lines = [f"search: {searched.found.decision.text}"]
    for one in searched.differences:
        told = "undecided" if one.difference.low <= 0 <= one.difference.high else "beyond chance"
        lines.append(
            f"{one.label} less {one.other}, each at its best value, on {one.difference.count} fresh seeds of both: "
            f"{one.metric} {interval_text(one.difference)}, {told}"
        )
    if searched.frontiers:
        lines.append(
            "note: [low, high] of a searched value holds what its brackets leave open and the 95 % interval over seeds"
        )
    return lines


def searched_document(searched: Searched | None) -> dict[str, Any] | None:
    """What a search has found, for JSON.

    Args:
        searched: What it has found; None without a search.

    Returns:
        What :func:`~sweeper.planning.search_found.search_document` says, with ``frontiers``, ``ratios`` and
        ``differences``.
    """
    document = search_document(None if searched is None else searched.found)
    if searched is None or document is None:
        return None
    return document | {
        "frontiers": [
            {
                "cell": one.label,
                "arm": one.arm,
                "value": _plain(one.value),
                "median": json_number(one.median),
                "by_seed": [
                    {"seed": seed, "stable": stable, "unstable": unstable, "islands": list(one.islands.get(seed, ()))}
                    for seed, (stable, unstable) in one.by_seed.items()
                ],
                "tried": one.tried,
                "is_finished": one.is_finished,
            }
            for one in searched.frontiers
        ],
        "ratios": [
            {"cell": one.label, "over": one.base, "ratio": _plain(one.ratio), "seeds": one.seeds}
            for one in searched.ratios
        ],
        "differences": [
            {"cell": one.label, "less": one.other, "metric": one.metric, "difference": _plain(one.difference)}
            for one in searched.differences
        ],
    }


def _plain(interval: Interval) -> dict[str, Any]:
    return {
        "mean": json_number(interval.mean),
        "low": json_number(interval.low),
        "high": json_number(interval.high),
        "seeds": interval.count,
    }


def _frontiers(rows: tuple[SearchedFrontier, ...], over: str) -> Table:
    islands = [
        "; ".join(f"seed {seed}: {', '.join(map(number_text, values))}" for seed, values in row.islands.items())
        or NOTHING
        for row in rows
    ]
    return Table(
        title=f"largest stable {over}",
        columns=[
            Column(head="cell", cells=[row.label for row in rows], is_name=True),
            Column(head="found", cells=[_value(row) for row in rows]),
            Column(head="median", cells=[number_text(row.median) for row in rows]),
            Column(head="seeds", cells=[f"{row.value.count} of {len(row.by_seed)}" for row in rows]),
            *([Column(head="stable again at", cells=islands)] if set(islands) != {NOTHING} else []),
            Column(head="trials", cells=[str(row.tried) for row in rows]),
            Column(head="", cells=["" if row.is_finished else "not finished" for row in rows], same=""),
        ],
        labels=[row.label for row in rows],
    )


def _value(row: SearchedFrontier) -> str:
    if row.value.count:
        return bracket_text(row.value)
    stable = [low for low, _ in row.by_seed.values() if low is not None]
    unstable = [high for _, high in row.by_seed.values() if high is not None]
    if stable and not unstable:
        return f"above {number_text(min(stable))}"
    return f"below {number_text(max(unstable))}" if unstable and not stable else NOTHING


def _ratios(rows: tuple[SearchedRatio, ...], over: str) -> Table:
    return Table(
        title=f"largest stable {over}, clipped / unclipped by seed",
        columns=[
            Column(head="cell", cells=[row.label for row in rows], is_name=True),
            Column(head="over", cells=[row.base for row in rows]),
            Column(head="ratio", cells=[_ratio(row) for row in rows]),
            Column(head="seeds", cells=[str(row.seeds) for row in rows]),
        ],
        labels=[row.label for row in rows],
    )


def _ratio(row: SearchedRatio) -> str:
    text = bracket_text(row.ratio)
    return text if math.isfinite(row.ratio.low) else f"{text} (one seed)"


def _known(searched: Searched, over: str) -> Table:
    known = searched.found.decision.known
    labels = [searched.found.labels[one.base] for one in known]
    seeds = ["all" if one.seed is None else str(one.seed) for one in known]
    return Table(
        title=f"what the search knows of {over}" if over else "what the search knows",
        columns=[
            Column(head="cell", cells=labels, is_name=True),
            *([Column(head="seed", cells=seeds, is_name=True)] if set(seeds) != {"all"} else []),
            Column(head="known", cells=[one.text for one in known]),
        ],
        labels=[f"{label}, seed {seed}" for label, seed in zip(labels, seeds, strict=True)],
    )
