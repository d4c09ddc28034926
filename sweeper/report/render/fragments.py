"""Tables and lines as a piece of HTML for notebooks: markup of tables alone, with nothing that runs or loads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sweeper.labels import counted, printable
from sweeper.report.render.table import Table, lifted
from sweeper.report.render.terminal import MAX_ROWS

__all__ = ["html_fragment"]


def html_fragment(title: str, tables: Sequence[Table], lines: Sequence[str]) -> str:
    r"""An answer as HTML that a notebook can show. Every text is escaped.

    Args:
        title: What stands above it all.
        tables: The tables; of long ones the most important rows, with a line about the others.
        lines: The lines below; empty ones are left out.

    Returns:
        Elements without scripts, styles or addresses.

    Example:
        >>> html_fragment("<b>", [], ["a & b"])
        '<div><p><strong>&lt;b&gt;</strong></p>\n<ul><li>a &amp; b</li></ul></div>'
    """
    parts = [f"<p><strong>{_safe(title)}</strong></p>", *map(_table, tables)]
    if said := [line for line in lines if line.strip()]:
        parts.append("<ul>" + "".join(f"<li>{_safe(line.strip())}</li>" for line in said) + "</ul>")
    return "<div>" + "\n".join(parts) + "</div>"


def _table(table: Table) -> str:
    columns, line = lifted(table)
    everything = range(len(table.labels))
    shown = sorted((table.order or everything)[:MAX_ROWS])
    left_out = len(table.labels) - len(shown)
    caption = [table.title, line, f"{counted(left_out, 'more row')}: {table.more}" if left_out else ""]
    head = "".join(f'<th scope="col">{_safe(column.head or "best")}</th>' for column in columns)
    rows = ["".join(f"<td>{_safe(column.cells[at])}</td>" for column in columns) for at in shown]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    said = "<br>".join(_safe(text) for text in caption if text)
    return f"<table><caption>{said}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _safe(text: str) -> str:
    """Text in which nothing is markup, and which turns no direction of writing."""
    return escape(printable(text).replace("\n", " "))
