"""What a table shows, whatever it is printed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NOTHING", "Column", "Table", "lifted"]

NOTHING = "–"
"""What stands in a table for a value that there is not; a block leaves it out."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        head: Its head.
        cells: Its cells, one for each row. Where room is short, they go on in the next line.
        same: What is said above the table, in place of the column, where all cells are alike; None where the column
            stays all the same.
        is_name: Whether the labels of the rows say it.
        is_option: Whether it is an option: where room is short its name is shown as words, and labels may say it.
        keys: What rows are sorted by, where that is not the text of their cells; NaN and None come last.
    """

    head: str
    cells: Sequence[str]
    same: str | None = None
    is_name: bool = False
    is_option: bool = False
    keys: Sequence[float | str | None] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a table shows.

    Attributes:
        title: Above it.
        columns: Its columns; all have the same number of cells.
        labels: What the rows are called.
        rows: What the rows are, in the plural: for the line about what is the same in all of them.
        marked: Which rows are marked as the best.
        styles: Style of each row; empty for none.
        order: Rows by importance, for terminals that show only some; by default as they come.
        more: Where to find rows that are left out.
    """

    title: str
    columns: Sequence[Column]
    labels: Sequence[str]
    rows: str = "all cells"
    marked: Sequence[bool] = ()
    styles: Sequence[str] = ()
    order: Sequence[int] = ()
    more: str = "--where chooses"


def lifted(table: Table) -> tuple[list[Column], str]:
    """The columns in which rows differ, and a line about the others.

    Args:
        table: The table.

    Returns:
        The columns that stay, with one of marks in front if any row is marked; and the line, empty for none.

    Example:
        >>> momentum = Column(head="momentum", cells=["0", "0"], same="momentum=0")
        >>> rate = Column(head="learning_rate", cells=["1", "2"], same="learning_rate=1")
        >>> columns, line = lifted(Table(title="", columns=[momentum, rate], labels=["1", "2"], marked=[True, False]))
        >>> [column.head for column in columns], line
        (['', 'learning_rate'], 'all cells: momentum=0')
    """
    several = len(table.labels) > 1
    stays = [not (several and column.same is not None and len(set(column.cells)) == 1) for column in table.columns]
    columns = [column for column, does in zip(table.columns, stays, strict=True) if does]
    if any(table.marked):
        marks = Column(head="", cells=["*" if is_marked else "" for is_marked in table.marked], is_name=True)
        columns = [marks, *columns]
    said = ", ".join(column.same for column, does in zip(table.columns, stays, strict=True) if not does and column.same)
    return columns, f"{table.rows}: {said}" if said else ""
