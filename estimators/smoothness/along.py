"""Eq. (20) between two points of a probe, by any of its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from estimators.probe.gradient import Params
from estimators.probe.probe import Probe
from estimators.smoothness.adaptive import TOLERANCE, measure_adaptive_smoothness
from estimators.smoothness.chebyshev import measure_chebyshev_smoothness
from estimators.smoothness.directional import DirectionalSmoothness, fractions_of, measure_directional_smoothness

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
