"""Where the time of a run went, as a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from sweeper.labels import counted, duration, plain_value
from sweeper.report.render.tables import csv_table, markdown_table, terminal_lines, terminal_table
from sweeper.report.times import Spent, Times

__all__ = ["render_times"]

_MAX_ROWS = 40

_SECONDS = {
    "train_s": "training",
    "evaluate_s": "evaluating",
    "waited_s": "waiting",
    "other_s": "other",
    "idle_s": "idle",
    "estimate_s": "measuring",
}


def render_times(times: Times, style: str, *, width: int | None = None, color: bool = False) -> str:
    """Times as text.

    Args:
        times: The times.
        style: ``table``, ``md``, ``csv`` or ``json``.
        width: Columns of the terminal; None for as wide as needed.
        color: Whether the table may use colours.

    Returns:
        The text, without a trailing newline. Tables for people show the longest rows only; CSV and JSON have all.

    Raises:
        ValueError: The format is unknown.
    """
    match style:
        case "json":
            return json.dumps(_document(times), indent=2)
        case "csv":
            return csv_table([_record(row) for row in times.rows])
        case "md":
            table = markdown_table(_heads(times), _rows(times))
            lines = [*_notes(times), *times.advice]
            return "\n".join([f"**{_title(times)}**", "", *table, "", *(f"- {line}" for line in lines)])
        case "table":
            if not times.drivers:
                return terminal_lines([_title(times)], width=width, color=color)
            parts = [
                terminal_table(_title(times), _heads(times), _rows(times), width=width, color=color),
                terminal_lines(times.advice, width=width, color=color),
                terminal_lines([f"note: {note}" for note in _notes(times)], style="dim", width=width, color=color),
            ]
            return "\n".join(part for part in parts if part)
    raise ValueError(f"unknown format {style!r}; known: table, md, csv, json")


def _title(times: Times) -> str:
    if not times.drivers:
        return f"{times.run}: nothing has been committed yet"
    starting = "" if math.isnan(times.starting_s) else f", {duration(times.starting_s)} of it until the first step"
    of = "" if times.drivers == 1 else f" of {counted(times.drivers, 'driver')}"
    return f"{times.run}: {duration(times.total_s)}{of}{starting}"


def _heads(times: Times) -> list[str]:
    """The columns that say something: what is 0 or unknown in every row is left out."""
    trials = [] if times.by == "trial" else ["trials"]
    return [times.by, *trials, "steps", *(_SECONDS[name] for name in _shown(times)), "snapshots"]


def _shown(times: Times) -> list[str]:
    return [name for name in _SECONDS if any(_is_shown(getattr(row, name)) for row in times.rows)]


def _is_shown(seconds: float) -> bool:
    return not math.isnan(seconds) and seconds >= 0.05


def _rows(times: Times) -> list[list[str]]:
    shown = _shown(times)

    def row(of: Spent) -> list[str]:
        trials = [] if times.by == "trial" else [str(of.trials)]
        seconds = [_seconds(getattr(of, name)) for name in shown]
        return [of.label, *trials, str(of.steps), *seconds, _count(of.snapshots)]

    rows = [row(of) for of in times.rows[:_MAX_ROWS]]
    return [*rows, row(times.whole)] if len(times.rows) > 1 else rows


def _notes(times: Times) -> list[str]:
    if not times.drivers:
        return []
    notes = []
    if len(times.rows) > _MAX_ROWS:
        notes.append(f"the longest {_MAX_ROWS} of {len(times.rows)} rows; `--format csv` has all")
    what = {
        "waited_s": "waiting: for estimators to take a snapshot",
        "other_s": "other: building the problem, resuming, checkpoints",
        "idle_s": "idle: no committed work while others were at work",
        "estimate_s": "measuring: seconds of estimators, not of trainers",
    }
    meanings = [what[name] for name in _shown(times) if name in what]
    return [*notes, "; ".join(["seconds of trainers, added up", *meanings])]


def _seconds(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds:.1f}"


def _count(number: float) -> str:
    return "–" if math.isnan(number) else f"{number:.0f}"


def _record(row: Spent) -> dict[str, Any]:
    return {name: plain_value(value) for name, value in asdict(row).items()}


def _document(times: Times) -> dict[str, Any]:
    return {
        "run": times.run,
        "drivers": times.drivers,
        "total_s": times.total_s,
        "starting_s": plain_value(times.starting_s),
        "by": times.by,
        "rows": [_record(row) for row in times.rows],
        "whole": _record(times.whole),
        "advice": list(times.advice),
    }
