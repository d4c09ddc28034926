"""What is done to a gradient before an optimiser sees it: clipping and normalising, in place on one flat vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.update.norms import largest_plain, norm, norms, unit_norms
from trainers.update.pieces import multiply_pieces, multiply_runs

__all__ = ["TRANSFORMS", "Direction", "Transform", "clip_scale", "normalize_scale", "shrinkage"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction:
    """The vector that a transform changes in place: the gradient, or the momentum.

    Attributes:
        vector: All of it, shape (n,).
        norm: Its Euclidean norm, a scalar tensor; of type float64 where the vector's own cannot hold its square.
        views: The same memory as one tensor per parameter, in the parameters' shapes.
        parameters: The parameters.
    """

    vector: Tensor
    norm: Tensor
    views: Sequence[Tensor]
    parameters: Sequence[Tensor]


Transform = Callable[[Direction, float], Tensor]
"""Changes the direction and returns, on its device, the factor by which its norm changed: 1 exactly for no change."""


def clip_scale(grad_norm: Tensor, clip_norm: float | Tensor) -> Tensor:
    r"""The factor by which clipping shortens the step.

    Zhang et al. (2020), eq. (5), divided by the learning rate:

        h / eta = min(1, gamma / ||g||)

    Args:
        grad_norm: ||g||, a tensor of any shape on any device.
        clip_norm: gamma, in the units of ``grad_norm``, one for all or one for each; infinity gives exactly 1 for
            every finite norm.

    Returns:
        A tensor in [0, 1] of the same shape, on the same device.

    Example:
        >>> clip_scale(torch.tensor(4.0), 1.0), clip_scale(torch.tensor(0.5), 1.0)
        (tensor(0.2500), tensor(1.))
    """
    return (clip_norm * grad_norm.reciprocal()).clamp(max=1.0)


def normalize_scale(grad_norm: Tensor, offset: float) -> Tensor:
    r"""The factor that turns the gradient into a step of almost constant length.

    Zhang et al. (2020), eq. (6), divided by the learning rate:

        h / eta = 1 / (||g|| + beta)

    Args:
        grad_norm: ||g||, a scalar tensor on any device.
        offset: beta, positive, in the units of ``grad_norm``.

    Returns:
        A scalar tensor on the same device.

    Example:
        >>> normalize_scale(torch.tensor(3.0), 1.0)
        tensor(0.2500)
    """
    return (grad_norm + offset).reciprocal()


def _clip_norm(direction: Direction, threshold: float) -> Tensor:
    return _scaled(direction, clip_scale(direction.norm, threshold))


def _normalize(direction: Direction, offset: float) -> Tensor:
    return _scaled(direction, normalize_scale(direction.norm, offset))


def _scaled(direction: Direction, scale: Tensor) -> Tensor:
    direction.vector.mul_(scale)
    return scale


def _clip_value(direction: Direction, threshold: float) -> Tensor:
    """Clamp every entry to [-c, c]."""
    is_clipped = direction.vector.abs().amax() > threshold
    direction.vector.clamp_(-threshold, threshold)
    return shrinkage(direction, is_clipped)


def _clip_layer_norm(direction: Direction, threshold: float) -> Tensor:
    """Eq. (5) for each parameter tensor by itself."""
    scales = clip_scale(norms(direction.views), threshold)
    multiply_pieces(direction.vector, direction.views, scales)
    return shrinkage(direction, (scales < 1).any())


# Brock et al. (2021), Section 4.1: so that a weight that starts at zero can move.
_SMALLEST_UNIT = 1e-3


def _clip_adaptive(direction: Direction, ratio: float) -> Tensor:
    """Brock et al. (2021), eq. (3): no unit's gradient longer than lambda max(||w||, 1e-3), w the unit's weights."""
    # A unit is a row: the weights of one output. Vectors and scalars are one unit each.
    if direction.vector.device.type != "cpu":
        return _clip_units_together(direction, ratio)
    # Below this, no square of a gradient overflows, and a parameter whose square does is too long to clip anything.
    wide = not direction.norm.item() < min(ratio, 1.0) * largest_plain(direction.vector.dtype)
    any_clipped = torch.zeros((), dtype=torch.bool)
    for view, parameter in zip(direction.views, direction.parameters, strict=True):
        scales = _unit_scales(unit_norms(parameter, wide=wide), unit_norms(view, wide=wide), ratio)
        any_clipped |= (scales < 1).any()
        view.mul_(scales.reshape(()) if view.ndim == 0 else scales)
    return shrinkage(direction, any_clipped)


def _clip_units_together(direction: Direction, ratio: float) -> Tensor:
    """The same in few launches: two a parameter, and a dozen for all of them."""
    allowed, found = (
        torch.cat([unit_norms(tensor, wide=True).reshape(-1) for tensor in tensors])
        for tensors in (direction.parameters, direction.views)
    )
    scales = _unit_scales(allowed, found, ratio)
    rows = [len(view) if view.ndim > 1 else 1 for view in direction.views]
    runs = [(count, view.numel() // max(1, count)) for count, view in zip(rows, direction.views, strict=True)]
    multiply_runs(direction.vector, runs, scales)
    return shrinkage(direction, (scales < 1).any())


def _unit_scales(weights: Tensor, gradients: Tensor, ratio: float) -> Tensor:
    """By what units are scaled, from the norms of their weights and of their gradients."""
    return (ratio * weights.clamp(min=_SMALLEST_UNIT) / gradients).clamp(max=1.0)


def shrinkage(direction: Direction, is_clipped: Tensor) -> Tensor:
    """Ratio of the norm after to the norm before; below 1 whenever something was clipped, even if rounding hides it.

    Args:
        direction: Its vector is clipped already, its norm is the one before.
        is_clipped: Whether anything in it was clipped, a boolean scalar on its device.

    Returns:
        A scalar on the device; 1 exactly where nothing was clipped.
    """
    largest = 1 - torch.finfo(direction.vector.dtype).eps
    ratio = (norm(direction.vector) / direction.norm).clamp(max=largest)
    return torch.where(is_clipped, ratio, torch.ones_like(ratio))


TRANSFORMS: dict[str, Transform] = {
    "clip_norm": _clip_norm,
    "normalize": _normalize,
    "clip_value": _clip_value,
    "clip_layer_norm": _clip_layer_norm,
    "clip_adaptive": _clip_adaptive,
}
