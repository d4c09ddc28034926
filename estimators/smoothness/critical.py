"""How far one could have gone along a step before the loss exceeds its value at the start: critical sharpness."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from estimators.probe.probe import Probe
from estimators.probe.vectors import inner, length
from estimators.smoothness.crossing import find_crossing

__all__ = ["critical_sharpness_row"]

_ULPS = 4.0
"""Units in the last place of f by which it is off at least; what an audit finds may be less by chance."""


def critical_sharpness_row(
    probe: Probe,
    iterates: Tensor,
    *,
    tolerance: float = 0.02,
    max_forward_passes: int = 9,
    learning_rate: float | None = None,
    clip_norm: float | None = None,
) -> dict[str, Any]:
    r"""2 / eta_c, where eta_c is the smallest learning rate at which this step would have raised f.

    Kalra et al. (2026), arXiv 2601.16979: a line search of forward passes along d = x_{k+1} - x_k = -eta p,

        eta_c = min {eta' > 0 : f(x_k - eta' p) > f(x_k)},   lambda_c = 2 / eta_c

    The rule's direction p is held as it was: already clipped, preconditioned or with momentum. With s_c = eta_c / eta,
    the step itself raises f if s_c < 1. On a quadratic f, lambda_c = p^T H p / p^T grad f, which for p = grad f is the
    curvature along the gradient. Per unit of distance, with u = d / ||d||, the slope sigma = -u^T grad f and t_c =
    s_c ||d||, the curvature of the parabola that falls with sigma and comes back at t_c is 2 sigma / t_c: u^T H u on a
    quadratic, whatever the rule. The step is past t_c if that exceeds 2 sigma / ||d||, which is 2 / eta for
    p = grad f.

    Costs a gradient, ``num_forward_passes`` evaluations of f without one, and an audit of the loss in float64.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        tolerance: Relative width of the bracket of s_c at which the search stops.
        max_forward_passes: Evaluations of f along the step after which it stops, f(x_k) included; at least 2.
        learning_rate: eta of the step; None where it is not known.
        clip_norm: The threshold c, where the step is eta times a clipped vector and nothing more; None otherwise.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``update_norm``, ``learning_rate``; ``descent_cosine`` between d and
        -grad f; ``critical_fraction`` = s_c, 0 where f does not fall along d; ``fraction_low`` and ``fraction_high``,
        which enclose it; ``critical_sharpness`` = 2 / eta_c; ``critical_curvature`` = 2 sigma / t_c and
        ``stability_edge`` = 2 sigma / ||d||; ``critical_clip_norm`` = t_c / eta, null without ``clip_norm``;
        ``noise_floor`` of f(x_k + s d) - f(x_k) at s_c; ``trust``, in a word of
        :data:`~estimators.smoothness.crossing.Found`, or ``unaudited`` for ``trusted``, ``ascent``, ``no step`` or
        ``overflow``; ``num_forward_passes``.

    Raises:
        ValueError: ``max_forward_passes`` is below 2.
    """
    if max_forward_passes < 2:
        raise ValueError(f"f(x_k) and one other value are needed, but max_forward_passes is {max_forward_passes!r}")
    probe.settle(iterates[0])
    loss, slope = probe.value_and_gradient(iterates[0])
    step = (iterates[1] - iterates[0]).to(slope.dtype)
    update_norm, grad_norm = length(step), length(slope)
    row: dict[str, Any] = {
        "loss": loss,
        "grad_norm": grad_norm,
        "update_norm": update_norm,
        "learning_rate": learning_rate,
        "descent_cosine": None,
        "critical_fraction": None,
        "fraction_low": None,
        "fraction_high": None,
        "critical_sharpness": None,
        "critical_curvature": None,
        "stability_edge": None,
        "critical_clip_norm": None,
        "noise_floor": None,
        "trust": "no step",
        "num_forward_passes": 0,
    }
    if not (math.isfinite(loss) and math.isfinite(grad_norm) and math.isfinite(update_norm)):
        return row | {"trust": "overflow"}
    if update_norm == 0:
        return row
    # Unit vectors: the product of two short ones may underflow.
    along = (step.double() / update_norm).to(step.dtype)
    sigma = -inner({"flat": slope}, {"flat": along})
    row["descent_cosine"] = sigma / grad_norm if grad_norm > 0 else None
    row["stability_edge"] = 2 * sigma / update_norm
    if sigma <= 0:
        row |= {"trust": "ascent", "critical_fraction": 0.0, "critical_sharpness": _over(2.0, 0.0, learning_rate)}
        return row | {"critical_clip_norm": 0.0 if _applies(clip_norm, learning_rate) else None}
    audited = probe.loss_error(iterates[0])
    error = max(audited or 0.0, _ULPS * torch.finfo(slope.dtype).eps * abs(loss))
    value = probe.values_from(iterates[0])
    base = value(iterates[0])

    def change(fraction: float) -> tuple[float, float]:
        point = iterates[1] if fraction == 1 else iterates[0] + fraction * step.to(iterates.dtype)
        there = value(point)
        # What rounding the point does to f, as far as the slope at x_k tells.
        moved = (point - iterates[0]).to(slope.dtype) - fraction * step
        off = abs(inner({"flat": slope}, {"flat": moved}))
        return there - base, error * (1 + max(1.0, abs(there / base) if base else 1.0)) + off

    crossing = find_crossing(
        change, descent=sigma * update_norm, tolerance=tolerance, max_evaluations=max_forward_passes - 1
    )
    row |= {
        "critical_fraction": crossing.at,
        "fraction_low": crossing.low,
        "fraction_high": crossing.high,
        "noise_floor": crossing.floor,
        "trust": "unaudited" if audited is None and crossing.found == "trusted" else crossing.found,
        "num_forward_passes": 1 + crossing.num_evaluations,
    }
    if crossing.at is not None:
        row["critical_sharpness"] = _over(2.0, crossing.at, learning_rate)
        row["critical_curvature"] = 2 * sigma / (crossing.at * update_norm)
        if _applies(clip_norm, learning_rate):
            assert learning_rate is not None
            row["critical_clip_norm"] = crossing.at * update_norm / learning_rate
    return row


def _applies(clip_norm: float | None, learning_rate: float | None) -> bool:
    """Whether there is a threshold of which the length of the step is a multiple."""
    return clip_norm is not None and learning_rate is not None and learning_rate > 0


def _over(number: float, fraction: float, learning_rate: float | None) -> float | None:
    """number / (fraction learning_rate), infinite over 0; None where the rate is not known, or 0."""
    if learning_rate is None or not learning_rate > 0:
        return None
    return number / (fraction * learning_rate) if fraction > 0 else math.inf
