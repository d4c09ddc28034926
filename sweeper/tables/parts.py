"""The tables: their schemas, parts of committed rows, and the readable files compacted from them.

Rows hold nothing that differs between two runs of the same trial; times and hosts are in ``telemetry``.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweeper.errors import IntegrityError
from sweeper.store.records import Part
from sweeper.store.run_dir import RunDir, file_hash
from sweeper.tables.schemas import MEASUREMENTS, METRICS

__all__ = [
    "MEASUREMENTS",
    "concatenate",
    "encode",
    "measurement_rows",
    "metric_rows",
    "read_batches",
    "read_parts",
    "read_table",
    "refuse_other_rows",
    "sort_rows",
    "write_measurements",
    "write_metrics",
    "write_table",
]


_TRAINING = ("train_loss", "grad_norm", "step_size", "clipped", "update_norm", "learning_rate", "threshold")

_ADDED = {"threshold"}
"""Columns that parts of earlier versions do not have, where null says nothing, as NaN does in a segment."""


def metric_rows(segments: Sequence[tuple[str, Mapping[str, np.ndarray[Any, Any]], int]]) -> pa.Table:
    """The rows of several segments in one table; separate tables would cost a millisecond each.

    Args:
        segments: Trial id, columns as the training loop returns them (equal lengths; a metric is masked where it was
            not evaluated, in a column without a mask it is NaN there), and the trial's number of steps. The row of the
            last iterate x_steps has no batch, so its training columns are null.

    Returns:
        A table of :data:`METRICS` and the problems' own metrics, sorted by name; null where a problem has none.
    """
    lengths = [len(columns["step"]) for _, columns, _ in segments]
    names = np.repeat(np.array([trial for trial, _, _ in segments], dtype=object), lengths)
    last = np.concatenate([columns["step"] == steps for _, columns, steps in segments])
    arrays = {"trial_id": pa.array(names, pa.string())}
    for field in METRICS:
        if field.name != "trial_id":
            has_nulls = field.name in _ADDED
            pieces = [
                columns.get(field.name, _nothing(columns)) if has_nulls else columns[field.name]
                for _, columns, _ in segments
            ]
            values = np.concatenate(pieces)
            missing = last | np.isnan(values) if has_nulls else last
            arrays[field.name] = pa.array(values, field.type, mask=missing if field.name in _TRAINING else None)
    own = {name for _, columns, _ in segments for name in columns} - set(METRICS.names)
    for name in sorted(own):
        pieces = [
            columns.get(name, np.full(length, np.nan))
            for (_, columns, _), length in zip(segments, lengths, strict=True)
        ]
        values = np.concatenate([np.ma.getdata(piece) for piece in pieces])
        arrays[name] = pa.array(values, pa.float64(), mask=np.concatenate([_is_missing(piece) for piece in pieces]))
    return pa.table(arrays)


def _nothing(columns: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """A column of a segment that does not have it."""
    return np.full(len(columns["step"]), np.nan)


def _is_missing(column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else np.isnan(column)


def measurement_rows(estimator: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of an estimator's table; what a row does not name is null.

    Returns:
        A table of ``MEASUREMENTS[estimator]``.
    """
    return pa.Table.from_pylist([dict(row) for row in rows], schema=MEASUREMENTS[estimator])


def write_metrics(
    run_dir: RunDir, segments: Sequence[tuple[str, Mapping[str, np.ndarray[Any, Any]], int]], *, suffix: str
) -> Part:
    """Publish the rows of several segments as a part.

    Args:
        run_dir: The run.
        segments: As for :func:`metric_rows`.
        suffix: What the file's name ends with; unique among the parts of the table.

    Returns:
        The part, to be named in the journal.

    Raises:
        OSError: The disk is full or gone; nothing is left behind.
    """
    return write_table(run_dir, "metrics", metric_rows(segments), suffix=suffix)


def write_measurements(run_dir: RunDir, estimator: str, rows: Sequence[Mapping[str, Any]], *, suffix: str) -> Part:
    """Publish rows of an estimator's table as a part.

    Args:
        run_dir: The run.
        estimator: Its name.
        rows: As for :func:`measurement_rows`.
        suffix: What the file's name ends with; unique among the parts of the table.

    Returns:
        The part, to be named in the journal.

    Raises:
        OSError: The disk is full or gone; nothing is left behind.
    """
    return write_table(run_dir, f"measurements/{estimator}", measurement_rows(estimator, rows), suffix=suffix)


def write_table(run_dir: RunDir, table: str, rows: pa.Table, *, suffix: str) -> Part:
    """Publish rows of any table as a part.

    Args:
        run_dir: The run.
        table: ``metrics`` or ``measurements/<estimator>``.
        rows: Its rows.
        suffix: What the file's name ends with; unique among the parts of the table.

    Returns:
        The part, to be named in the journal.

    Raises:
        OSError: The disk is full or gone; nothing is left behind.
    """
    name = f"{table.replace('/', '-')}-{suffix}.parquet"
    data = encode(rows)
    run_dir.publish(run_dir.parts / name, data)
    return Part(table=table, file=name, rows=rows.num_rows, xxh3=file_hash(data))


def encode(table: pa.Table) -> bytes:
    """A Parquet file: zstd, and one checksum per page, without which bit flips go unnoticed.

    Returns:
        The file's bytes.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def concatenate(tables: Iterable[pa.Table]) -> pa.Table:
    """The rows of all tables; columns that only some have are null in the others.

    Returns:
        One table, with the columns of the first table first.
    """
    return pa.concat_tables(tables, promote_options="default")


def sort_rows(table: pa.Table, trials: Sequence[str]) -> pa.Table:
    """Rows in the order of the plan, then by step; rows of unknown trials last.

    Returns:
        The same rows.
    """
    rank = pc.index_in(table["trial_id"], value_set=pa.array(list(trials), pa.string()))
    keys = pa.table({"rank": rank, "step": table["step"]})
    return table.take(pc.sort_indices(keys, sort_keys=[("rank", "ascending"), ("step", "ascending")]))


def read_parts(run_dir: RunDir, parts: Iterable[Part]) -> dict[str, list[pa.Table]]:
    """The committed rows by table, each file checked against the journal's hash.

    Returns:
        Table name to the parts' tables, in order.

    Raises:
        IntegrityError: A part is missing or damaged.
    """
    tables: dict[str, list[pa.Table]] = {}
    for part in parts:
        data = run_dir.read_checked(run_dir.parts / part.file, part.xxh3)
        rows = _decode(data, run_dir.parts / part.file)
        tables.setdefault(part.table, []).append(_without(rows, part.void) if part.void else rows)
    return tables


def _decode(data: bytes, path: Path) -> pa.Table:
    """The rows of a part; each belongs to a trial and a step."""
    try:
        rows = pq.read_table(pa.BufferReader(data))
    except _UNREADABLE as error:
        raise IntegrityError(f"{path}: cannot be read as rows: {error}") from error
    for column, kind in (("trial_id", pa.string()), ("step", pa.int64())):
        index = rows.schema.get_all_field_indices(column)
        if len(index) != 1 or rows.schema.field(index[0]).type != kind:
            raise IntegrityError(f"{path}: has no column {column} of type {kind}; it is not a part of a run")
    return rows


_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError)


def _without(rows: pa.Table, void: Mapping[str, int]) -> pa.Table:
    """The rows that still count: for trials that are trained again, those before the step where they restart."""
    place = pc.index_in(rows["trial_id"], value_set=pa.array(list(void), pa.string()))
    first_void = pa.array(list(void.values()), pa.int64()).take(place.combine_chunks())
    return rows.filter(pc.fill_null(pc.less(rows["step"], first_void), True))


def read_table(path: Path) -> pa.Table:
    """A readable table, its pages checked.

    Returns:
        The table.

    Raises:
        IntegrityError: The file is not a Parquet file, or is damaged.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except _UNREADABLE as error:
        raise IntegrityError(
            f"{path}: cannot be read: {error}; `clipsweep run` rewrites it from the committed parts"
        ) from error


def read_batches(
    path: Path, *, numbers_beside: Collection[str] | None = None, rows: int = 65_536
) -> Iterator[pa.Table]:
    """A readable table in batches, its pages checked, for what need not be in memory as a whole.

    Args:
        path: The table.
        numbers_beside: Columns that are wanted besides those of numbers and truth values; None for all columns.
        rows: The most rows of a batch.

    Yields:
        Its rows in order.

    Raises:
        IntegrityError: The file is not a Parquet file, or is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            columns = [
                field.name
                for field in file.schema_arrow
                if numbers_beside is None or field.name in numbers_beside or _is_number(field.type)
            ]
            if not file.metadata.num_rows:
                yield file.read(columns=columns)
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])
    except _UNREADABLE as error:
        raise IntegrityError(
            f"{path}: cannot be read: {error}; `clipsweep run` rewrites it from the committed parts"
        ) from error


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def refuse_other_rows(
    run_dir: RunDir, parts: Sequence[Part], table: str, again: pa.Table, *, trial: str, start: int, stop: int
) -> None:
    """Compare rows with those committed under the same keys; if they differ, keep both copies.

    Args:
        run_dir: The run.
        parts: The committed parts.
        table: ``metrics`` or ``measurements/<estimator>``.
        again: The new rows.
        trial: The trial they belong to.
        start: First step to compare.
        stop: One past the last.

    Raises:
        IntegrityError: They differ; the text names trial, table, step, column and both files.
    """
    committed = read_parts(run_dir, [part for part in parts if part.table == table and part.remeasurement is None])
    first = _rows_of(concatenate(committed.get(table, [again.slice(0, 0)])), trial, start, stop)
    if "measurement_id" in again.column_names:
        # Different settings of the same estimator have separate rows.
        first = first.filter(pc.is_in(first["measurement_id"], value_set=again["measurement_id"].combine_chunks()))
    second = _rows_of(again, trial, start, stop)
    # Earlier versions wrote null for an evaluation that gave NaN.
    own = {*again.column_names} - {*METRICS.names} if table == "metrics" else set()
    found = _difference(first.to_pylist(), second.to_pylist(), nullable=own)
    if found is None:
        return
    names = []
    for rows, which in ((first, "committed"), (second, "again")):
        name = f"{trial}-{table.replace('/', '-')}-{start}-{which}.parquet"
        run_dir.publish(run_dir.quarantine / name, encode(rows))
        names.append(name)
    raise IntegrityError(
        f"trial {trial} does not give the same rows twice: {table}, {found}; the committed rows stay, and both copies "
        f"are kept: {run_dir.quarantine / names[0]} and {names[1]}; `clipsweep check` with its spec looks for "
        "randomness in a problem"
    )


def _rows_of(table: pa.Table, trial: str, start: int, stop: int) -> pa.Table:
    """The rows of some steps of one trial, in order."""
    steps = table["step"]
    wanted = pc.and_(pc.greater_equal(steps, start), pc.less(steps, stop))
    return sort_rows(table.filter(pc.and_(wanted, pc.equal(table["trial_id"], trial))), [trial])


def _difference(
    first: list[dict[str, Any]], second: list[dict[str, Any]], *, nullable: Collection[str] = ()
) -> str | None:
    """Where rows first differ, in words; None if they are the same to the last bit, in some columns NaN as null.

    What rows committed by an earlier version do not say cannot differ.

    Returns:
        The words.
    """
    one, other = ({row["step"]: row for row in rows} for rows in (first, second))
    for step in sorted({*one, *other}):
        if step not in one or step not in other:
            return f"step {step} has a row {'only this time' if step not in one else 'only the first time'}"
        for column in dict.fromkeys([*one[step], *other[step]]):
            before, now = one[step].get(column), other[step].get(column)
            if column in _ADDED and before is None:
                continue
            if column in nullable and {repr(before), repr(now)} <= {"nan", "None"}:
                continue
            # The text of a float is exact, and as text NaN equals NaN.
            if repr(before) != repr(now):
                return f"step {step}, {column} was {before!r} and is now {now!r}"
    return None
