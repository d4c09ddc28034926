"""Directional smoothness: how fast the gradient turns between two consecutive iterates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from estimators.probe.gradient import GradientFn, Params
from estimators.probe.vectors import distance, lerp, norm
from estimators.smoothness.trust import Trust, judge, larger_floor, raise_floors

__all__ = [
    "DirectionalSmoothness",
    "check_segment",
    "directional_smoothness",
    "floor_of_secant",
    "fractions_of",
    "measure_directional_smoothness",
    "smoothness_of_secants",
]


_BACK = -0.95
"""Cosine of two gradients that point against each other."""


@dataclass(frozen=True, kw_only=True)
class DirectionalSmoothness:
    """One measurement of eq. (20), with what is needed to judge it.

    Attributes:
        smoothness: The maximum over the fractions that can be trusted, in units of loss per squared parameter; None
            where there is none, see :data:`~estimators.smoothness.trust.Trust`.
        argmax_fraction: The fraction at which the maximum is reached.
        by_fraction: The ratio at every fraction, trusted or not, in the order of the fractions; None for a zero step.
        grad_norm: ||grad f(x_k)||.
        next_grad_norm: ||grad f(x_{k+1})||, or None where 1 is not among the fractions.
        update_norm: ||d|| of the parameters as they are stored.
        noise_floor: What rounding alone could give at the fraction of the maximum; None where it was not measured.
        floor_at_maximum: The same by the gradient's error at the point of the maximum itself; None where it was not
            audited there. ``noise_floor`` is no smaller.
        snr: smoothness / noise_floor; infinite where the floor is zero.
        trust: The verdict in one word.
        num_trusted: How many of the fractions are trusted.
        num_gradients: Gradients used by the measurement, including the one at x_k.
        at_zero: The limit of the ratio for gamma to 0, ||H d|| / ||d||; None if the method does not give it.
        interpolation_error: How far off the value may be because not every fraction was measured; None if all were.
        is_cycle: Whether grad f(x_{k+1}) points against grad f(x_k), their cosine at most -0.95; None where it is not
            known. Then the next step leads back, as in a cycle of two iterates, which is where descent with too large a
            step ends, and eq. (20) is measured across a valley.
    """

    smoothness: float | None
    argmax_fraction: float | None
    by_fraction: tuple[float | None, ...]
    grad_norm: float
    next_grad_norm: float | None
    update_norm: float
    noise_floor: float | None
    snr: float | None
    trust: Trust
    num_trusted: int
    num_gradients: int
    floor_at_maximum: float | None = None
    at_zero: float | None = None
    interpolation_error: float | None = None
    is_cycle: bool | None = None

    @classmethod
    def judged(
        cls,
        ratios: Sequence[float | None],
        floors: Sequence[float | None] | None,
        *,
        fractions: Sequence[float],
        floor_at: Callable[[int], float | None] | None = None,
        **found: Any,
    ) -> Self:
        """A measurement whose value is the largest ratio that :func:`~estimators.smoothness.trust.judge` believes.

        Args:
            ratios: The ratio at every fraction; None where there is none to be judged.
            floors: What rounding alone could give there; None where that was not measured.
            fractions: The fractions.
            floor_at: For :func:`~estimators.smoothness.trust.raise_floors`; None if the maximum is not to be audited.
            found: All other attributes; ``by_fraction`` is ``ratios`` by default.

        Returns:
            The measurement.
        """
        own = {} if floor_at is None or floors is None else raise_floors(ratios, floors, floor_at)
        if floors is not None:
            floors = [larger_floor(floor, own[index]) if index in own else floor for index, floor in enumerate(floors)]
        judgement = judge(ratios, floors)
        across = next((ratio for fraction, ratio in zip(fractions, ratios, strict=True) if fraction == 1), None)
        return cls(
            is_cycle=_points_back(across, found["grad_norm"], found["next_grad_norm"], found["update_norm"]),
            smoothness=judgement.value,
            argmax_fraction=None if judgement.index is None else fractions[judgement.index],
            noise_floor=judgement.noise_floor,
            floor_at_maximum=None if judgement.index is None else own.get(judgement.index),
            snr=judgement.snr,
            trust=judgement.trust,
            num_trusted=judgement.num_trusted,
            **({"by_fraction": tuple(ratios)} | found),
        )

    @property
    def mechanical_bound(self) -> float | None:
        """(||grad f(x_k)|| + ||grad f(x_{k+1})||) / ||d||: what the ratio at gamma = 1 could be at most.

        Under clipping ||d|| is constant, so this grows with the gradient norm whatever the curvature: a smoothness that
        only follows its bound says nothing of f.
        """
        if self.next_grad_norm is None or self.update_norm == 0:
            return None
        return (self.grad_norm + self.next_grad_norm) / self.update_norm


def _points_back(across: float | None, before: float, after: float | None, length: float) -> bool | None:
    """Whether gradients of two norms point against each other, from the ratio r(1) and the length of the step."""
    if across is None or after is None or length == 0:
        return None
    if not (before > 0 and after > 0 and math.isfinite(before) and math.isfinite(after)):
        return False
    # The law of cosines, for ||after - before|| = r(1) ||d||, in units in which squares neither overflow nor vanish.
    ratio, change = before / after, across * length / after
    return ratio * ratio + 1 - change * change <= 2 * _BACK * ratio


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
        >>> import torch
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
    error_at: Callable[[Params], float | None] | None = None,
) -> DirectionalSmoothness:
    r"""Eq. (20) between two stored iterates, fraction by fraction, with a noise floor.

    The distance is that of the parameters as rounded, d_eff = fl(x + gamma d) - x, not gamma ||d||: in float32
    the two differ where the step is small compared with the parameters.

    Args:
        gradient: Gradient of f on the frozen probe; called len(fractions) + 1 times, once where the step is zero.
        iterate: x_k, named tensors.
        following: x_{k+1}, the same names and shapes.
        fractions: The sample points gamma, each in (0, 1].
        gradient_error: eta, a bound on ||g - g_exact|| of one gradient. Two of them enter a difference, so the noise
            floor is 2 eta / ||d_eff||.
        error_at: eta at a point, to be asked for at the point of the maximum, where it counts if it is larger; None
            to leave it at ``gradient_error``.

    Returns:
        The measurement; with null smoothness where the step is zero or nothing stands clear of the noise. A gradient
        that overflows shows in ``by_fraction`` and as the smoothness.

    Raises:
        ValueError: No fraction, or one outside (0, 1]; or the two iterates have other names.

    Example:
        f = x^4 / 4 from 1 to 2: the secant of x^3 is (2^3 - 1) / 1 = 7 at gamma = 1.

        >>> import torch
        >>> cube = lambda p: {"x": p["x"] ** 3}
        >>> points = ({"x": torch.tensor([float(v)], dtype=torch.float64)} for v in (1, 2))
        >>> measured = measure_directional_smoothness(cube, *points, fractions=[0.5, 1.0])
        >>> measured.smoothness, measured.by_fraction
        (7.0, (4.75, 7.0))
    """
    check_segment(iterate, following, fractions)
    start = gradient(iterate)
    changes: list[float] = []
    lengths: list[float] = []
    next_grad_norm = None
    for fraction in fractions:
        point = lerp(iterate, following, fraction)
        lengths.append(distance(iterate, point))
        if lengths[-1] == 0:
            changes.append(0.0)
            continue
        there = gradient(point)
        changes.append(distance(start, there))
        if fraction == 1:
            next_grad_norm = norm(there)
    return smoothness_of_secants(
        changes,
        lengths,
        fractions=fractions,
        gradient_error=gradient_error,
        floor_at=floor_of_secant(iterate, following, fractions, error_at),
        grad_norm=norm(start),
        next_grad_norm=next_grad_norm,
        update_norm=distance(iterate, following),
    )


def smoothness_of_secants(
    changes: Sequence[float],
    lengths: Sequence[float],
    *,
    gradient_error: float | None,
    **found: Any,
) -> DirectionalSmoothness:
    """Eq. (20) from what the gradient changed by at every fraction, and over which distance.

    Args:
        changes: ||g(x + gamma d) - g(x)||.
        lengths: ||d_eff||; 0 where there is no step, and then no ratio.
        gradient_error: As for :func:`measure_directional_smoothness`.
        found: ``fractions``, ``floor_at`` and all other attributes, as for :meth:`DirectionalSmoothness.judged`.

    Returns:
        The measurement.
    """
    ratios = [change / length if length else None for change, length in zip(changes, lengths, strict=True)]
    floors = None
    if gradient_error is not None:
        floors = [2 * gradient_error / length if length else None for length in lengths]
    return DirectionalSmoothness.judged(
        ratios, floors, num_gradients=1 + sum(ratio is not None for ratio in ratios), **found
    )


def floor_of_secant(
    iterate: Params,
    following: Params,
    fractions: Sequence[float],
    error_at: Callable[[Params], float | None] | None,
) -> Callable[[int], float | None] | None:
    """The noise floor of a measured ratio by the error of the gradient at its own point: 2 eta / ||d_eff||.

    Args:
        iterate: x_k, named tensors.
        following: x_{k+1}.
        fractions: The sample points gamma.
        error_at: eta at a point; None if it is unknown there, and for nothing.

    Returns:
        The floor by the index of the fraction; None without ``error_at``.
    """
    if error_at is None:
        return None

    def floor_at(index: int) -> float | None:
        point = lerp(iterate, following, fractions[index])
        error = error_at(point)
        return None if error is None else 2 * error / distance(iterate, point)

    return floor_at


def check_segment(iterate: Params, following: Params, fractions: Sequence[float]) -> None:
    """Make sure that two iterates and the sample points between them are what a measurement needs.

    Raises:
        ValueError: No fraction, or one outside (0, 1]; or the two iterates have other names.
    """
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions must lie in (0, 1], found {list(fractions)!r}")
    if set(iterate) != set(following):
        raise ValueError(f"the iterates hold other names: {sorted(iterate)} and {sorted(following)}")
