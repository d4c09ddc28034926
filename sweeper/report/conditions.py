"""``--where``: which trials have a value, written as in the spec or as a table shows it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.errors import ClipsweepError, SpecError
from sweeper.labels import plain_value, printable
from sweeper.spec.syntax.reader import read
from sweeper.spec.syntax.tree import Source, plain
from sweeper.value_texts import key_of, keys_of, texts_of, without_middle

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["column_of", "filtered"]

_MOST_LISTED = 8
_LISTED_WIDTH = 40


def column_of(name: str, trials: pd.DataFrame, names: Mapping[str, str]) -> str:
    """The column that a user means.

    Args:
        name: Short name or path of what is swept, or a column of the trials table.
        trials: The trials, swept values under their paths.
        names: Swept path to short name.

    Returns:
        A column of ``trials``.

    Raises:
        ClipsweepError: There is no such column.
    """
    by_short = {short: path for path, short in names.items()}
    found = by_short.get(name, name)
    if found not in trials.columns:
        case = ["case"] if trials["case"].notna().any() else []
        known = ", ".join([*case, *names.values(), "arm", "seed", "status"])
        raise ClipsweepError(f"no column {name!r}; known: {known}")
    return found


def filtered(trials: pd.DataFrame, condition: str, names: Mapping[str, str], every: pd.DataFrame) -> pd.DataFrame:
    """The trials that satisfy a condition.

    Args:
        trials: The trials, swept values under their paths.
        condition: ``column=value``. The value is one that tables show, of these or of all trials, or one in the spec's
            YAML; a number may have the four digits of a table.
        names: Swept path to short name.
        every: All trials, before other conditions.

    Returns:
        Their rows.

    Raises:
        ClipsweepError: The column is unknown, the condition is malformed or means several values, or no trial at all
            has the value.
    """
    name, mark, text = (part.strip() for part in condition.partition("="))
    if not mark:
        raise ClipsweepError(f"--where {condition!r}: expected column=value, for example learning_rate=20")
    column = column_of(name, trials, names)
    for known in (trials, every):
        values = _distinct(known[column])
        if meant := _meant(condition, text, values):
            return trials[[key in meant for key in keys_of(trials[column])]]
    raise ClipsweepError(f"--where {condition!r}: no trial has this value; {_listed(name, values)}")


def _distinct(column: pd.Series[Any]) -> dict[Hashable, Any]:
    return {key_of(value): value for value in map(plain_value, column)}


def _meant(condition: str, text: str, values: Mapping[Hashable, Any]) -> set[Hashable]:
    """The keys of the values that a text means, by the first rule that finds any."""
    shown = texts_of(values.values())
    written = _written(text)
    rules = (
        lambda value: shown[key_of(value)] == text,
        lambda value: key_of(value) == key_of(written),
        lambda value: _is_number(value) and _is_number(written) and value == written,
        lambda value: (value is None or isinstance(value, bool)) and str(value).lower() == text.lower(),
        lambda value: str(value) == text,
    )
    for rule in rules:
        if found := {key for key, value in values.items() if rule(value)}:
            return found
    return _alike(condition, written, values) if _is_number(written) else set()


def _written(text: str) -> Any:
    """What a text means in a spec; the text itself if it is not YAML."""
    try:
        node = read(Source(name="--where", text=text))
    except SpecError:
        return text
    return text if node is None else plain(node)


def _alike(condition: str, number: float, values: Mapping[Hashable, Any]) -> set[Hashable]:
    """The value that tables print like a number, with four digits."""
    printed = {
        key: value
        for key, value in values.items()
        if isinstance(value, float) and math.isfinite(value) and f"{value:.4g}" == f"{float(number):.4g}"
    }
    if len(printed) > 1:
        raise ClipsweepError(
            f"--where {condition!r}: means {' or '.join(repr(value) for value in printed.values())}; write all digits"
        )
    return set(printed)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(name: str, values: Mapping[Hashable, Any]) -> str:
    """What a column has, as tables show it."""
    texts = list(texts_of(values.values()).values())
    more = f" and {len(texts) - _MOST_LISTED} more" if len(texts) > _MOST_LISTED else ""
    return (
        f"{printable(name)} is {_either([without_middle(text, _LISTED_WIDTH) for text in texts[:_MOST_LISTED]])}{more}"
    )


def _either(texts: Sequence[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} or {last}" if first else last
