"""Smoothness layer by layer: which part of the model has the curvature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimators.probe.probe import Probe
from estimators.probe.vectors import length
from estimators.smoothness.directional import fractions_of
from estimators.smoothness.trust import judge

__all__ = ["layer_smoothness_row"]


def layer_smoothness_row(probe: Probe, iterates: Tensor, *, delta: float = 0.1) -> dict[str, Any]:
    """Eq. (20) with the gradient and the step of one parameter tensor at a time.

    For the parameters of layer l, along the whole step d,

        max over gamma of ||grad_l f(x_k + gamma d) - grad_l f(x_k)|| / (gamma ||d_l||).

    All layers move at once, so a layer's value also includes what the others' steps do to its gradient. The gradients
    are those of ``directional_smoothness``: measured with the same delta, they are taken from the cache as far as that
    reaches. The gradient's error is audited layer by layer as well.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        delta: Spacing of the fractions, one over an integer.

    Returns:
        ``layers``, the parameters' names, and lists in their order: ``smoothness_by_layer`` (null where the layer does
        not move or nothing stands clear of the noise), ``trust_by_layer``, ``snr_by_layer``, ``grad_norm_by_layer`` and
        ``update_norm_by_layer``; besides ``loss`` = f(x_k) and ``grad_norm`` of all layers.

    Raises:
        ValueError: ``delta`` is not one over an integer.
    """
    fractions = fractions_of(delta)
    probe.settle(iterates[0])
    layout = probe.gradient.layout
    here, there = iterates[0], iterates[1]
    value, start = probe.value_and_gradient(here)
    errors = probe.gradient_errors(here, layout.values())
    ratios: dict[str, list[float | None]] = {name: [] for name in layout}
    floors: dict[str, list[float | None]] | None = None if errors is None else {name: [] for name in layout}
    moves = not torch.equal(here, there)
    for fraction in fractions if moves else ():
        point = there if fraction == 1 else torch.lerp(here, there, fraction)
        _, slope = probe.value_and_gradient(point)
        for index, (name, block) in enumerate(layout.items()):
            moved = _distance(here[block], point[block])
            ratios[name].append(_distance(start[block], slope[block]) / moved if moved else None)
            if errors is not None and floors is not None:
                floors[name].append(2 * errors[index] / moved if moved else None)
    judgements = [judge(ratios[name], None if floors is None else floors[name]) for name in layout]
    return {
        "loss": value,
        "grad_norm": length(start),
        "layers": list(layout),
        "smoothness_by_layer": [judgement.value for judgement in judgements],
        "trust_by_layer": [judgement.trust for judgement in judgements],
        "snr_by_layer": [judgement.snr for judgement in judgements],
        "grad_norm_by_layer": [length(start[block]) for block in layout.values()],
        "update_norm_by_layer": [_distance(here[block], there[block]) for block in layout.values()],
    }


def _distance(one: Tensor, other: Tensor) -> float:
    return length(other - one)
