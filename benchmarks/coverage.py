"""How often each interval that a command prints holds the truth, where it says 95 %.

Every interval is computed by the code that the commands use, from data whose truth is known, over and over. Prints a
table: where the interval stands, of what the data are made, the share that holds the truth, and the least of a group.

    python benchmarks/coverage.py                  # two minutes
    python benchmarks/coverage.py --times 10000    # a quarter of an hour
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

if not __package__:
    sys.path.pop(0)  # this file's folder, which would hide nothing, as for the other scripts here

import numpy as np
from numpy.typing import NDArray

from estimators.fits.correlations import rank_correlation
from estimators.fits.intervals import (
    correlation_interval,
    geometric_interval,
    mean_interval,
    positive_interval,
    share_interval,
)
from estimators.fits.line import fit_smoothness
from estimators.fits.quantile import quantile_for
from estimators.fits.selection import compare_best
from sweeper.report.stability import divergence_rate

Array = NDArray[np.float64]

SEEDS = (2, 3, 5, 8)


@dataclass(frozen=True)
class Case:
    """One way to make data: what is printed of it, and whether each interval held the truth."""

    interval: str
    data: str
    hits: list[bool]


def over_seeds(times: int) -> Iterator[Case]:
    """Means of losses, paired differences, correlations, slopes, L0 and L1, over 2 to 8 seeds."""
    makers: Mapping[str, tuple[Callable[[np.random.Generator, int], Array], Callable[[Array], object], float]] = {
        "loss: normal, spread 5 %": (lambda g, n: g.normal(1, 0.05, n), positive_interval, 1.0),
        "loss: gamma, spread 50 %": (lambda g, n: g.gamma(4, 0.25, n), positive_interval, 1.0),
        "loss: lognormal, spread 30 %": (
            lambda g, n: np.exp(g.normal(0, 0.3, n)),
            positive_interval,
            math.exp(0.045),
        ),
        "accuracy: beta, 0.9 with spread 3 %": (lambda g, n: g.beta(90, 10, n), share_interval, 0.9),
        "accuracy: beta, 0.5 with spread 30 %": (lambda g, n: g.beta(5, 5, n), share_interval, 0.5),
        "slope: normal": (lambda g, n: g.normal(0.5, 0.4, n), mean_interval, 0.5),
        "correlation: normal on Fisher's scale": (
            lambda g, n: np.tanh(g.normal(0.9, 0.5, n)),
            correlation_interval,
            math.tanh(0.9),
        ),
        "L0, L1: lognormal, a factor of 2": (
            lambda g, n: np.exp(g.normal(0, math.log(2), n)),
            geometric_interval,
            1.0,
        ),
        "L0, L1: the same, every fourth at 0": (
            lambda g, n: np.maximum(0.0, g.normal(0.6745, 1.0, n)),
            geometric_interval,
            _mean_above_zero(0.6745),
        ),
    }
    for name, (make, interval, truth) in makers.items():
        for seeds in SEEDS:
            generator = np.random.default_rng(0)
            found = (interval(make(generator, seeds)) for _ in range(times))
            # All at 0 has no upper end: nothing is claimed.
            yield Case(f"{name}", f"{seeds} seeds", [_holds(one, truth) for one in found if one.count > 1])


def _mean_above_zero(mean: float) -> float:
    """Mean of a normal variable of variance 1 that is cut at 0."""
    normal = NormalDist()
    return mean * normal.cdf(mean) + normal.pdf(mean)


def _holds(interval: object, truth: float) -> bool:
    low, high = interval.low, interval.high  # type: ignore[attr-defined]
    return bool(low <= truth and not high < truth)


def best_cells(times: int) -> Iterator[Case]:
    """The difference of the best cells of two arms, for cells that are equal, and that differ a little or much."""
    for first, second in ((1, 1), (1, 8), (4, 4), (8, 8)):
        for spread in (0.0, 0.5, 2.0) if first * second > 1 else (0.0,):
            for seeds in SEEDS:
                generator = np.random.default_rng(0)
                hits = []
                for _ in range(times):
                    means = spread * generator.normal(size=first + second)
                    losses = means[:, None] + generator.normal(size=(first + second, seeds))
                    found = compare_best(losses[:first], losses[first:])
                    truth = _held_out_truth(losses[:first], means[:first]) - _held_out_truth(
                        losses[first:], means[first:]
                    )
                    hits.append(_holds(found.difference, truth))
                yield Case(f"best of {first} and of {second} cells", f"{seeds} seeds, cells {spread:g} sd apart", hits)


def _held_out_truth(losses: Array, means: Array) -> float:
    """Mean over the seeds of the true mean of the cell that the other seeds choose."""
    return float(means[(losses.sum(axis=1)[:, None] - losses).argmin(axis=0)].mean())


def autoregressive(generator: np.random.Generator, count: int, phi: float) -> Array:
    """Stationary AR(1) of variance 1."""
    noise = generator.normal(size=count) * math.sqrt(1 - phi**2)
    series = np.empty(count)
    series[0] = generator.normal()
    for at in range(1, count):
        series[at] = phi * series[at - 1] + noise[at]
    return series


def one_trajectory(times: int) -> Iterator[Case]:
    """L0, L1, Spearman's correlation and the slope of one trajectory, whose points depend on their neighbours.

    log g and the noise of log L are autoregressive; L = (L0 + L1 g) exp(s noise), so that the line of every quantile
    is known. The fit says nothing where the points are worth too few independent ones; those paths do not count.
    """
    for L0, L1, spread in ((1.0, 1.0, 0.3), (0.2, 1.0, 0.5), (1.0, 0.1, 0.3)):
        correlation, slope = _large_sample(L0, L1, spread)
        for count in (100, 200, 600):
            level = NormalDist().inv_cdf(quantile_for(count))
            truths = {
                "L0": L0 * math.exp(spread * level),
                "L1": L1 * math.exp(spread * level),
                "Spearman": correlation,
                "slope": slope,
            }
            for phi in (0.0, 0.8, 0.9):
                generator = np.random.default_rng(0)
                hits: dict[str, list[bool]] = {name: [] for name in truths}
                for _ in range(times):
                    g = np.exp(autoregressive(generator, count, phi))
                    smoothness = (L0 + L1 * g) * np.exp(spread * autoregressive(generator, count, phi))
                    fit = fit_smoothness(g, smoothness)
                    bounds = {"L0": fit.L0, "L1": fit.L1, "Spearman": fit.spearman_bounds, "slope": fit.slope_bounds}
                    for name, of in bounds.items():
                        if not math.isnan(of.low):
                            hits[name].append(_holds(of, truths[name]))
                data = f"{count} points, correlation {phi:g}; L0 {L0:g}, L1 {L1:g}"
                yield from (Case(f"one trajectory: {name}", data, hits[name]) for name in truths)


def _large_sample(L0: float, L1: float, spread: float) -> tuple[float, float]:
    """Rank correlation and least-squares slope of a million independent points."""
    generator = np.random.default_rng(1)
    log_g, noise = generator.normal(size=(2, 1_000_000))
    log_smoothness = np.log(L0 + L1 * np.exp(log_g)) + spread * noise
    slope = float(np.cov(log_g, log_smoothness)[0, 1] / log_g.var())
    return rank_correlation(np.exp(log_g), np.exp(log_smoothness)), slope


def shares(times: int) -> Iterator[Case]:
    """How often a cell diverges: Wilson's interval, on average over all shares, as of a share one knows nothing of."""
    for count in (1, 2, 3, 5, 10):
        generator = np.random.default_rng(0)
        hits = []
        for _ in range(times):
            share = generator.uniform()
            found = divergence_rate(int(generator.binomial(count, share)), count)
            hits.append(found.low <= share <= found.high)
        yield Case("share that diverged", f"{count} trials", hits)


def table(cases: Iterable[Case]) -> list[str]:
    """One line per kind of interval and data; of one trajectory the least over L0 and L1."""
    lines, groups = [], {}
    for case in cases:
        groups.setdefault(case.interval, []).append(case)
        covered = np.mean(case.hits) if case.hits else math.nan
        lines.append(f"{case.interval:38} {case.data:42} {covered:6.3f}  of {len(case.hits)}")
    lines += ["", f"{'least of each':38} {'':42} {'least':>6}  {'mean':>6}"]
    for name, group in groups.items():
        covered = [np.mean(case.hits) for case in group if len(case.hits) >= 100]
        lines.append(f"{name:38} {'':42} {min(covered):6.3f}  {np.mean(covered):6.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=2000, help="intervals of each kind; a tenth for trajectories")
    times = parser.parse_args().times
    cases = [*over_seeds(times), *best_cells(times), *one_trajectory(max(100, times // 10)), *shares(times)]
    print("\n".join(table(cases)))


if __name__ == "__main__":
    main()
