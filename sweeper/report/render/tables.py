"""A table as Markdown."""

from __future__ import annotations

from sweeper.formats import markdown_cell, markdown_table
from sweeper.report.render.table import Table, lifted

__all__ = ["markdown_lines"]


def markdown_lines(table: Table) -> list[str]:
    """A table in Markdown, with a line above it about what is the same in all rows.

    Args:
        table: The table; its title is left out.

    Returns:
        Its lines.
    """
    columns, line = lifted(table)
    rows = [[column.cells[at] for column in columns] for at in range(len(table.labels))]
    return [
        *([markdown_cell(line), ""] if line else []),
        *markdown_table([column.head or "best" for column in columns], rows),
    ]
