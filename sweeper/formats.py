"""What commands print, in the formats that all of them share: a table for people, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import Any

from sweeper.errors import ClipsweepError
from sweeper.labels import printable

__all__ = [
    "FORMATS",
    "choose_format",
    "csv_table",
    "defused",
    "in_format",
    "json_text",
    "markdown_cell",
    "markdown_table",
    "value_json",
]

FORMATS = ("table", "md", "csv", "json")
"""Their names, the default first."""


def choose_format(wanted: str | None, *, as_json: bool, known: Sequence[str] = FORMATS) -> str:
    """The format that a command is asked for.

    Args:
        wanted: The value of ``--format``; None if it was not given.
        as_json: Whether ``--json`` was given, the short form of ``--format json``.
        known: The formats that the command has.

    Returns:
        One of ``known``.

    Raises:
        ClipsweepError: The command does not have this format, or the options contradict each other.

    Example:
        >>> choose_format(None, as_json=False), choose_format(None, as_json=True), choose_format("csv", as_json=False)
        ('table', 'json', 'csv')
    """
    if wanted is not None and wanted not in known:
        raise ClipsweepError(f"--format {wanted!r}: unknown; known: {', '.join(known)}")
    if as_json and wanted not in {None, "json"}:
        raise ClipsweepError(f"--json means --format json: leave out one of --json and --format {wanted}")
    return "json" if as_json else wanted or known[0]


def in_format(
    style: str,
    *,
    table: Callable[[], str],
    md: Callable[[], str],
    csv: Callable[[], str],
    json: Callable[[], Any],
    html: Callable[[], str] | None = None,
) -> str:
    """An answer in one format; the others are not made.

    Args:
        style: One of :data:`FORMATS`, or ``html`` for a notebook where the answer has that.
        table: Makes the table for a terminal.
        md: Makes the Markdown.
        csv: Makes the CSV.
        json: Makes the document, as for :func:`json_text`.
        html: Makes a piece of HTML; None where there is none.

    Returns:
        The text, without a trailing newline.

    Raises:
        ValueError: The format is unknown.

    Example:
        >>> in_format("md", table=lambda: "a", md=lambda: "**a**", csv=lambda: "a", json=lambda: 1 / 0)
        '**a**'
    """
    match style:
        case "table":
            return table()
        case "md":
            return md()
        case "csv":
            return csv()
        case "json":
            return json_text(json())
        case "html" if html is not None:
            return html()
    raise ValueError(f"unknown format {style!r}; known: {', '.join(FORMATS)}")


def json_text(document: Any, *, indent: int | None = 2) -> str:
    r"""A document as JSON that every reader takes, and that is safe for a terminal.

    Args:
        document: Dicts, sequences, dataclasses, paths, texts and numbers, those of NumPy too; anything else as text.
        indent: Spaces per level; None for a single line.

    Returns:
        ASCII. What is not finite is null, as JSON has neither NaN nor infinity.

    Example:
        >>> print(json_text({"loss": float("nan"), "seeds": (0, 1), "name": "caf\u00e9\x7f"}))
        {
          "loss": null,
          "seeds": [
            0,
            1
          ],
          "name": "caf\u00e9\u007f"
        }
    """
    # Delete is the one control character that JSON does not ask to be written out.
    return json.dumps(_plain(document), indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def value_json(value: Any) -> str:
    r"""A single value as JSON for people: one line, letters as they are, and nothing that a terminal would act on.

    Args:
        value: A value, as for :func:`json_text`.

    Returns:
        JSON in which only what is not printable is escaped. What is not finite is null.

    Example:
        >>> value_json([True, None, "\u00fc\x7f"]) == '[true, null, "\u00fc\\u007f"]'
        True
    """
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    r"""``\u`` and four digits, twice for what JSON has as two."""
    pairs = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{pairs[at] * 256 + pairs[at + 1]:04x}" for at in range(0, len(pairs), 2))


def _plain(value: Any) -> Any:
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, PurePath) or not isinstance(value, Iterable):
        return str(value)
    return [_plain(part) for part in value]


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
        return "| " + " | ".join(map(markdown_cell, cells)) + " |"

    return [line(heads), line(["---:"] * len(heads)), *(line(row) for row in rows)]


def markdown_cell(text: str) -> str:
    """Text within one line of Markdown, and within one cell of a table."""
    return printable(text).replace("\n", " ").replace("|", "\\|")


def csv_table(records: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    r"""Records as CSV.

    Args:
        records: The records; one that lacks a key of another has an empty cell there.
        columns: The heads where there may be no record; by default all keys.

    Returns:
        Lines, joined; missing values are empty cells. Truth values, lists and sections are JSON, letters as they are;
        texts are so, in quotes, in a column where one of them would otherwise look like another value.

    Example:
        >>> csv_table([{"a": None, "b": "=1+1"}])
        "a,b\n,'=1+1"
        >>> csv_table([], ["a", "b"])
        'a,b'
        >>> len(set(csv_table([{"a": 1}, {"a": "1"}, {"a": None}, {"a": ""}]).splitlines()))
        5
        >>> csv_table([{"a": True}, {"a": [1, None]}]).splitlines()[1:]
        ['true', '"[1, null]"']
    """
    output = io.StringIO()
    names = list(columns or dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(output, fieldnames=names, lineterminator="\n")
    writer.writerow({key: defused(key) for key in names})
    quoted = {name for name in names if _has_texts_like_others([record.get(name) for record in records])}
    for record in records:
        writer.writerow({
            key: defused(value_json(value) if isinstance(value, str) and key in quoted else _csv_value(value))
            for key, value in record.items()
        })
    return output.getvalue().rstrip("\n")


def _csv_value(value: Any) -> Any:
    """A value as CSV has it: what is neither text nor number is JSON."""
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    return value_json(value) if isinstance(value, bool | list | tuple | dict) else value


def _has_texts_like_others(values: Sequence[Any]) -> bool:
    texts = {value for value in values if isinstance(value, str)}
    return not texts.isdisjoint(str(defused(_csv_value(value))) for value in values if not isinstance(value, str))


def defused(value: Any) -> Any:
    r"""A value as a cell of a spreadsheet.

    Args:
        value: Any value of a table.

    Returns:
        An empty text for what is missing; for text, the same in one line without control characters, with a quote in
        front if a spreadsheet would run it as a formula; anything else as it is.

    Example:
        >>> defused("=1+1"), defused("a\n\x1b"), defused(None), defused(0.5)
        ("'=1+1", 'a\\n\\x1b', '', 0.5)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        return value
    # Some spreadsheets treat the full-width forms like the ordinary ones.
    quote = "'" if value[:1] in _FORMULAS else ""
    return quote + printable(value).replace("\n", "\\n")


_FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
