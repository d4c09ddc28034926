"""Which law does smoothness follow: constant, L0 + L1 ||grad f||, or L0 + L_rho ||grad f||^rho? By held-out loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators.fits.intervals import Interval, mean_interval
from estimators.fits.quantile import profile_line
from estimators.fits.sections import section_bounds, sections

__all__ = ["EXPONENTS", "LAWS", "HeldOut", "held_out_losses", "laws_left"]

LAWS = ("constant", "linear", "power")
"""No growth; (L0, L1)-smoothness; and L0 + L_rho ||grad f||^rho of Li et al. (2023), with rho other than 0 and 1."""

EXPONENTS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""The rho that are tried."""

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How well each law, fitted to the rest of a trajectory, describes a section of it.

    Attributes:
        exponent: The rho that describes all points best, of :data:`EXPONENTS`.
        losses: Law to its pinball loss on each held-out section, in units of smoothness per point.
        effective: How many independent points the trajectory is worth.
    """

    exponent: float
    losses: dict[str, tuple[float, ...]]
    effective: float

    def log_ratio(self, law: str, other: str) -> float:
        """Log of one law's loss over another's, all sections together.

        Args:
            law: One of :data:`LAWS`.
            other: Another one.

        Returns:
            Negative where the first describes the held-out sections better.
        """
        return _log_ratio(math.fsum(self.losses[law]), math.fsum(self.losses[other]))

    def log_ratios(self, law: str, other: str) -> list[float]:
        """The same of each section.

        Args:
            law: One of :data:`LAWS`.
            other: Another one.

        Returns:
            As many as there are sections.
        """
        return [_log_ratio(*pair) for pair in zip(self.losses[law], self.losses[other], strict=True)]


def _log_ratio(one: float, other: float) -> float:
    if one == other:
        return 0.0
    return math.log(one / other) if one > 0 and other > 0 else math.copysign(math.inf, one - other)


def held_out_losses(grad_norm: ArrayLike, smoothness: ArrayLike, quantile: float, *, tau_int: float) -> HeldOut:
    """Fit every law to all but one section of a trajectory, and measure how well it describes that one; for each.

    The loss is that of quantile regression, rho(r) = quantile r^+ + (1 - quantile) r^-. Points within two integrated
    autocorrelation times of the section that is held out are left out of the fit: they know of it.

    Args:
        grad_norm: ||grad f(x_k)||, positive, shape (n,), in the order of the steps.
        smoothness: Smoothness at the same iterates, positive, shape (n,).
        quantile: In (0, 1): that of the upper line.
        tau_int: Integrated autocorrelation time, in points.

    Returns:
        The losses.

    Raises:
        ValueError: Too few points for sections with others to fit to.

    Example:
        >>> g = np.random.default_rng(0).permutation(np.geomspace(0.1, 10, 200))
        >>> found = held_out_losses(g, 1 + 2 * g**2, 0.95, tau_int=0.5)
        >>> found.exponent, found.log_ratio("power", "linear") < -2
        (2.0, True)
    """
    x, y = np.asarray(grad_norm, dtype=np.float64), np.asarray(smoothness, dtype=np.float64)
    effective = x.size / (2 * tau_int)
    gap = math.ceil(2 * tau_int)
    if x.size < 2 * len(LAWS):
        raise ValueError(f"{x.size} points are too few to hold some out")
    losses: dict[str, list[float]] = {law: [] for law in LAWS}
    for held in sections(x.size, effective):
        kept = np.ones(x.size, dtype=bool)
        kept[max(0, held[0] - gap) : held[-1] + gap + 1] = False
        if kept.sum() < len(LAWS):
            raise ValueError(f"{x.size} points are too few: held-out sections leave {kept.sum()} to fit to")
        of_power = _best_exponent(x[kept], y[kept], quantile)
        for law, exponent in zip(LAWS, (0.0, 1.0, of_power), strict=True):
            L0, L = _fitted(x[kept], y[kept], quantile, exponent)
            losses[law].append(_pinball(y[held] - L0 - L * x[held] ** exponent, quantile))
    return HeldOut(
        exponent=_best_exponent(x, y, quantile),
        losses={law: tuple(found) for law, found in losses.items()},
        effective=effective,
    )


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64], quantile: float, exponent: float) -> tuple[float, float]:
    """L0 and L_rho; a constant is the quantile itself."""
    if exponent == 0:
        return float(np.quantile(y, quantile)), 0.0
    return profile_line(x**exponent, y, quantile)


def _best_exponent(x: NDArray[np.float64], y: NDArray[np.float64], quantile: float) -> float:
    def loss(exponent: float) -> float:
        L0, L = _fitted(x, y, quantile, exponent)
        return _pinball(y - L0 - L * x**exponent, quantile)

    return min(EXPONENTS, key=loss)


def _pinball(residuals: NDArray[np.float64], quantile: float) -> float:
    return float(np.where(residuals > 0, quantile * residuals, (quantile - 1) * residuals).mean())


def laws_left(seeds: Sequence[HeldOut]) -> tuple[str, ...]:
    """The laws that no other describes the held-out points better than, at 95 % for all pairs together.

    Log ratios of losses have Student's t interval over the seeds, or of one seed that of its sections, each at
    1 - 0.05/3 for the three pairs of laws.

    Args:
        seeds: One trajectory per seed, at least one.

    Returns:
        Some of :data:`LAWS`, in that order; all of them where nothing can be told.

    Example:
        >>> g = np.random.default_rng(0).permutation(np.geomspace(0.1, 10, 200))
        >>> noise = np.exp(0.1 * np.random.default_rng(1).normal(size=(5, 200)))
        >>> laws_left([held_out_losses(g, (1 + 2 * g**2) * of, 0.95, tau_int=0.5) for of in noise])
        ('power',)
    """
    pairs = list(itertools.combinations(LAWS, 2))
    confidence = 1 - _LEVEL / len(pairs)
    worse = set()
    for law, other in pairs:
        found = _interval(seeds, law, other, confidence)
        if found.low > 0:
            worse.add(law)
        if found.high < 0:
            worse.add(other)
    return tuple(law for law in LAWS if law not in worse)


def _interval(seeds: Sequence[HeldOut], law: str, other: str, confidence: float) -> Interval:
    ratios = [seed.log_ratio(law, other) for seed in seeds]
    if len(ratios) > 1:
        return mean_interval(ratios, confidence=confidence)
    bounds = section_bounds(ratios[0], seeds[0].log_ratios(law, other), seeds[0].effective, confidence=confidence)
    return Interval(mean=ratios[0], low=bounds.low, high=bounds.high, count=1)
