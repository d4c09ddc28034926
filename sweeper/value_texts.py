"""Values as short texts: sections by their type, numbers with few digits, and no two different values alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sweeper.formats import value_json
from sweeper.labels import appearance, plain_value, printable

__all__ = ["NO_CLIPPING", "Rule", "in_order", "key_of", "keys_of", "shortened", "texts_of", "without_middle"]

NO_CLIPPING = "no clipping"

_WIDTHS = (18, 28, 40, 60, 100)
"""To how many characters texts are shortened; the next where two would be equal."""

_SECTION_WIDTH = 60
"""Sections are in short already, and shortened only beyond that."""

_MAX_BRACKETS = 200
"""A list or section with more of them is shown as JSON."""

_DIGITS = (4, 6, 9, 12, 17)
"""Significant digits of numbers; the next where two would be equal."""

_MISSING = object()


class Rule(NamedTuple):
    """What is done to a gradient.

    Attributes:
        transform: For example ``clip_norm`` or ``clip_norm(momentum)``; empty for nothing.
        threshold: Its number, where it is known; of ``clip_threshold`` and ``clip_groups`` the section or list.
    """

    transform: str = ""
    threshold: float | dict[str, Any] | list[Any] | None = None


def key_of(value: Any) -> Hashable:
    """What is equal for equal values of one type: a user's own problem may tell 1, 1.0 and true apart.

    Args:
        value: A plain value.

    Returns:
        Something to look values up by.
    """
    is_nested = isinstance(value, dict | list) or (isinstance(value, Rule) and isinstance(value.threshold, dict | list))
    return type(value), json.dumps(value, sort_keys=True) if is_nested else value


def keys_of(column: Iterable[Any]) -> list[Hashable]:
    """:func:`key_of` each value of a table's column, NaN being null.

    Args:
        column: The values, as pandas holds them.

    Returns:
        Their keys, in the same order.

    Example:
        >>> keys_of([1, 1.0, float("nan"), None])
        [(<class 'int'>, 1), (<class 'float'>, 1.0), (<class 'NoneType'>, None), (<class 'NoneType'>, None)]
    """
    return [key_of(plain_value(value)) for value in column]


def in_order(values: Iterable[Any]) -> tuple[tuple[int, float, str], ...]:
    """A key that sorts cells by their values: null first, then numbers, then everything else as text.

    Args:
        values: The values of a cell, always of the same paths.

    Returns:
        The key.

    Example:
        >>> sorted([[2, "b"], [None, "a"], [2, "a"], [0.5, "a"]], key=in_order)
        [[None, 'a'], [0.5, 'a'], [2, 'a'], [2, 'b']]
    """
    return tuple(
        (0, 0.0, "")
        if value is None
        else (1, float(value), "")
        if isinstance(value, int | float) and not isinstance(value, bool)
        else (2, 0.0, str(value))
        for value in values
    )


def texts_of(values: Iterable[Any], *, least: int = 0) -> dict[Hashable, str]:
    r"""Different values as different texts of one line.

    Args:
        values: Plain values and rules.
        least: Characters up to which no text is shortened.

    Returns:
        :func:`key_of` each value to its text.

    Example:
        >>> list(texts_of([None, 0.0398107, 20.0]).values())
        ['none', '0.03981', '20']
        >>> list(texts_of([{"use": "constant"}, {"use": "cosine", "final_fraction": 0.01}]).values())
        ['constant', 'cosine(0.01)']
        >>> autoclip = {"use": "percentile", "percentile": 10.0, "window": None}
        >>> list(texts_of([Rule("clip_norm", 0.25), Rule("clip_threshold", autoclip), Rule()]).values())
        ['clip_norm=0.25', 'clip_threshold=percentile', 'no clipping']
        >>> list(texts_of([[{"match": "embedding.*", "clip_norm": 1.0}, {"match": "*", "clip_norm": 0.25}]]).values())
        ['[embedding.*: 1, *: 0.25]']
        >>> list(texts_of([1, 1.0, "1", [1], "[1]"]).values())
        ['1', '1.0', '"1"', '[1]', '"[1]"']
        >>> print(*texts_of(["\u00e9", "e\u0301", "\u65e5"]).values())
        "\u00e9" "e\u0301" "日"
    """
    distinct = {key_of(value): value for value in values}
    plain = list(distinct.values())
    texts = [_one_line(text) for text in _short(plain)]
    if not _look_different(texts):
        # Different values that look the same: 1 and 1.0, none and "none".
        texts = [_one_line(_exact(value)) for value in plain]
    if not _look_different(texts):
        # Two ways to encode a letter.
        looks = Counter(map(appearance, texts))
        texts = [
            text if looks[appearance(text)] == 1 else json.dumps(value, default=str)
            for text, value in zip(texts, plain, strict=True)
        ]
    nested = [value.threshold if isinstance(value, Rule) else value for value in distinct.values()]
    if any(isinstance(value, dict | list) for value in nested):
        least = max(least, _SECTION_WIDTH)
    return dict(zip(distinct, shortened(texts, least=least), strict=True))


def shortened(texts: Iterable[str], *, least: int = 0) -> list[str]:
    """Texts without their middles, as far as no two become equal.

    Args:
        texts: The texts.
        least: Characters up to which none is shortened.

    Returns:
        The texts in the same order.

    Example:
        >>> shortened(["penn_treebank_with_split_a", "penn_treebank_with_split_b"])
        ['penn_tree…_split_a', 'penn_tree…_split_b']
    """
    whole = list(texts)
    for width in _WIDTHS:
        short = [without_middle(text, max(width, least)) for text in whole]
        if len(set(short)) == len(set(whole)):
            return short
    return whole


def without_middle(text: str, width: int) -> str:
    """A text that is too long without its middle: what tells it from others is often at its ends.

    Args:
        text: The text.
        width: Characters that it may have.

    Returns:
        The text, at most that long.

    Example:
        >>> without_middle("learning_rate=1 seed=2", 14)
        'learnin…seed=2'
    """
    return text if len(text) <= width else f"{text[: width // 2]}…{text[len(text) - (width - 1) // 2 :]}"


def _short(values: Sequence[Any]) -> list[str]:
    """Numbers with as many digits as it takes, sections by their type and what differs, anything else as it is."""
    floats = [value for value in values if isinstance(value, float)]
    thresholds = [value.threshold for value in values if isinstance(value, Rule)]
    numbers = _numbers([*floats, *(float(one) for one in thresholds if isinstance(one, int | float))])
    sections = _sections([value for value in (*values, *thresholds) if isinstance(value, dict)])
    texts = []
    for value in values:
        match value:
            case dict():
                texts.append(sections[_exact(value)])
            case list():
                texts.append(_list_text(value))
            case float():
                texts.append(numbers[value])
            case Rule():
                match value.threshold:
                    case None:
                        threshold = ""
                    case dict():
                        threshold = f"={sections[_exact(value.threshold)]}"
                    case list():
                        threshold = f"={_list_text(value.threshold)}"
                    case number:
                        threshold = f"={numbers[float(number)]}"
                texts.append(f"{value.transform}{threshold}" if value.transform else NO_CLIPPING)
            case None:
                texts.append("none")
            case bool():
                texts.append("true" if value else "false")
            case "":
                texts.append('""')
            case _:
                texts.append(str(value))
    return texts


def _list_text(values: list[Any]) -> str:
    """A list by its items in short; one that is nested too deeply as JSON."""
    if values and all(isinstance(value, dict) and len(value) == 2 and "match" in value for value in values):
        # A pattern of names, and what is set where it matches.
        pairs = [(group["match"], *(one for key, one in group.items() if key != "match")) for group in values]
        return f"[{', '.join(f'{pattern}: {_short([value])[0]}' for pattern, value in pairs)}]"
    text = _exact(values)
    return f"[{','.join(_short(values))}]" if text.count("[") + text.count("{") <= _MAX_BRACKETS else text


def _numbers(values: Sequence[float]) -> dict[float, str]:
    distinct = list(dict.fromkeys(values))
    for digits in _DIGITS:
        texts = [f"{value:.{digits}g}" for value in distinct]
        if len(set(texts)) == len(texts):
            break
    return dict(zip(distinct, texts, strict=True)) if distinct else {}


def _sections(sections: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Each section by its type, with the first of its options that tell it from others of this type."""
    by_type: dict[str, list[dict[str, Any]]] = {}
    for section in {_exact(section): section for section in sections}.values():
        by_type.setdefault(str(section.get("use", "")), []).append(section)
    texts = {}
    for kind, alike in by_type.items():
        options = [_flat({key: value for key, value in section.items() if key != "use"}) for section in alike]
        names = list(dict.fromkeys(name for option in options for name in option))
        shown = _telling(names, options) if len(alike) > 1 else names if len(names) == 1 or not kind else []
        columns = {name: _short([option.get(name) for option in options]) for name in shown}
        for at, section in enumerate(alike):
            is_plain = {name: len(names) == 1 or name == kind for name in columns}
            pairs = [column[at] if is_plain[name] else f"{name}={column[at]}" for name, column in columns.items()]
            texts[_exact(section)] = f"{kind}({','.join(pairs)})" if pairs else kind or "{}"
    return texts


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all options of a section and of those inside it."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _telling(names: Sequence[str], options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first name whose values all differ; otherwise the first names whose values together do."""

    def is_enough(chosen: Sequence[str]) -> bool:
        return len({repr([option.get(name, _MISSING) for name in chosen]) for option in options}) == len(options)

    differing = [name for name in names if len({repr(option.get(name, _MISSING)) for option in options}) > 1]
    for name in differing:
        if is_enough([name]):
            return [name]
    for count in range(2, len(differing) + 1):
        if is_enough(differing[:count]):
            return differing[:count]
    return differing


def _exact(value: Any) -> str:
    """A value so that no other one looks like it."""
    if isinstance(value, Rule):
        return f"{value.transform}={value_json(value.threshold)}" if value.transform else NO_CLIPPING
    return value_json(value)


def _look_different(texts: Sequence[str]) -> bool:
    return len(set(map(appearance, texts))) == len(texts)


def _one_line(text: str) -> str:
    """A text that cannot pretend to be a line of its own."""
    return printable(text.replace("\n", "\\n"))
