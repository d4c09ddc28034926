"""Interprets a sweep: where it is stable, what clipping did, where the grid ends too soon, what theory advises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.cell_labels import CellLabels
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.report.advice import Advice, build_advice
from sweeper.report.cells import UNFINISHED
from sweeper.report.fits import CellFit, fit_cells, fit_hessians
from sweeper.report.noise import noise_of_cells
from sweeper.report.select import labels_of, number_column, of_the_transform, outside_the_rule, select, thresholded
from sweeper.report.stability import (
    Edge,
    Frontier,
    FrontierRatio,
    Proportion,
    divergence_rate,
    edge_of,
    ended_above_start,
    frontier_ratios,
    frontiers,
    grid_override,
)
from sweeper.report.summary import Report, build_report
from sweeper.spec import Sweep
from sweeper.spec.bounds import bounds_of
from sweeper.tables.run import Run
from sweeper.value_texts import key_of, keys_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Activity", "Answers", "build_answers", "extended_grid", "find_edges"]

_ENDED = ("done", "diverged")


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What the rule did in one cell.

    Attributes:
        label: What differs from the other cells.
        case: The name that the spec gives its case; None for none.
        values: Short name of each swept path to its value.
        texts: The same as tables show it.
        diverged: How often it diverged.
        clipped: Share of clipped steps, mean over the trials; NaN for rules without a threshold.
        effective_rate: Median effective step size.
        grad_norm: 5 %, 50 % and 95 % quantile of the gradient norm before the transform; NaN, as the effective rate,
            where no trial logged more than one step.
        fired: Whether any step was clipped; None for rules without a threshold.
    """

    label: str
    case: str | None
    values: dict[str, Any]
    texts: dict[str, str]
    diverged: Proportion
    clipped: float
    effective_rate: float
    grad_norm: tuple[float, float, float]
    fired: bool | None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Everything that ``clipsweep advise`` shows.

    Attributes:
        path: The run directory.
        activity: One row per cell.
        frontiers: One row per rule and threshold.
        ratios: Largest stable learning rate of clipped over unclipped rules.
        above_start: Cells of which trials are done, but ended above their start, and how many.
        edges: Where the best cell of an arm is at the end of the grid.
        grid: Path to all values tried, for the paths with an edge.
        advice: What theory advises.
        notes: What a reader should know about these answers.
    """

    path: str
    activity: tuple[Activity, ...]
    frontiers: tuple[Frontier, ...]
    ratios: tuple[FrontierRatio, ...]
    above_start: tuple[str, ...] = ()
    edges: tuple[Edge, ...]
    grid: dict[str, list[Any]]
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]


def build_answers(
    run: Run,
    *,
    where: Sequence[str] = (),
    searched: Sequence[str] | None = None,
    report: Report | None = None,
    fits: Sequence[CellFit] | None = None,
) -> Answers:
    """Draw conclusions from a run.

    Args:
        run: The run.
        where: ``column=value`` conditions, as for a report.
        searched: Paths that the run's search is over; None for a run without one. Each seed has values of its own
            there, so that there is no frontier of a grid, and no edges are extended:
            :func:`~sweeper.report.searched.build_searched` says what was found.
        report: The report on the same trials, from whoever has made one; by default it is made.
        fits: The fits of the same cells; by default they are made.

    Returns:
        The answers.

    Raises:
        ClipsweepError: No trial ended, or a condition is wrong.
    """
    trials = select(run, where)
    names = short_names(run.swept)
    labels = labels_of(run, trials)
    ended = trials[trials["status"].isin(_ENDED)]
    if ended.empty:
        raise ClipsweepError(f"{run.path}: no trial has ended yet")
    ended = ended.assign(diverged=(ended["status"] == "diverged") * 1.0)
    ended = ended.assign(above_start=ended_above_start(run, ended))
    context = outside_the_rule(names)
    found = (
        () if "update_rule.learning_rate" in (searched or ()) else frontiers(ended, context, of_the_transform(names))
    )
    edges: tuple[Edge, ...] = ()
    if searched is None:
        edges = find_edges(report or build_report(run, trials=trials), trials, names, labels)
    above = _above_start(ended, labels)
    notes = []
    if above:
        notes.append(
            f"done, but ended above their start: {'; '.join(above)}; counted as unstable; max_loss in the spec would "
            "have stopped them"
        )
    try:
        fits, hessian = fits or fit_cells(run, trials), fit_hessians(run, trials)
        advice = build_advice(fits, steps=int(ended["steps"].max()), tau=noise_of_cells(run, trials), hessian=hessian)
    except ClipsweepError as error:
        advice = ()
        notes.append(f"no advice from theory: {str(error).partition(': ')[2]}")
    unfinished = int(trials["status"].isin(UNFINISHED).sum())
    if unfinished:
        notes.append(f"{unfinished} of {len(trials)} trials have not ended: the answers will change")
    return Answers(
        path=str(run.path),
        activity=_activity(run, ended, names, labels),
        frontiers=found,
        ratios=frontier_ratios(found),
        above_start=above,
        edges=edges,
        grid={edge.path: sorted_values(trials[edge.path]) for edge in edges},
        advice=advice,
        notes=tuple(notes),
    )


def extended_grid(run_dir: Path, sweep: Sweep) -> list[str]:
    """The overrides that extend a sweep's grid beyond the edges at which its arms have their best cells.

    Args:
        run_dir: The finished run.
        sweep: Its spec.

    Returns:
        ``sweep.grid.<path>=[values]``, one for each path of the grid with an edge; empty if there is none.
    """
    run = Run(run_dir)
    trials, names = select(run, ()), short_names(run.swept)
    edges = find_edges(build_report(run, trials=trials), trials, names, labels_of(run, trials))
    grid = {edge.path: sorted_values(trials[edge.path]) for edge in edges if edge.path in sweep.sweep.grid}
    return [f"sweep.grid.{path}={json.dumps(values)}" for path, values in grid_override(grid, edges).items()]


def find_edges(report: Report, trials: pd.DataFrame, names: dict[str, str], labels: CellLabels) -> tuple[Edge, ...]:
    """Where the best cell of an arm has the largest or smallest value that was tried with its other values.

    Args:
        report: The report on the same trials.
        trials: The trials.
        names: Swept path to short name.
        labels: What the cells are called.

    Returns:
        Edges of numeric paths of the update rule, arm by arm.
    """
    edges = []
    keys = {path: keys_of(trials[path]) for path in names}
    for best in report.bests:
        if best.cell is None:
            continue
        for path, name in names.items():
            value = best.cell.values.get(name)
            if not path.startswith("update_rule.") or not isinstance(value, float | int) or isinstance(value, bool):
                continue
            others = {other: best.cell.values[names[other]] for other in names if other != path}
            wanted = {other: key_of(held) for other, held in others.items()}
            beside = trials[
                [
                    arm == best.arm and all(keys[other][at] == key for other, key in wanted.items())
                    for at, arm in enumerate(trials["arm"])
                ]
            ]
            at_edge = edge_of([float(v) for v in beside[path].dropna()], float(value), bounds_of(path))
            if at_edge is not None:
                side, add = at_edge
                edges.append(
                    Edge(
                        path=path,
                        arm=best.arm,
                        context=labels.part({names[other]: held for other, held in others.items()}),
                        side=side,
                        value=float(value),
                        add=add,
                    )
                )
    return tuple(edges)


def sorted_values(column: pd.Series[Any]) -> list[Any]:
    """The distinct values of a swept column, null first.

    Args:
        column: A column of the trials table.

    Returns:
        Plain values, numbers in ascending order.
    """
    values = {plain_value(value) for value in column}
    return ([None] if None in values else []) + sorted(value for value in values if value is not None)


def _above_start(ended: pd.DataFrame, labels: CellLabels) -> tuple[str, ...]:
    """Which cells have trials that are done, but ended above their start."""
    cells = []
    for cell, group in ended.groupby("cell_id", sort=False):
        count = int(group["above_start"].sum())
        if count:
            label = labels[str(cell)]
            cells.append(label if count == len(group) else f"{label} ({count} of {len(group)} seeds)")
    return tuple(cells)


def _activity(run: Run, ended: pd.DataFrame, names: Mapping[str, str], labels: CellLabels) -> tuple[Activity, ...]:
    clipping = thresholded(ended)
    steps = run.metrics[["trial_id", "grad_norm", "step_size"]].merge(ended[["trial_id", "cell_id"]], on="trial_id")
    steps = steps.dropna(subset=["grad_norm"])
    # Of a trial that logged its first and last step alone, as theory sweeps do, the one says nothing of the others.
    steps = steps[steps.groupby("trial_id")["grad_norm"].transform("size") > 1]
    of_cell = steps.groupby("cell_id", sort=False).indices
    norms, sizes = (steps[name].to_numpy(dtype=float, na_value=math.nan) for name in ("grad_norm", "step_size"))
    rows = []
    for cell, group in ended.groupby("cell_id", sort=False):
        places = of_cell.get(cell, [])
        clips = not clipping.isdisjoint(group["trial_id"])
        clipped = float(group["clipped_fraction"].astype(float).mean()) if clips else float("nan")
        known = norms[places]
        known = known[~np.isnan(known) & (known < math.inf)]
        low, middle, high = np.quantile(known, [0.05, 0.5, 0.95]) if len(known) else (math.nan,) * 3
        effective = sizes[places]
        effective = effective[~np.isnan(effective)]
        values = {name: plain_value(group.iloc[0][number_column(path)]) for path, name in names.items()}
        rows.append(
            Activity(
                label=labels[str(cell)],
                case=plain_value(group.iloc[0]["case"]),
                values=values,
                texts=labels.texts(values),
                diverged=divergence_rate(int(group["diverged"].sum()), len(group)),
                clipped=clipped,
                effective_rate=float(np.median(effective)) if len(effective) else math.nan,
                grad_norm=(float(low), float(middle), float(high)),
                fired=clipped > 0 if clips else None,
            )
        )
    return tuple(rows)
