"""A report as a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from estimators.fits.intervals import Interval
from sweeper.formats import csv_table, in_format
from sweeper.labels import counted
from sweeper.report.cells import Cell
from sweeper.report.correlations import BESIDE, BESIDE_NOTE, beside_text
from sweeper.report.render.columns import listed, value_columns
from sweeper.report.render.comparisons import comparison_lines, comparison_notes
from sweeper.report.render.fragments import html_fragment
from sweeper.report.render.numbers import (
    clipped_text,
    correlation_text,
    interval_text,
    json_number,
    number_text,
    percent_text,
)
from sweeper.report.render.searched import searched_document, searched_lines, searched_tables
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.render.tables import markdown_lines
from sweeper.report.render.terminal import terminal_lines, terminal_table
from sweeper.report.searched import Searched
from sweeper.report.summary import Report

__all__ = ["order_of", "render", "report_notes", "report_table", "report_tables"]


def render(
    report: Report, style: str, *, searched: Searched | None = None, width: int | None = None, color: bool = False
) -> str:
    """A report as text.

    Args:
        report: The report.
        style: One of :data:`~sweeper.formats.FORMATS`, or ``html``; CSV holds the cells alone.
        searched: What the search of the run has found; None for a run without one.
        width: Columns of the terminal; None for as wide as needed.
        color: Whether the table may use colours.

    Returns:
        The text, without a trailing newline.

    Raises:
        ValueError: The format is unknown.
    """
    return in_format(
        style,
        table=lambda: _table(report, searched, width, color),
        md=lambda: _markdown(report, searched),
        html=lambda: _html(report, searched),
        csv=lambda: _csv(report),
        json=lambda: {**_document(report), "search": searched_document(searched)},
    )


def report_tables(report: Report, searched: Searched | None) -> list[Table]:
    """The tables of a report.

    Args:
        report: The report.
        searched: What the search of the run has found; None for a run without one.

    Returns:
        Those of the search, then that of the rows.
    """
    return [*searched_tables(searched), report_table(report)]


def _loss(cell: Cell, name: str) -> str:
    """A loss that says so where it is of survivors alone."""
    interval = cell.losses[name]
    if bad := cell.not_finite.get(name):
        return interval_text(interval) + f" ({cell.done - bad} of {cell.done} finite)"
    mark = f" ({cell.done} of {cell.trials} done)" if cell.left_out and interval.count else ""
    return interval_text(interval) + mark


def _direction(report: Report, name: str) -> str:
    """Which value of a metric is its best, in brackets."""
    return f" ({report.directions[name]})" if name in report.directions else ""


def report_table(report: Report) -> Table:
    """The rows, in the order that was asked for.

    Args:
        report: The report.

    Returns:
        The table.
    """
    cells = report.cells
    losses = [
        Column(
            head=name.replace("_", " ") + _direction(report, name),
            cells=[_loss(cell, name) for cell in cells],
            keys=[cell.losses[name].mean for cell in cells],
        )
        for name in cells[0].losses
    ]
    seeds = [_seeds(cell) for cell in cells]
    diverged = [f"{cell.diverged}/{cell.trials}" if cell.diverged else NOTHING for cell in cells]
    clipped = [clipped_text(cell.clipped_fraction, has_threshold=cell.has_threshold) for cell in cells]
    correlations = [correlation_text(cell.rank_correlation, cell.seed_rank_correlations) for cell in cells]
    beside = [_beside(cell) for cell in cells]
    return Table(
        title=f"{report.path}: {_statuses(report)}",
        columns=[
            *(
                replace(column, keys=[_value_key(cell.values.get(column.head)) for cell in cells])
                for column in value_columns([cell.texts for cell in cells], [cell.case for cell in cells])
            ),
            Column(head="seeds", cells=seeds, same=counted(cells[0].seeds, "seed") if seeds[0].isdigit() else None),
            Column(
                head="diverged",
                cells=diverged,
                same="none diverged" if diverged[0] == NOTHING else None,
                keys=[cell.diverged for cell in cells],
            ),
            *losses,
            Column(
                head="clipped",
                cells=clipped,
                same=f"clipped: {clipped[0]}",
                keys=[cell.clipped_fraction for cell in cells],
            ),
            Column(
                head="rank corr (L, ‖∇f‖)",
                cells=correlations,
                keys=[cell.rank_correlation.mean for cell in cells],
                same=_without_correlation(cells) if correlations[0] == NOTHING else None,
            ),
            Column(head=BESIDE, cells=beside, same="" if beside[0] == NOTHING else None),
        ],
        labels=[cell.label or "the only row" for cell in cells],
        rows=f"all {'cells' if report.rows_are_cells else 'rows'}",
        marked=[cell.is_best for cell in cells],
        styles=["yellow" if cell.diverged else "" for cell in cells],
        order=order_of(report),
        more="--where chooses, --format csv has all",
    )


def _value_key(value: Any) -> float | str | None:
    """What a swept value is sorted by; a text, list or section by how it is shown."""
    return value if isinstance(value, int | float | str) else None


def _beside(cell: Cell) -> str:
    """What the rank correlation is to be read beside: the bound's, what is left given the bound, and the control's."""
    return beside_text(cell.bound_correlation.mean, cell.partial_correlation.mean, cell.control_correlation.mean)


def _without_correlation(cells: Sequence[Cell]) -> str:
    """Why no row has a rank correlation."""
    return "too few points for rank correlations" if any(cell.points for cell in cells) else "no smoothness measured"


def _seeds(cell: Cell) -> str:
    apart = [f"{cell.trials} trials"] if cell.trials != cell.seeds else []
    apart += [f"{cell.statuses[word]} {word}" for word in ("failed", "lost") if cell.statuses.get(word)]
    return str(cell.seeds) + (f" ({', '.join(apart)})" if apart else "")


def order_of(report: Report) -> list[int]:
    """Rows by importance: where not all fit, the best of every arm stay longest.

    Args:
        report: The report.

    Returns:
        Their places.
    """
    if report.is_sorted:
        return list(range(len(report.cells)))
    sign = -1 if report.directions.get(report.primary) == "max" else 1

    def rank(at: int) -> tuple[bool, bool, float]:
        cell, loss = report.cells[at], report.cells[at].losses.get(report.primary)
        value = sign * loss.mean if loss is not None and loss.count else math.inf
        return not cell.is_best, not cell.is_of_all_trials(report.primary), value

    return sorted(range(len(report.cells)), key=rank)


def _statuses(report: Report) -> str:
    return ", ".join(f"{count} {status}" for status, count in report.statuses.items())


def _survivors(report: Report) -> list[str]:
    """Which rows are means over survivors, one line for all rows of which the same is to be said."""
    rows: dict[str, list[str]] = {}
    for cell in report.cells:
        if cell.left_out:
            rows.setdefault(cell.left_out, []).append(cell.label or "the only row")
    return [f"{listed(labels)}: {sentence}" for sentence, labels in rows.items()]


def _answers(report: Report) -> list[str]:
    """The sentences below the table."""
    loss = report.primary.replace("_", " ")
    lines = _survivors(report)
    mark = "* " if any(cell.is_best for cell in report.cells) else ""
    for best in report.bests:
        within = f" [{best.context}]" if best.context else ""
        tried = f"{best.cells_tried} cell{'s' if best.cells_tried != 1 else ''} tried"
        if best.unranked:
            tried += f", {best.unranked} of them without {best.missing}"
        if best.cell is None:
            lines.append(f"best {best.arm}{within}: {best.why_none} ({tried})")
        else:
            value = interval_text(best.cell.losses[report.primary])
            held_out = number_text(best.held_out, digits=4)
            if not math.isnan(best.held_out) and held_out != number_text(
                best.cell.losses[report.primary].mean, digits=4
            ):
                tried += f"; {held_out} where the other seeds choose"
            lines.append(f"{mark}best {best.arm}{within}: {best.label}, {loss} {value} ({tried})")
    return [*lines, *comparison_lines(report.comparisons)]


def _nodes(report: Report) -> list[str]:
    """What each node did, if more than one worked."""
    if len(report.nodes) < 2:
        return []
    return [
        f"node {share.host}{f' ({share.node})' if share.node else ''}"
        f"{f' with {share.device}' if share.device else ''}: {percent_text(share.share)} of the steps "
        f"({share.trials} trial{'s' if share.trials != 1 else ''}, {share.steps} steps, "
        f"{share.train_s:.1f} s of training)"
        for share in report.nodes
    ]


def report_notes(report: Report) -> list[str]:
    """What to know of the numbers.

    Args:
        report: The report.

    Returns:
        Lines that begin with ``note:``.
    """
    beside = [BESIDE_NOTE] if any(cell.bound_correlation.count for cell in report.cells) else []
    return [f"note: {note}" for note in (*comparison_notes(report.comparisons), *beside, *report.notes)]


def _table(report: Report, searched: Searched | None, width: int | None, color: bool) -> str:
    found = [terminal_table(table, width=width, color=color) for table in searched_tables(searched)]
    found.append(terminal_lines(searched_lines(searched), width=width, color=color))
    table = terminal_table(report_table(report), width=width, color=color)
    answers = terminal_lines(_answers(report), width=width, color=color)
    nodes = terminal_lines(_nodes(report), style="dim", width=width, color=color)
    notes = terminal_lines(report_notes(report), style="dim", width=width, color=color)
    return "\n".join(part for part in (*found, table, answers, nodes, notes) if part)


def _markdown(report: Report, searched: Searched | None) -> str:
    lines = [f"**{report.path}**: {_statuses(report)}", "", *markdown_lines(report_table(report)), ""]
    for table in searched_tables(searched):
        lines += [f"### {table.title}", "", *markdown_lines(table), ""]
    answers = [line.removeprefix("* ") for line in [*searched_lines(searched), *_answers(report)]]
    return "\n".join([*lines, *(f"- {text}" for text in [*answers, *_nodes(report), *report_notes(report)])])


def _html(report: Report, searched: Searched | None) -> str:
    answers = [line.removeprefix("* ") for line in [*searched_lines(searched), *_answers(report)]]
    lines = [*answers, *_nodes(report), *report_notes(report)]
    return html_fragment(f"{report.path}: {_statuses(report)}", report_tables(report, searched), lines)


_CORRELATIONS = (
    "correlation",
    "rank_correlation",
    "bound_correlation",
    "partial_correlation",
    "control_correlation",
)
"""Fields of a cell, columns of CSV and keys of JSON."""


def _flat(report: Report, cell: Cell) -> dict[str, Any]:
    """A cell as one flat record, for CSV."""
    case = {"case": cell.case} if any(other.case for other in report.cells) else {}
    record: dict[str, Any] = {**case, **cell.values, "arm": cell.arm, "is_best": cell.is_best}
    record |= {"seeds": cell.seeds, "trials": cell.trials}
    for status in ("done", "diverged", "held", "failed", "lost", "running", "paused", "queued"):
        record[status] = cell.statuses.get(status, 0)
    for name, interval in cell.losses.items():
        record[name] = interval.mean
        more: dict[str, Any] = {"low": interval.low, "high": interval.high}
        if name in report.directions:
            more["direction"] = report.directions[name]
        # A metric may be called like the end of an interval of another: valid_loss and valid_loss_low.
        record |= {f"{name}{':' if f'{name}_{end}' in cell.losses else '_'}{end}": of for end, of in more.items()}
    record["left_out"] = cell.left_out
    record["clipped_fraction"] = cell.clipped_fraction
    for name in _CORRELATIONS:
        of: Interval = getattr(cell, name)
        record |= {name: of.mean, f"{name}_low": of.low, f"{name}_high": of.high}
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
                "cell_id": cell.cell_id,
                "label": cell.label,
                "case": cell.case,
                "values": cell.values,
                "arm": cell.arm,
                "is_best": cell.is_best,
                "seeds": cell.seeds,
                "trials": cell.trials,
                "statuses": cell.statuses,
                "left_out": cell.left_out or None,
                "losses": {name: _plain_interval(interval) for name, interval in cell.losses.items()},
                "clipped_fraction": json_number(cell.clipped_fraction),
                **{name: _plain_interval(getattr(cell, name)) for name in _CORRELATIONS},
                "points": cell.points,
            }
            for cell in report.cells
        ],
        "best": [
            {
                "arm": best.arm,
                "context": best.context,
                "label": best.label or None,
                "cells_tried": best.cells_tried,
                "values": None if best.cell is None else best.cell.values,
                "why_none": best.why_none or None,
                "unranked": best.unranked,
                "held_out": json_number(best.held_out),
                report.primary: None if best.cell is None else _plain_interval(best.cell.losses[report.primary]),
            }
            for best in report.bests
        ],
        "comparisons": [
            {
                "first": comparison.first,
                "second": comparison.second,
                "context": comparison.context,
                "loss": comparison.loss,
                "difference": _plain_interval(comparison.difference),
                "as_chosen": _plain_interval(comparison.as_chosen),
                "cells_tried": list(comparison.cells_tried),
                "p_value": json_number(comparison.p_value),
                "p_adjusted": json_number(comparison.p_adjusted),
                "verdict": comparison.verdict,
            }
            for comparison in report.comparisons
        ],
        "notes": list(report.notes),
        "nodes": [{**vars(share), "share": json_number(share.share)} for share in report.nodes],
    }


def _plain_interval(interval: Interval) -> Mapping[str, Any]:
    return {
        "mean": json_number(interval.mean),
        "low": json_number(interval.low),
        "high": json_number(interval.high),
        "seeds": interval.count,
    }
