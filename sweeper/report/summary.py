"""The results of a sweep: cells aggregated over seeds, arms compared seed by seed.

Seeds are the unit of replication: every interval is over seeds, never over steps of one trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from estimators.fits.intervals import Interval
from sweeper.errors import ClipsweepError
from sweeper.formats import value_json
from sweeper.labels import counted, short_names
from sweeper.report.cells import TRAIN_LOSS, UNFINISHED, Cell, cell_of, deterministic, rows_of, status_counts
from sweeper.report.comparisons import ArmBest, Comparison, compare_arms
from sweeper.report.conditions import column_of
from sweeper.report.correlations import mechanical_note, trial_correlations
from sweeper.report.nodes import NodeShare, device_notes, node_shares
from sweeper.report.select import (
    labels_of,
    outside_the_rule,
    positive,
    select,
    superseded,
    thresholded,
    trusted_points,
)
from sweeper.store.driver_files import driver_of
from sweeper.store.run_dir import RunDir
from sweeper.tables.described import NOT_FINITE
from sweeper.tables.directions import direction_of, is_known
from sweeper.tables.run import Run
from sweeper.value_texts import in_order

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Report", "build_report"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that ``clipsweep report`` shows.

    Attributes:
        path: The run directory; of several runs all of them.
        statuses: Number of trials by status.
        primary: The loss by which cells are ranked.
        cells: The rows.
        bests: The best cell per arm.
        comparisons: Arms compared with each other.
        notes: What a reader should know about these numbers.
        nodes: How much each node did.
        directions: Column of a metric's best to ``min`` or ``max``; ``min or max`` where trials differ in it.
        rows_are_cells: Whether every row is a cell, and not several.
        is_sorted: Whether an order was asked for.
    """

    path: str
    statuses: dict[str, int]
    primary: str
    cells: tuple[Cell, ...]
    bests: tuple[ArmBest, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    nodes: tuple[NodeShare, ...] = ()
    directions: dict[str, str] = field(default_factory=dict)
    rows_are_cells: bool = True
    is_sorted: bool = False


def build_report(
    run: Run,
    *,
    by: Sequence[str] = (),
    where: Sequence[str] = (),
    sort: str | None = None,
    by_values: bool = False,
    trials: pd.DataFrame | None = None,
) -> Report:
    """Aggregate a run.

    Args:
        run: The run.
        by: Columns to group by, one row per combination of values; all swept ones by default. Short or dotted names.
        where: ``column=value`` conditions; ``none`` means null. All must hold.
        sort: A column of the table; a leading ``-`` reverses the order.
        by_values: Whether rows are in the order of their values without it, and not in that of the plan, which for a
            search is the order of asking.
        trials: The trials that satisfy the conditions, from whoever has selected them; by default they are selected.

    Returns:
        The report.

    Raises:
        ClipsweepError: A column is unknown, a condition is malformed, or no trial satisfies the conditions.
    """
    names = short_names(run.swept)
    trials = select(run, where) if trials is None else trials
    chosen = [column_of(name, trials, names) for name in by]
    columns = {column: names.get(column, column) for column in chosen} or names
    points = positive(trusted_points(run)) if "directional_smoothness" in run.estimators else None
    labels = labels_of(run, trials)
    primary = _primary(trials)
    row_of = partial(
        cell_of,
        columns=columns,
        correlations={} if points is None else trial_correlations(run, points),
        primary=primary,
        labels=labels,
        thresholded=thresholded(trials),
    )
    cells = tuple(row_of(group) for group in rows_of(trials, list(columns) if by else ["cell_id"]))
    made = {cell.cell_id: cell for cell in cells} if columns == names else {}

    def row_of_cell(group: pd.DataFrame) -> Cell:
        """Of a cell that has a row, the same."""
        return made.get(str(group.iloc[0]["cell_id"])) or row_of(group, columns=names)

    context = outside_the_rule(names)
    directions, more_notes = _directions(run, trials)
    larger = directions.get(primary) == "max"
    if any(deterministic(within) for within in rows_of(trials, list(context))):
        more_notes += (
            "without noise one seed says all: there are no intervals, and arms are not compared seed by seed; "
            f"`clipsweep theory {run.path}` compares hitting times with the theorems' bounds",
        )
    bests, comparisons = compare_arms(trials, context, row_of_cell, primary, labels=labels, larger=larger)
    if by_values:
        cells = tuple(sorted(cells, key=lambda cell: in_order(cell.values.values())))
    rows_are_cells = set(columns) == set(names)
    if rows_are_cells:
        best = {one.cell.cell_id for one in bests if one.cell is not None}
        cells = tuple(replace(cell, is_best=cell.cell_id in best) for cell in cells)
    if sort is not None:
        cells = _sorted(cells, sort, names)
    return Report(
        path=run.title,
        statuses=status_counts(trials),
        primary=primary,
        cells=cells,
        bests=bests,
        comparisons=comparisons,
        notes=_notes(run, trials, cells, points) + more_notes + device_notes(run, trials),
        nodes=node_shares(run, set(trials["trial_id"])),
        directions=directions,
        rows_are_cells=rows_are_cells,
        is_sorted=sort is not None,
    )


def _primary(trials: pd.DataFrame) -> str:
    """Validation loss if there is one, otherwise training loss."""
    return "best_valid_loss" if "best_valid_loss" in trials and trials["best_valid_loss"].notna().any() else TRAIN_LOSS


def _directions(run: Run, trials: pd.DataFrame) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which way each metric gets better, and what is to be said of those of which nobody says it."""
    directions, notes = {}, []
    declared = [run.state.declared_metrics(str(trial)) for trial in trials["trial_id"]]
    names = [str(name).removeprefix("best_") for name in trials.columns if str(name).startswith("best_")]
    for name in names:
        with_it = [one for one, value in zip(declared, trials[f"best_{name}"], strict=True) if value == value]
        found = {direction_of(name, one) for one in with_it or declared}
        directions[f"best_{name}"] = " or ".join(sorted(found, reverse=True))
        if not all(is_known(name, one) for one in with_it):
            fix = f"metrics: {{{name}: max}} in the spec"
            notes.append(f"best_{name} is its minimum: no direction is declared for {name} ({fix})")
    unknown = [name for name in run.state.metrics if name not in names]
    if unknown and (trials["status"] == "done").any():
        known = ", ".join(names) or "none"
        notes.append(f"the spec's metrics name {', '.join(unknown)}, which no trial has; known: {known}")
    return directions, tuple(notes)


def _sorted(cells: tuple[Cell, ...], sort: str, names: Mapping[str, str]) -> tuple[Cell, ...]:
    name, reverse = sort.removeprefix("-"), sort.startswith("-")
    name = names.get(name, name)
    known = [
        *(["case"] if any(cell.case for cell in cells) else []),
        *cells[0].values,
        *cells[0].losses,
        "arm",
        "seeds",
        "trials",
        "diverged",
        "clipped_fraction",
        "correlation",
        "rank_correlation",
    ]
    if name not in known:
        raise ClipsweepError(f"--sort {sort!r}: no such column; known: {', '.join(known)}")

    def key(cell: Cell) -> Any:
        if name in cell.values:
            return cell.values[name]
        if name in cell.losses:
            return cell.losses[name].mean
        value = getattr(cell, name)
        return value.mean if isinstance(value, Interval) else value

    def place(cell: Cell) -> int:
        """Rows whose loss is of some trials alone come after those of all trials, and rows without a value last."""
        value = key(cell)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return 2
        return int(name in cell.losses and not cell.is_of_all_trials(name))

    whole, of_some, without = ([cell for cell in cells if place(cell) == wanted] for wanted in (0, 1, 2))
    # Values of several types, by type first.
    ordered = [sorted(part, key=lambda cell: _in_order(key(cell)), reverse=reverse) for part in (whole, of_some)]
    return (*ordered[0], *ordered[1], *without)


def _in_order(value: Any) -> tuple[int, Any]:
    """A key by which values of any types can be sorted: numbers and booleans, then texts, then lists and sections."""
    if isinstance(value, list | dict):
        return 2, value_json(value)
    return int(isinstance(value, str)), value


def _notes(run: Run, trials: pd.DataFrame, cells: tuple[Cell, ...], points: pd.DataFrame | None) -> tuple[str, ...]:
    notes = list(run.state.unmeasured(trials["trial_id"]).lines)
    unfinished = int(trials["status"].isin(UNFINISHED).sum())
    if unfinished:
        notes.append(f"{unfinished} of {len(trials)} trials are unfinished: the numbers will change")
        if run.state.recorder is None and driver_of(RunDir(run.path)) is None:
            notes.append(
                "nobody is running this sweep now, and its tables are those of their last refresh: `clipsweep status` "
                "knows more, and `clipsweep run` with its spec continues it"
            )
    if held := int((trials["status"] == "held").sum()):
        are = "1 trial is" if held == 1 else f"{held} trials are"
        notes.append(
            f"{are} held by the search: columns of losses leave them out, what is measured on the way does not"
        )
    if earlier := int(superseded(run.trials).sum()) - int(superseded(trials).sum()):
        notes.append(
            f"{earlier} trials of an earlier spec or earlier code are left out; `--where superseded=True` shows them"
        )
    if any(2 <= cell.seeds <= 3 for cell in cells):
        notes.append(
            "± and [low, high] are 95 % intervals over seeds; those of two or three seeds are wide; more seeds help"
        )
    notes += mechanical_note(
        (cell.rank_correlation, cell.bound_correlation, cell.partial_correlation, cell.control_correlation)
        for cell in cells
    )
    notes += _not_finite(trials)
    settings = [] if points is None else _settings(run, points[points["trial_id"].isin(trials["trial_id"])])
    if len(settings) > 1:
        notes.append(
            f"the points were measured under several settings (measurement_id {', '.join(settings)}); correlations and "
            "fits use the latest value of each snapshot"
        )
    if mixed := sum(cell.is_mixed for cell in cells):
        notes.append(
            f"the share of clipped steps is over all trials of a row; in {counted(mixed, 'row')} some of them have no "
            "threshold, and count as never clipped"
        )
    if any(cell.clipped_fraction == 0 for cell in cells):
        notes.append("some thresholds never fired: their cells are unclipped training under another name")
    return tuple(notes)


def _not_finite(trials: pd.DataFrame) -> list[str]:
    """Metrics that were NaN or infinite."""
    notes = []
    for column in [str(name) for name in trials.columns if str(name).startswith(NOT_FINITE)]:
        name = column.removeprefix(NOT_FINITE)
        counts = trials[column].fillna(0).astype(int)
        if total := int(counts.sum()):
            found = f"{counted(total, 'evaluation')} of {counted(int((counts > 0).sum()), 'trial')}"
            notes.append(
                f"{name} is NaN or infinite in {found}: best_{name} is of the others, and a cell is not ranked if one "
                f"of its trials has no others; final_{name} is the last, whatever it is"
            )
    return notes


def _settings(run: Run, points: pd.DataFrame) -> list[str]:
    """The settings under which points were measured, in the order in which the run used them."""
    used = set(points["measurement_id"])
    return [measurement for measurement in run.state.measurements if measurement in used]
