"""The numbers behind the charts of a page: columns of short numbers, thinned to what a browser can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.fits.intervals import Interval
from sweeper.labels import counted
from sweeper.report.cells import deterministic
from sweeper.report.fits import CellFit
from sweeper.report.page.thinning import share, thinned
from sweeper.report.select import positive, thresholded, trusted_points
from sweeper.report.stability import unstable
from sweeper.report.summary import Report
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Chart", "build_charts"]

MOST_CURVES = 300
"""Cells whose curves are on a page."""

MOST_CURVE_POINTS = 24_000
"""Points of all curves of one quantity."""

MOST_DOTS = 12_000
"""Snapshots in the scatter."""

_SHARES = 40
"""Sections of training over which the share of clipped steps is taken."""

_DIGITS = 4
"""Significant digits of what is drawn: more than a screen can show."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What one chart draws.

    Attributes:
        kind: Its name: a specification of :mod:`sweeper.report.page.charts`.
        columns: Column to values, all of one length; ``cell`` is the place of the cell in the report.
        said: How it was thinned, and what is left out; empty for nothing.
        options: What its specification needs to know besides.
    """

    kind: str
    columns: Mapping[str, list[Any]]
    said: str = ""
    options: Mapping[str, Any]


def build_charts(
    run: Run, trials: pd.DataFrame, report: Report, fits: Sequence[CellFit], *, order: Sequence[int]
) -> list[Chart]:
    """All charts that a run has the numbers for.

    Args:
        run: The run.
        trials: Its chosen trials, as :func:`~sweeper.report.select.select` returns them.
        report: The report on them, a row per cell.
        fits: The fits of L0 and L1.
        order: Places of the cells by importance: the first have curves where not all can.

    Returns:
        The charts, in the order of the page.
    """
    place = {cell.cell_id: at for at, cell in enumerate(report.cells)}
    numbered = trials.assign(cell=trials["cell_id"].map(place))
    numbered = numbered[numbered["cell"].notna()]
    numbered = numbered.assign(cell=numbered["cell"].astype(int))
    makers: list[Callable[[], list[Chart]]] = [
        lambda: _curves(run, numbered, report, order),
        lambda: _scatter(run, numbered),
        lambda: _rates(numbered, report),
        lambda: _frontier(run, numbered),
        lambda: _activity(run, numbered, order),
        lambda: _constants(place, fits),
    ]
    return [chart for make in makers for chart in make()]


def _curves(run: Run, trials: pd.DataFrame, report: Report, order: Sequence[int]) -> list[Chart]:
    """Losses by step: mean over the seeds, and the band between them."""
    if not run.has("metrics"):
        return []
    chosen = list(order[:MOST_CURVES])
    among = trials[trials["cell"].isin(chosen)]
    metrics = run.metrics.merge(among[["trial_id", "cell"]], on="trial_id")
    smooth = not deterministic(among)
    said = []
    if len(order) > len(chosen):
        said.append(f"curves of {len(chosen)} of {len(order)} cells: the best of every arm first")
    charts: list[Chart] = []
    for quantity in ("train_loss", report.primary.removeprefix("best_").removeprefix("final_")):
        if quantity not in metrics or any(chart.options["quantity"] == quantity for chart in charts):
            continue
        rows = metrics[["cell", "trial_id", "step", quantity]].dropna()
        rows = rows[np.isfinite(rows[quantity])].sort_values(["trial_id", "step"], kind="stable")
        if rows["step"].nunique() < 2:
            continue
        notes = list(said)
        is_smoothed = smooth and quantity == "train_loss" and bool(rows.groupby("trial_id").size().max() > _SHARES)
        if is_smoothed:
            notes.append("running mean over a fortieth of the logged steps")
            rows = rows.assign(**{quantity: _running_mean(rows, quantity)})
        curves = rows.groupby(["cell", "step"])[quantity].agg(["mean", "min", "max"]).reset_index()
        most = share(MOST_CURVE_POINTS, curves["cell"].nunique())
        kept = thinned(curves, by="cell", along="step", most=most)
        if len(kept) < len(curves):
            notes.append(f"at most {most} evenly spaced steps of a cell")
        first = rows.groupby("trial_id")[quantity].first().median()
        charts.append(
            Chart(
                kind="curves",
                columns={
                    "cell": kept["cell"].tolist(),
                    "step": kept["step"].tolist(),
                    "mean": _short(kept["mean"]),
                    "low": _short(kept["min"]),
                    "high": _short(kept["max"]),
                },
                said=_said(notes),
                options={"quantity": quantity, **_scale(kept, float(first))},
            )
        )
    return charts


def _running_mean(rows: pd.DataFrame, quantity: str) -> pd.Series[float]:
    """Over a fortieth of the steps that each trial logged: the loss of one batch is noisy."""
    lengths = rows.groupby("trial_id", sort=False)[quantity].transform("size")
    sums = rows[quantity].groupby(rows["trial_id"], sort=False).cumsum()
    places = rows.groupby("trial_id", sort=False).cumcount()
    window = (lengths // _SHARES).clip(lower=1).to_numpy()
    # The sum of a window is a difference of sums; a trial's rows are next to each other.
    values, at = sums.to_numpy(dtype=np.float64), np.arange(len(rows))
    before = np.where(places.to_numpy() >= window, values[np.maximum(0, at - window)], 0.0)
    means = (values - before) / np.minimum(window, places.to_numpy() + 1)
    return rows[quantity].where(lengths <= _SHARES, means)


def _scale(curves: pd.DataFrame, start: float) -> dict[str, Any]:
    """The axis of losses: cut half above the first ones, so that one exploding trial does not flatten all others."""
    lowest, highest = float(curves["min"].min()), float(curves["max"].max())
    top = min(highest, 1.5 * start) if math.isfinite(start) and start > lowest else highest
    return {"log": bool(0 < lowest * 1000 < top), "low": lowest, "top": top, "cut": bool(highest > top)}


def _scatter(run: Run, trials: pd.DataFrame) -> list[Chart]:
    """Smoothness against gradient norm."""
    if "directional_smoothness" not in run.estimators:
        return []
    points = positive(trusted_points(run))[["trial_id", "step", "grad_norm", "smoothness"]]
    points = points.merge(trials[["trial_id", "cell", "seed"]], on="trial_id")
    if points.empty:
        return []
    most = share(MOST_DOTS, points["cell"].nunique(), least=3)
    kept = thinned(points, by="cell", along="grad_norm", most=most, always="smoothness")
    said = ""
    if len(kept) < len(points):
        said = (
            f"{len(kept):,} of {len(points):,} snapshots: of each cell at most {most}, evenly spaced in the order of "
            "their gradient norms, with the least and the most smooth one"
        )
    return [
        Chart(
            kind="scatter",
            columns={
                "cell": kept["cell"].tolist(),
                "step": kept["step"].tolist(),
                "seed": kept["seed"].tolist(),
                "grad_norm": _short(kept["grad_norm"]),
                "smoothness": _short(kept["smoothness"]),
            },
            said=said,
            options={},
        )
    ]


def _rates(trials: pd.DataFrame, report: Report) -> list[Chart]:
    """The loss of every cell against its learning rate."""
    rates = trials.drop_duplicates("cell").set_index("cell")["learning_rate"].astype(float)
    places = [
        at
        for at, cell in enumerate(report.cells)
        if report.primary in cell.losses and cell.losses[report.primary].count and rates.get(at, 0.0) > 0
    ]
    if len({rates[at] for at in places}) < 2:
        return []
    losses = [report.cells[at].losses[report.primary] for at in places]
    means = [loss.mean for loss in losses]
    low, top, is_log = _limits(means)
    above = sum(mean > top for mean in means)
    return [
        Chart(
            kind="rates",
            columns={
                "cell": places,
                "rate": _short([float(rates[at]) for at in places]),
                "mean": _short(means),
                "low": _short([loss.low for loss in losses]),
                "high": _short([loss.high for loss in losses]),
            },
            said=_said([
                *(["bars: 95 % over the seeds, cut where they leave the picture"] if _has_bars(losses) else []),
                *([f"{counted(above, 'cell')} above the picture"] if above else []),
            ]),
            options={"loss": report.primary, "log": is_log, "low": low, "top": top, "bars": _has_bars(losses)},
        )
    ]


def _has_bars(losses: Sequence[Interval]) -> bool:
    return any(math.isfinite(loss.low) for loss in losses)


def _limits(values: Sequence[float]) -> tuple[float, float, bool]:
    """Where an axis begins and ends so that most values can be told apart, and whether it is logarithmic."""
    ordered = sorted(values)
    low, middle, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    if low > 0 and high > 100 * low:
        low, top = max(low, middle * 1e-9), min(high, middle * 1e3)
        room = (top / low) ** 0.04
        return low / room, top * room, True
    most = middle + 20 * max(middle - low, 1e-9 * abs(middle))
    top = most if high > 5 * most else high
    room = 0.04 * (top - low) or 0.04 * abs(top) or 1.0
    return low - room, top + room, False


def _frontier(run: Run, trials: pd.DataFrame) -> list[Chart]:
    """The share of unstable seeds over threshold and learning rate."""
    ended = trials[trials["status"].isin(["done", "diverged"])]
    if ended.empty or ended["learning_rate"].nunique() < 2:
        return []
    ended = ended.assign(unstable=unstable(run, ended) * 1.0)
    cells = ended.groupby("cell").agg(
        rate=("learning_rate", "first"),
        threshold=("clip_norm", "first"),
        share=("unstable", "mean"),
        n=("seed", "size"),
    )
    cells = cells[cells["rate"].astype(float) > 0].reset_index()
    thresholds = [None if math.isnan(value) else value for value in cells["threshold"].astype(float)]
    texts = {value: "no threshold" if value is None else f"{value:.4g}" for value in thresholds}
    in_order = sorted((value for value in texts if value is not None), key=float)
    beside = cells.assign(threshold=[texts[value] for value in thresholds]).groupby(["threshold", "rate"]).cumcount()
    return [
        Chart(
            kind="frontier",
            columns={
                "cell": cells["cell"].tolist(),
                "rate": _short(cells["rate"]),
                "threshold": [texts[value] for value in thresholds],
                "share": _short(cells["share"]),
                "trials": cells["n"].tolist(),
                "beside": beside.tolist(),
            },
            said="unstable: diverged, or ended above its start",
            options={
                "thresholds": [*(texts[value] for value in in_order), *([texts[None]] if None in texts else [])],
                "abreast": int(beside.max()) + 1,
            },
        )
    ]


def _activity(run: Run, trials: pd.DataFrame, order: Sequence[int]) -> list[Chart]:
    """The share of clipped steps in sections of training."""
    if not run.has("metrics") or "clipped" not in run.metrics:
        return []
    clipping = trials[trials["trial_id"].isin(thresholded(trials))]
    with_threshold = set(clipping["cell"])
    chosen = [at for at in order if at in with_threshold][:MOST_CURVES]
    clipping = clipping[clipping["cell"].isin(chosen)]
    rows = run.metrics[["trial_id", "step", "clipped"]].dropna().merge(clipping[["trial_id", "cell"]], on="trial_id")
    if rows["step"].nunique() < 2:
        return []
    width = max(1, math.ceil((int(rows["step"].max()) + 1) / _SHARES))
    rows = rows.assign(step=rows["step"] // width * width + width // 2, clipped=rows["clipped"].astype(float))
    shares = rows.groupby(["cell", "step"])["clipped"].mean().reset_index()
    left = len(with_threshold) - len(chosen)
    return [
        Chart(
            kind="activity",
            columns={
                "cell": shares["cell"].tolist(),
                "step": shares["step"].tolist(),
                "share": _short(shares["clipped"]),
            },
            said=_said([
                f"sections of {counted(width, 'step')}, all seeds of a cell together",
                *([f"{counted(left, 'more cell')} not drawn"] if left > 0 else []),
            ]),
            options={},
        )
    ]


def _constants(place: Mapping[str | None, int], fits: Sequence[CellFit]) -> list[Chart]:
    """L0 and L1 of the cells in which both can be identified."""
    found = [
        (place[fit.cell_id], fit)
        for fit in fits
        if not fit.unidentifiable and fit.cell_id in place and fit.L0.mean > 0 and fit.L1.mean > 0
    ]
    if not found:
        return []
    left = len(fits) - len(found)
    return [
        Chart(
            kind="constants",
            columns={
                "cell": [at for at, _ in found],
                **{
                    f"{name}{end}": _short([getattr(getattr(fit, name), field) for _, fit in found])
                    for name in ("L0", "L1")
                    for end, field in (("", "mean"), ("_low", "low"), ("_high", "high"))
                },
            },
            said=f"{counted(left, 'cell')} not drawn: L1 cannot be identified, or is 0" if left else "",
            options={},
        )
    ]


def _said(notes: Sequence[str]) -> str:
    return "; ".join(notes)


def _short(values: Any) -> list[float | None]:
    """Numbers with as many digits as a screen can show; None for what is not finite."""
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in map(float, values)]
