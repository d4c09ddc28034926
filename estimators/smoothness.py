"""Directional smoothness: how fast the gradient turns between two consecutive iterates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.gradient import GradientFn, Params

__all__ = [
    "DirectionalSmoothness",
    "directional_smoothness",
    "fractions_of",
    "measure_directional_smoothness",
]


@dataclass(frozen=True, kw_only=True)
class DirectionalSmoothness:
    """One measurement of eq. (20), with what is needed to judge it.

    Attributes:
        smoothness: The maximum over the fractions, in units of loss per squared parameter; None for a zero step.
        argmax_fraction: The fraction at which the maximum is reached; None for a zero step.
        by_fraction: The ratio at every fraction, in the order of the fractions.
        grad_norm: ||grad f(x_k)||.
        next_grad_norm: ||grad f(x_{k+1})||, or None where 1 is not among the fractions.
        update_norm: ||d|| of the parameters as they are stored.
        noise_floor: What rounding alone could give at the fraction of the maximum; None where it was not measured.
        snr: smoothness / noise_floor; infinite where the floor is zero.
    """

    smoothness: float | None
    argmax_fraction: float | None
    by_fraction: tuple[float | None, ...]
    grad_norm: float
    next_grad_norm: float | None
    update_norm: float
    noise_floor: float | None
    snr: float | None


def fractions_of(delta: float) -> tuple[float, ...]:
    """The sample points of eq. (20): delta, 2 delta, ..., 1.

    Args:
        delta: The spacing, in (0, 1], one over an integer.

    Returns:
        j / N for j = 1..N with N = 1 / delta; the last is exactly 1.

    Raises:
        ValueError: 1 / delta is no integer, or delta lies outside (0, 1].

    Example:
        >>> fractions_of(0.25)
        (0.25, 0.5, 0.75, 1.0)
    """
    if not 0 < delta <= 1:
        raise ValueError(f"delta must lie in (0, 1], found {delta!r}")
    count = round(1 / delta)
    if not math.isclose(count * delta, 1, rel_tol=1e-6):
        raise ValueError(f"1/delta must be an integer, found delta = {delta!r}; the nearest is {1 / count!r}")
    return tuple(j / count for j in range(1, count + 1))


def directional_smoothness(gradient: GradientFn, iterate: Params, step: Params, *, fractions: Sequence[float]) -> float:
    r"""Largest change of the gradient per unit of distance between two consecutive iterates.

    Zhang et al. (2020), "Why gradient clipping accelerates training", eq. (20):

        max over gamma of ||grad f(x + gamma d) - grad f(x)|| / (gamma ||d||),   d = x_{k+1} - x_k

    Args:
        gradient: Gradient of f on the frozen probe, parameters to parameters.
        iterate: x_k, named tensors.
        step: d, the same names and shapes as ``iterate``.
        fractions: The sample points gamma, each in (0, 1].

    Returns:
        A lower bound on the smoothness, in units of loss per squared parameter.

    Raises:
        ValueError: ``step`` is zero, or a fraction lies outside (0, 1].

    Example:
        >>> x, d = {"w": torch.tensor([3.0])}, {"w": torch.tensor([-1.0])}
        >>> directional_smoothness(lambda p: {"w": 4 * p["w"]}, x, d, fractions=[0.5, 1.0])
        4.0
    """
    following = {name: iterate[name] + step[name] for name in iterate}
    measured = measure_directional_smoothness(gradient, iterate, following, fractions=fractions)
    if measured.smoothness is None:
        raise ValueError("the step is zero: there is no direction to measure along")
    return measured.smoothness


def measure_directional_smoothness(
    gradient: GradientFn,
    iterate: Params,
    following: Params,
    *,
    fractions: Sequence[float],
    gradient_error: float | None = None,
) -> DirectionalSmoothness:
    r"""Eq. (20) between two stored iterates, fraction by fraction, with a noise floor.

    The distance is that of the parameters as rounded, d_eff = fl(x + gamma d) - x, not gamma ||d||: in float32
    the two differ where the step is small beside the parameters.

    Args:
        gradient: Gradient of f on the frozen probe; called len(fractions) + 1 times.
        iterate: x_k, named tensors.
        following: x_{k+1}, the same names and shapes.
        fractions: The sample points gamma, each in (0, 1].
        gradient_error: eta, a bound on ||g - g_exact|| of one gradient. Two of them enter a difference, so the noise
            floor is 2 eta / ||d_eff||.

    Returns:
        The measurement; with null smoothness where the step is zero. NaN ratios (an overflowing gradient) show in
        ``by_fraction`` and make the maximum NaN.

    Raises:
        ValueError: No fraction, or one outside (0, 1]; or the two iterates have other names.

    Example:
        f = x^4 / 4 from 1 to 2: the secant of x^3 is (2^3 - 1) / 1 = 7 at gamma = 1.

        >>> cube = lambda p: {"x": p["x"] ** 3}
        >>> points = ({"x": torch.tensor([float(v)], dtype=torch.float64)} for v in (1, 2))
        >>> measured = measure_directional_smoothness(cube, *points, fractions=[0.5, 1.0])
        >>> measured.smoothness, measured.by_fraction
        (7.0, (4.75, 7.0))
    """
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions must lie in (0, 1], found {list(fractions)!r}")
    if set(iterate) != set(following):
        raise ValueError(f"the iterates hold other names: {sorted(iterate)} and {sorted(following)}")
    start = gradient(iterate)
    update_norm = _distance(iterate, following)
    ratios: list[float | None] = []
    distances: list[float] = []
    next_grad_norm = None
    for fraction in fractions:
        # x_{k+1} itself at gamma = 1: x + (y - x) need not round to y.
        point = following if fraction == 1 else _between(iterate, following, fraction)
        distance = _distance(iterate, point)
        distances.append(distance)
        if distance == 0:
            ratios.append(None)
            continue
        there = gradient(point)
        ratios.append(_distance(start, there) / distance)
        if fraction == 1:
            next_grad_norm = _norm(there)
    smoothness, at = _largest(ratios)
    noise_floor = None
    if at is not None and gradient_error is not None:
        noise_floor = 2 * gradient_error / distances[at]
    return DirectionalSmoothness(
        smoothness=smoothness,
        argmax_fraction=None if at is None else fractions[at],
        by_fraction=tuple(ratios),
        grad_norm=_norm(start),
        next_grad_norm=next_grad_norm,
        update_norm=update_norm,
        noise_floor=noise_floor,
        snr=_ratio(smoothness, noise_floor),
    )


def _between(iterate: Params, following: Params, fraction: float) -> dict[str, Tensor]:
    """x + gamma (y - x), in the arithmetic of the tensors."""
    return {name: torch.lerp(iterate[name], following[name], fraction) for name in iterate}


def _distance(one: Params, other: Params) -> float:
    """Euclidean distance, accumulated in float64."""
    return _norm({name: other[name] - one[name] for name in one})


def _norm(point: Params) -> float:
    """Euclidean norm over all tensors, accumulated in float64."""
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in point.values()]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _largest(ratios: Sequence[float | None]) -> tuple[float | None, int | None]:
    """The largest ratio and where it stands; a NaN wins, so that an overflow is seen."""
    at: int | None = None
    largest: float | None = None
    for index, ratio in enumerate(ratios):
        if ratio is None:
            continue
        if math.isnan(ratio):
            return ratio, index
        if largest is None or ratio > largest:
            largest, at = ratio, index
    return largest, at


def _ratio(value: float | None, floor: float | None) -> float | None:
    """value / floor; infinite over a zero floor, None where either is missing."""
    if value is None or floor is None:
        return None
    return value / floor if floor > 0 else math.inf
