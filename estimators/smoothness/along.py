"""Eq. (20) between two points of a probe, by any of its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from estimators.probe.gradient import Params
from estimators.probe.graphed import GraphedGradient
from estimators.probe.probe import Probe
from estimators.probe.vectors import norm
from estimators.smoothness.adaptive import TOLERANCE, measure_adaptive_smoothness
from estimators.smoothness.chebyshev import measure_chebyshev_smoothness
from estimators.smoothness.directional import (
    DirectionalSmoothness,
    floor_of_secant,
    fractions_of,
    measure_directional_smoothness,
    smoothness_of_secants,
)

__all__ = ["METHODS", "Method", "measure_between"]

Method = Literal["exact", "chebyshev", "adaptive"]

METHODS: Mapping[str, Callable[..., DirectionalSmoothness]] = {
    "exact": measure_directional_smoothness,
    "chebyshev": measure_chebyshev_smoothness,
    "adaptive": measure_adaptive_smoothness,
}
"""How the maximum is found: a gradient per fraction, a curve through five, or gradients where it may lie."""


def measure_between(
    probe: Probe,
    iterates: Tensor,
    *,
    delta: float,
    method: Method,
    tolerance: float = TOLERANCE,
    hold: bool = False,
) -> DirectionalSmoothness:
    """Eq. (20) of f from one point to another.

    Args:
        probe: f, settled at the first point.
        iterates: Both points, shape (2, num_parameters).
        delta: Spacing of the fractions, one over an integer.
        method: One of :data:`METHODS`.
        tolerance: By how much, as a share of the value, a fraction that ``adaptive`` did not measure may exceed it.
        hold: Whether the gradient at the second point is kept for whoever measures from there next.

    Returns:
        The measurement.

    Raises:
        ValueError: ``delta`` is not one over an integer, or the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    fractions = fractions_of(delta)
    value, start = probe.value_and_gradient(iterates[0])
    if method == "exact" and probe.on_device is not None:
        return _on_device(probe, probe.on_device, iterates, fractions, hold=hold)
    first, second = {"flat": iterates[0]}, {"flat": iterates[1]}
    end: tuple[float, Tensor] | None = None

    def gradient(point: Params) -> Params:
        # Both ends are held here: for a large model the cache holds no more than the last two points.
        nonlocal end
        if point is first:
            return {"flat": start}
        found = probe.value_and_gradient(point["flat"])
        if point is second:
            end = found
        return {"flat": found[1]}

    def loss(point: Params) -> float:
        # Called after the gradient at the same point, so it comes from the cache.
        return value if point is first else probe.value_and_gradient(point["flat"])[0]

    of_method: dict[str, Any] = {} if method == "exact" else {"value": loss}
    if method == "adaptive":
        of_method["tolerance"] = tolerance
    measured = METHODS[method](
        gradient,
        first,
        second,
        fractions=fractions,
        gradient_error=probe.gradient_error(iterates[0]),
        error_at=(lambda point: probe.gradient_error(point["flat"])) if probe.audits_maximum else None,
        **of_method,
    )
    if hold and end is not None:
        probe.value_and_gradient.hold(iterates[1], *end)
    return measured


def _on_device(
    probe: Probe, graphed: GraphedGradient, iterates: Tensor, fractions: Sequence[float], *, hold: bool
) -> DirectionalSmoothness:
    """The exact grid, whose norms are read together."""
    start = probe.value_and_gradient(iterates[0])[1]
    found = graphed.grid(iterates[0], iterates[1], fractions, start=start)
    if hold:
        probe.value_and_gradient.hold(iterates[1], *found.end)
    first, second = {"flat": iterates[0]}, {"flat": iterates[1]}
    error_at = (lambda point: probe.gradient_error(point["flat"])) if probe.audits_maximum else None
    return smoothness_of_secants(
        found.changes,
        found.distances,
        gradient_error=probe.gradient_error(iterates[0]),
        fractions=fractions,
        floor_at=floor_of_secant(first, second, fractions, error_at),
        grad_norm=norm({"flat": start}),
        next_grad_norm=found.next_grad_norm if found.update_norm else None,
        update_norm=found.update_norm,
    )
