"""``resolved.yaml`` of a run, read without trusting its contents."""

from __future__ import annotations

from typing import Any

import yaml

from sweeper.errors import IntegrityError
from sweeper.store.guarded_paths import read_file
from sweeper.store.run_dir import RunDir

__all__ = ["resolved_settings"]

_MAX_VALUES = 1_000_000
"""Bound on values with aliases expanded: a few lines of aliases may expand to more than fits in any memory."""


def resolved_settings(run_dir: RunDir) -> dict[str, Any]:
    """The spec of a run's latest `clipsweep run`, with all defaults.

    Args:
        run_dir: The run.

    Returns:
        Its sections by name.

    Raises:
        IntegrityError: The file cannot be read, or is not what a run writes.
    """
    path = run_dir.resolved
    fix = "`clipsweep run` with the run's spec rewrites it"
    try:
        document = yaml.safe_load(read_file(path))
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}; {fix}") from error
    except (ValueError, yaml.YAMLError, RecursionError, TypeError) as error:
        raise IntegrityError(f"{path}: is not what a run writes ({type(error).__name__}); {fix}") from error
    if not isinstance(document, dict) or _is_larger(document, _MAX_VALUES):
        raise IntegrityError(f"{path}: is not what a run writes; {fix}")
    for section, kind in (("resources", dict), ("cluster", dict), ("measure", dict | None)):
        if section in document and not isinstance(document[section], kind):
            raise IntegrityError(f"{path}: {section} is not what a run writes; {fix}")
    return document


def _is_larger(document: Any, most: int) -> bool:
    """Whether a tree has more than ``most`` values, counting shared ones once per place."""
    left = most
    waiting = [document]
    while waiting:
        value = waiting.pop()
        left -= 1
        if left < 0:
            return True
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)
    return False
