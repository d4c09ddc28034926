"""Which L0 and L1 describe the smoothness along one trajectory, and how well they can be known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from estimators.fits.quantile import Line, envelope_line, profile_line, quantile_for, quantile_line
from estimators.fits.resampling import autocorrelation_time, block_bootstrap, block_length
from estimators.fits.statistics import log_log_correlation, rank_correlation

__all__ = ["Bounds", "SmoothnessFit", "fit_smoothness"]

MAX_POINTS = 5000
"""Above this number the points are thinned evenly: neighbours carry the same information."""

MIN_POINTS = 20
"""Points below which there is no upper line: it would leave five of them above it, more than a quarter."""

MIN_RESAMPLED = 10
"""Points below which there is no interval of a correlation."""

MIN_RANGE = 2.0
"""Between the 5 % and the 95 % quantile of the gradient norm, below which a slope cannot be told from a constant."""

MIN_EFFECTIVE = 5.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A 95 % interval; NaN where it cannot be computed."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SmoothnessFit:
    """What one trajectory says about smoothness against gradient norm, on the range that it visited.

    None of this says that the loss *is* (L0, L1)-smooth: the smoothness is a lower bound, along one direction, at the
    points visited.

    Attributes:
        count: Points used, with both coordinates positive and finite.
        effective: How many independent points carry as much information, count / (2 tau_int).
        tau_int: Integrated autocorrelation time, in points; the larger of those of both coordinates' logs.
        block: Block length of the bootstrap.
        range: Smallest and largest gradient norm visited.
        quantile: Quantile of the upper line; 0.95 from 100 points on, and below that the one that leaves five of them
            above the line; NaN where there is no upper line.
        upper: L0 and L1 of the upper line: non-negative quantile regression; NaN below 20 points.
        L0: Interval of its L0.
        L1: Interval of its L1.
        median: The same line at the median.
        envelope: The line above all points.
        slope: Of log smoothness on log gradient norm, least squares; NaN where undefined.
        theil_sen: The same slope, as the median of the slopes of all pairs.
        spearman: Rank correlation, the primary measure of whether one grows with the other.
        spearman_bounds: Its interval.
        pearson: Correlation of the logs.
        unidentifiable: Why L1 cannot be identified here; empty where it can.
    """

    count: int
    effective: float
    tau_int: float
    block: int
    range: tuple[float, float]
    quantile: float
    upper: Line
    L0: Bounds
    L1: Bounds
    median: Line
    envelope: Line
    slope: float
    theil_sen: float
    spearman: float
    spearman_bounds: Bounds
    pearson: float
    unidentifiable: str


def fit_smoothness(
    grad_norm: ArrayLike, smoothness: ArrayLike, *, quantile: float = 0.95, resamples: int = 400, seed: int = 0
) -> SmoothnessFit:
    """Fit L0 + L1 ||grad f|| to the upper edge of one trajectory's points, in the order of its steps.

    Intervals are percentile intervals of a circular block bootstrap with blocks of max(sqrt(n), 2 tau_int) points. They
    describe this trajectory; what holds for a cell or an arm needs several seeds.

    Args:
        grad_norm: ||grad f(x_k)||, shape (n,).
        smoothness: Smoothness between x_k and x_{k+1}, shape (n,); pairs that are not positive and finite are left out.
        quantile: Quantile of the upper line, for samples that are large enough.
        resamples: Resamples of the bootstrap; 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        The fit; with NaN and a reason where there are too few points.

    Example:
        >>> g = np.random.default_rng(0).permutation(np.geomspace(0.1, 10, 200))
        >>> fit = fit_smoothness(g, 1 + 2 * g, resamples=20)
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
    block = block_length(x.size, tau_int)
    level = quantile_for(x.size, quantile) if x.size >= MIN_POINTS else math.nan
    bounds = _bounds(x, y, level, block, resamples, seed)
    slope = theil_sen = math.nan
    if np.ptp(x) > 0:
        slope = float(stats.linregress(np.log(x), np.log(y)).slope)
        theil_sen = float(stats.theilslopes(np.log(y), np.log(x)).slope) if x.size <= 2000 else _thinned_theil_sen(x, y)
    return SmoothnessFit(
        count=int(x.size),
        effective=effective,
        tau_int=tau_int,
        block=block,
        range=(float(x.min()), float(x.max())),
        quantile=level,
        upper=quantile_line(x, y, level) if x.size >= MIN_POINTS else (math.nan, math.nan),
        L0=bounds[0],
        L1=bounds[1],
        median=quantile_line(x, y, 0.5),
        envelope=envelope_line(x, y),
        slope=slope,
        theil_sen=theil_sen,
        spearman=rank_correlation(x, y),
        spearman_bounds=bounds[2],
        pearson=log_log_correlation(x, y),
        unidentifiable=_unidentifiable(x, effective),
    )


def _thinned_theil_sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """From fewer points where there are many: all pairs would fill the memory."""
    kept = np.linspace(0, x.size - 1, 2000).round().astype(np.intp)
    return float(stats.theilslopes(np.log(y[kept]), np.log(x[kept])).slope)


def _bounds(
    x: NDArray[np.float64], y: NDArray[np.float64], quantile: float, block: int, resamples: int, seed: int
) -> tuple[Bounds, Bounds, Bounds]:
    """Intervals of L0, of L1 and of the rank correlation."""
    unknown = Bounds(low=math.nan, high=math.nan)
    if resamples == 0 or x.size < MIN_RESAMPLED or np.ptp(x) == 0:
        return unknown, unknown, unknown

    def statistic(indices: NDArray[np.intp]) -> tuple[float, float, float]:
        L0, L1 = (math.nan, math.nan) if math.isnan(quantile) else profile_line(x[indices], y[indices], quantile)
        return L0, L1, _rank_correlation(x[indices], y[indices])

    samples = block_bootstrap(statistic, x.size, block=block, resamples=resamples, seed=seed)
    L0, L1, rank = (_percentiles(column) for column in samples.T)
    return L0, L1, rank


def _percentiles(values: NDArray[np.float64]) -> Bounds:
    known = values[~np.isnan(values)]
    if not known.size:
        return Bounds(low=math.nan, high=math.nan)
    low, high = np.percentile(known, [2.5, 97.5])
    return Bounds(low=float(low), high=float(high))


def _rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's correlation without the p-value, which is expensive."""
    ranks = np.array([stats.rankdata(x), stats.rankdata(y)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    variances = (ranks * ranks).sum(axis=1)
    return float(ranks[0] @ ranks[1] / math.sqrt(variances[0] * variances[1])) if variances.all() else math.nan


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
    unknown = Bounds(low=nan, high=nan)
    return SmoothnessFit(
        count=int(x.size),
        effective=nan,
        tau_int=nan,
        block=0,
        range=(float(x.min()), float(x.max())) if x.size else (nan, nan),
        quantile=nan,
        upper=(nan, nan),
        L0=unknown,
        L1=unknown,
        median=(nan, nan),
        envelope=(nan, nan),
        slope=nan,
        theil_sen=nan,
        spearman=nan,
        spearman_bounds=unknown,
        pearson=nan,
        unidentifiable=why,
    )
