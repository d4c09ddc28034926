"""One row a snapshot: each estimator as a function of f and two iterates, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from estimators.gradient import Loss, Params, ProbeGradient
from estimators.rounding import RoundingProbe
from estimators.smoothness import fractions_of, measure_directional_smoothness

__all__ = ["ESTIMATORS", "Probe", "directional_smoothness_row"]


class Probe:
    """The function f that one problem's snapshots are measured on, ready to be evaluated many times.

    Args:
        model: The model.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``.
        batches: The frozen probe batches, of equal size.
        audit: Batches of which the first is computed in float64 too, to know the rounding error of one gradient; those
            of the probe by default. A smaller one costs less and errs, if anything, more.
        initial_carry: Makes the state with which every probe batch starts.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        audit: Iterable[Any] | None = None,
        initial_carry: Callable[[], Any] = lambda: None,
    ) -> None:
        held = list(batches)
        audited = held if audit is None else list(audit)
        self.gradient = ProbeGradient(model, loss, held, initial_carry=initial_carry)
        self.rounding = RoundingProbe(model, loss, audited, initial_carry=initial_carry)


def directional_smoothness_row(probe: Probe, iterates: Tensor, *, delta: float) -> dict[str, Any]:
    """Measure eq. (20) of Zhang et al. (2020) on one snapshot.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        delta: Spacing of the fractions, one over an integer.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``update_norm``, ``smoothness`` (null for a zero step), ``argmax_fraction``,
        ``smoothness_by_fraction``, ``noise_floor`` and ``snr``.

    Raises:
        ValueError: ``delta`` is not one over an integer.
    """
    values: list[float] = []

    def gradient(point: Params) -> Params:
        value, slope = probe.gradient.value_and_gradient(point["flat"])
        values.append(value)
        return {"flat": slope}

    measured = measure_directional_smoothness(
        gradient,
        {"flat": iterates[0]},
        {"flat": iterates[1]},
        fractions=fractions_of(delta),
        gradient_error=probe.rounding(iterates[0]),
    )
    return {
        "loss": values[0],
        "grad_norm": measured.grad_norm,
        "update_norm": measured.update_norm,
        "smoothness": measured.smoothness,
        "argmax_fraction": measured.argmax_fraction,
        "smoothness_by_fraction": list(measured.by_fraction),
        "noise_floor": measured.noise_floor,
        "snr": measured.snr,
    }


ESTIMATORS = {
    "directional_smoothness": directional_smoothness_row,
}
"""Name to function: ``(probe, iterates, **options) -> row``."""
