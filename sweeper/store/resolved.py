"""``resolved.yaml`` of a run, read as what anybody may have written."""

from __future__ import annotations

from typing import Any

import yaml

from sweeper.errors import IntegrityError
from sweeper.store.guarded_paths import read_file
from sweeper.store.run_dir import RunDir

__all__ = ["resolved_settings"]

_MAX_VALUES = 1_000_000
"""Aliases written out: a few lines of them may stand for more than any memory holds."""


def resolved_settings(run_dir: RunDir) -> dict[str, Any]:
    """The spec of a run's last call, with all defaults.

    Args:
        run_dir: The run.

    Returns:
        Its sections by name.

    Raises:
        IntegrityError: The file cannot be read, or is not what a run writes.
    """
    path = run_dir.resolved
    mend = "`clipsweep run` with the run's spec writes it anew"
    try:
        document = yaml.safe_load(read_file(path))
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}; {mend}") from error
    except (ValueError, yaml.YAMLError, RecursionError, TypeError) as error:
        raise IntegrityError(f"{path}: is not what a run writes ({type(error).__name__}); {mend}") from error
    if not isinstance(document, dict) or _is_larger(document, _MAX_VALUES):
        raise IntegrityError(f"{path}: is not what a run writes; {mend}")
    for section, kind in (("resources", dict), ("cluster", dict), ("measure", dict | None)):
        if section in document and not isinstance(document[section], kind):
            raise IntegrityError(f"{path}: {section} is not what a run writes; {mend}")
    return document


def _is_larger(document: Any, most: int) -> bool:
    """Whether a tree has more values than that, what several places share counted in each."""
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
