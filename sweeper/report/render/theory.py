"""A theory report as a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import math
from typing import Any

from sweeper.formats import in_format
from sweeper.report.render.tables import csv_table, markdown_table, terminal_lines, terminal_table, value_text
from sweeper.report.theory import Speedup, TheoryReport, TheoryRow

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


def _heads(report: TheoryReport) -> list[str]:
    tail = ["tail ‖∇f‖"] if any(not math.isnan(row.tail_grad_norm) for row in report.rows) else []
    return [
        "function",
        *report.rows[0].values,
        "rule",
        "seeds",
        "T",
        "hit",
        "diverged",
        "capped",
        "bound",
        "bound/T",
        "clipped",
        *tail,
    ]


def _row(row: TheoryRow, heads: list[str]) -> list[str]:
    cells = [
        row.function,
        *(value_text(value) for value in row.values.values()),
        row.arm,
        str(row.seeds),
        _number(row.time),
        *(str(row.statuses[name]) if row.statuses[name] else "–" for name in ("hit", "diverged", "capped")),
        _number(row.bound),
        _number(row.slack),
        "–" if math.isnan(row.clipped_fraction) else f"{100 * row.clipped_fraction:.0f} %",
    ]
    return [*cells, _number(row.tail_grad_norm)] if len(heads) > len(cells) else cells


_SPEEDUP_HEADS = ["M", "rule", "T descent", "its best step", "of", "T rule", "descent / rule"]


def _speedup(row: Speedup) -> list[str]:
    return [
        f"{row.M:.4g}",
        row.rule,
        _number(row.descent_time),
        f"{row.descent_rate:.3g}",
        f"{row.rates_tried} tried",
        _number(row.rule_time),
        _number(row.ratio),
    ]


def _title(report: TheoryReport) -> str:
    return f"{report.path}: {', '.join(f'{count} {status}' for status, count in report.statuses.items())}"


def _notes(report: TheoryReport) -> list[str]:
    left_out = len(report.rows) - _MAX_ROWS
    more = [f"{left_out} more rows: --where selects, --format csv has all"] if left_out > 0 else []
    return [f"note: {note}" for note in (*more, *report.notes)]


def _terminal(report: TheoryReport, width: int | None, color: bool) -> str:
    heads = _heads(report)
    rows = report.rows[:_MAX_ROWS]
    parts = [
        terminal_table(
            _title(report),
            heads,
            [_row(row, heads) for row in rows],
            styles=["yellow" if row.statuses["diverged"] else "" for row in rows],
            width=width,
            color=color,
        )
    ]
    if report.speedups:
        title = "the worse of Theorem 4's two instances: gradient descent at its best fixed step against a rule"
        parts.append(
            terminal_table(title, _SPEEDUP_HEADS, [_speedup(row) for row in report.speedups], width=width, color=color)
        )
    parts.append(terminal_lines(_notes(report), style="dim", width=width, color=color))
    return "\n".join(part for part in parts if part)


def _markdown(report: TheoryReport) -> str:
    heads = _heads(report)
    lines = [f"**{_title(report)}**", "", *markdown_table(heads, [_row(row, heads) for row in report.rows[:_MAX_ROWS]])]
    if report.speedups:
        lines += ["", *markdown_table(_SPEEDUP_HEADS, [_speedup(row) for row in report.speedups])]
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
