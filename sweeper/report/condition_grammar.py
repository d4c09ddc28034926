"""The grammar of ``--where``: comparisons of a column with a value or with a list of values, joined by ``and``.

    condition  = comparison { "and" comparison }
    comparison = column ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" ) value | column [ "not" ] "in" "[" values "]"

A value is not quoted as a rule, and may hold anything; so where it ends is decided by what values there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from sweeper.errors import ClipsweepError

__all__ = ["ORDERS", "Comparison", "ConditionError", "parse_condition"]

ORDERS = ("<", "<=", ">", ">=")
"""Operators that compare numbers and times."""

_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|=|<|>)\s*|\s+(not\s+in|in)(?=\s|\[|$)\s*", re.IGNORECASE)
_NAME = re.compile(r"[^\s<>=!]+")
_AND = re.compile(r"\s+and(?:\s+|$)", re.IGNORECASE)

_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_BEFORE_QUOTES = "[{(,:="

_OPERATORS = "=, !=, <, <=, >, >=, in [...] or not in [...]"


class ConditionError(ClipsweepError):
    """A condition that cannot be read, or that asks a column for what it does not have.

    Args:
        condition: The condition.
        at: Index of the character at which it goes wrong; None for the condition as a whole.
        what: What is wrong, and what would be accepted.
    """

    def __init__(self, condition: str, at: int | None, what: str) -> None:
        place = "" if at is None else f"at character {at + 1}: "
        super().__init__(f"--where {condition!r}: {place}{what}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A column compared with a value, or with several.

    Attributes:
        condition: The whole condition, for messages.
        column: The column, as it was written.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` or ``not in``.
        values: The texts of the values, each with its place in the condition; one unless the operator is ``in``.
        column_at: The place of the column in the condition.
    """

    condition: str
    column: str
    operator: str
    values: tuple[tuple[str, int], ...]
    column_at: int


def parse_condition(
    condition: str, columns: Collection[str], holds: Callable[[str, str], bool]
) -> tuple[Comparison, ...]:
    """Read a condition.

    Args:
        condition: The text.
        columns: Names of columns, which may hold characters of operators; others are read up to an operator.
        holds: Whether a column has a value that a text means. ``and`` belongs to a value that holds it.

    Returns:
        The comparisons, all of which are to be satisfied.

    Raises:
        ConditionError: The text is no condition.

    Example:
        >>> read = lambda text: [
        ...     (one.column, one.operator, *(value for value, _ in one.values))
        ...     for one in parse_condition(text, ["rate", "case"], lambda column, value: value == "clip and decay")
        ... ]
        >>> read("rate>=0.1 and case = clip and decay")
        [('rate', '>=', '0.1'), ('case', '=', 'clip and decay')]
        >>> read("rate not in [1, [2, 3]]")
        [('rate', 'not in', '1', '[2, 3]')]
        >>> read("rate<1 and")
        Traceback (most recent call last):
        ...
        sweeper.report.condition_grammar.ConditionError: --where 'rate<1 and': at character 11: expected column=value, \
for example learning_rate=20
    """
    found: list[Comparison] = []
    at = 0
    while True:
        comparison, at = _comparison(condition, at, columns, holds)
        found.append(comparison)
        if at < 0:
            return tuple(found)


def _comparison(
    text: str, at: int, columns: Collection[str], holds: Callable[[str, str], bool]
) -> tuple[Comparison, int]:
    """The comparison at a place, and where the next one begins; -1 where there is none."""
    at += len(text[at:]) - len(text[at:].lstrip())
    name, operator = _column(text, at, columns)
    start = operator.end()
    written = " ".join((operator[1] or operator[2]).lower().split())
    if written in {"in", "not in"}:
        values, end = _list(text, start, written)
        following = _AND.match(text, end)
        if following is None and text[end:].strip():
            raise ConditionError(text, end, f"expected 'and' or the end behind the list, found {text[end:].strip()!r}")
    else:
        ends = [(found.start(), found) for found in _ands(text, start)]
        whole: list[tuple[int, re.Match[str] | None]] = [*ends, (len(text), None)]
        # A value may begin with the sign.
        if written == "==" and holds(name, text[operator.start(1) + 1 :].strip()):
            written, start, whole = "=", operator.start(1) + 1, whole[-1:]
        known = [] if written in ORDERS else [one for one in whole if holds(name, text[start : one[0]].strip())]
        end, following = known[-1] if known else whole[0]
        values = ((text[start:end].strip(), start),)
        if not values[0][0]:
            raise ConditionError(text, start, f"expected a value behind {written}; none means null, '\"\"' no text")
    comparison = Comparison(
        condition=text, column=name, operator=written.replace("==", "="), values=values, column_at=at
    )
    return comparison, -1 if following is None else following.end()


def _column(text: str, at: int, columns: Collection[str]) -> tuple[str, re.Match[str]]:
    """The name at a place, the longest that is known, and the operator behind it."""
    written = _NAME.match(text, at)
    known = [name for name in columns if text.startswith(name, at)]
    names = [*sorted(known, key=len, reverse=True), *([written[0]] if written else [])]
    for name in names:
        if operator := _OPERATOR.match(text, at + len(name)):
            return name, operator
    if at >= len(text) or written is None:
        raise ConditionError(text, at, "expected column=value, for example learning_rate=20")
    end = at + len(names[0])
    raise ConditionError(text, end, f"expected column=value, for example learning_rate=20: one of {_OPERATORS}")


def _list(text: str, start: int, operator: str) -> tuple[tuple[tuple[str, int], ...], int]:
    """The values in brackets, and where these end."""
    if not text.startswith("[", start):
        raise ConditionError(text, start, f"expected a list behind {operator!r}, as in {operator} [1, 20]")
    depths = list(_depths(text, start))
    end = next((at for at, depth in depths if depth == 0), None)
    if end is None:
        raise ConditionError(text, start, "this list is not closed: expected ']'")
    commas = [at for at, depth in depths if depth == 1 and text[at] == "," and at < end]
    values = []
    for low, high in zip([start, *commas], [*commas, end], strict=True):
        value = text[low + 1 : high]
        if not value.strip():
            raise ConditionError(text, high, "expected a value; none means null")
        values.append((value.strip(), low + 1 + len(value) - len(value.lstrip())))
    return tuple(values), end + 1


def _ands(text: str, start: int) -> Iterator[re.Match[str]]:
    """Every ``and`` outside brackets and quotes."""
    depths = dict(_depths(text, start))
    is_balanced = not depths or depths[max(depths)] == 0
    for found in _AND.finditer(text, start):
        if depths.get(found.start(), 0) == 0 or not is_balanced:
            yield found


def _depths(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Each character's place, and in how many brackets and quotes it is; a closing one counts as outside."""
    closing: list[str] = []
    before = "["
    for at in range(start, len(text)):
        character = text[at]
        if closing and character == closing[-1]:
            closing.pop()
        elif closing and closing[-1] in "'\"":
            pass
        elif character in _BRACKETS:
            closing.append(_BRACKETS[character])
        elif character in "'\"" and before in _BEFORE_QUOTES:
            closing.append(character)
        yield at, len(closing)
        before = before if character.isspace() else character
