"""Eq. (20) of one snapshot as a row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from estimators.probe.probe import Probe
from estimators.smoothness.adaptive import TOLERANCE
from estimators.smoothness.along import Method, measure_between

__all__ = ["directional_smoothness_row"]


def directional_smoothness_row(
    probe: Probe,
    iterates: Tensor,
    *,
    delta: float = 0.1,
    method: Method = "exact",
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Measure eq. (20) of Zhang et al. (2020) on one snapshot.

    Costs 1/delta + 1 gradients, five with ``chebyshev``, four to 1/delta + 1 with ``adaptive``; one less where the
    snapshot before ended at x_k. Where the probe is audited at the maximum, too, another audit.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        delta: Spacing of the fractions, one over an integer.
        method: One of :data:`~estimators.smoothness.along.METHODS`.
        tolerance: By how much, as a share of the value, a fraction that ``adaptive`` did not measure may exceed it.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``next_grad_norm``, ``update_norm``, ``smoothness`` (null where the step is
        zero or nothing stands clear of the noise), ``argmax_fraction``, ``smoothness_by_fraction``, ``at_zero``,
        ``interpolation_error``, ``mechanical_bound``, ``cycle``, ``noise_floor``, ``floor_at_maximum``, ``snr``,
        ``trust``, ``trusted_fractions``, ``num_gradients`` and ``method``.

    Raises:
        ValueError: ``delta`` is not one over an integer, or the method is unknown.
    """
    probe.settle(iterates[0])
    value, _ = probe.value_and_gradient(iterates[0])
    # Where the next snapshot begins.
    measured = measure_between(probe, iterates, delta=delta, method=method, tolerance=tolerance, hold=True)
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
