"""``clipsweep query``: SQL over the tables of runs."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.completion import complete_run
from sweeper.cli.options import AsJson, Format, show, show_json, show_rows
from sweeper.errors import ClipsweepError
from sweeper.formats import choose_format, defused, json_text, markdown_cell, value_json

if TYPE_CHECKING:
    from sweeper.tables.query import TableColumn

__all__ = ["query"]

_IN_A_TERMINAL = 60
_IN_A_TABLE = 1_000
"""Rows of a table, whose columns are as wide as the widest of them; other formats have all rows."""

_CHUNK = 1_000
"""Rows that are printed at a time."""

_WIDEST = 120
_COLUMNS = ("table", "rows", "column", "type", "unit", "description")


def query(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Run directories and, last, a statement for duckdb, or - for one on stdin. Without it: what there is.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=0, help="Rows at most; by default all, and in a table 60 or 1,000."),
    ] = None,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Ask the tables of runs in SQL: trials, metrics, telemetry, and measurements by estimator. Only reads."""
    style = choose_format(wanted, as_json=as_json)
    runs, sql = _split(words)
    from sweeper.store.run_dir import RunDir

    for run in runs:
        RunDir(run).require()
    from sweeper.tables.query import answer, catalog

    if sql is None:
        _show_catalog(catalog(runs), style)
        return
    with _ended_by_ctrl_c(), answer(runs, sql) as found:
        if style == "table":
            _show_table(", ".join(map(str, runs)), found.columns, found.rows, limit)
        else:
            rows = itertools.islice(found.rows, limit)
            for text in _WRITERS[style](found.columns, rows):
                typer.echo(text, nl=False)


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C ends the process: duckdb gives Python no chance to, until it is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _split(words: Sequence[str]) -> tuple[list[Path], str | None]:
    """The runs, and the statement: the last word, if it is ``-`` or more than one word that is no folder."""
    last = words[-1]
    if len(words) > 1 and last == "-":
        return [Path(word) for word in words[:-1]], sys.stdin.read()
    if len(words) > 1 and not Path(last).exists() and (len(last.split()) > 1 or not last.strip()):
        return [Path(word) for word in words[:-1]], last
    if len(words) == 1 and len(last.split()) > 1 and not Path(last).exists():
        raise ClipsweepError("no run is given: expected clipsweep query RUN... 'select ...'")
    return [Path(word) for word in words], None


def _csv(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    """CSV, many lines at a time; a text that a spreadsheet would run has a quote in front."""
    waiting = itertools.chain([columns], rows)
    while chunk := list(itertools.islice(waiting, _CHUNK)):
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([map(_csv_cell, row) for row in chunk])
        yield buffer.getvalue()


def _csv_cell(value: Any) -> Any:
    if type(value) is float:
        return value if value == value else ""
    return value if type(value) is int else defused(_cell(value))


def _cell(value: Any) -> Any:
    return value_json(value) if isinstance(value, bool | list | dict) else value


def _markdown(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(map(markdown_cell, columns))} |\n"
    yield f"| {' | '.join(['---'] * len(columns))} |\n"
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield "".join(f"| {' | '.join(markdown_cell(_text(value)) for value in row)} |\n" for row in chunk)


def _json(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    """A list of objects, one in each line."""
    before = "["
    while chunk := list(itertools.islice(rows, _CHUNK)):
        objects = [json_text(dict(zip(columns, row, strict=True)), indent=None) for row in chunk]
        yield before + "\n" + ",\n".join(objects)
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


_WRITERS: Mapping[str, Callable[[Sequence[str], Iterator[Sequence[Any]]], Iterator[str]]] = {
    "csv": _csv,
    "md": _markdown,
    "json": _json,
}


def _text(value: Any) -> str:
    """A value for people: numbers with six digits."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(_cell(value)).replace("\n", "\\n")


def _show_table(title: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], limit: int | None) -> None:
    """A table of the first rows, and that there are more."""
    from sweeper.report.render.table import Column, Table
    from sweeper.report.render.terminal import terminal_table

    is_terminal = sys.stdout.isatty()
    most = (_IN_A_TERMINAL if is_terminal else _IN_A_TABLE) if limit is None else limit
    shown = list(itertools.islice(rows, most))
    is_more = next(rows, None) is not None
    heads = [Column(head=name, cells=[_text(row[at]) for row in shown]) for at, name in enumerate(columns)]
    width = shutil.get_terminal_size().columns if is_terminal else None
    if shown:
        labels = [str(at) for at in range(1, len(shown) + 1)]
        show(terminal_table(Table(title=title, columns=heads, labels=labels, more="--format csv has all"), width=width))
    else:
        show(", ".join(columns))
    if is_more:
        show(f"the first {most} rows: --format csv, md and json have all, --limit shows others")
    elif not shown:
        show("no rows")


def _show_catalog(columns: Sequence[TableColumn], style: str) -> None:
    if style == "json":
        show_json([asdict(column) for column in columns])
    elif style == "table":
        show("\n".join(_overview(columns)))
    else:
        rows = [{**asdict(column), "unit": column.unit or None} for column in columns]
        show_rows(style, rows, _COLUMNS)


def _overview(columns: Sequence[TableColumn]) -> Iterator[str]:
    """Each table with its columns."""
    width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
    for table, group in itertools.groupby(columns, key=lambda column: column.table):
        of_table = list(group)
        yield f"{table} ({of_table[0].rows} rows): {of_table[0].about}"
        widest = min(max(len(column.column) for column in of_table), 28)
        for column in of_table:
            unit = f", {column.unit}" if column.unit else ""
            head = f"  {column.column:<{widest}}  "
            text = f"{head}{column.description} ({column.type}{unit})".replace("\n", "\\n")
            yield from textwrap.wrap(text, width, subsequent_indent=" " * len(head), break_long_words=False)
        yield ""
    yield 'a name with a dot stands in double quotes: select "update_rule.clip_norm", count(*) from trials group by all'
