"""Eq. (20) from a curve through few gradients instead of one gradient per fraction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from estimators.probe.gradient import GradientFn, Params
from estimators.probe.vectors import difference, distance, inner, lerp, norm
from estimators.smoothness.curve import SecantCurve
from estimators.smoothness.directional import DirectionalSmoothness, check_segment
from estimators.smoothness.loss_defect import LossAlong

__all__ = ["NODES", "lobatto_nodes", "measure_chebyshev_smoothness"]

NODES = 5
"""Gradients of one measurement; of which the one at x_k, and often the one at the other end, is needed anyway."""


_SAFETY = 4.0
"""Factor on the mean error that the loss shows between two nodes, of which a narrow peak is a multiple."""


def lobatto_nodes(count: int) -> tuple[float, ...]:
    """Chebyshev-Lobatto nodes on [0, 1]: both ends, and denser towards them, so that interpolation does not oscillate.

    Args:
        count: How many, at least 2.

    Returns:
        (1 - cos(pi i / (count - 1))) / 2 for i = 0..count - 1.

    Raises:
        ValueError: ``count`` is below 2.

    Example:
        >>> [round(node, 4) for node in lobatto_nodes(5)]
        [0.0, 0.1464, 0.5, 0.8536, 1.0]
    """
    if count < 2:
        raise ValueError(f"both ends are nodes, so there are at least 2, found {count!r}")
    inside = [(1 - math.cos(math.pi * i / (count - 1))) / 2 for i in range(1, count - 1)]
    return (0.0, *inside, 1.0)


def measure_chebyshev_smoothness(
    gradient: GradientFn,
    iterate: Params,
    following: Params,
    *,
    fractions: Sequence[float],
    gradient_error: float | None = None,
    value: Callable[[Params], float] | None = None,
    error_at: Callable[[Params], float | None] | None = None,
) -> DirectionalSmoothness:
    r"""Eq. (20) read off a polynomial through gradients at five Chebyshev-Lobatto nodes.

    The Gram matrix of the four secants gives the ratio at any fraction, and at gamma = 0 the limit ||H d|| / ||d||,
    without another gradient, see :mod:`~estimators.smoothness.curve`. At the nodes themselves it is the exact ratio,
    with the distance of the rounded parameters. Gradients that are polynomials of degree 4 along the segment are
    reproduced exactly.

    Args:
        gradient: Gradient of f on the frozen probe; called five times, once where the step is zero.
        iterate: x_k, named tensors.
        following: x_{k+1}, the same names and shapes.
        fractions: The fractions at which the curve is read, each in (0, 1].
        gradient_error: eta, as for :func:`~estimators.smoothness.directional.measure_directional_smoothness`. The
            noise floor counts how much the polynomials magnify it: 2 eta sum_i |m_i(gamma)| / ||d_eff,i||.
        value: f itself; called at the points of the gradients, after them. Without it, what the loss shows of the error
            is left out.
        error_at: eta at a point, as there: all nodes are then taken to have the error found at the maximum.

    Returns:
        The measurement, with ``at_zero`` and ``interpolation_error``: over the fractions, the larger of how far the
        curve moves when any one of its secants is left out, and of four times the error along the step that the loss
        shows (:mod:`~estimators.smoothness.loss_defect`).

    Raises:
        ValueError: No fraction, or one outside (0, 1]; or the two iterates have other names.

    Example:
        f = x^4 / 4 from 1 to 2: the secant is 1 + (1 + gamma) + (1 + gamma)^2, and its limit 3 x^2 = 3.

        >>> import torch
        >>> points = ({"x": torch.tensor([float(v)], dtype=torch.float64)} for v in (1, 2))
        >>> measured = measure_chebyshev_smoothness(lambda p: {"x": p["x"] ** 3}, *points, fractions=[0.5, 1.0])
        >>> round(measured.smoothness, 9), [round(v, 9) for v in measured.by_fraction], round(measured.at_zero, 9)
        (7.0, [4.75, 7.0], 3.0)
    """
    check_segment(iterate, following, fractions)
    start = gradient(iterate)
    step = difference(iterate, following)
    along = None if value is None else LossAlong(iterate, loss=value(iterate), slope=inner(start, step))
    curve = SecantCurve()
    next_grad_norm = None
    for node in lobatto_nodes(NODES)[1:]:
        point = lerp(iterate, following, node)
        length = distance(iterate, point)
        if length == 0:
            break  # a step so short that it vanishes at some node has no curve
        there = gradient(point)
        change = difference(start, there)
        curve.add(node, change, length)
        if along is not None and value is not None:
            along.add(node, loss=value(point), change=inner(change, step))
        if node == 1:
            next_grad_norm = norm(there)
    ratios: list[float | None] = [None] * len(fractions)
    floors: list[float | None] | None = None if gradient_error is None else [None] * len(fractions)
    at_zero = error = floor_at = None
    if len(curve.nodes) == NODES - 1:
        at = np.array([0.0, *fractions])
        fine = curve.norms(at)
        ratios = [float(value) for value in fine[1:]]
        at_zero = float(fine[0])
        errors = curve.changes_without(at[1:])
        if along is not None:
            # Not maximum(): a loss that is not finite says nothing.
            errors = np.fmax(errors, _SAFETY * along.defects().ratio_errors(at[1:], norm(step)))
        error = float(errors.max())
        if gradient_error is not None:
            per_error = np.abs(curve.weights(at[1:])) @ (2 / curve.lengths)
            floors = [gradient_error * float(magnified) for magnified in per_error]
            if error_at is not None:

                def floor_at(index: int) -> float | None:
                    found = error_at(lerp(iterate, following, fractions[index]))
                    return None if found is None else found * float(per_error[index])

    return DirectionalSmoothness.judged(
        ratios,
        floors,
        fractions=fractions,
        floor_at=floor_at,
        grad_norm=norm(start),
        next_grad_norm=next_grad_norm,
        update_norm=distance(iterate, following),
        num_gradients=1 + len(curve.nodes),
        at_zero=at_zero,
        interpolation_error=error,
    )
