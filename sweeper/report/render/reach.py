"""Steps until a level is reached, as tables for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from sweeper.formats import csv_table, in_format
from sweeper.labels import counted
from sweeper.report.reach import Reach, ReachedCell, ReachRatio
from sweeper.report.render.columns import value_columns
from sweeper.report.render.numbers import FEW_SEEDS, bracket_text, json_number, number_text
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.render.tables import markdown_lines
from sweeper.report.render.terminal import terminal_lines, terminal_table

__all__ = ["render_reach"]


def render_reach(reach: Reach, style: str, *, width: int | None = None, color: bool = False) -> str:
    """The answer as text.

    Args:
        reach: The answer.
        style: One of :data:`~sweeper.formats.FORMATS`.
        width: Columns of the terminal.
        color: Whether the table may use colours.

    Returns:
        The text, without a trailing newline.

    Raises:
        ValueError: The format is unknown.
    """
    shown = partial(_text, reach, width=width, color=color)
    return in_format(
        style,
        table=lambda: shown("table"),
        md=lambda: shown("md"),
        csv=lambda: csv_table([_record(reach, cell, seed) for cell in reach.cells for seed in cell.steps]),
        json=lambda: _document(reach),
    )


def _level(reach: Reach) -> str:
    return f"{reach.metric} {'≥' if reach.larger else '≤'} {number_text(reach.level, digits=4)}"


def _text(reach: Reach, style: str, *, width: int | None, color: bool) -> str:
    table = Table(
        title=f"{reach.path}: steps until {_level(reach)}",
        columns=[
            *value_columns([cell.texts for cell in reach.cells], [cell.case for cell in reach.cells]),
            Column(
                head="reached by",
                cells=[f"{cell.reached} of {counted(len(cell.steps), 'seed')}" for cell in reach.cells],
            ),
            Column(head="steps", cells=[_steps(cell) for cell in reach.cells]),
        ],
        labels=[cell.label or "the only cell" for cell in reach.cells],
        marked=[cell.is_best for cell in reach.cells],
        styles=["" if cell.reached else "yellow" for cell in reach.cells],
    )
    lines = [_sentence(one, reach) for one in reach.ratios]
    notes = [f"note: {note}" for note in reach.notes]
    if style == "md":
        said = [*lines, *notes]
        return "\n".join([f"**{table.title}**", "", *markdown_lines(table), "", *(f"- {line}" for line in said)])
    parts = [
        terminal_table(table, width=width, color=color),
        terminal_lines(lines, width=width, color=color),
        terminal_lines(notes, style="dim", width=width, color=color),
    ]
    return "\n".join(part for part in parts if part)


def _steps(cell: ReachedCell) -> str:
    """The steps of few seeds in their order, of more the median and the range; ``never`` where it was not reached."""
    steps = [cell.steps[seed] for seed in sorted(cell.steps)]
    if not steps:
        return NOTHING
    if len(steps) < FEW_SEEDS:
        return ", ".join(map(_step, steps))
    return f"{_step(cell.median)} [{_step(min(steps))}, {_step(max(steps))}]"


def _step(at: float) -> str:
    return f"{at:.0f}" if math.isfinite(at) else "never"


def _sentence(one: ReachRatio, reach: Reach) -> str:
    within = f" [{one.context}]" if one.context else ""
    pairs = counted(one.ratio.count, "paired seed")
    tried = "" if max(one.cells_tried) == 1 else f", the fastest of {one.cells_tried[0]} against {one.cells_tried[1]}"
    many = f"{one.first} takes {_ratio(one)} times the steps of {one.second}{within} until {_level(reach)}"
    if one.ratio.mean == one.ratio.low == one.ratio.high == 1:
        return (
            f"{one.first} against {one.second}{within}: no difference in steps until {_level(reach)} ({pairs}{tried})"
        )
    if one.ratio.count == 0:
        return f"{one.first} against {one.second}{within}: no seed of either reaches {_level(reach)}"
    if one.is_decided:
        return f"{many} ({pairs}{tried})"
    why = "one seed says nothing about chance" if one.ratio.count == 1 else "undecided at 95 %"
    return f"{many}, {why} ({pairs}{tried})"


def _ratio(one: ReachRatio) -> str:
    ratio = one.ratio
    ends = "" if math.isnan(ratio.low) else f" [{number_text(ratio.low)}, {number_text(ratio.high)}]"
    if math.isnan(ratio.mean):
        return f"between {number_text(one.middle[0])} and {number_text(one.middle[1])}{ends}"
    if all(map(math.isfinite, (ratio.low, ratio.high))):
        return bracket_text(ratio)
    return f"{number_text(ratio.mean)}{ends}"


def _record(reach: Reach, cell: ReachedCell, seed: int) -> dict[str, Any]:
    """One seed of a cell, for CSV."""
    return {
        **cell.values,
        "case": cell.case,
        "arm": cell.arm,
        "seed": seed,
        "metric": reach.metric,
        "level": reach.level,
        "reached": math.isfinite(cell.steps[seed]),
        "steps": cell.steps[seed] if math.isfinite(cell.steps[seed]) else None,
        "taken": cell.taken[seed],
    }


def _document(reach: Reach) -> dict[str, Any]:
    return {
        "run": reach.path,
        "metric": reach.metric,
        "level": reach.level,
        "larger": reach.larger,
        "cells": [
            {
                "cell_id": cell.cell_id,
                "label": cell.label,
                "case": cell.case,
                "values": cell.values,
                "arm": cell.arm,
                "context": cell.context,
                "is_best": cell.is_best,
                "reached": cell.reached,
                "steps": {str(seed): json_number(steps) for seed, steps in cell.steps.items()},
                "taken": {str(seed): steps for seed, steps in cell.taken.items()},
            }
            for cell in reach.cells
        ],
        "ratios": [
            {
                "first": one.first,
                "second": one.second,
                "context": one.context,
                "ratio": json_number(one.ratio.mean),
                "middle": [json_number(of) for of in one.middle],
                "low": json_number(one.ratio.low),
                "high": json_number(one.ratio.high),
                "seeds": one.ratio.count,
                "p_adjusted": json_number(one.p_adjusted),
                "cells_tried": list(one.cells_tried),
                "is_censored": one.is_censored,
                "is_decided": one.is_decided,
            }
            for one in reach.ratios
        ],
        "notes": list(reach.notes),
    }
