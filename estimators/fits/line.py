"""Which L0 and L1 describe the smoothness along one trajectory, and how well they can be known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from estimators.fits.correlations import log_log_correlation, rank_correlation
from estimators.fits.intervals import LARGEST_CORRELATION
from estimators.fits.quantile import Line, envelope_line, profile_line, quantile_for, quantile_line
from estimators.fits.sections import UNKNOWN, Bounds, autocorrelation_time, section_bounds, sections

__all__ = ["SmoothnessFit", "fit_smoothness"]

MAX_POINTS = 5000
"""Above this number the points are thinned evenly: neighbours carry the same information."""

MIN_POINTS = 20
"""Points below which there is no upper line: it would leave five of them above it, more than a quarter."""

MIN_SECTIONED = 20
"""Points below which there is no interval: a section would have fewer than five."""

RESOLUTION = 0.01
"""Of the median smoothness, and of its median ratio to the gradient norm: a smaller L0 or L1 cannot be told from 0."""

MIN_RANGE = 2.0
"""Between the 5 % and the 95 % quantile of the gradient norm, below which a slope cannot be told from a constant."""

MIN_EFFECTIVE = 5.0


@dataclass(frozen=True, kw_only=True)
class SmoothnessFit:
    """What one trajectory says about smoothness against gradient norm, on the range that it visited.

    None of this says that the loss *is* (L0, L1)-smooth: the smoothness is a lower bound, along one direction, at the
    points visited.

    Attributes:
        count: Points used, with both coordinates positive and finite.
        effective: How many independent points carry as much information, count / (2 tau_int).
        tau_int: Integrated autocorrelation time, in points; the larger of those of both coordinates' logs.
        range: Smallest and largest gradient norm visited.
        quantile: Quantile of the upper line; 0.95 from 100 points on, and below that the one that leaves five of them
            above the line; NaN where there is no upper line.
        upper: L0 and L1 of the upper line: non-negative quantile regression; NaN below 20 points.
        L0: Interval of its L0.
        L1: Interval of its L1.
        median: The same line at the median.
        envelope: The line above all points.
        slope: Of log smoothness on log gradient norm, least squares; NaN where undefined.
        slope_bounds: Its interval.
        theil_sen: The same slope, as the median of the slopes of all pairs.
        spearman: Rank correlation, the primary measure of whether one grows with the other.
        spearman_bounds: Its interval.
        pearson: Correlation of the logs.
        unidentifiable: Why L1 cannot be identified here; empty where it can.
    """

    count: int
    effective: float
    tau_int: float
    range: tuple[float, float]
    quantile: float
    upper: Line
    L0: Bounds
    L1: Bounds
    median: Line
    envelope: Line
    slope: float
    slope_bounds: Bounds
    theil_sen: float
    spearman: float
    spearman_bounds: Bounds
    pearson: float
    unidentifiable: str


def fit_smoothness(grad_norm: ArrayLike, smoothness: ArrayLike, *, quantile: float = 0.95) -> SmoothnessFit:
    """Fit L0 + L1 ||grad f|| to the upper edge of one trajectory's points, in the order of its steps.

    Intervals come from the spread of the same estimate over three or four contiguous sections of the trajectory
    (:func:`~estimators.fits.sections.half_width`), of L0 and L1 on the log scale, of the rank correlation on Fisher's.
    They describe this trajectory; what holds for a cell or an arm needs several seeds.

    Args:
        grad_norm: ||grad f(x_k)||, shape (n,).
        smoothness: Smoothness between x_k and x_{k+1}, shape (n,); pairs that are not positive and finite are left out.
        quantile: Quantile of the upper line, for samples that are large enough.

    Returns:
        The fit; with NaN and a reason where there are too few points.

    Example:
        >>> g = np.random.default_rng(0).permutation(np.geomspace(0.1, 10, 200))
        >>> fit = fit_smoothness(g, 1 + 2 * g)
        >>> [round(value, 6) for value in fit.upper], round(fit.spearman, 6), fit.unidentifiable
        ([1.0, 2.0], 1.0, '')
    """
    x, y = np.asarray(grad_norm, dtype=np.float64), np.asarray(smoothness, dtype=np.float64)
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    x, y = x[usable], y[usable]
    if x.size > MAX_POINTS:
        kept = np.linspace(0, x.size - 1, MAX_POINTS).round().astype(np.intp)
        x, y = x[kept], y[kept]
    if x.size < 3:
        return _nothing(x, _only(x.size))
    tau_int = max(autocorrelation_time(np.log(x)), autocorrelation_time(np.log(y)))
    effective = x.size / (2 * tau_int)
    level = quantile_for(x.size, quantile) if x.size >= MIN_POINTS else math.nan
    upper = quantile_line(x, y, level) if x.size >= MIN_POINTS else (math.nan, math.nan)
    bounds = _bounds(x, y, level, upper, effective)
    slope, theil_sen = _slope(x, y), math.nan
    if np.ptp(x) > 0:
        theil_sen = float(stats.theilslopes(np.log(y), np.log(x)).slope) if x.size <= 2000 else _thinned_theil_sen(x, y)
    return SmoothnessFit(
        count=int(x.size),
        effective=effective,
        tau_int=tau_int,
        range=(float(x.min()), float(x.max())),
        quantile=level,
        upper=upper,
        L0=bounds.L0,
        L1=bounds.L1,
        median=quantile_line(x, y, 0.5),
        envelope=envelope_line(x, y),
        slope=slope,
        slope_bounds=bounds.slope,
        theil_sen=theil_sen,
        spearman=rank_correlation(x, y),
        spearman_bounds=bounds.spearman,
        pearson=log_log_correlation(x, y),
        unidentifiable=_unidentifiable(x, effective),
    )


def _thinned_theil_sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """From fewer points where there are many: all pairs would fill the memory."""
    kept = np.linspace(0, x.size - 1, 2000).round().astype(np.intp)
    return float(stats.theilslopes(np.log(y[kept]), np.log(x[kept])).slope)


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(stats.linregress(np.log(x), np.log(y)).slope) if np.ptp(x) > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class _AllBounds:
    """The intervals of one trajectory."""

    L0: Bounds = UNKNOWN
    L1: Bounds = UNKNOWN
    spearman: Bounds = UNKNOWN
    slope: Bounds = UNKNOWN


def _bounds(
    x: NDArray[np.float64], y: NDArray[np.float64], quantile: float, upper: Line, effective: float
) -> _AllBounds:
    """Intervals of L0, L1, the rank correlation and the slope."""
    if x.size < MIN_SECTIONED or effective < MIN_EFFECTIVE:
        return _AllBounds()
    parts = [(x[places], y[places]) for places in sections(x.size, effective)]
    correlations = [rank_correlation(*part) for part in parts]
    bounded = _AllBounds(
        spearman=section_bounds(rank_correlation(x, y), correlations, effective, scale=_z, back=math.tanh),
        slope=section_bounds(_slope(x, y), [_slope(*part) for part in parts], effective),
    )
    if math.isnan(quantile):
        return bounded
    lines = [profile_line(*part, quantile) for part in parts]
    L0, L1 = (
        _positive(upper[at], [line[at] for line in lines], RESOLUTION * float(np.median(unit)), effective)
        for at, unit in enumerate((y, y / x))
    )
    return replace(bounded, L0=L0, L1=L1)


def _z(correlation: float) -> float:
    """Fisher's scale; a few points in order have a correlation of exactly 1, whose z is infinite."""
    return math.atanh(min(max(correlation, -LARGEST_CORRELATION), LARGEST_CORRELATION))


def _positive(estimate: float, parts: Sequence[float], least: float, effective: float) -> Bounds:
    """On the log scale, on which what is below a resolution counts as that, and an interval that reaches it is of 0."""
    parts = [max(part, least) for part in parts]
    around = section_bounds(max(estimate, least), parts, effective, scale=math.log, back=math.exp)
    return replace(around, low=0.0) if around.low <= least else around


def _unidentifiable(x: NDArray[np.float64], effective: float) -> str:
    low, high = np.quantile(x, [0.05, 0.95])
    if x.size < MIN_POINTS:
        return f"{_only(x.size)}, an upper line takes {MIN_POINTS}"
    if high < MIN_RANGE * low:
        return f"gradient norms span only a factor of {high / low:.2g}"
    if effective < MIN_EFFECTIVE:
        return f"the points are worth only {effective:.1f} independent ones"
    return ""


def _only(count: int) -> str:
    return f"only {count} point{'s' if count != 1 else ''}"


def _nothing(x: NDArray[np.float64], why: str) -> SmoothnessFit:
    nan = math.nan
    return SmoothnessFit(
        count=int(x.size),
        effective=nan,
        tau_int=nan,
        range=(float(x.min()), float(x.max())) if x.size else (nan, nan),
        quantile=nan,
        upper=(nan, nan),
        L0=UNKNOWN,
        L1=UNKNOWN,
        median=(nan, nan),
        envelope=(nan, nan),
        slope=nan,
        slope_bounds=UNKNOWN,
        theil_sen=nan,
        spearman=nan,
        spearman_bounds=UNKNOWN,
        pearson=nan,
        unidentifiable=why,
    )
