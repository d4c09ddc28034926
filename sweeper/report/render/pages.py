"""An answer of several tables and lines as one text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sweeper.report.render.fragments import html_fragment
from sweeper.report.render.table import Table
from sweeper.report.render.tables import markdown_lines
from sweeper.report.render.terminal import terminal_lines, terminal_table

__all__ = ["page_text", "without_texts"]


def page_text(
    path: str, tables: Sequence[Table], lines: Sequence[str], style: str, width: int | None, color: bool
) -> str:
    """Tables, and lines below them.

    Args:
        path: The run directory, which every table names.
        tables: The tables.
        lines: The lines; empty ones are gaps.
        style: ``table``, ``md`` or ``html``.
        width: Columns of the terminal.
        color: Whether tables may use colours.

    Returns:
        The text, without a trailing newline.
    """
    if style == "html":
        return html_fragment(path, tables, lines)
    if style == "md":
        parts = [f"**{path}**"]
        for table in tables:
            parts += ["", f"### {table.title}", "", *markdown_lines(table)]
        return "\n".join([*parts, "", *(f"- {line}" if line else "" for line in lines)]).rstrip()
    titled = [dataclasses.replace(table, title=f"{path}: {table.title}") for table in tables]
    shown = [terminal_table(table, width=width, color=color) for table in titled]
    return "\n".join([*shown, terminal_lines(lines, width=width, color=color)]).rstrip()


def without_texts(value: Any) -> Any:
    """A document without what is there for tables alone.

    Args:
        value: A document of dicts, lists and values.

    Returns:
        The same without the key ``texts``.

    Example:
        >>> without_texts([{"L0": 1.0, "texts": {"rate": "1"}}])
        [{'L0': 1.0}]
    """
    if isinstance(value, dict):
        return {key: without_texts(part) for key, part in value.items() if key != "texts"}
    return [without_texts(part) for part in value] if isinstance(value, list | tuple) else value
