"""Tables that fit: a frame where there is room, a block for each row where there is none, and no word in two.

Off a terminal a table is as wide as it needs to be.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from sweeper.labels import counted, printable
from sweeper.report.render.table import NOTHING, Column, Table, lifted

__all__ = ["MAX_BLOCKS", "MAX_ROWS", "terminal_lines", "terminal_table"]

MAX_ROWS = 60
"""The most rows of a table on a terminal."""

MAX_BLOCKS = 20
"""The most rows of a table on a terminal too narrow for it."""

_WORD = re.compile(r" *[^ ]+(?: ± [^ ]+| %)*")
"""What stays on a line: a word, or a number with its half-width or unit."""

_NARROWEST = 30
_WIDEST = 100_000
_INDENT = "  "


def terminal_table(table: Table, *, width: int | None = None, color: bool = False) -> str:
    """A table as text. Nothing in it is markup.

    Args:
        table: The table.
        width: Columns of the terminal; as many as it takes if None.
        color: Whether it may use colours.

    Returns:
        Lines, joined, without trailing spaces. On a terminal none is longer than its width, unless a word is.
    """
    room = _WIDEST if width is None else max(width, _NARROWEST)
    columns, line = lifted(table)
    columns = [
        replace(column, head=_safe(column.head), cells=[_safe(cell) for cell in column.cells]) for column in columns
    ]
    head = [Text(part, style="bold") for part in _filled(_safe(table.title), room)]
    head += [Text(part) for part in _filled(_safe(line), room) if line]
    shown = _shown(table, MAX_ROWS if width is not None else None)
    spread = [_Spread(column, shown) for column in columns]
    styles = [_style(table, row) for row in shown]
    for shape in (_framed, _framed_folded, _open):
        body = shape(spread, styles, room)
        if body is not None:
            break
    else:
        shown = _shown(table, MAX_BLOCKS)
        body = _blocks(columns, table, shown, room)
    left_out = len(table.labels) - len(shown)
    tail = []
    if left_out:
        text = f"{counted(left_out, 'more row')} of {len(table.labels)}: {table.more}"
        tail = [Text(part, style="dim") for part in _filled(text, room)]
    return _printed([*head, *body, *tail], room, color)


def terminal_lines(lines: Sequence[str], *, style: str = "", width: int | None = None, color: bool = False) -> str:
    """Lines below a table.

    Args:
        lines: The lines, in order. They are broken between words, and go on further to the right.
        style: Style of all lines.
        width: Columns of the terminal; as many as it takes if None.
        color: Whether they may use colours.

    Returns:
        The lines, joined.
    """
    room = _WIDEST if width is None else max(width, _NARROWEST)
    parts = [Text(part, style=style) for line in lines for part in _filled(_safe(line), room)]
    return _printed(parts, room, color)


def _safe(text: str) -> str:
    """Text of which no part is a control character or a line of its own."""
    return printable(text).replace("\n", " ")


def _shown(table: Table, most: int | None) -> list[int]:
    """The rows that are shown, in their order: the most important ones."""
    rows = range(len(table.labels))
    return list(rows) if most is None else sorted((table.order or rows)[:most])


def _style(table: Table, row: int) -> str:
    style = table.styles[row] if table.styles else ""
    return f"bold {style}".strip() if table.marked and table.marked[row] else style


def _filled(text: str, room: int, *, indent: str = _INDENT) -> list[str]:
    """A line as several, broken at spaces; only a word that is longer than a line is broken elsewhere."""
    lines, line, is_empty = list[str](), "", True
    for word in _WORD.findall(text):
        if is_empty or cell_len(line + word) <= room:
            line, is_empty = line + word, False
        else:
            lines.append(line)
            line = text[: len(text) - len(text.lstrip(" "))] + indent + word.lstrip(" ")
        while cell_len(line) > room:
            part = set_cell_size(line, room).rstrip(" ")
            lines.append(part)
            line = indent + line[len(part) :]
    return [*lines, line]


_PIECE = re.compile(r"\[[^\]]*\]|\([^)]*\)|[±+] [^ ]+|[^ ]+(?: to(?= )| %)?")
"""The smallest part of a text that can be read by itself."""

Fold = Callable[[str], list[str]]
"""How a cell is split into what may stand on lines of their own."""


def _whole(cell: str) -> list[str]:
    return [cell]


def _value_and_interval(cell: str) -> list[str]:
    return re.split(r" (?=[\[(])", cell)


def _pieces(cell: str) -> list[str]:
    return _PIECE.findall(cell)


_MAX_LINES = 3
"""Lines of a head; a column whose head has more is made wider."""


class _Spread:
    """A column with the widths that it needs."""

    def __init__(self, column: Column, rows: Sequence[int]) -> None:
        self.head = column.head
        self.words = _pieces(column.head.replace("_", " ") if column.is_option else column.head)
        self.cells = [column.cells[row] for row in rows]
        self.whole = max(map(cell_len, [column.head, *self.cells]))

    def width(self, fold: Fold = _whole) -> int:
        """The least width without a broken word."""
        parts = [part for cell in self.cells for part in fold(cell)]
        width = max([0, *map(cell_len, [*self.words, *parts])])
        while len(_joined(self.words, width)) > _MAX_LINES:
            width += 1
        return width

    def heads(self, width: int) -> list[str]:
        """The lines of its head."""
        return _joined(self.words, width)

    def lines(self, row: int, width: int, fold: Fold) -> list[str]:
        """The lines of a cell."""
        return _joined(fold(self.cells[row]), width)


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """Parts on as few lines as it takes."""
    lines = [""]
    for part in parts:
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(part) > width:
            lines.append(part)
        else:
            lines[-1] = f"{lines[-1]} {part}".strip()
    return lines


def _framed(columns: Sequence[_Spread], styles: Sequence[str], room: int) -> list[RichTable | Text] | None:
    """A frame, heads on one line."""
    if sum(column.whole + 3 for column in columns) + 1 > room:
        return None
    return [_in_frame([column.head for column in columns], columns, styles)]


def _framed_folded(columns: Sequence[_Spread], styles: Sequence[str], room: int) -> list[RichTable | Text] | None:
    """A frame, heads on several lines."""
    widths = [column.width() for column in columns]
    if sum(width + 3 for width in widths) + 1 > room:
        return None
    heads = ["\n".join(column.heads(width)) for column, width in zip(columns, widths, strict=True)]
    return [_in_frame(heads, columns, styles)]


def _in_frame(heads: Sequence[str], columns: Sequence[_Spread], styles: Sequence[str]) -> RichTable:
    framed = RichTable(box=box.HEAVY_HEAD)
    for head in heads:
        framed.add_column(Text(head), justify="right", no_wrap=True, vertical="bottom")
    for at, style in enumerate(styles):
        framed.add_row(*(Text(column.cells[at]) for column in columns), style=style)
    return framed


def _open(columns: Sequence[_Spread], styles: Sequence[str], room: int) -> list[RichTable | Text] | None:
    """No frame, heads on several lines; and values too where that is what it takes."""
    gaps = ["" if column is columns[-1] else "  " if column.words else " " for column in columns]
    for fold in (_whole, _value_and_interval, _pieces):
        widths = [column.width(fold) for column in columns]
        if sum(widths) + sum(map(len, gaps)) > room:
            continue
        heads = [column.heads(width) for column, width in zip(columns, widths, strict=True)]
        height = max(map(len, heads))
        heads = [[""] * (height - len(head)) + head for head in heads]
        lines = [Text(part, style="bold") for part in _side_by_side(heads, widths, gaps)]
        lines += [Text(part) for part in _side_by_side([["─" * width] for width in widths], widths, gaps)]
        for at, style in enumerate(styles):
            cells = [column.lines(at, width, fold) for column, width in zip(columns, widths, strict=True)]
            height = max(map(len, cells))
            cells = [cell + [""] * (height - len(cell)) for cell in cells]
            lines += [Text(part, style=style) for part in _side_by_side(cells, widths, gaps)]
        return list(lines)
    return None


def _side_by_side(cells: Sequence[Sequence[str]], widths: Sequence[int], gaps: Sequence[str]) -> list[str]:
    """Lines of cells next to each other, each to the right of its column."""
    return [
        "".join(
            " " * (width - cell_len(cell)) + cell + gap for cell, width, gap in zip(line, widths, gaps, strict=True)
        )
        for line in zip(*cells, strict=True)
    ]


def _blocks(columns: Sequence[Column], table: Table, rows: Sequence[int], room: int) -> list[RichTable | Text]:
    """A block for each row: its label, and a line for each of its values."""
    values = [column for column in columns if not column.is_name]
    widest = max((cell_len(column.head) for column in values), default=0)
    lines: list[RichTable | Text] = []
    for row in rows:
        style = _style(table, row)
        mark = "* " if table.marked and table.marked[row] else ""
        title = Text(style=f"bold {style}".strip())
        lines += [Text(part, style=title.style) for part in _filled(mark + _safe(table.labels[row]), room)]
        for column in values:
            if column.cells[row] == NOTHING or _is_said(column, row, table.labels[row]):
                continue
            lead = f"{_INDENT}{column.head}{' ' * (widest - cell_len(column.head))}  "
            # Aligned with the values above, where there is room for that.
            lines += [Text(part, style=style) for part in _filled(lead + column.cells[row], room, indent=_INDENT * 2)]
    return lines


def _is_said(column: Column, row: int, label: str) -> bool:
    """Whether a label says the value of an option."""
    if not column.is_option:
        return False
    # A label without an option that is null does not lack it: no clipping, a theorem's own rate.
    return column.cells[row] == "none" or f" {column.head}={column.cells[row]} " in f" {label} "


def _printed(things: Sequence[RichTable | Text], room: int, color: bool) -> str:
    output = io.StringIO()
    # In a notebook rich would show it there, whatever the file.
    console = Console(
        file=output, width=room, force_terminal=color, force_jupyter=False, color_system="standard" if color else None
    )
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, Text))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
