"""A column of a table: its Arrow type, unit and meaning, when it is null, and what of it stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

__all__ = ["FLAG", "NUMBER", "NUMBERS", "TEXT", "TEXTS", "TIME", "WHOLE", "Column", "describe_columns", "schema_of"]

NUMBER, WHOLE, FLAG, TEXT = pa.float64(), pa.int64(), pa.bool_(), pa.string()
NUMBERS, TEXTS = pa.list_(NUMBER), pa.list_(TEXT)
TIME = pa.timestamp("ms", tz="UTC")

NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column, as the files and the data dictionary (``docs/tables.md``) describe it.

    Attributes:
        name: Its name.
        type: Its Arrow type.
        meaning: One sentence or two.
        unit: The unit of its numbers; empty for none.
        null: When it is null, ``never`` by default.
        kind: What of it stays from version to version: a ``value`` means the same; an ``id`` is only ever equal or not;
            ``words`` are for people and may be put differently.
        shown: Commands that show it; empty for none.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    null: str = NEVER
    kind: Literal["value", "id", "words"] = "value"
    shown: str = ""


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of columns.

    Args:
        columns: The columns.

    Returns:
        Names and types in order, without descriptions, so that tables of any version have equal schemas.
    """
    return pa.schema([(column.name, column.type) for column in columns])


def describe_columns(table: pa.Table, columns: Iterable[Column]) -> pa.Table:
    """A table whose fields carry ``description`` and ``unit``, as Parquet keeps them for readers of Arrow.

    Args:
        table: Any rows.
        columns: What is known of its columns; others stay as they are.

    Returns:
        The same rows.

    Example:
        >>> named = [Column(name="loss", type=NUMBER, meaning="f(x)", unit="loss")]
        >>> describe_columns(pa.table({"loss": [1.0]}), named).schema.field("loss").metadata
        {b'description': b'f(x)', b'unit': b'loss'}
    """
    known = {column.name: column for column in columns}
    fields = [
        field.with_metadata(_metadata(known[field.name])) if field.name in known else field for field in table.schema
    ]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def _metadata(column: Column) -> Mapping[str, str]:
    return {"description": column.meaning} | ({"unit": column.unit} if column.unit else {})
