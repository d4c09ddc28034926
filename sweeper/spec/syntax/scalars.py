"""What a plain scalar means: the core schema of YAML 1.2.

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``010`` is 8, ``12:30:45`` is 45045, and ``no`` is false.
"""

from __future__ import annotations

import re

__all__ = ["resolve"]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
# Far beyond any number in a spec, and below the length at which Python refuses to convert.
_MAX_DIGITS = 400


def resolve(text: str) -> bool | int | float | str | None:
    """The value of an unquoted, untagged scalar.

    Args:
        text: The scalar as it is written.

    Returns:
        Null, a boolean, an integer, a float (infinite and NaN ones too), or the text itself.

    Raises:
        ValueError: A number of more than 400 characters.

    Example:
        >>> [resolve(text) for text in ("1e-3", "010", "0o17", "0x1f", "12:30:45", "no", "~")]
        [0.001, 10, 15, 31, '12:30:45', 'no', None]
    """
    if text in _NULL:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _NAN:
        return float("nan")
    if infinity := _INFINITY.fullmatch(text):
        return float(f"{infinity[1]}inf")
    for pattern, base in ((_DECIMAL, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            return int(_short(text), base)
    return float(_short(text)) if _FLOAT.fullmatch(text) else text


def _short(text: str) -> str:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} characters; at most {_MAX_DIGITS} are read")
    return text
