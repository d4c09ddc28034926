"""Eq. (20) of one snapshot as a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from estimators.probe.gradient import Params
from estimators.probe.probe import Probe
from estimators.smoothness.adaptive import TOLERANCE, measure_adaptive_smoothness
from estimators.smoothness.chebyshev import measure_chebyshev_smoothness
from estimators.smoothness.directional import DirectionalSmoothness, fractions_of, measure_directional_smoothness

__all__ = ["METHODS", "directional_smoothness_row"]

METHODS: Mapping[str, Callable[..., DirectionalSmoothness]] = {
    "exact": measure_directional_smoothness,
    "chebyshev": measure_chebyshev_smoothness,
    "adaptive": measure_adaptive_smoothness,
}
"""How the maximum is found: a gradient per fraction, a curve through five, or gradients where it may lie."""


def directional_smoothness_row(
    probe: Probe,
    iterates: Tensor,
    *,
    delta: float = 0.1,
    method: Literal["exact", "chebyshev", "adaptive"] = "exact",
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Measure eq. (20) of Zhang et al. (2020) on one snapshot.

    Costs 1/delta + 1 gradients, five with ``chebyshev``, four to 1/delta + 1 with ``adaptive``; one less where the
    snapshot before ended at x_k. Where the probe is audited at the maximum, too, another audit.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        delta: Spacing of the fractions, one over an integer.
        method: One of :data:`METHODS`.
        tolerance: By how much, as a share of the value, a fraction that ``adaptive`` did not measure may exceed it.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``next_grad_norm``, ``update_norm``, ``smoothness`` (null where the step is
        zero or nothing stands clear of the noise), ``argmax_fraction``, ``smoothness_by_fraction``, ``at_zero``,
        ``interpolation_error``, ``mechanical_bound``, ``cycle``, ``noise_floor``, ``floor_at_maximum``, ``snr``,
        ``trust``, ``trusted_fractions``, ``num_gradients`` and ``method``.

    Raises:
        ValueError: ``delta`` is not one over an integer, or the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    fractions = fractions_of(delta)
    probe.settle(iterates[0])
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
    if end is not None:
        # Where the next snapshot begins.
        probe.value_and_gradient.hold(iterates[1], *end)
    return {
        "loss": value,
        "grad_norm": measured.grad_norm,
        "next_grad_norm": measured.next_grad_norm,
        "update_norm": measured.update_norm,
        "smoothness": measured.smoothness,
        "argmax_fraction": measured.argmax_fraction,
        "smoothness_by_fraction": list(measured.by_fraction),
        "at_zero": measured.at_zero,
        "interpolation_error": measured.interpolation_error,
        "mechanical_bound": measured.mechanical_bound,
        "cycle": measured.is_cycle,
        "noise_floor": measured.noise_floor,
        "floor_at_maximum": measured.floor_at_maximum,
        "snr": measured.snr,
        "trust": measured.trust,
        "trusted_fractions": measured.num_trusted,
        "num_gradients": measured.num_gradients,
        "method": method,
    }
