"""Rows of steps that are trained a second time: on the same processor they are those of the first, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sweeper.errors import IntegrityError
from sweeper.journal import Part
from sweeper.run_dir import RunDir
from sweeper.tables import concatenate, encode, read_parts, sort_rows

__all__ = ["refuse_other_rows"]


def refuse_other_rows(
    run_dir: RunDir, parts: Sequence[Part], table: str, again: pa.Table, *, trial: str, start: int, stop: int
) -> None:
    """Compare rows with those that are committed under the same keys; where they differ, keep both copies.

    Args:
        run_dir: The run.
        parts: What is committed.
        table: ``metrics`` or ``measurements/<estimator>``.
        again: The rows that came back.
        trial: Whose they are.
        start: First step to compare.
        stop: One past the last.

    Raises:
        IntegrityError: They differ; the text names trial, table, step, column and both files.
    """
    committed = read_parts(run_dir, [part for part in parts if part.table == table and part.remeasurement is None])
    first = _of(concatenate(committed.get(table, [again.slice(0, 0)])), trial, start, stop)
    if "measurement_id" in again.column_names:
        # Other settings of the same estimator have rows of their own.
        first = first.filter(pc.is_in(first["measurement_id"], value_set=again["measurement_id"].combine_chunks()))
    second = _of(again, trial, start, stop)
    found = _difference(first.to_pylist(), second.to_pylist())
    if found is None:
        return
    names = []
    for rows, which in ((first, "committed"), (second, "again")):
        name = f"{trial}-{table.replace('/', '-')}-{start}-{which}.parquet"
        run_dir.publish(run_dir.quarantine / name, encode(rows))
        names.append(name)
    raise IntegrityError(
        f"trial {trial} does not give the same rows twice: {table}, {found}; what is committed stays, both copies "
        f"are kept: {run_dir.quarantine / names[0]} and {names[1]}; `clipsweep check` with its spec looks for what is "
        "random in a problem"
    )


def _of(table: pa.Table, trial: str, start: int, stop: int) -> pa.Table:
    """The rows of some steps of one trial, in order."""
    steps = table["step"]
    wanted = pc.and_(pc.greater_equal(steps, start), pc.less(steps, stop))
    return sort_rows(table.filter(pc.and_(wanted, pc.equal(table["trial_id"], trial))), [trial])


def _difference(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> str | None:
    """Where rows differ first, in words; None where they are the same to the last bit."""
    one, other = ({row["step"]: row for row in rows} for rows in (first, second))
    for step in sorted({*one, *other}):
        if step not in one or step not in other:
            return f"step {step} has a row {'only this time' if step not in one else 'only the first time'}"
        for column in dict.fromkeys([*one[step], *other[step]]):
            before, now = one[step].get(column), other[step].get(column)
            # Its text says all of a float, and NaN is NaN there.
            if repr(before) != repr(now):
                return f"step {step}, {column} was {before!r} and is {now!r} now"
    return None
