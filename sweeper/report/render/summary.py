"""A report as a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from estimators.fits.statistics import Interval
from sweeper.formats import in_format
from sweeper.report.cells import Cell
from sweeper.report.render.tables import (
    csv_table,
    interval_text,
    markdown_table,
    terminal_lines,
    terminal_table,
    value_text,
)
from sweeper.report.summary import Report

__all__ = ["render"]


def render(report: Report, style: str, *, width: int | None = None, color: bool = False) -> str:
    """A report as text.

    Args:
        report: The report.
        style: One of :data:`~sweeper.formats.FORMATS`.
        width: Columns of the terminal; None for as wide as needed.
        color: Whether the table may use colours.

    Returns:
        The text, without a trailing newline.

    Raises:
        ValueError: The format is unknown.
    """
    return in_format(
        style,
        table=lambda: _table(report, width, color),
        md=lambda: _markdown(report),
        csv=lambda: _csv(report),
        json=lambda: _document(report),
    )


def _loss(cell: Cell, interval: Interval) -> str:
    """A loss that says so where it is of survivors alone."""
    mark = f" ({cell.done} of {cell.trials} done)" if cell.left_out and interval.count else ""
    return interval_text(interval) + mark


def _percent(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.0f} %"


def _heads(report: Report) -> list[str]:
    first = report.cells[0]
    losses = [name.replace("_", " ") + _direction(report, name) for name in first.losses]
    return [*first.values, "seeds", "diverged", *losses, "clipped", "rank corr(L, ‖∇f‖)"]


def _direction(report: Report, name: str) -> str:
    """Which value of a metric is its best, in brackets."""
    return f" ({report.directions[name]})" if name in report.directions else ""


def _row(cell: Cell) -> list[str]:
    bad = cell.statuses.get("failed", 0) + cell.statuses.get("lost", 0)
    apart = [f"{cell.trials} trials"] if cell.trials != cell.seeds else []
    apart += [f"{bad} failed"] if bad else []
    seeds = str(cell.seeds) + (f" ({', '.join(apart)})" if apart else "")
    return [
        *(value_text(value) for value in cell.values.values()),
        seeds,
        f"{cell.diverged}/{cell.trials}" if cell.diverged else "–",
        *(_loss(cell, interval) for interval in cell.losses.values()),
        _percent(cell.clipped_fraction),
        interval_text(cell.rank_correlation),
    ]


def _statuses(report: Report) -> str:
    return ", ".join(f"{count} {status}" for status, count in report.statuses.items())


_MAX_NAMED = 4


def _survivors(report: Report) -> list[str]:
    """Which rows are means over survivors, one line for all rows of which the same is to be said."""
    rows: dict[str, list[str]] = {}
    for cell in report.cells:
        if cell.left_out:
            rows.setdefault(cell.left_out, []).append(cell.label or "the only row")
    lines = []
    for sentence, labels in rows.items():
        more = f" and {len(labels) - _MAX_NAMED} more rows" if len(labels) > _MAX_NAMED else ""
        lines.append(f"{'; '.join(labels[:_MAX_NAMED])}{more}: {sentence}")
    return lines


def _answers(report: Report) -> list[str]:
    """The sentences below the table."""
    loss = report.primary.replace("_", " ")
    lines = _survivors(report)
    for best in report.bests:
        within = f" [{best.context}]" if best.context else ""
        tried = f"{best.cells_tried} cell{'s' if best.cells_tried != 1 else ''} tried"
        if best.unranked:
            tried += f", {best.unranked} of them without {report.primary}"
        if best.cell is None:
            lines.append(f"best {best.arm}{within}: {best.why_none} ({tried})")
        else:
            value = interval_text(best.cell.losses[report.primary])
            label = best.cell.label or "the only cell"
            lines.append(f"best {best.arm}{within}: {label}, {loss} {value} ({tried})")
    for comparison in report.comparisons:
        within = f" [{comparison.context}]" if comparison.context else ""
        lines.append(
            f"{comparison.first} against {comparison.second}{within}: {loss} {_difference(comparison.difference)}: "
            f"{comparison.verdict}"
        )
    return lines


def _difference(of: Interval) -> str:
    """A paired difference in words, as a positive number."""
    way = "lower" if of.mean < 0 else "higher"
    text = interval_text(replace(of, mean=-of.mean, low=-of.high, high=-of.low) if of.mean < 0 else of)
    return f"{text} {way}" + (f" over {of.count} paired seeds" if of.count > 1 else "")


def _nodes(report: Report) -> list[str]:
    """What each node did, if more than one worked."""
    if len(report.nodes) < 2:
        return []
    return [
        f"node {share.host}{f' ({share.node})' if share.node else ''}: {_percent(share.share)} of the steps "
        f"({share.trials} trial{'s' if share.trials != 1 else ''}, {share.steps} steps, "
        f"{share.train_s:.1f} s of training)"
        for share in report.nodes
    ]


def _table(report: Report, width: int | None, color: bool) -> str:
    table = terminal_table(
        f"{report.path}: {_statuses(report)}",
        _heads(report),
        [_row(cell) for cell in report.cells],
        styles=["yellow" if cell.diverged else "" for cell in report.cells],
        width=width,
        color=color,
    )
    answers = terminal_lines(_answers(report), width=width, color=color)
    nodes = terminal_lines(_nodes(report), style="dim", width=width, color=color)
    notes = terminal_lines([f"note: {note}" for note in report.notes], style="dim", width=width, color=color)
    return "\n".join(part for part in (table, answers, nodes, notes) if part)


def _markdown(report: Report) -> str:
    lines = [f"**{report.path}**: {_statuses(report)}", ""]
    lines += markdown_table(_heads(report), [_row(cell) for cell in report.cells])
    lines += [
        "",
        *(f"- {text}" for text in [*_answers(report), *_nodes(report)]),
        *(f"- note: {note}" for note in report.notes),
    ]
    return "\n".join(lines)


def _flat(report: Report, cell: Cell) -> dict[str, Any]:
    """A cell as one flat record, for CSV."""
    record: dict[str, Any] = {**cell.values, "arm": cell.arm, "seeds": cell.seeds, "trials": cell.trials}
    for status in ("done", "diverged", "failed", "lost", "running", "queued"):
        record[status] = cell.statuses.get(status, 0)
    for name, interval in cell.losses.items():
        record |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        if name in report.directions:
            record[f"{name}_direction"] = report.directions[name]
    record["left_out"] = cell.left_out
    record["clipped_fraction"] = cell.clipped_fraction
    for name, interval in (("correlation", cell.correlation), ("rank_correlation", cell.rank_correlation)):
        record |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return record | {"points": cell.points}


def _csv(report: Report) -> str:
    return csv_table([_flat(report, cell) for cell in report.cells])


def _document(report: Report) -> dict[str, Any]:
    return {
        "run": report.path,
        "statuses": report.statuses,
        "primary": report.primary,
        "directions": report.directions,
        "cells": [
            {
                "values": cell.values,
                "arm": cell.arm,
                "seeds": cell.seeds,
                "trials": cell.trials,
                "statuses": cell.statuses,
                "left_out": cell.left_out or None,
                "losses": {name: _plain_interval(interval) for name, interval in cell.losses.items()},
                "clipped_fraction": _plain(cell.clipped_fraction),
                "correlation": _plain_interval(cell.correlation),
                "rank_correlation": _plain_interval(cell.rank_correlation),
                "points": cell.points,
            }
            for cell in report.cells
        ],
        "best": [
            {
                "arm": best.arm,
                "context": best.context,
                "cells_tried": best.cells_tried,
                "values": None if best.cell is None else best.cell.values,
                "why_none": best.why_none or None,
                "unranked": best.unranked,
                report.primary: None if best.cell is None else _plain_interval(best.cell.losses[report.primary]),
            }
            for best in report.bests
        ],
        "comparisons": [
            {
                "first": comparison.first,
                "second": comparison.second,
                "context": comparison.context,
                "difference": _plain_interval(comparison.difference),
                "verdict": comparison.verdict,
            }
            for comparison in report.comparisons
        ],
        "notes": list(report.notes),
        "nodes": [{**vars(share), "share": _plain(share.share)} for share in report.nodes],
    }


def _plain(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _plain_interval(interval: Interval) -> Mapping[str, Any]:
    return {
        "mean": _plain(interval.mean),
        "low": _plain(interval.low),
        "high": _plain(interval.high),
        "seeds": interval.count,
    }
