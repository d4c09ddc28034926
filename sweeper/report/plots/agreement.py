"""The paper's Figure 6: the same snapshots measured twice, for example on a tenth of the data and on all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sweeper.errors import ClipsweepError
from sweeper.report.plots.axes import Picture, explain, log_axes, panels
from sweeper.report.plots.cells import drawn_cells, records
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["agreement", "paired_measurements"]

_VALUES = {"grad_norm": "gradient norm", "smoothness": "local smoothness"}


def paired_measurements(run: Run) -> pd.DataFrame:
    """Snapshots that were measured under two settings.

    Args:
        run: The run; only the first and the last of its settings are used.

    Returns:
        ``trial_id``, ``step``, and ``grad_norm``, ``smoothness`` and ``data_fraction`` with the suffixes ``_first`` and
        ``_last``.

    Raises:
        ClipsweepError: The run was measured under only one setting.
    """
    name = "directional_smoothness"
    rows = run.measurements(name) if name in run.estimators else None
    ids = [] if rows is None else list(dict.fromkeys(rows["measurement_id"]))
    known = [measurement for measurement in run.state.measurements if measurement in ids]
    ids = known + [measurement for measurement in ids if measurement not in known]
    if rows is None or len(ids) < 2:
        if run.state.recorder is not None:
            raise ClipsweepError(
                f"{run.path}: its snapshots were measured under only one setting, and {run.state.recorder} keeps none "
                "to be measured again"
            )
        raise ClipsweepError(
            f"{run.path}: its snapshots were measured under only one setting; with measure.keep: true, "
            "`clipsweep estimate RUN --estimator directional_smoothness --set data_fraction=1` measures them again"
        )
    columns = ["trial_id", "step", *_VALUES, "data_fraction"]
    first, last = (rows.loc[rows["measurement_id"] == measurement, columns] for measurement in (ids[0], ids[-1]))
    pairs: pd.DataFrame = first.merge(last, on=["trial_id", "step"], suffixes=("_first", "_last"))
    return pairs


def agreement(run: Run, trials: pd.DataFrame) -> Picture:
    """Gradient norm and smoothness under one setting against those under another, with the diagonal.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure; each panel shows the median ratio and the range of nine tenths of the ratios.

    Raises:
        ClipsweepError: The run, or the chosen trials, were measured under only one setting.
    """
    pairs = paired_measurements(run)
    pairs = pairs[pairs["trial_id"].isin(trials["trial_id"])].dropna()
    if pairs.empty:
        raise ClipsweepError(f"{run.path}: none of the chosen trials was measured under both settings")
    shares = [float(pairs[f"data_fraction_{which}"].iloc[0]) for which in ("first", "last")]
    figure, axes = panels(len(_VALUES), columns=len(_VALUES), width=3.6, height=3.4)
    for axis, (column, words) in zip(axes, _VALUES.items(), strict=True):
        x, y = (pairs[f"{column}_{which}"].to_numpy(float) for which in ("first", "last"))
        axis.scatter(x, y, c=pairs["step"], s=12, cmap="viridis")
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axis.plot(ends, ends, color="black", linewidth=0.8)
        low, middle, high = np.quantile(y / x, [0.05, 0.5, 0.95])
        axis.set_title(f"ratio {middle:.3f}, nine tenths in [{low:.2f}, {high:.2f}]")
        log_axes(axis)
        axis.set(
            xlabel=f"{words}, {100 * shares[0]:.3g} % of the data",
            ylabel=f"{words}, {100 * shares[1]:.3g} % of the data",
        )
    by_trial = {name: cell.columns for cell in drawn_cells(run, trials) for name in cell.trials["trial_id"]}
    figure.drawn += [{**by_trial[row["trial_id"]], **row} for row in records(pairs)]
    explain(figure, ["each dot: one snapshot of one seed, dark for the first step, light for the last; line: equality"])
    return figure
