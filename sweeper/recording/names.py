"""What recorded trials are called: their ids, their arms, and the values that tell them apart."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.errors import ClipsweepError
from sweeper.spec import check_measure
from sweeper.store.planned_trials import TrialRecord

__all__ = ["LEARNING_RATE", "THRESHOLD", "arm_name", "checked_values", "digest", "require_options", "swept_by"]

LEARNING_RATE, THRESHOLD, OPTIMIZER = "update_rule.learning_rate", "update_rule.clip_norm", "update_rule.optimizer"

_OWN = {
    LEARNING_RATE: "the monitor reads it from the optimiser",
    THRESHOLD: "hand it over as clip_norm",
    OPTIMIZER: "the monitor reads it from the optimiser",
    "train.steps": "hand it over as steps",
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*", re.ASCII)

_SCHEMA = "recorded 1"


def require_options(measure: Mapping[str, Any]) -> None:
    """Require that every estimator takes the options it is given: by the rules of specs, before anything is trained.

    Args:
        measure: What is measured; ``estimators`` has the name of each as ``use`` beside its options.

    Raises:
        SpecError: One does not; all problems at once.

    Example:
        >>> require_options({"estimators": [{"use": "gradient_noise", "num_batches": 1}]})
        Traceback (most recent call last):
        ...
        sweeper.errors.SpecError: SmoothnessMonitor: measure.estimators[0].num_batches: must be at least 2, found 1
        ...
    """
    section = {"every": 1, "estimators": list(measure["estimators"])}
    check_measure(section, name="SmoothnessMonitor", shows_lines=False)


def checked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What sets a loop apart from others, as swept paths.

    Args:
        values: Name to value. A name without a dot is put below ``values``, so that it hides no column.

    Returns:
        Path to value.

    Raises:
        ClipsweepError: A name is no path or is said in another way, or a value is no number, text, boolean or None.

    Example:
        >>> checked_values({"width": 64, "data.split": "a"})
        {'values.width': 64, 'data.split': 'a'}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ClipsweepError(
                f"values: {name!r} is no name; letters, digits and _, with dots between, as 'model.width'"
            )
        if name in _OWN:
            raise ClipsweepError(f"values: {name} is not to be said here: {_OWN[name]}")
        is_number = isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63
        if not (value is None or isinstance(value, str | bool) or is_number):
            raise ClipsweepError(
                f"values: {name} is {value!r:.80}; it must be a finite number, a text, True, False or None"
            )
        found[name if "." in name else f"values.{name}"] = value
    return found


def arm_name(optimizer: str, options: Sequence[str], *, clips: bool) -> str:
    """The update rule without its numbers, as a sweep calls it.

    Args:
        optimizer: Its name.
        options: Its options in use.
        clips: Whether the gradient is clipped by norm.

    Returns:
        The arm.

    Example:
        >>> arm_name("sgd", ["momentum"], clips=True)
        'sgd(momentum) + clip_norm'
    """
    direction = optimizer + (f"({', '.join(options)})" if options else "")
    return f"{direction} + clip_norm" if clips else direction


def swept_by(
    values: Mapping[str, Any],
    *,
    optimizer: str,
    settings: Mapping[str, Any],
    learning_rate: float | None,
    clip_norm: float | None,
    others: Iterable[TrialRecord],
) -> dict[str, Any]:
    """Everything that tells a trial from those recorded before it.

    Args:
        values: As :func:`checked_values` returns them.
        optimizer: The optimiser's name.
        settings: Its other options that are not torch's defaults.
        learning_rate: Its learning rate.
        clip_norm: The threshold.
        others: The trials recorded before.

    Returns:
        Path to value; of optimiser, learning rate and threshold only what differs from one of the others, or has.
    """
    rule = {OPTIMIZER: optimizer, LEARNING_RATE: learning_rate, THRESHOLD: clip_norm}
    known = list(others)
    paths = [path for path in rule if any(path in one.swept or one.value(path) != rule[path] for one in known)]
    named = {f"update_rule.{name}": value for name, value in settings.items()}
    return {path: rule[path] for path in paths} | named | dict(values)


def digest(content: Mapping[str, Any]) -> str:
    """An id: the first 16 hexadecimal digits of the SHA-256 of the canonical JSON.

    Args:
        content: What it depends on.

    Returns:
        The id, never that of a trial or a measurement of a sweep.
    """
    text = json.dumps({"schema": _SCHEMA, **content}, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
