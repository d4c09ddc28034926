"""The kinds of values that a spec holds, each with messages that say what was found and what is accepted.

Pydantic's own conversions are too lenient here: they take true for 1 and "400" for 400.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sweeper.spec.syntax.diagnostics import shown

__all__ = [
    "AS_INTEGER",
    "AS_NUMBER",
    "AutoOrCount",
    "AutoOrFlag",
    "Count",
    "Flag",
    "FreeValue",
    "Gpus",
    "Index",
    "NonNegative",
    "Number",
    "Positive",
    "Section",
    "Share",
    "Text",
    "Threshold",
    "conflict",
    "missing",
    "nested",
    "wrong",
]

_MAX_INTEGER = 2**53
_QUOTED_NUMBER = re.compile(r"\s*[-+]?(\d[\d_ ]*)?([.,]\d*)?([eE][-+]?\d+)?\s*")


class Section(BaseModel):
    """A part of the spec: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


def conflict(message: str, *keys: str, hint: str = "") -> PydanticCustomError:
    """The error for values that are wrong in combination.

    Args:
        message: What is wrong.
        keys: The keys involved; the message is shown at one of them.
        hint: How to fix it.

    Returns:
        An error to be raised by a validator of a whole section.
    """
    return PydanticCustomError("conflict", "{message}", {"message": message, "keys": list(keys), "hint": hint})


def missing(key: str) -> PydanticCustomError:
    """The error for a key that other values make necessary.

    Args:
        key: What is missing.

    Returns:
        An error to be raised by a validator of a whole section.
    """
    return PydanticCustomError("required", "{key} is required", {"key": key})


def wrong(message: str, hint: str) -> PydanticCustomError:
    """The error for one value.

    Args:
        message: What is wrong with it, and what was found.
        hint: What is accepted.

    Returns:
        An error to be raised by the validator of a value.
    """
    return PydanticCustomError("wrong", "{message}", {"message": message, "hint": hint})


def _number(value: Any) -> Any:
    match value:
        case bool() | None | list() | dict():
            raise wrong(f"must be a number, found {shown(value)}", "")
        case str():
            raise wrong(f"must be a number, found the text {shown(value)}", _numeric_hint(value))
        case int() if abs(value) > 10**300:
            raise wrong(f"is too large, found {shown(value)}", "a number")
        case float() if not math.isfinite(value):
            raise wrong(f"must be finite, found {shown(value)}", "a finite number")
    # Minus zero would give the same training another id.
    return value + 0.0


def _integer(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value) and not value.is_integer():
        raise wrong(f"must be a whole number, found {shown(value)}", f"{math.floor(value)} or {math.ceil(value)}")
    if not isinstance(value, int) or isinstance(value, bool):
        value = int(_number(value))
    if abs(value) > _MAX_INTEGER:
        raise wrong(f"is too large, found {shown(value)}", f"at most {_MAX_INTEGER}")
    return value


def _numeric_hint(text: str) -> str:
    if text.strip() and _QUOTED_NUMBER.fullmatch(text):
        digits = re.sub(r"[_\s]", "", text).replace(",", ".")
        if re.search(r"\d", digits):
            return f"write {digits}"
    return ""


def _threshold(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(f"must be finite, found {shown(value)}", "null means none")
    if isinstance(value, str) and value.lower() in {"none", "no", "off", "inf", "infinity"}:
        raise wrong(f"must be a number, found the text {shown(value)}", "null means none")
    return value


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise wrong(f"must be true or false, found {shown(value)}", "write true or false")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise wrong(f"must be text, found {shown(value)}", "quotes make text of it")
    return value


def nested(key: str) -> str:
    """How to write a key with a dot, which no path of a sweep could reach.

    Args:
        key: The key.

    Returns:
        A hint.

    Example:
        >>> nested("opt.lr")
        'write opt: {lr: ...}, or a name without a dot'
    """
    outer, _, inner = str(key).partition(".")
    return f"write {outer}: {{{inner}: ...}}, or a name without a dot"


def _free(value: Any) -> Any:
    """Any value that JSON can hold and a table can show."""
    stack = [value]
    while stack:
        match stack.pop():
            case dict() as section:
                if dotted := next((key for key in section if "." in str(key)), None):
                    raise wrong(f"has the key {shown(dotted)}, whose dot would lead into a section", nested(dotted))
                stack.extend(section.values())
            case list() as items:
                stack.extend(items)
            case float() as number if not math.isfinite(number):
                raise wrong(f"must be finite, found {shown(number)}", "a finite number")
            case int() as number if abs(number) >= 2**63:
                raise wrong(f"is too large, found {shown(number)}", "a 64-bit integer")
    return value


def _auto_or_count(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, str):
        raise wrong(f"must be a number or auto, found the text {shown(value)}", _numeric_hint(value))
    if (count := _integer(value)) < 1:
        raise wrong(f"must be at least 1, found {shown(value)}", "auto, or how many")
    return count


def _auto_or_flag(value: Any) -> Any:
    if value != "auto" and not isinstance(value, bool):
        raise wrong(f"must be auto, true or false, found {shown(value)}", "write auto, true or false")
    return value


def _gpus(value: float) -> float:
    if value > 1:
        raise wrong(
            f"must be at most 1, found {shown(value)}",
            "a worker computes on one GPU, or shares it; for more GPUs raise count, or leave it auto",
        )
    if 0 < value < _LEAST_GPU:
        raise wrong(f"must be 0 or at least {_LEAST_GPU}, found {shown(value)}", "Ray counts no smaller shares")
    return value


_LEAST_GPU = 0.0001

AS_NUMBER = BeforeValidator(_number)
"""Makes a bounded ``float`` of the spec: ``Annotated[float, Field(gt=0), AS_NUMBER]``, the bounds innermost."""

AS_INTEGER = BeforeValidator(_integer)
"""The same for an ``int``."""

Number: TypeAlias = Annotated[float, AS_NUMBER]
Positive: TypeAlias = Annotated[float, Field(gt=0), AS_NUMBER]
NonNegative: TypeAlias = Annotated[float, Field(ge=0), AS_NUMBER]
Gpus: TypeAlias = Annotated[float, AfterValidator(_gpus), Field(ge=0), AS_NUMBER]
Share: TypeAlias = Annotated[float, Field(gt=0, le=1), AS_NUMBER]
Threshold: TypeAlias = Annotated[float, Field(gt=0), AS_NUMBER, BeforeValidator(_threshold)]
Count: TypeAlias = Annotated[int, Field(ge=1), AS_INTEGER]
Index: TypeAlias = Annotated[int, Field(ge=0), AS_INTEGER]
AutoOrCount: TypeAlias = Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_count)]
AutoOrFlag: TypeAlias = Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_flag)]
Flag: TypeAlias = Annotated[bool, BeforeValidator(_flag)]
Text: TypeAlias = Annotated[str, BeforeValidator(_text)]
FreeValue: TypeAlias = Annotated[Any, BeforeValidator(_free)]
