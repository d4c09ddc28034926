"""A theory report as a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import math
from typing import Any

from sweeper.formats import csv_table, in_format
from sweeper.labels import counted
from sweeper.report.render.columns import value_columns
from sweeper.report.render.numbers import clipped_text
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.render.tables import markdown_lines
from sweeper.report.render.terminal import terminal_lines, terminal_table
from sweeper.report.theory import TheoryReport, TheoryRow

__all__ = ["render_theory"]

_MAX_ROWS = 60
"""Rows that are printed; CSV and JSON hold all."""


def render_theory(report: TheoryReport, style: str, *, width: int | None = None, color: bool = False) -> str:
    """A theory report as text.

    Args:
        report: The report.
        style: ``table``, ``md``, ``csv`` or ``json``.
        width: Columns of the terminal; None for as wide as needed.
        color: Whether the table may use colours.

    Returns:
        The text, without a trailing newline.

    Raises:
        ValueError: The format is unknown.
    """
    return in_format(
        style,
        table=lambda: _terminal(report, width, color),
        md=lambda: _markdown(report),
        csv=lambda: csv_table([_flat(row) for row in report.rows]),
        json=lambda: _document(report),
    )


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if 1000 <= value < 1e7 and value == round(value) else f"{value:.4g}"


def _rows(report: TheoryReport) -> Table:
    rows = report.rows[:_MAX_ROWS]
    functions, rules = [row.short_function for row in rows], [row.arm for row in rows]
    seeds, bounds = [str(row.seeds) for row in rows], [_number(row.bound) for row in rows]
    clipped = [clipped_text(row.clipped_fraction, has_threshold=not math.isnan(row.clipped_fraction)) for row in rows]
    tail = Column(head="tail ‖∇f‖", cells=[_number(row.tail_grad_norm) for row in rows])
    return Table(
        title=_title(report),
        columns=[
            Column(head="function", cells=functions, same=f"function={functions[0]}"),
            *value_columns([row.texts for row in rows], [row.case for row in rows]),
            Column(head="rule", cells=rules, same=f"rule {rules[0]}"),
            Column(head="seeds", cells=seeds, same=counted(rows[0].seeds, "seed")),
            Column(head="T", cells=[_number(row.time) for row in rows]),
            Column(head="ended", cells=[_ended(row) for row in rows]),
            Column(head="bound", cells=bounds, same="no theorem bounds T" if bounds[0] == NOTHING else None),
            Column(
                head="bound / T",
                cells=[_number(row.slack) for row in rows],
                same="" if rows[0].slack is None else None,
            ),
            Column(head="clipped", cells=clipped, same=f"clipped: {clipped[0]}"),
            *([tail] if any(not math.isnan(row.tail_grad_norm) for row in rows) else []),
        ],
        labels=[row.label for row in rows],
        styles=["yellow" if row.statuses["diverged"] else "" for row in rows],
    )


def _ended(row: TheoryRow) -> str:
    """How the trials of a row ended."""
    ended = {name: count for name, count in row.statuses.items() if count}
    if len(ended) == 1:
        return next(iter(ended))
    return ", ".join(f"{count} {name}" for name, count in ended.items())


def _speedups(report: TheoryReport) -> Table:
    rows = report.speedups
    return Table(
        title="the worse of Theorem 4's two instances: gradient descent at its best fixed step against a rule",
        columns=[
            Column(head="M", cells=[f"{row.M:.4g}" for row in rows], is_name=True),
            Column(head="rule", cells=[row.rule for row in rows], is_name=True),
            Column(head="T descent", cells=[_number(row.descent_time) for row in rows]),
            Column(head="its best step", cells=[f"{row.descent_rate:.3g}" for row in rows]),
            Column(head="of", cells=[f"{row.rates_tried} tried" for row in rows]),
            Column(head="T rule", cells=[_number(row.rule_time) for row in rows]),
            Column(head="descent / rule", cells=[_number(row.ratio) for row in rows]),
        ],
        labels=[f"M={row.M:.4g} {row.rule}" for row in rows],
        rows="all rules",
    )


def _title(report: TheoryReport) -> str:
    return f"{report.path}: {', '.join(f'{count} {status}' for status, count in report.statuses.items())}"


def _notes(report: TheoryReport) -> list[str]:
    left_out = len(report.rows) - _MAX_ROWS
    more = [f"{left_out} more rows: --where selects, --format csv has all"] if left_out > 0 else []
    return [f"note: {note}" for note in (*more, *report.notes)]


def _tables(report: TheoryReport) -> list[Table]:
    return [_rows(report), *([_speedups(report)] if report.speedups else [])]


def _terminal(report: TheoryReport, width: int | None, color: bool) -> str:
    parts = [terminal_table(table, width=width, color=color) for table in _tables(report)]
    parts.append(terminal_lines(_notes(report), style="dim", width=width, color=color))
    return "\n".join(part for part in parts if part)


def _markdown(report: TheoryReport) -> str:
    lines = [f"**{_title(report)}**"]
    for table in _tables(report):
        lines += ["", *markdown_lines(table)]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(report))]).rstrip()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _flat(row: TheoryRow) -> dict[str, Any]:
    return {
        "function": row.function,
        **row.values,
        "rule": row.arm,
        "seeds": row.seeds,
        "T": _finite(row.time),
        **row.statuses,
        "bound": row.bound,
        "clipped_fraction": _finite(row.clipped_fraction),
        "tail_grad_norm": _finite(row.tail_grad_norm),
    }


def _document(report: TheoryReport) -> dict[str, Any]:
    return {
        "run": report.path,
        "statuses": report.statuses,
        "rows": [_flat(row) for row in report.rows],
        "speedups": [
            {name: _finite(value) if isinstance(value, float) else value for name, value in vars(row).items()}
            | {"ratio": _finite(row.ratio)}
            for row in report.speedups
        ],
        "notes": list(report.notes),
    }
