"""Tables as text: for a terminal, Markdown, CSV."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from estimators.fits.statistics import Interval
from sweeper.formats import csv_table, markdown_table
from sweeper.labels import printable

__all__ = [
    "bounds_text",
    "csv_table",
    "interval_text",
    "markdown_table",
    "terminal_lines",
    "terminal_table",
    "value_text",
]


def terminal_table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[str] = (),
    width: int | None = None,
    color: bool = False,
) -> str:
    """A table with a frame. Text is shown literally: nothing in it is markup.

    Args:
        title: Title above the table.
        heads: Heads of the columns.
        rows: Cells, as many as heads.
        styles: Styles of the rows, empty for none.
        width: Columns of the terminal; 200 if None.
        color: Whether it may use colours.

    Returns:
        Lines, joined, without trailing spaces.
    """
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold")
    for head in heads:
        table.add_column(Text(printable(head)), justify="right", overflow="fold")
    for index, row in enumerate(rows):
        table.add_row(*(Text(printable(cell)) for cell in row), style=styles[index] if styles else "")
    return _printed([table], width, color)


def terminal_lines(lines: Sequence[str], *, style: str = "", width: int | None = None, color: bool = False) -> str:
    """Lines below a table.

    Args:
        lines: The lines, in order.
        style: Style of all lines.
        width: Columns of the terminal; 200 if None.
        color: Whether they may use colours.

    Returns:
        The lines, joined.
    """
    return _printed([Text(printable(line), style=style) for line in lines], width, color)


def _printed(things: Sequence[Any], width: int | None, color: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, width=width or 200, force_terminal=color, color_system="standard" if color else None)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, Text))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def value_text(value: Any) -> str:
    """A swept value as table cells show it: four digits of a number, ``none`` for null."""
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_ROUNDING = 1e-9
"""Relative: differences of equal losses may differ by that much."""


def interval_text(interval: Interval) -> str:
    """A mean with its interval: ``±`` where that is symmetric, else the ends in brackets.

    Args:
        interval: The interval.

    Returns:
        Value and half-width with the same decimals, two significant digits of the half-width; the value alone where
        there is no interval.

    Example:
        >>> interval_text(Interval(mean=5.09, low=5.064, high=5.116, count=2))
        '5.090 ± 0.026'
        >>> interval_text(Interval(mean=0.82, low=0.1, high=0.98, count=2))
        '0.82 [0.10, 0.98]'
        >>> interval_text(Interval(mean=4.6e-7, low=4.5e-7, high=4.7e-7, count=3))
        '(4.60 ± 0.10)e-07'
    """
    if interval.count == 0 or math.isnan(interval.mean):
        return "–"
    half = (interval.high - interval.low) / 2
    if not math.isfinite(half) or half <= _ROUNDING * abs(interval.mean):
        return f"{interval.mean:.4g}"
    return bounds_text(interval.mean, interval.low, interval.high)


def bounds_text(value: float, low: float, high: float) -> str:
    """A value between two ends, all with the same decimals.

    Args:
        value: The value.
        low: Lower end.
        high: Upper end, above it.

    Returns:
        As :func:`interval_text`.
    """
    half = (high - low) / 2
    largest = max(abs(value), half)
    power = 0 if 1e-3 <= largest < 1e5 else math.floor(math.log10(largest))
    value, low, high, half = (number / 10.0**power for number in (value, low, high, half))
    decimals = min(6, max(0, 1 - math.floor(math.log10(half))))
    if abs((high - value) - (value - low)) <= 1e-6 * half:
        text = f"{value:.{decimals}f} ± {half:.{decimals}f}"
        return text if power == 0 else f"({text})e{power:+03d}"
    text = f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
    return text if power == 0 else f"({text})e{power:+03d}"
