"""Tables for programs: Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.labels import printable
from sweeper.report.render.table import Table, lifted

__all__ = ["csv_table", "markdown_lines", "markdown_table"]


def markdown_lines(table: Table) -> list[str]:
    """A table in Markdown, with a line above it about what is the same in all rows.

    Args:
        table: The table; its title is left out.

    Returns:
        Its lines.
    """
    columns, line = lifted(table)
    rows = [[column.cells[at] for column in columns] for at in range(len(table.labels))]
    return [*([_cell(line), ""] if line else []), *markdown_table([column.head or "best" for column in columns], rows)]


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    r"""A table in Markdown, with all columns right-aligned.

    Args:
        heads: Heads of the columns.
        rows: Cells, as many as heads.

    Returns:
        Its lines.

    Example:
        >>> markdown_table(["a|b"], [["1"]])
        ['| a\\|b |', '| ---: |', '| 1 |']
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_cell, cells)) + " |"

    return [line(heads), line(["---:"] * len(heads)), *(line(row) for row in rows)]


def _cell(text: str) -> str:
    return printable(text).replace("\n", " ").replace("|", "\\|")


def csv_table(records: Sequence[Mapping[str, Any]]) -> str:
    r"""Records as CSV, with the keys of the first record as heads.

    Args:
        records: At least one.

    Returns:
        Lines, joined; missing values are empty cells.

    Example:
        >>> csv_table([{"a": None, "b": "=1+1"}])
        "a,b\n,'=1+1"
    """
    output = io.StringIO()
    writer = csv.DictWriter(output, fieldnames=list(records[0]), lineterminator="\n")
    writer.writerow({key: _defuse(key) for key in records[0]})
    for record in records:
        writer.writerow({key: _defuse(value) for key, value in record.items()})
    return output.getvalue().rstrip("\n")


def _defuse(value: Any) -> Any:
    """An empty cell for what is missing; text that a spreadsheet would run as a formula is prefixed with a quote."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        return value
    # Some spreadsheets treat the full-width forms like the ordinary ones.
    quote = "'" if value[:1] in _FORMULAS else ""
    return quote + printable(value).replace("\n", "\\n")


_FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
