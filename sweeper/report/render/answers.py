"""Answers and fits as tables for the terminal, Markdown or JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from estimators.fits.line import Bounds
from estimators.fits.statistics import Interval
from sweeper.formats import csv_table, in_format
from sweeper.labels import describe
from sweeper.report.advice import Advice
from sweeper.report.answers import Activity, Answers
from sweeper.report.fits import CellFit
from sweeper.report.render.tables import bounds_text, interval_text, markdown_table, terminal_lines, terminal_table
from sweeper.report.stability import Edge, Frontier, FrontierRatio, grown

__all__ = ["patch_of", "render_answers", "render_fits"]

Block = tuple[str, list[str], list[list[str]]]
"""Title, column heads and rows of a table."""


def render_answers(answers: Answers, style: str, *, width: int | None = None, color: bool = False) -> str:
    """Answers as text.

    Args:
        answers: The answers.
        style: One of :data:`~sweeper.formats.FORMATS`; CSV holds the stability frontier alone.
        width: Columns of the terminal.
        color: Whether tables may use colours.

    Returns:
        The text, without a trailing newline.
    """
    shown = partial(_answers_text, answers, width=width, color=color)
    return in_format(
        style,
        table=lambda: shown("table"),
        md=lambda: shown("md"),
        csv=lambda: csv_table([_frontier_record(row) for row in answers.frontiers], _FRONTIER_COLUMNS),
        json=lambda: {**_document(answers), "patch": patch_of(answers)},
    )


_FRONTIER_COLUMNS = ("arm", "clip_norm", "context", "stable", "unstable", "rates", "above_start")


def _frontier_record(row: Frontier) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _FRONTIER_COLUMNS} | {"above_start": _rates(row.above_start)}


def _answers_text(answers: Answers, style: str, *, width: int | None, color: bool) -> str:
    blocks: list[Block] = [("what the rule did", _ACTIVITY, [_activity(row) for row in answers.activity])]
    if answers.frontiers:
        above = any(row.above_start for row in answers.frontiers)
        heads = [*_FRONTIER, *([_ABOVE] if above else [])]
        rows = [_frontier(row) + ([_rates(row.above_start)] if above else []) for row in answers.frontiers]
        blocks.append(("how large a rate is stable", heads, rows))
    if answers.ratios:
        blocks.append(("largest stable rate, clipped / unclipped", _RATIO, [_ratio(row) for row in answers.ratios]))
    lines = [line for edge in answers.edges for line in _edge(edge)]
    if patch := patch_of(answers):
        lines += [
            "",
            "a spec patch, ready to paste; `clipsweep run --extend-edges 1` applies it:",
            *patch.splitlines(),
            "",
        ]
    lines += [line for advice in answers.advice for line in _advice(advice)]
    lines += [f"note: {note}" for note in answers.notes]
    return _text(answers.path, blocks, lines, style, width, color)


def render_fits(
    path: str, cells: Sequence[CellFit], style: str, *, width: int | None = None, color: bool = False
) -> str:
    """Fits as text.

    Args:
        path: The run directory.
        cells: The fits.
        style: One of :data:`~sweeper.formats.FORMATS`.
        width: Columns of the terminal.
        color: Whether tables may use colours.

    Returns:
        The text, without a trailing newline.
    """
    shown = partial(_fits_text, path, cells, width=width, color=color)
    return in_format(
        style,
        table=lambda: shown("table"),
        md=lambda: shown("md"),
        csv=lambda: csv_table([_fit_record(cell) for cell in cells]),
        json=lambda: {"run": path, "cells": [dataclasses.asdict(cell) for cell in cells]},
    )


def _fit_record(cell: CellFit) -> dict[str, Any]:
    """A cell as one flat record, for CSV."""
    low, high = cell.range
    record: dict[str, Any] = {**cell.values, "arm": cell.arm, "seeds": len(cell.trajectories), "points": cell.points}
    record |= {"effective": cell.effective, "grad_norm_low": low, "grad_norm_high": high}
    for name in ("spearman", "slope", "L0", "L1"):
        interval = getattr(cell, name)
        record |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return record | {"unidentifiable": cell.unidentifiable}


def _fits_text(path: str, cells: Sequence[CellFit], style: str, *, width: int | None, color: bool) -> str:
    lines = [
        "L0, L1: the upper line, 95 % quantile regression; ± is over seeds, [low, high] a bootstrap of a single seed",
        "they describe the range visited, along one direction at a time, not the loss as a whole",
    ]
    blocks: list[Block] = [("smoothness against gradient norm", _FIT, [_fit(cell) for cell in cells])]
    return _text(path, blocks, [f"note: {line}" for line in lines], style, width, color)


def patch_of(answers: Answers) -> str:
    """The part of a spec that extends the grid beyond its edges.

    Args:
        answers: The answers.

    Returns:
        YAML; empty if no best value is at an edge.

    Example:
        >>> edge = Edge(path="update_rule.learning_rate", arm="sgd", context="", side="largest", value=3.0, add=(9.0,))
        >>> answers = Answers(path="", activity=(), frontiers=(), ratios=(), edges=(edge,),
        ...     grid={"update_rule.learning_rate": [1.0, 3.0]}, advice=(), notes=())
        >>> print(patch_of(answers))
        sweep:
          grid:
            update_rule.learning_rate: [1, 3, 9]
    """
    if not answers.edges:
        return ""
    lines = ["sweep:", "  grid:"]
    for path, values in answers.grid.items():
        longer = grown(values, [edge for edge in answers.edges if edge.path == path])
        lines.append(f"    {path}: [{', '.join('null' if value is None else f'{value:g}' for value in longer)}]")
    return "\n".join(lines)


def _text(path: str, blocks: Sequence[Block], lines: Sequence[str], style: str, width: int | None, color: bool) -> str:
    if style == "md":
        parts = [f"**{path}**"]
        for title, heads, rows in blocks:
            parts += ["", f"### {title}", "", *markdown_table(heads, rows)]
        return "\n".join([*parts, "", *(f"- {line}" if line else "" for line in lines)]).rstrip()
    tables = [
        terminal_table(f"{path}: {title}", heads, rows, width=width, color=color) for title, heads, rows in blocks
    ]
    return "\n".join([*tables, terminal_lines(lines, width=width, color=color)]).rstrip()


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3g}"


_ACTIVITY = ["cell", "diverged", "95 %", "clipped", "effective rate", "‖g‖ 5 %", "median", "95 %"]


def _activity(row: Activity) -> list[str]:
    rate = row.diverged
    clipped = "–" if math.isnan(row.clipped) else f"{100 * row.clipped:.0f} %"
    return [
        row.label,
        f"{rate.hits}/{rate.count}",
        f"{100 * rate.low:.0f}–{100 * rate.high:.0f} %",
        "never fired" if row.fired is False else clipped,
        _number(row.effective_rate),
        *(_number(value) for value in row.grad_norm),
    ]


_ABOVE = "done, but ended above their start"


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(_number(rate) for rate in rates) or "–"


_FRONTIER = ["rule", "threshold", "within", "stable up to", "unstable at", "rates tried"]


def _frontier(row: Frontier) -> list[str]:
    return [
        row.arm,
        "none" if row.clip_norm is None else _number(row.clip_norm),
        row.context or "–",
        "none tried" if row.stable is None else _number(row.stable),
        "none tried" if row.unstable is None else _number(row.unstable),
        str(row.rates),
    ]


_UNBOUNDED = "not bounded by this grid"

_RATIO = ["rule", "threshold", "within", "at least", "at most", "seeds"]


def _ratio(row: FrontierRatio) -> list[str]:
    return [row.arm, _number(row.clip_norm), row.context or "–", _bound(row.low), _bound(row.high), str(row.seeds)]


def _bound(value: float) -> str:
    """A ratio that the brackets allow; 0 and infinity are no bounds."""
    return _number(value) if 0 < value < math.inf else _UNBOUNDED


def _edge(edge: Edge) -> list[str]:
    name = edge.path.rpartition(".")[2]
    within = f" at {edge.context}" if edge.context else ""
    added = ", ".join(f"{value:g}" for value in edge.add)
    return [
        f"edge of the grid: the best {name} of {edge.arm} is the {edge.side} tried{within}, {edge.value:g}: add {added}"
    ]


def _advice(advice: Advice) -> list[str]:
    within = f" [{advice.context}]" if advice.context else ""
    if advice.silent:
        return [f"theory{within}: no advice: {advice.silent}"]
    low, high = advice.range
    constants = f"L0 = {advice.L0:.3g}, L1 = {advice.L1:.3g}"
    lines = [f"theory{within}: {constants} from {advice.source}, ‖∇f‖ in [{low:.3g}, {high:.3g}]"]
    for rule in advice.rules:
        threshold = "" if rule.clip_norm is None else f", clip_norm {rule.clip_norm:.3g}"
        lines.append(f"  {rule.theory}: learning_rate {rule.learning_rate:.3g}{threshold}  ({rule.note})")
    return [*lines, *(f"  {condition}" for condition in advice.conditions)]


_FIT = ["cell", "seeds", "points", "n_eff", "‖∇f‖ visited", "Spearman", "log-log slope", "L0", "L1"]


def _fit(cell: CellFit) -> list[str]:
    low, high = cell.range
    (first, *_) = cell.trajectories.values()
    alone = first if len(cell.trajectories) == 1 else None
    why = f"not identifiable: {cell.unidentifiable}"
    return [
        describe(cell.values) or "the only cell",
        str(len(cell.trajectories)),
        str(cell.points),
        f"{cell.effective:.0f}",
        f"{low:.3g} to {high:.3g}",
        _spread(cell.spearman, None if alone is None else alone.spearman_bounds),
        _spread(cell.slope, None),
        "–" if cell.unidentifiable else _spread(cell.L0, None if alone is None else alone.L0),
        why if cell.unidentifiable else _spread(cell.L1, None if alone is None else alone.L1),
    ]


def _spread(interval: Interval, bounds: Bounds | None) -> str:
    """A mean with the spread over seeds, or with the bootstrap interval of a single one."""
    if interval.count and bounds is not None and math.isfinite(bounds.high - bounds.low) and bounds.low < bounds.high:
        return bounds_text(interval.mean, bounds.low, bounds.high)
    return interval_text(interval)


def _document(answers: Answers) -> dict[str, Any]:
    document = dataclasses.asdict(answers)
    return {"run": document.pop("path"), **document}
