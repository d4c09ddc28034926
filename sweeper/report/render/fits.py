"""Fits as tables for the terminal, Markdown, CSV or JSON."""

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
from sweeper.report.correlations import BESIDE, BESIDE_NOTE, beside_text, mechanical_note
from sweeper.report.fits import CellFit
from sweeper.report.render.columns import listed, value_columns
from sweeper.report.render.numbers import boundary_text, correlation_text, interval_text, number_text
from sweeper.report.render.pages import page_text, without_texts
from sweeper.report.render.table import NOTHING, Column, Table

__all__ = ["fits_table", "render_fits"]


def render_fits(
    path: str, cells: Sequence[CellFit], style: str, *, width: int | None = None, color: bool = False
) -> str:
    """Fits as text.

    Args:
        path: The run directory.
        cells: The fits.
        style: One of :data:`~sweeper.formats.FORMATS`, or ``html``.
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
        html=lambda: shown("html"),
        csv=lambda: csv_table([_fit_record(cell) for cell in cells]),
        json=lambda: {"run": path, "cells": [without_texts(dataclasses.asdict(cell)) for cell in cells]},
    )


def _fit_record(cell: CellFit) -> dict[str, Any]:
    """A cell as one flat record, for CSV."""
    low, high = cell.range
    record: dict[str, Any] = {
        **cell.values,
        "case": cell.case,
        **({} if cell.layer is None else {"layer": cell.layer}),
        "along": cell.along,
        "arm": cell.arm,
        "seeds": len(cell.trajectories),
        "points": cell.points,
    }
    record |= {"quantile": cell.quantile, "effective": cell.effective, "grad_norm_low": low, "grad_norm_high": high}
    for name in ("spearman", "bound", "partial", "control", "slope", "L0", "L1"):
        interval = getattr(cell, name)
        record |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    record |= {"laws": " or ".join(cell.laws), "exponent": cell.exponent}
    if cell.probes is not None:
        record["probes"] = cell.probes.count
        record |= {f"{name}_probe_sd": getattr(cell.probes, name) for name in ("smoothness", "spearman", "L0", "L1")}
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
    sampled = [cell for cell in cells if cell.probes is not None]
    tables = [fits_table(cells), *([_probes(sampled)] if sampled else [])]
    return page_text(path, tables, lines, style, width, color)


_UNIDENTIFIABLE = "not identifiable"

_ALONG = {
    "step": "smoothness",
    "gradient": "smoothness along the gradient",
    "random": "smoothness along random directions",
}


def fits_table(cells: Sequence[CellFit]) -> Table:
    """L0 and L1 of every cell, and how smoothness follows the gradient norm.

    Args:
        cells: The fits, at least one.

    Returns:
        The table.
    """
    seeds, points = [str(len(cell.trajectories)) for cell in cells], [str(cell.points) for cell in cells]
    alone = [next(iter(cell.trajectories.values())) if len(cell.trajectories) == 1 else None for cell in cells]
    pairs = list(zip(cells, alone, strict=True))
    beside = [beside_text(cell.bound.mean, cell.partial.mean, cell.control.mean) for cell in cells]
    layers = Column(head="layer", cells=[cell.layer or "" for cell in cells], is_name=True)
    return Table(
        title=_ALONG[cells[0].along] + " against gradient norm" + (", layer by layer" if any(layers.cells) else ""),
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


def _probes(cells: Sequence[CellFit]) -> Table:
    """By how much another probe would change what the table above says."""
    spreads = [cell.probes for cell in cells if cell.probes is not None]
    counts = [counted(spread.count, "probe") for spread in spreads]
    return Table(
        title="what another probe of this size would change (standard deviation)",
        columns=[
            *value_columns([cell.texts for cell in cells], [cell.case for cell in cells]),
            Column(head="of", cells=counts, same=f"over {counts[0]}"),
            Column(
                head="smoothness", cells=[f"{number_text(100 * spread.smoothness, digits=2)} %" for spread in spreads]
            ),
            Column(head="Spearman", cells=[_spread_text(spread.spearman) for spread in spreads]),
            Column(head="L0", cells=[_spread_text(spread.L0) for spread in spreads]),
            Column(head="L1", cells=[_spread_text(spread.L1) for spread in spreads]),
        ],
        labels=[_named(cell) for cell in cells],
        rows="all cells",
        more="--where chooses, --format json has all",
    )


def _spread_text(spread: float) -> str:
    return number_text(spread, digits=2) if math.isfinite(spread) else NOTHING


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
