"""Runs compared with each other, as tables for the terminal, Markdown, CSV or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sweeper.formats import csv_table, in_format, value_json
from sweeper.labels import counted
from sweeper.report.origins import Difference
from sweeper.report.render.columns import listed, value_columns
from sweeper.report.render.numbers import bracket_text, json_number, number_text
from sweeper.report.render.pages import page_text
from sweeper.report.render.table import NOTHING, Column, Table
from sweeper.report.run_comparison import CellPair, PairedLoss, RunPair, RunsComparison
from sweeper.value_texts import without_middle

__all__ = ["render_comparison", "tables_and_lines"]

_VALUE_WIDTH = 60

_STYLES = {"better": "green", "worse": "yellow"}


def render_comparison(comparison: RunsComparison, style: str, *, width: int | None = None, color: bool = False) -> str:
    """The comparison as text.

    Args:
        comparison: The comparison.
        style: One of :data:`~sweeper.formats.FORMATS`, or ``html``; CSV has the cells in common alone.
        width: Columns of the terminal.
        color: Whether tables may use colours.

    Returns:
        The text, without a trailing newline.
    """
    shown = partial(_text, comparison, width=width, color=color)
    return in_format(
        style,
        table=lambda: shown("table"),
        md=lambda: shown("md"),
        html=lambda: shown("html"),
        csv=lambda: csv_table(list(_records(comparison)), _RECORD),
        json=lambda: _document(comparison),
    )


def _text(comparison: RunsComparison, style: str, *, width: int | None, color: bool) -> str:
    title = " against ".join([", ".join(list(comparison.paths)[1:]), comparison.reference])
    tables, lines = tables_and_lines(comparison)
    return page_text(title, tables, [*lines, *(f"note: {note}" for note in comparison.notes)], style, width, color)


def tables_and_lines(comparison: RunsComparison) -> tuple[list[Table], list[str]]:
    """What a comparison says, but for its notes.

    Args:
        comparison: The comparison.

    Returns:
        What differs and the cells in common, as tables; and the lines below them.
    """
    tables = [_differences(comparison)] if comparison.differences else []
    tables += [_cells(comparison, pair) for pair in comparison.pairs if pair.cells]
    lines = [] if comparison.differences else ["nothing differs in spec, code and environment"]
    return tables, [*lines, *(line for pair in comparison.pairs for line in _lines(comparison, pair))]


def _differences(comparison: RunsComparison) -> Table:
    rows = comparison.differences
    return Table(
        title="what differs",
        columns=[
            Column(head="in", cells=[row.kind for row in rows], is_name=True),
            Column(head="what", cells=[row.path for row in rows], is_name=True),
            *(Column(head=name, cells=[_value(row, name) for row in rows]) for name in comparison.paths),
        ],
        labels=[f"{row.kind}: {row.path}" for row in rows],
        rows="all differences",
        more="--format json has all",
    )


def _value(row: Difference, run: str) -> str:
    if run not in row.values:
        return NOTHING
    value = row.values[run]
    return without_middle(value if isinstance(value, str) and value else value_json(value), _VALUE_WIDTH)


def _cells(comparison: RunsComparison, pair: RunPair) -> Table:
    cells = pair.cells
    losses = cells[0].losses
    which = f", {pair.other} against {comparison.reference}" if len(comparison.pairs) > 1 else ""
    return Table(
        title=f"cells in common{which}",
        columns=[
            *value_columns([cell.texts for cell in cells], [None for _ in cells]),
            Column(head="trials", cells=[_statuses(cell) for cell in cells]),
            *(
                column
                for at in range(len(losses))
                for column in _loss_columns([cell.losses[at] for cell in cells], comparison.reference, pair.other)
            ),
        ],
        labels=[cell.label for cell in cells],
        styles=[_STYLES.get(cell.losses[0].verdict, "") if losses else "" for cell in cells],
        more="--where chooses, --format json has all",
    )


def _statuses(cell: CellPair) -> str:
    """How the trials ended: in both runs alike, or in each."""
    texts = [", ".join(f"{count} {status}" for status, count in of.items()) for of in cell.statuses]
    return texts[0] if texts[0] == texts[1] else " / ".join(reversed(texts))


def _loss_columns(losses: Sequence[PairedLoss], reference: str, other: str) -> Iterator[Column]:
    name = losses[0].loss.replace("_", " ")
    yield Column(head=f"{name}, {reference}", cells=[number_text(one.reference, digits=4) for one in losses])
    yield Column(head=other, cells=[number_text(one.other, digits=4) for one in losses])
    yield Column(head="difference", cells=[_difference(one) for one in losses])
    yield Column(head="verdict", cells=[one.verdict for one in losses])


def _difference(one: PairedLoss) -> str:
    """The mean of the paired differences with its interval, and of how many seeds it is."""
    found = one.difference
    if found.count == 0:
        return NOTHING
    size = "0" if found.mean == found.low == found.high == 0 else bracket_text(found)
    return f"{size} ({counted(found.count, 'seed')})"


def _lines(comparison: RunsComparison, pair: RunPair) -> Iterator[str]:
    against = f"{pair.other} against {comparison.reference}"
    if not pair.cells:
        yield f"{against}: no cell in common"
    for one in pair.overall if len(pair.cells) > 1 else ():
        if one.difference.count:
            where = f"over all {len(pair.cells)} cells in common"
            yield f"{against}, {where}: {one.loss.replace('_', ' ')} {_difference(one)}: {one.verdict}"
    for name, labels in ((comparison.reference, pair.only_reference), (pair.other, pair.only_other)):
        if labels:
            yield f"{counted(len(labels), 'cell')} only in {name}: {listed(labels, noun='cell')}"
    if same := _same_text(pair):
        yield f"{against}: {same}"


def _same_text(pair: RunPair) -> str:
    """How many trials are the same ones, and whether their rows are."""
    if not pair.same_trials:
        return ""
    is_all = pair.same_trials == max(pair.num_trials)
    are = f"{counted(pair.same_trials, 'trial')} {'is' if pair.same_trials == 1 else 'are'}"
    text = f"{'all trials are' if is_all else are} the same by their ids"
    found = pair.same_rows
    if found is None:
        return f"{text}; none of them is finished in both"
    if found.agree:
        rows, trials = counted(found.rows, "row"), counted(found.trials, "finished trial")
        return f"{text}, and the {rows} of {trials} agree bit for bit"
    first = f", first in {found.first}" if found.first else ""
    missing = f", and {counted(found.missing, 'row')} of metrics in one run alone" if found.missing else ""
    return f"{text}, but {found.differing} of {counted(found.rows, 'row')} differ{first}{missing}"


_RECORD = (
    "reference", "other", "cell", "arm", "reference_cell_id", "other_cell_id", "same_trials", "loss", "reference_mean",
    "other_mean", "difference", "low", "high", "seeds", "p_value", "p_adjusted", "verdict",
)  # fmt: skip


def _records(comparison: RunsComparison) -> Iterator[dict[str, Any]]:
    """A row for each loss of each cell in common."""
    for pair in comparison.pairs:
        for cell in pair.cells:
            for one in cell.losses:
                document = _loss(one)
                row = {
                    **document,
                    "reference": comparison.reference,
                    "other": pair.other,
                    "cell": cell.label,
                    "arm": cell.arm,
                    "reference_cell_id": cell.cell_ids[0],
                    "other_cell_id": cell.cell_ids[1],
                    "same_trials": cell.same_trials,
                    "reference_mean": document["reference"],
                    "other_mean": document["other"],
                }
                yield {name: row[name] for name in _RECORD}


def _loss(one: PairedLoss) -> dict[str, Any]:
    return {
        "loss": one.loss,
        "reference": json_number(one.reference),
        "other": json_number(one.other),
        "difference": json_number(one.difference.mean),
        "low": json_number(one.difference.low),
        "high": json_number(one.difference.high),
        "seeds": one.difference.count,
        "larger_is_better": one.larger_is_better,
        "p_value": json_number(one.p_value),
        "p_adjusted": json_number(one.p_adjusted),
        "is_decided": one.is_decided,
        "verdict": one.verdict,
    }


def _document(comparison: RunsComparison) -> Mapping[str, Any]:
    return {
        "reference": comparison.reference,
        "runs": dict(comparison.paths),
        "differences": [
            {"in": row.kind, "path": row.path, "values": dict(row.values)} for row in comparison.differences
        ],
        "pairs": [
            {
                "other": pair.other,
                "cells": [
                    {
                        "label": cell.label,
                        "values": dict(cell.values),
                        "arm": cell.arm,
                        "cell_ids": list(cell.cell_ids),
                        "statuses": [dict(of) for of in cell.statuses],
                        "same_trials": cell.same_trials,
                        "losses": [_loss(one) for one in cell.losses],
                    }
                    for cell in pair.cells
                ],
                "overall": [_loss(one) for one in pair.overall],
                "only_reference": list(pair.only_reference),
                "only_other": list(pair.only_other),
                "num_trials": list(pair.num_trials),
                "same_trials": pair.same_trials,
                "same_rows": None
                if pair.same_rows is None
                else {
                    "trials": pair.same_rows.trials,
                    "rows": pair.same_rows.rows,
                    "differing": pair.same_rows.differing,
                    "missing": pair.same_rows.missing,
                    "first": pair.same_rows.first,
                    "agree": pair.same_rows.agree,
                },
            }
            for pair in comparison.pairs
        ],
        "num_tests": comparison.num_tests,
        "notes": list(comparison.notes),
    }
