"""Trials as they were planned: what the journal keeps of each, and its form within a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["CodeRecord", "TrialRecord", "dump_trial", "parse_trial", "swept_values"]


@dataclass(frozen=True, kw_only=True)
class CodeRecord:
    """The user's own code that a trial was trained with.

    Attributes:
        use: ``package.module:factory``.
        root: The file, or the folder of the package.
        sha256: Hash over all of it.
    """

    use: str
    root: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial as it was planned.

    Attributes:
        trial_id: Its id, which depends on everything that it is trained with.
        cell_id: Id of its cell.
        arm: The update rule up to its swept numbers.
        seed: Seed of weights, batches and dropout.
        swept: Swept path to value, as the spec has it: null, boolean, number, text, list or section.
        learning_rate: Learning rate of the update rule; None if a theorem sets it.
        clip_norm: Clip norm of the update rule; None for no clipping.
        steps: Steps to train; None for a recorded loop that does not say.
        code: The user's own code; None for a registered problem.
        rule_code: The user's own code that its update rule names.
    """

    trial_id: str
    cell_id: str
    arm: str
    seed: int
    swept: Mapping[str, Any]
    learning_rate: float | None
    clip_norm: float | None
    steps: int | None
    code: CodeRecord | None = None
    rule_code: tuple[CodeRecord, ...] = ()

    @property
    def all_code(self) -> tuple[CodeRecord, ...]:
        """All of the user's own code that it is trained with."""
        return (*(() if self.code is None else (self.code,)), *self.rule_code)

    def value(self, path: str) -> Any:
        """The value at a path that this or another trial of its run sweeps.

        Args:
            path: The path.

        Returns:
            Of the type that the spec gives it. A trial that was planned before the path was swept has a
            value as far as it is known without the spec of that time; otherwise None.
        """
        if path in self.swept:
            return self.swept[path]
        # The arm of a rule that a theorem sets has the theorem's name.
        optimizer = None if self.learning_rate is None else self.arm.partition(" + ")[0].partition("(")[0]
        own = {
            "update_rule.optimizer": optimizer,
            "update_rule.learning_rate": self.learning_rate,
            "update_rule.clip_norm": self.clip_norm,
            "train.steps": self.steps,
        }
        return own.get(path)


def swept_values(records: Iterable[TrialRecord]) -> dict[str, dict[str, Any]]:
    """What trials have at every path that any of them sweeps.

    Args:
        records: The trials.

    Returns:
        Trial id to path to value; the paths in the order in which they first appear.
    """
    known = list(records)
    paths = list(dict.fromkeys(path for record in known for path in record.swept))
    return {record.trial_id: {path: record.value(path) for path in paths} for record in known}


def dump_trial(trial: TrialRecord) -> dict[str, Any]:
    """A trial as a JSON-serialisable mapping, as in a line of the journal.

    Args:
        trial: The trial.

    Returns:
        Its fields; lists and sections that are swept as text, and under ``structured`` the paths of these where
        there are any, or a text that could be taken for one.
    """
    code: dict[str, Any] = {} if trial.code is None else {"code": _dump_code(trial.code)}
    if trial.rule_code:
        code["rule_code"] = [_dump_code(one) for one in trial.rule_code]
    section = code | {name: getattr(trial, name) for name in _FIELDS}
    structured = [path for path, value in trial.swept.items() if isinstance(value, dict | list)]
    if structured or any(_may_be_structured(value) for value in trial.swept.values()):
        section |= {
            "swept": {path: _text(value) if path in structured else value for path, value in trial.swept.items()},
            "structured": structured,
        }
    return section


def parse_trial(section: Mapping[str, Any]) -> TrialRecord:
    """The trial of a mapping within a line.

    Args:
        section: As it was read, and checked; unknown keys are ignored.

    Returns:
        The trial. Earlier versions do not say which texts are lists and sections: there, all that could be are.

    Raises:
        ValueError: The value of a path under ``structured`` is not JSON.

    Example:
        >>> trial = TrialRecord(
        ...     trial_id="a1", cell_id="a", arm="sgd", seed=0, swept={"problem.m": [1], "problem.n": "[1]"},
        ...     learning_rate=0.1, clip_norm=None, steps=5,
        ... )
        >>> dump_trial(trial)["swept"], dump_trial(trial)["structured"]
        ({'problem.m': '[1]', 'problem.n': '[1]'}, ['problem.m'])
        >>> parse_trial(dump_trial(trial)) == trial
        True
    """
    known = {name: section[name] for name in _FIELDS}
    structured = section.get("structured")
    if structured is None:
        known["swept"] = {path: _as_before(value) for path, value in known["swept"].items()}
    else:
        known["swept"] = known["swept"] | {path: _value(known["swept"][path]) for path in structured}
    code = section.get("code")
    rule_code = tuple(_parse_code(one) for one in section.get("rule_code", ()))
    return TrialRecord(**known, code=None if code is None else _parse_code(code), rule_code=rule_code)


_FIELDS = tuple(one.name for one in fields(TrialRecord) if one.name not in {"code", "rule_code"})


def _dump_code(code: CodeRecord) -> dict[str, str]:
    return {"use": code.use, "root": str(code.root), "sha256": code.sha256}


def _parse_code(section: Mapping[str, Any]) -> CodeRecord:
    return CodeRecord(use=section["use"], root=Path(section["root"]), sha256=section["sha256"])


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _may_be_structured(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("{", "[")


def _as_before(value: Any) -> Any:
    """A value of an earlier version, which wrote lists and sections as text and did not say so."""
    if not _may_be_structured(value):
        return value
    try:
        parsed = json.loads(value)
        return parsed if _text(parsed) == value else value
    except (ValueError, RecursionError):
        return value
