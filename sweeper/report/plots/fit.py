"""Fitted lines through the points of each cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sweeper.report.fits import fit_cells
from sweeper.report.other_fits import several_values
from sweeper.report.plots.axes import MAX_PANELS, Picture, explain, panels
from sweeper.report.plots.cells import drawn_cells, records, tell_apart, wrapped
from sweeper.report.select import positive, trusted_points
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit"]

_DRAWN = ("trial_id", "step", "grad_norm", "smoothness")


def fit(run: Run, trials: pd.DataFrame) -> Picture:
    """Smoothness against gradient norm with the fitted upper line of each seed, on linear axes.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure, with a panel per cell.

    Raises:
        ClipsweepError: There are no trusted measurements.
    """
    points = positive(trusted_points(run))
    every = fit_cells(run, trials)
    cells = every[:MAX_PANELS]
    known = drawn_cells(run, trials)
    columns_of = {cell.cell_id: cell.columns for cell in known}
    titles = dict(zip([cell.cell_id for cell in known], tell_apart([cell.swept for cell in known]), strict=True))
    figure, axes = panels(len(cells), width=3.1, height=2.4)
    num_probes = 1
    for axis, cell in zip(axes, cells, strict=True):
        own = points[points["trial_id"].isin(trials.loc[trials["cell_id"] == cell.cell_id, "trial_id"])]
        axis.scatter(own["grad_norm"], own["smoothness"], s=6, alpha=0.5)
        sampled = several_values(own, "smoothness")
        if sampled.shape[1] > 1:
            spread = np.std(sampled, axis=1, ddof=1)
            axis.errorbar(
                own["grad_norm"],
                own["smoothness"],
                yerr=spread,
                fmt="none",
                ecolor="tab:blue",
                alpha=0.3,
                linewidth=0.7,
            )
            own = own.assign(smoothness_sd=spread)
            num_probes = sampled.shape[1]
        columns = columns_of[cell.cell_id]
        dots = records(own[[*_DRAWN, *(name for name in ("smoothness_sd",) if name in own)]])
        figure.drawn += [{**columns, "drawn": "point", **row} for row in dots]
        for index, (seed, fitted) in enumerate(cell.trajectories.items()):
            labels = ("upper line", "median line") if index == 0 else (None, None)
            x = np.linspace(*fitted.range, 50)
            lines = (("upper line", fitted.upper, fitted.quantile), ("median line", fitted.median, 0.5))
            for name, line, quantile in lines:
                if math.isnan(line[0]):
                    continue
                figure.drawn += [
                    {
                        **columns,
                        "drawn": name,
                        "quantile": quantile,
                        "seed": seed,
                        "grad_norm": float(at),
                        "smoothness": line[0] + line[1] * at,
                    }
                    for at in x
                ]
            style = "-" if not fitted.unidentifiable else ":"
            axis.plot(x, fitted.upper[0] + fitted.upper[1] * x, style, color="tab:red", linewidth=1.2, label=labels[0])
            axis.plot(x, fitted.median[0] + fitted.median[1] * x, "--", color="grey", linewidth=0.9, label=labels[1])
        told = (
            "L1 not identifiable"
            if cell.unidentifiable
            else f"L0 = {cell.L0.mean:.3g}, L1 = {cell.L1.mean:.3g} at the quantile {cell.quantile:.2f}"
        )
        axis.set_title(f"{wrapped(titles[cell.cell_id], figure.characters)}\n{told}")
        axis.set(xlim=(0, None), ylim=(0, None))
    for axis in axes[-figure.columns :]:
        axis.set_xlabel("gradient norm  ||∇f(x)||")
    figure.supylabel("local smoothness")
    if len(every) > len(cells):
        figure.suptitle(f"the first {len(cells)} of {len(every)} cells: choose with --where")
    notes = [
        "each dot: one snapshot; lines: one of each kind per seed, dotted where L1 is not identifiable; "
        "the upper one at the quantile in the title: 0.95, or with few points the one that leaves five above it"
    ]
    if num_probes > 1:
        notes.append(f"bars: standard deviation over {num_probes} probes")
    explain(figure, notes)
    axes[0].legend(loc="upper left", handlelength=1.2)
    return figure
