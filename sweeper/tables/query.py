"""SQL over the tables of runs, with duckdb: read where the tables lie, column by column, and nothing else.

duckdb gets Arrow's view of each file, and access to no file of its own: a statement can neither write nor read anything
but these tables. (A list of allowed paths would be allowed for writing, too.)
"""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.store.run_dir import RunDir
from sweeper.tables.described import ABOUT, made_column
from sweeper.tables.schemas import columns_of
from sweeper.tables.several import RUN, run_names

__all__ = ["Answer", "TableColumn", "answer", "catalog"]

_BATCH = 10_000
"""Rows that are held at a time."""

_OLD = {"telemetry": {"epoch": "driver_epoch"}}
"""Columns of earlier versions, with their names of today."""


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column that can be asked for.

    Attributes:
        table: The name of its table in SQL.
        about: What the table is.
        rows: How many rows the table has, those of all runs together.
        column: Its name.
        type: Its Arrow type.
        unit: The unit of its numbers; empty for none.
        description: What it says.
    """

    table: str
    about: str
    rows: int
    column: str
    type: str
    unit: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a statement has selected.

    Attributes:
        columns: Names of the columns, all different.
        rows: The rows, as they come: values are null, booleans, numbers, texts, and lists and dicts of these.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[Any, ...]]


def catalog(paths: Sequence[Path]) -> list[TableColumn]:
    """The tables and columns of runs.

    Args:
        paths: The run directories.

    Returns:
        Every column of every table; where there are several runs, of any of them.

    Raises:
        RunDirectoryError: One is no run, is given twice, or nothing has been written yet.
    """
    found = []
    for table, files in _tables(paths).items():
        schemas = [file.schema for file in files.values()]
        fields: dict[str, pa.Field] = {}
        for schema in schemas:
            for field in schema:
                fields.setdefault(_OLD.get(table, {}).get(field.name, field.name), field)
        rows = sum(file.count_rows() for file in files.values())
        several = [(RUN, "string", "", "The run.")] if len(paths) > 1 else []
        known = [(name, str(field.type), *_meaning(table, name, field)) for name, field in fields.items()]
        found += [
            TableColumn(
                table=_views(table)[0],
                about=ABOUT.get(table, ""),
                rows=rows,
                column=name,
                type=kind,
                unit=unit,
                description=description,
            )
            for name, kind, unit, description in [*several, *known]
        ]
    return found


def _meaning(table: str, name: str, field: pa.Field) -> tuple[str, str]:
    """Unit and description, as the file has them; those of today for a file of an earlier version."""
    if field.metadata and b"description" in field.metadata:
        return field.metadata.get(b"unit", b"").decode(), field.metadata[b"description"].decode()
    swept = [name] if "." in name else []
    column = next((one for one in columns_of(table) if one.name == name), made_column(table, name, swept))
    return column.unit, column.meaning


@contextlib.contextmanager
def answer(paths: Sequence[Path], sql: str) -> Iterator[Answer]:
    """What a statement selects from the tables of runs.

    Tables are called ``trials``, ``metrics`` and ``telemetry``, and measurements by the name of their estimator, also
    behind ``measurements_``. Those of several runs are one below the other, with a column ``run``.

    Args:
        paths: The run directories.
        sql: One statement that selects, in the dialect of duckdb.

    Yields:
        The answer; its rows are read while they are asked for.

    Raises:
        ClipsweepError: duckdb is not installed, or cannot read or carry out the statement.
    """
    tables = _tables(paths)
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise ClipsweepError(
            "queries need duckdb: install it with `pip install 'clipsweep[query]'`, or `pip install duckdb`"
        ) from error
    with tempfile.TemporaryDirectory(prefix="clipsweep-query-") as spilled, duckdb.connect(":memory:") as connection:
        names = run_names(paths)
        for table, files in tables.items():
            _register(connection, table, {names[at]: file for at, file in files.items()}, several=len(paths) > 1)
        for setting in (
            "TimeZone = 'UTC'",
            # What does not fit in memory.
            f"temp_directory = {_quoted(spilled)}",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        try:
            _check(duckdb, sql)
            selected = connection.sql(sql)
            # Before version 1.4 it was called otherwise.
            read = getattr(selected, "to_arrow_reader", None) or getattr(selected, "fetch_arrow_reader", None)
            if read is None:
                raise ClipsweepError("this statement selects nothing: write one that begins with select or from")
            reader = read(_BATCH)
            yield Answer(columns=_distinct(reader.schema.names), rows=_rows(reader, duckdb))
        except duckdb.Error as error:
            raise ClipsweepError(_message(connection, duckdb, sql, error)) from error


def _tables(paths: Sequence[Path]) -> dict[str, dict[int, pads.Dataset]]:
    """Table to its file of each run, by the run's place."""
    runs = [RunDir(path).require() for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunDirectoryError(f"{paths[-1]}: one of the runs is given twice")
    tables: dict[str, dict[int, pads.Dataset]] = {}
    for name in ABOUT:
        for at, run in enumerate(runs):
            file = run.table(name)
            if not file.exists():
                continue
            try:
                tables.setdefault(name, {})[at] = pads.dataset(file, format="parquet")
            except (OSError, pa.ArrowException) as error:
                raise RunDirectoryError(f"{file}: cannot be read: {error}") from error
    if not tables:
        raise RunDirectoryError(f"{paths[0]}: no table is written yet; they follow the first results")
    return tables


def _views(table: str) -> tuple[str, ...]:
    """What a table is called in SQL, the usual name first."""
    _, _, estimator = table.partition("/")
    return (estimator, f"measurements_{estimator}") if estimator else (table,)


def _register(connection: Any, table: str, files: dict[str, pads.Dataset], *, several: bool) -> None:
    """Make views of a table's files."""
    selected = []
    for at, (run, file) in enumerate(files.items()):
        source = f"_{table.replace('/', '_')}_{at}"
        connection.register(source, file)
        there = set(file.schema.names)
        renamed = {old: new for old, new in _OLD.get(table, {}).items() if old in there and new not in there}
        kept = f"* EXCLUDE ({', '.join(renamed)})" if renamed else "*"
        columns = [
            *([f"{_quoted(run)} AS {RUN}"] if several else []),
            kept,
            *(f"{o} AS {n}" for o, n in renamed.items()),
        ]
        selected.append(" ".join(["SELECT", ", ".join(columns), "FROM", source]))
    for view in _views(table):
        connection.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(selected)}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _check(duckdb: Any, sql: str) -> None:
    """Refuse what is not one statement that selects."""
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise ClipsweepError(f"expected one SQL statement, found {len(statements) or 'none'}")
    kind = statements[0].type.name
    # A pivot counts as several.
    if kind not in {"SELECT", "MULTI", "EXPLAIN"}:
        raise ClipsweepError(
            f"a query only reads: {kind} is no statement that selects, as select, from and describe are"
        )


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, with a number behind those that are there already: a, b, a_2."""
    distinct: dict[str, None] = {}
    for name in names:
        new, count = name, 1
        while new in distinct:
            count += 1
            new = f"{name}_{count}"
        distinct[new] = None
    return tuple(distinct)


def _rows(reader: pa.RecordBatchReader, duckdb: Any) -> Iterator[tuple[Any, ...]]:
    try:
        for batch in reader:
            columns = [_values(column) for column in batch.columns]
            yield from zip(*columns, strict=True)
    except (pa.ArrowException, OSError) as error:
        # An error of duckdb comes through Arrow's reader with its words, and a name in front.
        raise duckdb.Error(str(error)) from error


def _values(column: pa.Array) -> Iterable[Any]:
    kind = column.type
    is_plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    values = column.to_pylist()
    return values if is_plain or pa.types.is_string(kind) else map(_plain, values)


def _plain(value: Any) -> Any:
    """A value of Python's own few types."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)


def _message(connection: Any, duckdb: Any, sql: str, error: Exception) -> str:
    """An error with the line and the place, which duckdb tells only where a statement is run directly."""
    text = str(error)
    unread = (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException)
    if "LINE " not in text and isinstance(error, unread):
        with contextlib.suppress(duckdb.Error):
            try:
                connection.execute(sql)
            except unread as again:
                text = str(again)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    shown = "\n  ".join(lines)
    if "Table with name" in text:
        names = [
            row[0] for row in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        ]
        shown += f"\n  tables: {', '.join(name for name in names if name[0] != '_' and name[:13] != 'measurements_')}"
    return f"SQL: {shown}"
