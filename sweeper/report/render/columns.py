"""What each row of a table is: its first columns, and its place in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeper.labels import counted
from sweeper.report.render.table import NOTHING, Column

__all__ = ["listed", "value_columns"]

_MAX_NAMED = 4


def listed(labels: Sequence[str], *, noun: str = "row") -> str:
    """Labels in a sentence.

    Args:
        labels: What the rows are called.
        noun: What they are.

    Returns:
        The first ones, and how many more there are.

    Example:
        >>> listed(["a=1", "a=2"]), listed(["1", "2", "3", "4", "5"])
        ('a=1; a=2', '1; 2; 3; 4 and 1 more row')
    """
    left = len(labels) - _MAX_NAMED
    return "; ".join(labels[:_MAX_NAMED]) + (f" and {counted(left, f'more {noun}')}" if left > 0 else "")


def value_columns(texts: Sequence[Mapping[str, str]], cases: Sequence[str | None]) -> list[Column]:
    """A column for the names of cases, if any has one, and one for each value.

    Args:
        texts: Short name to value as text, for each row.
        cases: The name of each row's case; None for none.

    Returns:
        The columns.
    """
    columns = [
        Column(head=name, cells=[row[name] for row in texts], same=f"{name}={texts[0][name]}", is_option=True)
        for name in texts[0]
    ]
    if not any(case is not None for case in cases):
        return columns
    named = [case or NOTHING for case in cases]
    return [Column(head="case", cells=named, same=f"case {named[0]}", is_name=True), *columns]
