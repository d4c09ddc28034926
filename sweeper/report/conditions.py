"""``--where``: which trials have a value, written as in the spec or as a table shows it."""

from __future__ import annotations

import datetime as dt
import math
import operator
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweeper.errors import ClipsweepError, SpecError
from sweeper.labels import plain_value, printable
from sweeper.report.condition_grammar import ORDERS, Comparison, ConditionError, parse_condition
from sweeper.spec.syntax.diagnostics import nearest
from sweeper.spec.syntax.reader import read
from sweeper.spec.syntax.tree import Source, plain
from sweeper.value_texts import key_of, keys_of, texts_of, without_middle

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["column_of", "conditions_of", "filtered"]

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
        closest = nearest(name, [*by_short, *map(str, trials.columns)])
        hint = f"; did you mean {closest!r}?" if closest else ""
        raise ClipsweepError(f"no column {name!r}; known: {known}{hint}")
    return found


def conditions_of(where: Sequence[str], trials: pd.DataFrame, names: Mapping[str, str]) -> tuple[Comparison, ...]:
    """What conditions ask for, all of it together.

    Args:
        where: Conditions, as :mod:`~sweeper.report.condition_grammar` describes them.
        trials: All trials, swept values under their paths.
        names: Swept path to short name.

    Returns:
        The comparisons, whose columns are those of ``trials``.

    Raises:
        ClipsweepError: A condition is malformed, or names a column that there is not.
    """
    by_short = {short: path for path, short in names.items()}
    distinct: dict[str, dict[Hashable, Any]] = {}
    with_and: dict[str, bool] = {}

    def holds(name: str, text: str) -> bool:
        column = by_short.get(name, name)
        if column not in trials.columns:
            return False
        if column not in distinct:
            distinct[column] = _distinct(trials[column])
            with_and[column] = any(" and " in str(value).lower() for value in distinct[column].values())
        if not with_and[column] and " and " in text.lower():
            return False
        try:
            return bool(_meant(text, distinct[column]))
        except _SeveralError:
            return True

    known = [*by_short, *map(str, trials.columns)]
    parsed = (one for text in where for one in parse_condition(text, known, holds))
    return tuple(replace(one, column=_known_column(one, trials, names)) for one in parsed)


def _known_column(one: Comparison, trials: pd.DataFrame, names: Mapping[str, str]) -> str:
    try:
        return column_of(one.column, trials, names)
    except ClipsweepError as error:
        raise ConditionError(one.condition, one.column_at, str(error)) from None


def filtered(
    trials: pd.DataFrame, comparison: Comparison, names: Mapping[str, str], every: pd.DataFrame
) -> pd.DataFrame:
    """The trials that satisfy a comparison.

    A value is one that tables show, of these or of all trials, or one in the spec's YAML; a number may have the four
    digits of a table. Null, and what is no number, is neither smaller nor larger than anything, and unequal to every
    other value.

    Args:
        trials: The trials, swept values under their paths.
        comparison: What is compared, with a column of ``trials``.
        names: Swept path to short name.
        every: All trials, before other conditions.

    Returns:
        Their rows.

    Raises:
        ClipsweepError: A value means several ones, no trial at all has it, or the column has no order.
    """
    column = comparison.column
    name = names.get(column, column)
    if comparison.operator in ORDERS:
        satisfies = _order(comparison, name, _distinct(every[column]))
        return trials[[satisfies(plain_value(value)) for value in trials[column]]]
    known = [_distinct(trials[column]), _distinct(every[column])]
    meant = {key for text, at in comparison.values for key in _found(comparison, name, text, at, known)}
    wanted = comparison.operator in {"=", "in"}
    return trials[[(key in meant) == wanted for key in keys_of(trials[column])]]


def _distinct(column: pd.Series[Any]) -> dict[Hashable, Any]:
    return {key_of(value): value for value in map(plain_value, column)}


def _found(
    comparison: Comparison, name: str, text: str, at: int, known: Sequence[Mapping[Hashable, Any]]
) -> set[Hashable]:
    """The keys of the values that a text means, of the first ones that there are any of."""
    for values in known:
        try:
            if meant := _meant(text, values):
                return meant
        except _SeveralError as error:
            raise ConditionError(comparison.condition, None, f"means {error}; write all digits") from None
    what = "this value" if len(comparison.values) == 1 else f"the value {text!r}"
    hint = ""
    if re.search(r"\sor\s", text):
        hint = "; there is no 'or': `column in [a, b]` has alternatives"
    elif text[:1] in {"<", ">"}:
        hint = "; the operators are <, <=, > and >="
    raise ConditionError(comparison.condition, None, f"no trial has {what}; {_listed(name, known[-1])}{hint}")


_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.lt,
    ">": operator.gt,
    ">=": operator.gt,
}


def _order(comparison: Comparison, name: str, values: Mapping[Hashable, Any]) -> Callable[[Any], bool]:
    """Whether a value of a column lies on one side of a limit, or, for ``<=`` and ``>=``, is it."""
    ((text, at),) = comparison.values
    has_times = any(isinstance(value, dt.datetime) and value == value for value in values.values())
    if not has_times and not any(map(_is_number, values.values())):
        raise ConditionError(
            comparison.condition,
            comparison.column_at,
            f"{printable(name)} has no numbers, which {comparison.operator} compares: use =, !=, in [...] or not in "
            f"[...]; {_listed(name, values)}",
        )
    limit: Any = _moment(text) if has_times else _written(text)
    if limit is None or not (has_times or (_is_number(limit) and limit == limit)):
        what = "a time such as 2026-01-31T12:00" if has_times else "a number"
        hint = f"; {printable(name)} != none leaves null out" if text in {"none", "null"} else ""
        raise ConditionError(comparison.condition, at, f"expected {what} behind {comparison.operator}{hint}")
    kind = dt.datetime if has_times else int | float
    try:
        equal = {key for key, value in values.items() if isinstance(value, kind) and value == limit}
        equal = equal or (set() if has_times else _alike(limit, values))
    except _SeveralError as error:
        raise ConditionError(comparison.condition, at, f"means {error}; write all digits") from None

    def satisfies(value: Any) -> bool:
        if not isinstance(value, kind) or isinstance(value, bool) or value != value:
            return False
        if key_of(value) in equal:
            return comparison.operator.endswith("=")
        return _COMPARED[comparison.operator](value, limit)

    return satisfies


def _moment(text: str) -> dt.datetime | None:
    """A moment in ISO 8601, UTC where no zone is given."""
    try:
        moment = dt.datetime.fromisoformat(text.strip("'\""))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


class _SeveralError(ValueError):
    """A number that tables print in the place of several ones."""


def _meant(text: str, values: Mapping[Hashable, Any]) -> set[Hashable]:
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
    return _alike(written, values) if _is_number(written) else set()


def _written(text: str) -> Any:
    """What a text means in a spec; the text itself if it is not YAML."""
    try:
        node = read(Source(name="--where", text=text))
    except SpecError:
        return text
    return text if node is None else plain(node)


def _alike(number: float, values: Mapping[Hashable, Any]) -> set[Hashable]:
    """The value that tables print like a number, with four digits."""
    printed = {
        key: value
        for key, value in values.items()
        if isinstance(value, float) and math.isfinite(value) and f"{value:.4g}" == f"{float(number):.4g}"
    }
    if len(printed) > 1:
        raise _SeveralError(" or ".join(repr(value) for value in printed.values()))
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
