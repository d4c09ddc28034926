"""Answers as tables for the terminal, Markdown or JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from sweeper.formats import csv_table, in_format
from sweeper.report.advice import Advice
from sweeper.report.answers import Activity, Answers
from sweeper.report.render.columns import value_columns
from sweeper.report.render.numbers import (
    bracket_text,
    clipped_text,
    number_text,
)
from sweeper.report.render.pages import page_text, without_texts
from sweeper.report.render.searched import searched_document, searched_lines, searched_tables
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.searched import Searched
from sweeper.report.stability import Edge, Frontier, FrontierRatio, Proportion, grown, is_clipped

__all__ = ["answers_tables", "patch_of", "render_answers", "theory_lines"]


def render_answers(
    answers: Answers, style: str, *, searched: Searched | None = None, width: int | None = None, color: bool = False
) -> str:
    """Answers as text.

    Args:
        answers: The answers.
        style: One of :data:`~sweeper.formats.FORMATS`, or ``html``; CSV holds the stability frontier alone.
        searched: What the search of the run has found; None for a run without one.
        width: Columns of the terminal.
        color: Whether tables may use colours.

    Returns:
        The text, without a trailing newline.
    """
    shown = partial(_answers_text, answers, searched=searched, width=width, color=color)
    return in_format(
        style,
        table=lambda: shown("table"),
        md=lambda: shown("md"),
        html=lambda: shown("html"),
        csv=lambda: csv_table([_frontier_record(row) for row in answers.frontiers], _FRONTIER_COLUMNS),
        json=lambda: {**_document(answers), "patch": patch_of(answers), "search": searched_document(searched)},
    )


_FRONTIER_COLUMNS = ("arm", "clip_norm", "setting", "context", "stable", "unstable", "rates", "above_start")


def _frontier_record(row: Frontier) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _FRONTIER_COLUMNS} | {
        "setting": row.setting or None,
        "above_start": " ".join(map(number_text, row.above_start)) or None,
    }


def _answers_text(answers: Answers, style: str, *, searched: Searched | None, width: int | None, color: bool) -> str:
    tables = [*searched_tables(searched), *answers_tables(answers)]
    lines = [*searched_lines(searched), *(line for edge in answers.edges for line in _edge(edge))]
    if patch := patch_of(answers):
        lines += [
            "",
            "a spec patch, ready to paste; `clipsweep run --extend-edges 1` applies it:",
            *patch.splitlines(),
            "",
        ]
    lines += [line for advice in answers.advice for line in _advice(advice)]
    lines += [f"note: {note}" for note in answers.notes]
    return page_text(answers.path, tables, lines, style, width, color)


def answers_tables(answers: Answers) -> list[Table]:
    """What the rules did, how large a rate is stable, and how much larger with a threshold.

    Args:
        answers: The answers.

    Returns:
        The tables that have rows.
    """
    frontiers = [_frontiers(answers.frontiers)] if answers.frontiers else []
    return [_activity(answers.activity), *frontiers, *([_ratios(answers.ratios)] if answers.ratios else [])]


def theory_lines(answers: Answers) -> list[str]:
    """Where the grid ends too soon, and what theory advises.

    Args:
        answers: The answers.

    Returns:
        Lines, notes included.
    """
    lines = [line for edge in answers.edges for line in _edge(edge)]
    lines += [line.strip() for advice in answers.advice for line in _advice(advice)]
    return [*lines, *(f"note: {note}" for note in answers.notes)]


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


_QUANTILES = ((0, 5), (1, 50), (2, 95))
"""Places in the tuple of quantiles, and what they are in percent."""


def _activity(rows: Sequence[Activity]) -> Table:
    clipped = [clipped_text(row.clipped, has_threshold=row.fired is not None) for row in rows]
    norms = [Column(head=f"‖g‖ {q} %", cells=[number_text(row.grad_norm[at]) for row in rows]) for at, q in _QUANTILES]
    return Table(
        title="what the rule did",
        columns=[
            *value_columns([row.texts for row in rows], [row.case for row in rows]),
            Column(head="diverged (95 %)", cells=[_share(row.diverged) for row in rows]),
            Column(head="clipped", cells=clipped, same=f"clipped: {clipped[0]}"),
            Column(head="effective rate", cells=[number_text(row.effective_rate) for row in rows]),
            *norms,
        ],
        labels=[row.label for row in rows],
        more="--where chooses, --format json has all",
    )


def _share(of: Proportion) -> str:
    """How many of how many, with the interval of the share."""
    return f"{of.hits}/{of.count} ({100 * of.low:.0f}–{100 * of.high:.0f} %)"


def _frontiers(rows: Sequence[Frontier]) -> Table:
    thresholds = [_threshold_text(row) for row in rows]
    above = Column(
        head="rates that ended above their start",
        cells=[", ".join(map(number_text, row.above_start)) or NOTHING for row in rows],
    )
    return Table(
        title="how large a rate is stable",
        columns=[
            *_rule_columns(rows, thresholds),
            Column(head="stable up to", cells=[_tried(row.stable) for row in rows]),
            Column(head="unstable at", cells=[_tried(row.unstable) for row in rows]),
            Column(head="rates tried", cells=[str(row.rates) for row in rows]),
            *([above] if any(row.above_start for row in rows) else []),
        ],
        labels=_rule_labels(rows, thresholds),
        rows="all rules",
    )


def _threshold_text(row: Frontier) -> str:
    """The threshold on the norm, or what another transform is set to."""
    if row.clip_norm is not None:
        return number_text(row.clip_norm)
    return row.setting or (NOTHING if is_clipped(row.arm) else "none")


def _tried(rate: float | None) -> str:
    return "none tried" if rate is None else number_text(rate)


def _rule_columns(rows: Sequence[Frontier | FrontierRatio], thresholds: Sequence[str]) -> list[Column]:
    within = Column(head="within", cells=[row.context for row in rows], is_name=True)
    return [
        Column(head="rule", cells=[row.arm for row in rows], is_name=True),
        Column(head="threshold", cells=thresholds, is_name=True),
        *([within] if any(within.cells) else []),
    ]


def _rule_labels(rows: Sequence[Frontier | FrontierRatio], thresholds: Sequence[str]) -> list[str]:
    return [
        f"{row.arm}, threshold {threshold}" + (f" [{row.context}]" if row.context else "")
        for row, threshold in zip(rows, thresholds, strict=True)
    ]


_UNBOUNDED = "not bounded by this grid"


def _ratios(rows: Sequence[FrontierRatio]) -> Table:
    thresholds = [number_text(row.clip_norm) for row in rows]
    return Table(
        title="largest stable rate, clipped / unclipped",
        columns=[
            *_rule_columns(rows, thresholds),
            Column(head="at least", cells=[_bound(row.low) for row in rows]),
            Column(head="at most", cells=[_bound(row.high) for row in rows]),
            Column(head="seeds", cells=[str(row.seeds) for row in rows]),
        ],
        labels=_rule_labels(rows, thresholds),
        rows="all rules",
    )


def _bound(value: float) -> str:
    """A ratio that the brackets allow; 0 and infinity are no bounds."""
    return number_text(value) if 0 < value < math.inf else _UNBOUNDED


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
    constants = f"L0 = {bracket_text(advice.L0)}, L1 = {bracket_text(advice.L1)}"
    of = "the Hessian's norm" if advice.measured == "hessian_spectral_norm" else "directional smoothness"
    lines = [
        f"theory{within}: {constants} from {advice.source}, {of}, its upper line at the quantile "
        f"{advice.quantile:.2f}, ‖∇f‖ in [{low:.3g}, {high:.3g}]"
    ]
    for rule in advice.rules:
        threshold = "" if rule.clip_norm is None else f", clip_norm {bracket_text(rule.clip_norm)}"
        lines.append(f"  {rule.theory}: learning_rate {bracket_text(rule.learning_rate)}{threshold}  ({rule.note})")
    return [*lines, *(f"  {condition}" for condition in advice.conditions)]


def _document(answers: Answers) -> dict[str, Any]:
    document = without_texts(dataclasses.asdict(answers))
    return {"run": document.pop("path"), **document}
