"""Smoothness along other directions than the step's: the gradient's, and random ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from estimators.probe.probe import Probe
from estimators.probe.vectors import length
from estimators.smoothness.adaptive import TOLERANCE
from estimators.smoothness.along import measure_between
from estimators.smoothness.directional import DirectionalSmoothness
from estimators.smoothness.trust import Trust

__all__ = ["other_directions_row"]

_WORST_FIRST: tuple[Trust, ...] = ("overflow", "no step", "noise", "unaudited", "flagged", "trusted")


def other_directions_row(
    probe: Probe, iterates: Tensor, *, draws: int = 3, delta: float = 0.1, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    r"""Eq. (20) from x_k to points as far away as x_{k+1}, in directions that training did not take.

    Eq. (20) is measured where the step went, which under momentum or preconditioning need not be where the gradient
    points, and which need not be typical of f. At the distance r = ||d||, with g = grad f(x_k):

    - along the gradient, to x_k - r g / ||g||, what the theorems are about, whatever the rule;
    - along random directions, uniform on the sphere, to x_k + r u. The root mean square of their smoothness is, for
      r -> 0, an estimate of ||H||_F / sqrt(n), since E ||H u||^2 = ||H||_F^2 / n.

    The random directions are a function of x_k, so that the same snapshot gives the same row, while those of different
    snapshots and seeds are independent. The maximum over the fractions is found as by ``adaptive``; three to four
    gradients for each direction.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters); of the second only the distance is used.
        draws: How many random directions, at least 1.
        delta: Spacing of the fractions, one over an integer.
        tolerance: By how much, as a share of the value, a fraction that was not measured may exceed it.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``update_norm`` = r; ``gradient_smoothness``, ``gradient_bound`` =
        (||grad f|| at both ends) / r, ``gradient_snr``, ``gradient_trust``; ``random_smoothness``, the root mean square
        over the draws, null where one of them cannot be told from rounding; ``random_bound``, that of their bounds;
        ``random_snr``, the smallest, and ``random_trust``, the worst; ``random_smoothness_by_draw``;
        ``num_gradients``.

    Raises:
        ValueError: ``draws`` is not positive, or ``delta`` is not one over an integer.
    """
    if draws < 1:
        raise ValueError(f"at least one random direction is needed, not {draws!r}")
    probe.settle(iterates[0])
    loss, slope = probe.value_and_gradient(iterates[0])
    start = iterates[0]
    distance = length(iterates[1] - start)
    row: dict[str, Any] = {"loss": loss, "grad_norm": length(slope), "update_norm": distance}
    downhill = (_measured(probe, start, -slope, distance, delta=delta, tolerance=tolerance),)
    around = tuple(
        _measured(probe, start, direction, distance, delta=delta, tolerance=tolerance)
        for direction in _directions(start, draws)
    )
    for name, measured in (("gradient", downhill), ("random", around)):
        row |= {
            f"{name}_smoothness": _root_mean_square([one.smoothness for one in measured]),
            f"{name}_bound": _root_mean_square([one.mechanical_bound for one in measured]),
            f"{name}_snr": min((one.snr for one in measured if one.snr is not None), default=None),
            f"{name}_trust": min((one.trust for one in measured), key=_WORST_FIRST.index),
        }
    return row | {
        "random_smoothness_by_draw": [one.smoothness for one in around],
        "num_gradients": 1 + sum(one.num_gradients - 1 for one in (*downhill, *around)),
    }


def _measured(
    probe: Probe, start: Tensor, direction: Tensor, distance: float, *, delta: float, tolerance: float
) -> DirectionalSmoothness:
    """Eq. (20) from a point towards a direction; without a direction there is no step."""
    size = length(direction)
    scale = distance / size if size > 0 and math.isfinite(size) else 0.0
    # In float64, in which a small gradient and a short step do not underflow.
    end = (start.double() + scale * direction.double()).to(start.dtype) if scale else start
    return measure_between(
        probe, torch.stack((start, end)), delta=delta, method="adaptive", tolerance=tolerance, hold=False
    )


def _directions(start: Tensor, draws: int) -> Iterator[Tensor]:
    """Gaussian vectors, which point anywhere with equal probability; a function of the bits of a point."""
    digest = hashlib.blake2b(start.detach().cpu().numpy().tobytes(), digest_size=8).digest()
    # On the CPU: a GPU's generator gives other numbers.
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    for _ in range(draws):
        yield torch.randn(start.numel(), generator=generator).to(start.device)


def _root_mean_square(values: list[float | None]) -> float | None:
    """None where a value is missing."""
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return None
    return math.hypot(*found) / math.sqrt(len(found))
