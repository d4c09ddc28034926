"""Everything that a page shows, from the tables of a run: plain data, before any markup."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import ClipsweepError, error_text
from sweeper.labels import counted, printable
from sweeper.report.answers import Answers, build_answers
from sweeper.report.cells import deterministic
from sweeper.report.fits import CellFit, fit_cells
from sweeper.report.page.charts import BRUSHED, specification, title_of
from sweeper.report.page.data import Chart, build_charts
from sweeper.report.page.secrets import without_hooks
from sweeper.report.page.words import answer, limits
from sweeper.report.render.answers import answers_tables, patch_of, theory_lines
from sweeper.report.render.fits import fits_table
from sweeper.report.render.run_comparison import tables_and_lines
from sweeper.report.render.searched import searched_tables
from sweeper.report.render.summary import order_of, report_notes, report_table
from sweeper.report.render.table import NOTHING, Column, Table, lifted
from sweeper.report.run_comparison import RunsComparison
from sweeper.report.searched import Searched, report_with_search
from sweeper.report.select import select
from sweeper.report.summary import Report
from sweeper.store.driver_files import ending_of
from sweeper.store.guarded_paths import read_file
from sweeper.store.journal import open_state
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Page", "PageChart", "Provenance", "SideTable", "build_page", "empty_page"]

MOST_FITTED = 400
"""Trajectories that L0 and L1 are fitted to: each takes some 10 ms."""

_MOST_TEXT = 200_000
"""Characters of a spec that a page shows."""


@dataclass(frozen=True, kw_only=True)
class PageChart:
    """A chart on a page.

    Attributes:
        name: Its place in the document, unique.
        title: What it shows.
        reading: How it is read, and how it was thinned.
        columns: Column to values.
        specification: Vega-Lite, without data.
        brushed: The columns that its brush selects by.
    """

    name: str
    title: str
    reading: str
    columns: Mapping[str, list[Any]]
    specification: Mapping[str, Any]
    brushed: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A table that is read from top to bottom.

    Attributes:
        title: Above it.
        heads: Heads of its columns.
        rows: Its rows.
        same: What is the same in all rows; empty for nothing.
        left_out: How many rows are left out.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    same: str = ""
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the numbers of one run come from.

    Attributes:
        run: Its directory.
        facts: Names and values.
        spec: The spec as its user wrote it; empty where it cannot be read.
    """

    run: str
    facts: Sequence[tuple[str, str]]
    spec: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that a page shows.

    Attributes:
        title: The runs.
        state: How many trials are in which status, and what the run is doing.
        answer: Sentences, the most important first.
        heads: Heads of the table of cells.
        cells: Its rows, as texts.
        keys: The same rows as what they are sorted by: numbers, texts, or None for nothing.
        labels: What each cell is called.
        arms: The arm of each cell.
        rates: The learning rate of each cell; None for none of its own.
        best: Which cells are the best of their arm.
        order: The cells by importance: the best of every arm first.
        is_sorted: Whether the rows are in an order that was asked for.
        same: What all cells have in common.
        charts: The charts.
        compared: What differs between runs, and the cells that they have in common.
        tables: Other tables.
        advice: What theory advises, and where the grid ends too soon.
        patch: A part of a spec that extends the grid; empty for none.
        unmeasured: What was not measured, and what to know of the numbers.
        limits: What the sweep does not show.
        provenance: Where the numbers come from, run by run.
    """

    title: str
    state: str
    answer: Sequence[str]
    heads: Sequence[str]
    cells: Sequence[Sequence[str]]
    keys: Sequence[Sequence[float | str | None]]
    labels: Sequence[str]
    arms: Sequence[str]
    rates: Sequence[float | None]
    best: Sequence[bool]
    order: Sequence[int]
    is_sorted: bool
    same: str
    charts: Sequence[PageChart]
    compared: Sequence[SideTable]
    tables: Sequence[SideTable]
    advice: Sequence[str]
    patch: str
    unmeasured: Sequence[str]
    limits: Sequence[str]
    provenance: Sequence[Provenance]


def build_page(
    run: Run,
    paths: Sequence[Path],
    *,
    where: Sequence[str] = (),
    sort: str | None = None,
    comparison: RunsComparison | None = None,
) -> Page:
    """What a page of one run, or of several side by side, shows.

    Args:
        run: The run, or :class:`~sweeper.tables.several.SeveralRuns`.
        paths: The run directories.
        where: Conditions, as for a report.
        sort: Order of the cells, as for a report.
        comparison: What differs between the runs, which comes first; None to leave that out.

    Returns:
        The page.

    Raises:
        ClipsweepError: Nothing was planned yet, a condition is wrong, or no trial satisfies the conditions.
    """
    trials = select(run, where)
    report, searched = report_with_search(run, sort=sort, trials=trials)
    order = order_of(replace(report, is_sorted=False))
    fits, why_none = _fits(run, trials, report, order)
    answers = _answers(run, where, searched, report, fits)
    charts = build_charts(run, trials, report, fits, order=order)
    rates = _rates(trials, report)
    against, compared = ([], []) if comparison is None else tables_and_lines(comparison)
    table = report_table(report)
    columns, same = lifted(table)
    columns = [column for column in columns if column.head]
    return Page(
        title=", ".join(str(path) for path in paths),
        state=_statuses(report),
        answer=[*compared, *answer(report, answers, searched)],
        heads=[column.head for column in columns],
        cells=list(zip(*(column.cells for column in columns), strict=True)) or [()] * len(report.cells),
        keys=list(zip(*(_keys(column) for column in columns), strict=True)) or [()] * len(report.cells),
        labels=[cell.label or "the only cell" for cell in report.cells],
        arms=[cell.arm for cell in report.cells],
        rates=rates,
        best=[cell.is_best for cell in report.cells],
        order=order,
        is_sorted=report.is_sorted,
        same=same,
        charts=_page_charts(charts, report, rates),
        compared=[_side_table(table) for table in against],
        tables=[_side_table(table) for table in _tables(answers, fits, searched)],
        advice=[] if answers is None else [_cut(line) for line in theory_lines(answers)],
        patch="" if answers is None else patch_of(answers),
        unmeasured=[*report_notes(report), *why_none, *(comparison.notes if comparison is not None else ())],
        limits=limits(report, answers, fits, noiseless=deterministic(trials), measured=bool(run.estimators)),
        provenance=[_provenance(path) for path in paths],
    )


def empty_page(paths: Sequence[Path], why: str) -> Page:
    """The page of a run that has nothing to show yet.

    Args:
        paths: The run directories.
        why: What it says instead.

    Returns:
        The page.
    """
    return Page(
        title=", ".join(str(path) for path in paths),
        state="",
        answer=[printable(why)],
        heads=(),
        cells=(),
        keys=(),
        labels=(),
        arms=(),
        rates=(),
        best=(),
        order=(),
        is_sorted=False,
        same="",
        charts=(),
        compared=(),
        tables=(),
        advice=(),
        patch="",
        unmeasured=(),
        limits=(),
        provenance=(),
    )


def _answers(
    run: Run, where: Sequence[str], searched: Searched | None, report: Report, fits: Sequence[CellFit]
) -> Answers | None:
    over = searched.found.over if searched is not None else None
    try:
        return build_answers(run, where=where, searched=over, report=report, fits=fits)
    except ClipsweepError:
        return None  # no trial has ended; a wrong condition has been told by now


def _fits(run: Run, trials: pd.DataFrame, report: Report, order: Sequence[int]) -> tuple[Sequence[CellFit], list[str]]:
    """The fits of the cells, of very many those of the most important ones; and why there are none, or not all."""
    notes, kept = [], trials
    if len(trials) > MOST_FITTED:
        seeds = max(1, round(len(trials) / len(report.cells)))
        chosen = [report.cells[at].cell_id for at in order[: MOST_FITTED // seeds]]
        kept = trials[trials["cell_id"].isin(chosen)]
        notes.append(
            f"L0 and L1 are of {len(chosen)} of {len(report.cells)} cells, the best of every arm first; "
            "`clipsweep fit` has all"
        )
    try:
        return fit_cells(run, kept), notes
    except ClipsweepError as error:
        return (), [error_text(error).partition(": ")[2]]


def _cut(line: str) -> str:
    """A line that names very many cells, without most of them."""
    return line if len(line) <= _MOST_LINE else f"{line[:_MOST_LINE]} … (`clipsweep advise` has all)"


_MOST_LINE = 800


def _statuses(report: Report) -> str:
    return ", ".join(f"{count} {status}" for status, count in report.statuses.items())


def _rates(trials: pd.DataFrame, report: Report) -> list[float | None]:
    """The learning rate of every cell."""
    known = trials.drop_duplicates("cell_id").set_index("cell_id")["learning_rate"].astype(float)
    found = [float(known[str(cell.cell_id)]) for cell in report.cells]
    return [rate if math.isfinite(rate) and rate > 0 else None for rate in found]


def _page_charts(charts: Sequence[Chart], report: Report, rates: Sequence[float | None]) -> list[PageChart]:
    arms = len({cell.arm for cell in report.cells})
    num_rates = 1 if None in rates else len(set(rates))
    found = []
    for at, chart in enumerate(charts):
        title, reading = title_of(chart)
        found.append(
            PageChart(
                name=f"{chart.kind}-{at}",
                title=title,
                reading=f"{reading} {chart.said[:1].upper()}{chart.said[1:]}{'.' if chart.said else ''}".strip(),
                columns=chart.columns,
                specification=specification(chart, num_arms=arms, num_rates=num_rates),
                brushed=BRUSHED[chart.kind],
            )
        )
    return found


_MOST_ROWS = 200
"""Rows of a table that is not the one of the cells."""


def _tables(answers: Answers | None, fits: Sequence[CellFit], searched: Searched | None) -> list[Table]:
    tables = list(searched_tables(searched))
    tables += [] if answers is None else answers_tables(answers)
    return [*tables, *([fits_table(fits)] if fits else [])]


def _side_table(table: Table) -> SideTable:
    columns, same = lifted(table)
    rows = list(zip(*(column.cells for column in columns), strict=True))
    return SideTable(
        title=table.title,
        heads=[column.head for column in columns],
        rows=rows[:_MOST_ROWS],
        same=same,
        left_out=max(0, len(rows) - _MOST_ROWS),
    )


def _keys(column: Column) -> Sequence[float | str | None]:
    """What rows are sorted by in a column: numbers where there are any, else its texts."""
    keys = column.keys or [None if text == NOTHING else text for text in column.cells]
    return [key if not isinstance(key, float) or math.isfinite(key) else None for key in keys]


def _provenance(path: Path) -> Provenance:
    """What the run directory says of how it came about."""
    run_dir = RunDir(path)
    state = open_state(run_dir)
    environment = dict(state.environment) | _environment(run_dir)
    started = [at for at in state.opened_at.values() if at is not None]
    ending = ending_of(run_dir)
    trials = [trial for name, trial in state.trials.items() if name not in state.superseded]
    measured = any(part.table.startswith("measurements/") for part in state.parts)
    data = sorted({segment.facts.data for trial in trials for segment in trial.segments if segment.facts.data})
    facts = [
        ("trials", f"{len(trials)}, ids {_first_and_last([trial.record.trial_id for trial in trials])}"),
        ("started", ", ".join(_time(at) for at in started[:1])),
        ("last driver", f"{_time(started[-1])} (of {counted(state.driver_epoch, 'driver')})" if started else ""),
        ("ended", "" if ending is None else f"{ending.ended_at}, exit code {ending.exit_code}: {ending.text}"),
        ("data (fingerprints)", _some_of(data)),
        ("measurements (ids)", _some_of(list(state.measurements) if measured else [])),
        *((name.replace("_", " "), _fact(value)) for name, value in environment.items() if name != "revisions"),
        *_revisions(environment.get("revisions")),
    ]
    return Provenance(
        run=str(path), facts=[(name, printable(value)) for name, value in facts if value], spec=_spec(run_dir)
    )


def _environment(run_dir: RunDir) -> dict[str, Any]:
    """``environment.json`` of the last driver; nothing where it cannot be read."""
    try:
        found = json.loads(read_file(run_dir.environment))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _revisions(found: Any) -> list[tuple[str, str]]:
    """The commits of clipsweep, and of the folder of the spec."""
    if not isinstance(found, dict):
        return []
    return [
        (
            f"commit ({of})",
            f"{one.get('commit')}{', with uncommitted changes' if one.get('uncommitted_changes') else ''}",
        )
        for of, one in found.items()
        if isinstance(one, dict)
    ]


def _fact(value: Any) -> str:
    """A value of an environment in a line; empty where it says nothing."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_fact(part)}" for name, part in value.items() if _fact(part))
    if isinstance(value, list):
        return _some_of([_fact(part) for part in value])
    return "" if value is None else str(value)


def _some_of(values: Sequence[str]) -> str:
    return ", ".join(values[:_MOST_NAMES]) + (
        f" and {len(values) - _MOST_NAMES} more" if len(values) > _MOST_NAMES else ""
    )


_MOST_NAMES = 8


def _first_and_last(names: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys((names[0], names[-1]))) if names else "none"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def _spec(run_dir: RunDir) -> str:
    """The spec as its user wrote it, but for ``on``; empty where it cannot be read."""
    try:
        text = without_hooks(read_file(run_dir.spec).decode("utf-8", "replace"))
    except (OSError, ValueError):
        return ""
    left = len(text) - _MOST_TEXT
    return printable(text[:_MOST_TEXT]) + (f"\n# {left:,} more characters are left out" if left > 0 else "")
