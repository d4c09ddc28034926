"""Eq. (20) of one snapshot as a row."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from estimators.chebyshev import measure_chebyshev_smoothness
from estimators.gradient import Params
from estimators.probe import Probe
from estimators.smoothness import fractions_of, measure_directional_smoothness

__all__ = ["METHODS", "directional_smoothness_row"]

METHODS = {
    "exact": measure_directional_smoothness,
    "chebyshev": measure_chebyshev_smoothness,
}
"""How the ratio is had at every fraction: by a gradient each, or from a curve through five."""


def directional_smoothness_row(
    probe: Probe, iterates: Tensor, *, delta: float = 0.1, method: Literal["exact", "chebyshev"] = "exact"
) -> dict[str, Any]:
    """Measure eq. (20) of Zhang et al. (2020) on one snapshot.

    Costs 1/delta + 1 gradients, or five with ``chebyshev``; one less where the snapshot before ended at x_k.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        delta: Spacing of the fractions, one over an integer.
        method: One of :data:`METHODS`.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``next_grad_norm``, ``update_norm``, ``smoothness`` (null where the step is
        zero or nothing stands clear of the noise), ``argmax_fraction``, ``smoothness_by_fraction``, ``at_zero``,
        ``interpolation_error``, ``mechanical_bound``, ``noise_floor``, ``snr``, ``trust``, ``trusted_fractions`` and
        ``method``.

    Raises:
        ValueError: ``delta`` is not one over an integer, or the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    fractions = fractions_of(delta)
    probe.settle(iterates[0])
    value, start = probe.value_and_gradient(iterates[0])
    first = {"flat": iterates[0]}

    def gradient(point: Params) -> Params:
        # Held here: the memory of a large model reaches no further than the two points seen last.
        return {"flat": start if point is first else probe.value_and_gradient(point["flat"])[1]}

    measured = METHODS[method](
        gradient,
        first,
        {"flat": iterates[1]},
        fractions=fractions,
        gradient_error=probe.gradient_error(iterates[0]),
    )
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
        "noise_floor": measured.noise_floor,
        "snr": measured.snr,
        "trust": measured.trust,
        "trusted_fractions": measured.num_trusted,
        "method": method,
    }
