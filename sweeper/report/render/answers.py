"""Answers and fits as tables for the terminal, Markdown or JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from estimators.fits.intervals import Interval
from estimators.fits.laws import LAWS
from estimators.fits.line import SmoothnessFit
from estimators.fits.sections import Bounds
from sweeper.formats import csv_table, in_format
from sweeper.labels import counted
from sweeper.report.advice import Advice
from sweeper.report.answers import Activity, Answers
from sweeper.report.correlations import BESIDE, BESIDE_NOTE, beside_text, mechanical_note
from sweeper.report.fits import CellFit
from sweeper.report.render.columns import listed, value_columns
from sweeper.report.render.numbers import (
    boundary_text,
    bracket_text,
    clipped_text,
    correlation_text,
    interval_text,
    number_text,
)
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.render.tables import markdown_lines
from sweeper.report.render.terminal import terminal_lines, terminal_table
from sweeper.report.stability import Edge, Frontier, FrontierRatio, Proportion, grown

__all__ = ["patch_of", "render_answers", "render_fits"]


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
    return {name: getattr(row, name) for name in _FRONTIER_COLUMNS} | {
        "above_start": " ".join(map(number_text, row.above_start)) or None
    }


def _answers_text(answers: Answers, style: str, *, width: int | None, color: bool) -> str:
    tables = [_activity(answers.activity)]
    if answers.frontiers:
        tables.append(_frontiers(answers.frontiers))
    if answers.ratios:
        tables.append(_ratios(answers.ratios))
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
    return _text(answers.path, tables, lines, style, width, color)


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
        json=lambda: {"run": path, "cells": [_without_texts(dataclasses.asdict(cell)) for cell in cells]},
    )


def _fit_record(cell: CellFit) -> dict[str, Any]:
    """A cell as one flat record, for CSV."""
    low, high = cell.range
    record: dict[str, Any] = {
        **cell.values,
        "case": cell.case,
        **({} if cell.layer is None else {"layer": cell.layer}),
        "arm": cell.arm,
        "seeds": len(cell.trajectories),
        "points": cell.points,
    }
    record |= {"quantile": cell.quantile, "effective": cell.effective, "grad_norm_low": low, "grad_norm_high": high}
    for name in ("spearman", "bound", "partial", "control", "slope", "L0", "L1"):
        interval = getattr(cell, name)
        record |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    record |= {"laws": " or ".join(cell.laws), "exponent": cell.exponent}
    return record | {"unidentifiable": cell.unidentifiable}


def _fits_text(path: str, cells: Sequence[CellFit], style: str, *, width: int | None, color: bool) -> str:
    notes = [
        "L0, L1: the upper line, quantile regression at 0.95, or of fewer than 100 points at the quantile that leaves "
        "five above it; intervals are over seeds, or of a single seed from sections of its trajectory",
        "they describe the range visited, along one direction at a time, not the loss as a whole",
    ]
    beside = [(cell.spearman, cell.bound, cell.partial, cell.control) for cell in cells]
    notes += [BESIDE_NOTE] if any(bound.count for _, bound, _, _ in beside) else []
    notes += mechanical_note(beside, noun="cell")
    lines = [*_reasons(cells), *_laws(cells), *(f"note: {note}" for note in notes)]
    return _text(path, [_fits(cells)], lines, style, width, color)


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


def _text(path: str, tables: Sequence[Table], lines: Sequence[str], style: str, width: int | None, color: bool) -> str:
    if style == "md":
        parts = [f"**{path}**"]
        for table in tables:
            parts += ["", f"### {table.title}", "", *markdown_lines(table)]
        return "\n".join([*parts, "", *(f"- {line}" if line else "" for line in lines)]).rstrip()
    titled = [dataclasses.replace(table, title=f"{path}: {table.title}") for table in tables]
    shown = [terminal_table(table, width=width, color=color) for table in titled]
    return "\n".join([*shown, terminal_lines(lines, width=width, color=color)]).rstrip()


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
    thresholds = ["none" if row.clip_norm is None else number_text(row.clip_norm) for row in rows]
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


_UNIDENTIFIABLE = "not identifiable"


def _fits(cells: Sequence[CellFit]) -> Table:
    seeds, points = [str(len(cell.trajectories)) for cell in cells], [str(cell.points) for cell in cells]
    alone = [next(iter(cell.trajectories.values())) if len(cell.trajectories) == 1 else None for cell in cells]
    pairs = list(zip(cells, alone, strict=True))
    beside = [beside_text(cell.bound.mean, cell.partial.mean, cell.control.mean) for cell in cells]
    layers = Column(head="layer", cells=[cell.layer or "" for cell in cells], is_name=True)
    return Table(
        title="smoothness against gradient norm" + (", layer by layer" if any(layers.cells) else ""),
        columns=[
            *value_columns([cell.texts for cell in cells], [cell.case for cell in cells]),
            *([layers] if any(layers.cells) else []),
            Column(head="seeds", cells=seeds, same=counted(int(seeds[0]), "seed")),
            Column(head="points", cells=points, same=counted(int(points[0]), "point")),
            Column(head="n_eff", cells=[f"{cell.effective:.0f}" for cell in cells]),
            Column(
                head="‖∇f‖ visited",
                cells=[f"{number_text(cell.range[0])} to {number_text(cell.range[1])}" for cell in cells],
            ),
            Column(
                head="Spearman",
                cells=[_spearman(cell, one) for cell, one in pairs],
            ),
            Column(head=BESIDE, cells=beside, same="" if beside[0] == NOTHING else None),
            Column(
                head="log-log slope",
                cells=[interval_text(_spread(cell.slope, one.slope_bounds if one else None)) for cell, one in pairs],
            ),
            _quantile(cells),
            Column(
                head="L0",
                cells=[
                    NOTHING if cell.unidentifiable else boundary_text(_spread(cell.L0, one.L0 if one else None))
                    for cell, one in pairs
                ],
                same=f"L0 and L1 {_UNIDENTIFIABLE}" if cells[0].unidentifiable else None,
            ),
            Column(
                head="L1",
                cells=[
                    NOTHING if cell.unidentifiable else boundary_text(_spread(cell.L1, one.L1 if one else None))
                    for cell, one in pairs
                ],
                same="" if cells[0].unidentifiable else None,
            ),
        ],
        labels=[_named(cell) for cell in cells],
        rows="all rows" if any(layers.cells) else "all cells",
        more="--where chooses, --format json has all",
    )


def _named(cell: CellFit) -> str:
    """What a row is called."""
    return cell.label if cell.layer is None else f"{cell.label}, {cell.layer}" if cell.label else cell.layer


def _quantile(cells: Sequence[CellFit]) -> Column:
    """At which quantile the upper lines are; the same in all rows that have one, as a rule."""
    texts = [NOTHING if cell.unidentifiable else f"{cell.quantile:.2f}" for cell in cells]
    known = set(texts) - {NOTHING}
    if len(known) == 1:
        texts = [*known] * len(cells)
    return Column(head="quantile", cells=texts, same=f"upper line at the quantile {texts[0]}" if known else "")


def _reasons(cells: Sequence[CellFit]) -> list[str]:
    """Why L1 cannot be told, a line for all cells of which the same is to be said."""
    cells_of: dict[str, list[str]] = {}
    for cell in cells:
        if cell.unidentifiable:
            # Each seed is fitted by itself, with fewer points than the row has.
            of = "" if len(cell.trajectories) == 1 else " in most seeds"
            cells_of.setdefault(f"{of}, {cell.unidentifiable}", []).append(_named(cell))
    return [
        f"L1 is {_UNIDENTIFIABLE}{why}"
        + (": all cells" if len(labels) == len(cells) else f": {listed(labels, noun='cell')}")
        for why, labels in cells_of.items()
    ]


def _laws(cells: Sequence[CellFit]) -> list[str]:
    """Which laws fit, a line for all cells of which the same is to be said."""
    cells_of: dict[str, list[str]] = {}
    for cell in cells:
        if cell.laws:
            cells_of.setdefault(_law(cell), []).append(cell.label)
    return [
        f"law of growth, by held-out points: {law}: {listed(labels, noun='cell')}" for law, labels in cells_of.items()
    ]


def _law(cell: CellFit) -> str:
    if len(cell.laws) == len(LAWS):
        return "cannot be told"
    texts = {
        "constant": "constant",
        "linear": "L0 + L1‖∇f‖",
        "power": f"L0 + L‖∇f‖^{cell.exponent:g}",
    }
    return " or ".join(texts[law] for law in cell.laws)


def _spearman(cell: CellFit, alone: SmoothnessFit | None) -> str:
    """The rank correlation of a single trajectory with its own interval, of several over the seeds."""
    if alone is not None and math.isfinite(alone.spearman_bounds.low):
        return interval_text(_spread(cell.spearman, alone.spearman_bounds))
    return correlation_text(cell.spearman, [fit.spearman for fit in cell.trajectories.values()])


def _spread(interval: Interval, bounds: Bounds | None) -> Interval:
    """The interval over seeds, or of a single one its trajectory's own."""
    if interval.count == 1 and bounds is not None:
        return dataclasses.replace(interval, low=bounds.low, high=bounds.high)
    return interval


def _document(answers: Answers) -> dict[str, Any]:
    document = _without_texts(dataclasses.asdict(answers))
    return {"run": document.pop("path"), **document}


def _without_texts(value: Any) -> Any:
    """A document without what is there for tables alone."""
    if isinstance(value, dict):
        return {key: _without_texts(part) for key, part in value.items() if key != "texts"}
    return [_without_texts(part) for part in value] if isinstance(value, list | tuple) else value
