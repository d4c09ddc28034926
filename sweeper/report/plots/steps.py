"""Quantities against the step: what the pictures of trajectories share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.report.plots.axes import MAX_PANELS, Picture, panels
from sweeper.report.plots.cells import DrawnCell, records, wrapped
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["draw_curve", "latest_rows", "step_panels"]


def step_panels(cells: Sequence[DrawnCell], titles: Sequence[str]) -> tuple[Picture, Sequence[Axes]]:
    """A panel per cell with the step on its axis.

    Args:
        cells: The cells; of more than :data:`MAX_PANELS` the first ones have a panel, and the figure says so.
        titles: What each is called.

    Returns:
        The figure and its panels, which share their scales.
    """
    num_shown = min(len(cells), MAX_PANELS)
    figure, axes = panels(num_shown, width=3.3, height=2.3, sharex=True, sharey=True)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(wrapped(title, figure.characters))
    for axis in axes[-figure.columns :]:
        axis.set_xlabel("step")
    if len(cells) > num_shown:
        figure.suptitle(f"the first {MAX_PANELS} cells; {len(cells) - num_shown} more not shown: choose with --where")
    return figure, axes


def draw_curve(
    axis: Axes, points: pd.DataFrame, column: str, colour: str, *, is_edge: bool = False
) -> list[dict[str, Any]]:
    """Draw the median over seeds, and their dots.

    Args:
        axis: Where.
        points: ``trial_id``, ``step`` and the column, of one cell.
        column: What is drawn.
        colour: Of line and dots.
        is_edge: Whether it is what others are compared with: dashed, without dots.

    Returns:
        A row per step: ``step``, ``median``, ``low``, ``high`` and ``seeds``.
    """
    if points.empty:
        return []
    by_step = points.groupby("step")[column]
    table = by_step.agg(["median", "min", "max", "count"]).sort_index()
    axis.plot(table.index, table["median"], color=colour, linestyle="--" if is_edge else "-", linewidth=1.0)
    if not is_edge and (table["count"] > 1).any():
        axis.plot(points["step"], points[column], ".", color=colour, ms=2, alpha=0.4)
    return [
        {
            "step": int(row["step"]),
            "median": row["median"],
            "low": row["min"],
            "high": row["max"],
            "seeds": row["count"],
        }
        for row in records(table.reset_index())
    ]


def latest_rows(run: Run, table: str) -> pd.DataFrame:
    """One row per snapshot: of settings that the run itself has had the latest, and only elsewhere another.

    Args:
        run: The run.
        table: The estimator.

    Returns:
        Rows of its table without errors, by trial and step.
    """
    rows = run.measurements(table)
    own = list(run.state.measurements)
    age = rows["measurement_id"].map({measurement: at for at, measurement in enumerate(own)}).fillna(-1)
    latest = rows[rows["error"].isna()].assign(_age=age).sort_values("_age", kind="stable")
    return latest.drop_duplicates(["trial_id", "step"], keep="last").sort_values(["trial_id", "step"])
