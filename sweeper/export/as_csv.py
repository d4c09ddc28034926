"""For spreadsheets: a CSV file per table, in the form of ``--format csv``, a batch of rows at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sweeper.errors import ClipsweepError
from sweeper.export.destination import Destination
from sweeper.formats import defused, value_json
from sweeper.store.run_dir import RunDir
from sweeper.tables.parts import read_batches
from sweeper.tables.run import Run

__all__ = ["export"]


def export(run: Run, to: Destination) -> int:
    """Write every table of a run.

    Args:
        run: The run.
        to: Where they go.

    Returns:
        The number of trials.

    Raises:
        ClipsweepError: No table is written yet.
    """
    run_dir = RunDir(run.path)
    tables = [name for name in ("trials", "metrics", "telemetry") if run.has(name)]
    tables += [f"measurements/{name}" for name in run.estimators]
    if not tables:
        raise ClipsweepError(f"{run.path}: no table is written yet; they follow the first results")
    for table in tables:
        *folder, name = table.split("/")
        _write(run_dir.table(table), to.new_file(*folder, f"{name}.csv"))
    return len(run.state.trials)


def _write(source: Path, target: Path) -> None:
    quoted = _with_empty_texts(source)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for number, batch in enumerate(read_batches(source)):
            if not number:
                writer.writerow([defused(name) for name in batch.column_names])
            cells = [_cells(batch[name], is_quoted=name in quoted) for name in batch.column_names]
            writer.writerows(zip(*cells, strict=True))


def _with_empty_texts(source: Path) -> set[str]:
    """Columns in which a text looks like what is missing, so that all their texts are written in quotes."""
    found: set[str] = set()
    for batch in read_batches(source):
        for name, column in zip(batch.column_names, batch.columns, strict=True):
            if name not in found and pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py():
                found.add(name)
    return found


def _cells(column: pa.ChunkedArray, *, is_quoted: bool) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_integer(column.type):
        return values
    if pa.types.is_floating(column.type):
        return ["" if value is None or value != value else value for value in values]
    if pa.types.is_string(column.type) and not is_quoted:
        # The same few texts, ids above all, stand in most rows.
        known = {value: defused(value) for value in set(values)}
        return [known[value] for value in values]
    show: Callable[[Any], str] = str if pa.types.is_timestamp(column.type) else value_json
    return ["" if value is None else defused(show(value)) for value in values]
