"""Eq. (20) with gradients only where the maximum over the fractions may lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from estimators.probe.gradient import GradientFn, Params
from estimators.probe.vectors import difference, distance, inner, lerp, norm
from estimators.smoothness.curve import Numbers, SecantCurve
from estimators.smoothness.directional import DirectionalSmoothness, check_segment, floor_of_secant
from estimators.smoothness.loss_defect import LossAlong
from estimators.smoothness.trust import FLAGGED_SNR, TRUSTED_SNR, judge, larger_floor, raise_floors

__all__ = ["TOLERANCE", "measure_adaptive_smoothness"]

TOLERANCE = 0.01
"""By how much an unmeasured fraction may exceed the value, as a share of it."""

_SAFETY = 2.0
"""Factor on what the loss says of the error: fewer peaks are missed, for few more gradients."""

_LEAST = 0.25
"""Share of the first error estimate that no agreement of the loss takes away."""


def measure_adaptive_smoothness(
    gradient: GradientFn,
    iterate: Params,
    following: Params,
    *,
    fractions: Sequence[float],
    gradient_error: float | None = None,
    value: Callable[[Params], float] | None = None,
    error_at: Callable[[Params], float | None] | None = None,
    tolerance: float = TOLERANCE,
) -> DirectionalSmoothness:
    r"""Eq. (20) as a search for the maximum: gradients at the fractions where it may lie, and no others.

    It begins at the largest fraction, the one in the middle and the smallest that can be trusted. After every gradient
    a polynomial curve goes through the secants measured so far (:mod:`estimators.smoothness.curve`). Two things
    estimate how far off it may be elsewhere:

    - how far it moves when one of its secants is left out, which overestimates its error;
    - by how much it fails the fundamental theorem of calculus: between neighbouring points a and b with a
      gradient each, f(b) - f(a) is known, and the integral of <grad f, d> is the curve's
      (:mod:`estimators.smoothness.loss_defect`). That sees only errors along the step, and only their mean.

    Its error is taken as twice the geometric mean of both, relatively, or the first where that is smaller; but as no
    less than a quarter of the first, since the loss may agree by chance, nor than twice what the loss shows: where f is
    symmetric about the middle of the step, all secants may be alike while the loss rises and falls between. The next
    gradient is taken where curve plus error are largest; the search ends where they are nowhere larger than the largest
    measured ratio by more than the tolerance, or cannot stand out from the noise. So the value is a measured ratio,
    with the same bits as on the exact grid; where the curve is useless, every fraction is measured. What may be missed
    is a peak between two measured fractions that shows neither in the gradients around it nor in the loss:
    ``benchmarks/methods.py --adversarial`` counts how often that happens on functions made for it.

    Args:
        gradient: Gradient of f on the frozen probe; called at x_k and three to len(fractions) more points.
        iterate: x_k, named tensors.
        following: x_{k+1}, the same names and shapes.
        fractions: The fractions among which the maximum is sought, each in (0, 1].
        gradient_error: eta, as for :func:`~estimators.smoothness.directional.measure_directional_smoothness`.
        value: f itself; called at the points of the gradients, after them. Without it only the first estimate is
            available, which costs a gradient or two more.
        error_at: eta at a point, as there; where a ratio gives way because of it, the search goes on.
        tolerance: By how much, as a share of the value, the curve may exceed what was measured; positive.

    Returns:
        The measurement. ``by_fraction`` is read off the curve where nothing was measured; ``num_trusted`` counts
        measured ratios; ``interpolation_error`` is by how much an unmeasured ratio may exceed the value, as
        far as the estimates can tell, and never more than the tolerance allows.

    Raises:
        ValueError: No fraction, or one outside (0, 1]; or the tolerance is not positive.

    Example:
        f = x^4 / 4 from 1 to 2 has its largest secant, 2^3 - 1 = 7, at the end, and four gradients show it.

        >>> import torch
        >>> points = ({"x": torch.tensor([float(v)], dtype=torch.float64)} for v in (1, 2))
        >>> measured = measure_adaptive_smoothness(
        ...     lambda p: {"x": p["x"] ** 3},
        ...     *points,
        ...     fractions=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        ...     value=lambda p: float(p["x"]) ** 4 / 4,
        ... )
        >>> measured.smoothness, measured.argmax_fraction, measured.num_gradients
        (7.0, 1.0, 4)
    """
    check_segment(iterate, following, fractions)
    if not tolerance > 0:
        raise ValueError(f"the tolerance must be positive, found {tolerance!r}")
    search = _Search(gradient, iterate, following, fractions, gradient_error, value)
    floor_at = floor_of_secant(iterate, following, fractions, error_at)
    last = max(fractions)
    search.measure(last)
    search.measure(min(fractions, key=lambda fraction: abs(fraction - last / 2)))
    search.measure(search.smallest_clear())
    while True:
        while (promised := search.most_promising(tolerance)) is not None:
            search.measure(promised)
        if floor_at is None or not search.audit_maximum(floor_at):
            break
    return search.result()


class _Search:
    """What was measured so far, and where larger ratios may be."""

    def __init__(
        self,
        gradient: GradientFn,
        iterate: Params,
        following: Params,
        fractions: Sequence[float],
        gradient_error: float | None,
        value: Callable[[Params], float] | None,
    ) -> None:
        self._gradient = gradient
        self._iterate, self._following = iterate, following
        self._fractions = np.array(fractions)
        self._gradient_error = gradient_error
        self._value = value
        self._start = gradient(iterate)
        self._step = difference(iterate, following)
        self._step_length = norm(self._step)
        self._curve = SecantCurve()
        self._ratios: dict[float, float | None] = {}
        self._floors: dict[float, float | None] = {}
        self._own_floors: dict[int, float] = {}
        self._next_grad_norm: float | None = None
        loss = math.nan if value is None else value(iterate)
        self._along = LossAlong(iterate, loss=loss, slope=inner(self._start, self._step))

    def measure(self, fraction: float) -> None:
        """Take the gradient at a fraction, once."""
        if fraction in self._ratios:
            return
        point = lerp(self._iterate, self._following, fraction)
        length = distance(self._iterate, point)
        self._ratios[fraction] = self._floors[fraction] = None
        if length == 0:
            return
        there = self._gradient(point)
        change = difference(self._start, there)
        self._curve.add(fraction, change, length)
        self._ratios[fraction] = norm(change) / length
        self._floors[fraction] = None if self._gradient_error is None else 2 * self._gradient_error / length
        if self._value is not None:
            self._along.add(fraction, loss=self._value(point), change=inner(change, self._step))
        if fraction == 1:
            self._next_grad_norm = norm(there)

    def smallest_clear(self) -> float:
        """The smallest fraction at which a ratio like the largest so far would stand clear of the noise."""
        best = judge(*self._measured()).value
        noise = TRUSTED_SNR * 2 * (self._gradient_error or 0.0)
        clear = self._fractions[noise <= (best or 0.0) * self._fractions * self._step_length]
        return float(min(clear, default=max(self._fractions)))

    def most_promising(self, tolerance: float) -> float | None:
        """The unmeasured fraction that may exceed the value most; None if none is worth measuring."""
        fractions, room = self._room()
        best = judge(*self._measured()).value or 0.0
        if not len(room) or room.max() <= tolerance * best:
            return None
        return float(fractions[room.argmax()])

    def audit_maximum(self, floor_at: Callable[[int], float | None]) -> bool:
        """Count the floor at the maximum's own point, and say whether the search must go on because of it."""
        ratios, floors = self._measured()
        if floors is None:
            return False
        before = judge(ratios, floors)
        known = self._own_floors
        found = raise_floors(ratios, floors, lambda index: known[index] if index in known else floor_at(index))
        for index, floor in found.items():
            self._own_floors[index] = floor
            fraction = self._fractions[index]
            self._floors[fraction] = larger_floor(self._floors[fraction], floor)
        after = judge(*self._measured())
        return (after.trust, after.index) != (before.trust, before.index)

    def result(self) -> DirectionalSmoothness:
        """The result."""
        ratios, floors = self._measured()
        read: list[float | None] = list(ratios)
        excess = None
        if self._curve.nodes:
            on_curve = self._curve.norms(self._fractions)
            read = [
                self._ratios[fraction] if fraction in self._ratios else float(on_curve[index])
                for index, fraction in enumerate(self._fractions)
            ]
            excess = float(np.max(self._room()[1], initial=0.0))
        return DirectionalSmoothness.judged(
            ratios,
            floors,
            fractions=[float(fraction) for fraction in self._fractions],
            floor_at=self._own_floors.get if self._own_floors else None,
            by_fraction=tuple(read),
            grad_norm=norm(self._start),
            next_grad_norm=self._next_grad_norm,
            update_norm=self._step_length,
            num_gradients=1 + len(self._curve.nodes),
            interpolation_error=excess,
        )

    def _room(self) -> tuple[Numbers, Numbers]:
        """Unmeasured fractions, and by how much each may raise the value."""
        fractions = np.array([fraction for fraction in self._fractions if fraction not in self._ratios])
        judgement = judge(*self._measured())
        if not len(fractions) or judgement.trust in {"no step", "overflow"}:
            return fractions, np.zeros(len(fractions))
        reach = self._curve.norms(fractions) + self._errors(fractions)
        floors = 2 * (self._gradient_error or 0.0) / (fractions * self._step_length)
        # A trusted ratio displaces a flagged one, however small it is.
        displaces = (judgement.trust == "flagged") & (reach >= TRUSTED_SNR * floors)
        room = reach - np.where(displaces, 0.0, judgement.value or 0.0)
        # A ratio that would not exceed its own noise floor would not be trusted.
        clear = reach >= (TRUSTED_SNR if judgement.trust == "trusted" else FLAGGED_SNR) * floors
        return fractions, np.where(clear, np.maximum(room, 0.0), 0.0)

    def _measured(self) -> tuple[list[float | None], list[float | None] | None]:
        """Ratios and floors in the order of the fractions; None where nothing was measured."""
        ratios = [self._ratios.get(fraction) for fraction in self._fractions]
        if self._gradient_error is None:
            return ratios, None
        return ratios, [self._floors.get(fraction) for fraction in self._fractions]

    def _errors(self, at: Numbers) -> Numbers:
        """How far off the curve may be at some fractions."""
        errors = self._curve.changes_without(at)
        if self._value is None:
            return errors
        # The loss says nothing beyond the last point, but no fraction lies there.
        defects = self._along.defects()
        with np.errstate(invalid="ignore"):
            both = _SAFETY * np.sqrt(errors * defects.shares_at(at) * self._curve.norms(at))
        shown = _SAFETY * defects.ratio_errors(at, self._step_length)
        # Not minimum() and maximum(): a loss that is not finite says nothing, and must not end the search.
        found: Numbers = np.fmax(np.fmax(np.fmin(errors, both), _LEAST * errors), shown)
        return found
