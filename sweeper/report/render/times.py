"""Where the time of a run went, as a table for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any

from sweeper.formats import csv_table, in_format
from sweeper.labels import counted, duration, plain_value
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.render.tables import markdown_lines
from sweeper.report.render.terminal import terminal_lines, terminal_table
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
    return in_format(
        style,
        table=lambda: _terminal(times, width, color),
        md=lambda: _markdown(times),
        csv=lambda: csv_table([_record(row) for row in times.rows], [field.name for field in fields(Spent)]),
        json=lambda: _document(times),
    )


def _markdown(times: Times) -> str:
    table = markdown_lines(_table(times)) if times.drivers else []
    lines = [*_notes(times), *times.advice]
    return "\n".join([f"**{_title(times)}**", "", *table, "", *(f"- {line}" for line in lines)])


def _terminal(times: Times, width: int | None, color: bool) -> str:
    if not times.drivers:
        return terminal_lines([_title(times), *_notes(times)], width=width, color=color)
    parts = [
        terminal_table(_table(times), width=width, color=color),
        terminal_lines(times.advice, width=width, color=color),
        terminal_lines([f"note: {note}" for note in _notes(times)], style="dim", width=width, color=color),
    ]
    return "\n".join(part for part in parts if part)


def _title(times: Times) -> str:
    if not times.drivers:
        return f"{times.run}: nothing has been committed yet"
    starting = "" if math.isnan(times.starting_s) else f", {duration(times.starting_s)} of it until the first step"
    of = "" if times.drivers == 1 else f" of {counted(times.drivers, 'driver' if times.recorder is None else 'loop')}"
    return f"{times.run}: {duration(times.total_s)}{of}{starting}"


def _shown(times: Times) -> list[str]:
    return [name for name in _SECONDS if any(_is_shown(getattr(row, name)) for row in times.rows)]


def _is_shown(seconds: float) -> bool:
    return not math.isnan(seconds) and seconds >= 0.05


def _table(times: Times) -> Table:
    """The longest rows, and their sum; columns that say something: what is 0 or unknown in all of them is left out."""
    rows = times.rows[:_MAX_ROWS]
    rows = (*rows, times.whole) if len(times.rows) > 1 else rows
    trials = [] if times.by == "trial" else [Column(head="trials", cells=[str(row.trials) for row in rows])]
    seconds = [
        Column(head=_SECONDS[name], cells=[_seconds(getattr(row, name)) for row in rows]) for name in _shown(times)
    ]
    return Table(
        title=_title(times),
        columns=[
            Column(head=times.by, cells=[row.label for row in rows], is_name=True),
            *trials,
            Column(head="steps", cells=[str(row.steps) for row in rows]),
            *seconds,
            Column(head="snapshots", cells=[_count(row.snapshots) for row in rows]),
        ],
        labels=[row.label for row in rows],
        rows="all rows",
        # On a narrow terminal the sum stays.
        order=[len(rows) - 1, *range(len(rows) - 1)],
        more="--format csv has all",
    )


def _notes(times: Times) -> list[str]:
    notes = []
    if times.uncommitted:
        notes.append(
            f"{counted(times.uncommitted, 'attempt')} failed or were cut off before they committed anything: their "
            "time is in no row"
        )
    if not times.drivers:
        return notes
    if len(times.rows) > _MAX_ROWS:
        notes.append(f"the longest {_MAX_ROWS} of {len(times.rows)} rows; `--format csv` has all")
    what = {
        "waited_s": "waiting: for estimators to take a snapshot",
        "other_s": "other: building the problem, resuming, checkpoints",
        "idle_s": "idle: no committed work while others were at work",
        "estimate_s": "measuring: seconds of estimators, not of trainers",
    }
    if times.recorder is not None:
        what |= {
            "waited_s": f"waiting: for {times.recorder}",
            "other_s": "other: before the first step and after the last",
            "estimate_s": "measuring: the estimators' part of waiting",
        }
    meanings = [what[name] for name in _shown(times) if name in what]
    return [*notes, "; ".join([f"seconds of {'trainers' if times.recorder is None else 'loops'}, added up", *meanings])]


def _seconds(seconds: float) -> str:
    return NOTHING if math.isnan(seconds) else f"{seconds:.1f}"


def _count(number: float) -> str:
    return NOTHING if math.isnan(number) else f"{number:.0f}"


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
        "uncommitted": times.uncommitted,
    }
