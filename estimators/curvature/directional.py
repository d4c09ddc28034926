"""The curvature of f along a step, exactly: the control for eq. (20), which divides by the step's length."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from estimators.probe.probe import Probe
from estimators.probe.vectors import length

__all__ = ["directional_curvature_row"]


def directional_curvature_row(probe: Probe, iterates: Tensor) -> dict[str, Any]:
    """Curvature at x_k along d = x_{k+1} - x_k, by a Hessian-vector product.

    ||H d|| / ||d|| is the limit of eq. (20) for gamma to 0. It does not depend on ||d||, so its correlation with
    the gradient norm cannot be an artefact of clipping, which makes ||d|| constant. Costs a
    gradient and a Hessian-vector product: about four gradients.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``update_norm``; ``smoothness`` = ||H d|| / ||d|| and ``curvature`` =
        d^T H d / ||d||^2, both in units of loss per squared parameter, null for a zero step; and ``gradient_curvature``
        = g^T H g / ||g||^2 along the gradient, null where that is zero.
    """
    probe.settle(iterates[0])
    value, slope = probe.value_and_gradient(iterates[0])
    step = (iterates[1] - iterates[0]).to(slope.dtype)
    update_norm, grad_norm = length(step), length(slope)
    hessian = probe.hessian(iterates[0])
    smoothness = curvature = gradient_curvature = None
    if update_norm > 0:
        direction = (step.double() / update_norm).to(step.dtype)
        product = hessian.product(direction)
        smoothness = length(product)
        curvature = float(direction.double() @ product.double())
    if grad_norm > 0:
        direction = (slope.double() / grad_norm).to(slope.dtype)
        gradient_curvature = float(direction.double() @ hessian.product(direction).double())
    return {
        "loss": value,
        "grad_norm": grad_norm,
        "update_norm": update_norm,
        "smoothness": smoothness,
        "curvature": curvature,
        "gradient_curvature": gradient_curvature,
    }
