"""What a line of the journal must hold before it is trusted: keys, types, ranges, and harmless names.

Hashes detect accidents. A forged journal has valid hashes too, so everything that readers rely on is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from sweeper.store.run_dir import checked_name, checked_table

__all__ = ["check_driver", "check_live", "check_record"]

_Check = Callable[[Any], object]
_LAST_MOMENT = 253_402_300_800  # the end of the year 9999, beyond which there are no dates


def check_record(record: Mapping[str, Any]) -> None:
    """Check a record of the journal.

    Args:
        record: As it was read; unknown keys are ignored.

    Raises:
        ValueError: Its type is unknown, a key is missing, or a value is invalid; the text says where.
    """
    shape = _RECORDS.get(record["type"]) if isinstance(record["type"], str) else None
    if shape is None:
        raise ValueError(f"a record of an unknown type {record['type']!r:.80}")
    _section(shape, _OPTIONAL.get(record["type"]))(record)


def check_driver(document: Any) -> None:
    """Check what a driver wrote about itself in ``driver.json``.

    Args:
        document: As it was read.

    Raises:
        ValueError: A key is missing, or a value is invalid.
    """
    _section({"host": _text, "pid": _whole}, {"created": _number, "job": _text})(document)


def check_live(document: Any) -> None:
    """Check what a driver wrote about its progress in ``live.json``.

    Args:
        document: As it was read.

    Raises:
        ValueError: A key is missing, or a value is invalid.
    """
    active = _section({"trial": _text, "step": _whole, "steps": _whole, "loss": _maybe(_real)}, {"trial_id": _text})
    _section({"active": _list(active)}, {"waiting_for": _maybe(_text), "left_s": _maybe(_number)})(document)


def _refuse(what: str, value: object) -> None:
    raise ValueError(f"must be {what}, found {value!r:.80}")


def _text(value: Any) -> None:
    if not isinstance(value, str):
        _refuse("text", value)


def _whole(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        _refuse("a non-negative whole number", value)


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_float(value)):
        _refuse("a finite number", value)


def _real(value: Any) -> None:
    """Accepts infinity and NaN, too: losses may diverge."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse("a number", value)


def _moment(value: Any) -> None:
    _number(value)
    if not 0 <= value < _LAST_MOMENT:
        _refuse("seconds since 1970", value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _flag(value: Any) -> None:
    if not isinstance(value, bool):
        _refuse("true or false", value)


def _scalar(value: Any) -> None:
    if isinstance(value, dict | list):
        _refuse("a single value", value)


def _anything(value: Any) -> None:
    pass


def _outcome(value: Any) -> None:
    if value not in {"done", "diverged", "stopped", "held"}:
        _refuse("done, diverged, stopped or held", value)


def _direction(value: Any) -> None:
    if value not in ("min", "max"):
        _refuse("min or max", value)


def _maybe(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


def _list(check: _Check) -> _Check:
    def checked(values: Any) -> None:
        if not isinstance(values, list):
            _refuse("a list", values)
        for value in values:
            check(value)

    return checked


def _row(*checks: _Check) -> _Check:
    def checked(values: Any) -> None:
        if not isinstance(values, list) or len(values) != len(checks):
            _refuse(f"a list of {len(checks)}", values)
        for check, value in zip(checks, values, strict=True):
            check(value)

    return checked


def _section(required: Mapping[str, _Check], optional: Mapping[str, _Check] | None = None) -> _Check:
    def checked(section: Any) -> None:
        if not isinstance(section, dict):
            _refuse("a section", section)
        for key, check in required.items():
            if key not in section:
                raise ValueError(f"{key!r} is missing")
            _check_at(key, check, section[key])
        for key, check in (optional or {}).items():
            if key in section:
                _check_at(key, check, section[key])

    return checked


def _map(check: _Check) -> _Check:
    def checked(section: Any) -> None:
        if not isinstance(section, dict):
            _refuse("a section", section)
        for key, value in section.items():
            _check_at(key, check, value)

    return checked


def _check_at(key: str, check: _Check, value: Any) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"{key!r:.80}: {error}") from None


_CODE = _section({"use": _text, "root": _text, "sha256": _text})

_TRIAL = _section(
    {
        "trial_id": checked_name,
        "cell_id": _text,
        "arm": _text,
        "seed": _whole,
        "swept": _map(_scalar),
        "learning_rate": _maybe(_number),
        "clip_norm": _maybe(_number),
        "steps": _maybe(_whole),
    },
    {"code": _maybe(_CODE), "rule_code": _list(_CODE), "structured": _list(_text)},
)

_PART_KEYS = {"table": checked_table, "file": checked_name, "rows": _whole, "xxh3": _text}


def _part(value: Any) -> None:
    _section(_PART_KEYS)(value)
    if len(value) > len(_PART_KEYS):
        raise ValueError(f"{sorted(set(value) - set(_PART_KEYS))[0]!r:.80} is not a key of a part")


_FACTS = _section(
    {
        "num_steps": _whole,
        "num_clipped": _whole,
        "train_s": _number,
        "evaluate_s": _number,
        "estimate_s": _number,
        "started_at": _moment,
        "ended_at": _moment,
        "host": _text,
    },
    {
        "diverged_step": _maybe(_whole),
        "last_finite_loss": _maybe(_real),
        "waited_s": _number,
        "num_snapshots": _whole,
        "pid": _whole,
        "node": _text,
        "data": _text,
        "columns": _map(_scalar),
        "unmeasured": _map(_whole),
        "metrics": _map(_direction),
        "scores": _map(_row(_number, _number, _number, _number)),
        "hardware": _map(_text),
        "measured_on": _list(_text),
    },
)

_SEGMENT = _section({
    "trial": checked_name,
    "epoch": _whole,
    "attempt": _whole,
    "start": _whole,
    "stop": _whole,
    "outcome": _maybe(_outcome),
    "checkpoint": _maybe(_row(checked_name, _text)),
    "measurement": _text,
    "facts": _FACTS,
})

_RECORDS: Mapping[str, Mapping[str, _Check]] = {
    "opened": {"epoch": _whole, "environment": _map(_anything)},
    "planned": {"measurement": _text, "measure": _maybe(_map(_anything)), "trials": _list(_TRIAL)},
    "committed": {"parts": _list(_part), "segments": _list(_SEGMENT)},
    "remeasuring": {"measurement": _text, "measure": _map(_anything)},
    "remeasured": {"measurement": _text, "parts": _list(_part), "snapshots": _list(_row(checked_name, _whole))},
    "failed": {
        "trial": checked_name,
        "epoch": _whole,
        "attempt": _whole,
        "kind": _text,
        "error": _text,
        "final": _flag,
    },
    "damaged": {
        "parts": _list(checked_name),
        "trials": _list(_row(checked_name, _whole, _list(checked_name))),
        "snapshots": _list(_row(_text, checked_name, _whole)),
    },
    "retried": {"trials": _list(checked_name)},
}

_OPTIONAL: Mapping[str, Mapping[str, _Check]] = {
    "opened": {"started_at": _moment, "recorder": _text},
    "planned": {"metrics": _map(_direction), "cases": _map(_text), "until": _map(_maybe(_whole))},
}
"""Keys that later versions have added."""
