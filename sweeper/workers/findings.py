"""What an examiner found, as it is sent to ``clipsweep check``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.blame import Shipped, line_of, place_of, remedy
from sweeper.errors import error_line, error_text
from trainers.errors import TrainerError
from trainers.training.selftest import Finding

__all__ = ["Told", "finding_row"]

Told = dict[tuple[str, str, int], str]
"""Errors that have been told, by their place, and what is said of a promise that they break, too."""


def finding_row(finding: Finding, shipped: Shipped | None, told: Told) -> dict[str, Any]:
    """A finding as it is sent.

    Args:
        finding: The finding.
        shipped: Where the user's own code is, for the line that raised; None for none.
        told: The errors that have been told; one that is new is added.

    Returns:
        ``promise``, ``status``, ``broken``, ``line``, ``fix``, ``note`` and ``untested``, as JSON has them.
    """
    row: dict[str, Any] = {
        "promise": finding.promise,
        "status": "untested" if finding.untested else "ok" if finding.holds else "broken",
        "broken": finding.broken,
        "line": None,
        "fix": finding.fix,
        "note": finding.note,
        "untested": finding.untested,
    }
    if (error := finding.raised) is None:
        return row
    line = line_of(error, shipped)
    row["line"] = None if line is None else asdict(line)
    # What it says of our own errors, it says in a sentence.
    row["broken"] = error_text(error) if isinstance(error, TrainerError) else error_line(error)
    row["fix"] = remedy(error) or (finding.fix if line is None and not isinstance(error, TrainerError) else "")
    key = place_of(error)
    if key in told:
        return row | {"status": "untested", "untested": told[key], "broken": "", "fix": ""}
    told[key] = "it raises the same"
    if line is not None:
        told[key] = f"{Path(line.file).name}:{line.number} raises {type(error).__name__}"
    return row
