"""A frame as spreadsheets take it: no time zones, no lists, no formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sweeper.formats import defused, value_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["for_spreadsheet"]


def for_spreadsheet(frame: pd.DataFrame) -> pd.DataFrame:
    r"""A table of a run for Excel, LibreOffice and other programs that know only plain cells.

    ``for_spreadsheet(run.trials).to_excel("trials.xlsx")`` works where ``run.trials.to_excel(...)`` raises: Excel
    has no times with a zone.

    Args:
        frame: Any frame, for example one of :class:`~sweeper.tables.run.Run`; not changed.

    Returns:
        The same rows and columns. Times are UTC without a zone, lists are texts of JSON, control characters are written
        out, and a text that a spreadsheet would run as a formula begins with a quote. Everything else is as it was.

    Example:
        >>> import pandas as pd
        >>> at = pd.to_datetime(["2026-01-01T12:00+01:00"])
        >>> trials = pd.DataFrame({"at": at, "name": ["=1+1"], "list": [[0.5, None]]})
        >>> print(for_spreadsheet(trials).to_csv(index=False))
        at,name,list
        2026-01-01 11:00:00,'=1+1,"[0.5, null]"
        <BLANKLINE>
    """
    import pandas as pd

    plain = frame.copy()
    for position in range(frame.shape[1]):
        column = frame.iloc[:, position]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            plain.isetitem(position, column.dt.tz_convert("UTC").dt.tz_localize(None).array)
        elif not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_dtype(column)):
            plain.isetitem(position, pd.array([_cell(value) for value in column], dtype=object))
    plain.columns = pd.Index([defused(name) for name in frame.columns])
    return plain


def _cell(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | dict):
        return value_json(value)
    return None if value is None or value != value else defused(value)
