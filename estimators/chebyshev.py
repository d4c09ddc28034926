"""Eq. (20) from a curve through few gradients instead of a gradient a fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from estimators.gradient import GradientFn, Params
from estimators.smoothness import DirectionalSmoothness, check_segment
from estimators.trust import judge
from estimators.vectors import difference, distance, inner, lerp, norm

__all__ = ["NODES", "lobatto_nodes", "measure_chebyshev_smoothness"]

NODES = 5
"""Gradients of one measurement; of which the one at x_k, and often the other end's, is there anyway."""


def lobatto_nodes(count: int) -> tuple[float, ...]:
    """Chebyshev-Lobatto nodes on [0, 1]: both ends, and crowded towards them, so that interpolation does not swing.

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
) -> DirectionalSmoothness:
    r"""Eq. (20) read off a polynomial through gradients at five Chebyshev-Lobatto nodes.

    The secant s(gamma) = (grad f(x + gamma d) - grad f(x)) / (gamma ||d||) is a smooth curve of vectors. Let m_i be the
    Lagrange polynomials of the nodes gamma_i > 0; then

        ||s(gamma)||^2  ~  m(gamma)^T G m(gamma),   G_ij = <s(gamma_i), s(gamma_j)>,

    so that the four secants' Gram matrix tells the ratio at any fraction, and at gamma = 0 the limit ||H d|| / ||d||,
    without another gradient. At the nodes themselves it is the exact ratio, with the distance of the rounded
    parameters. Gradients that are polynomials of degree 4 along the segment are met exactly.

    Args:
        gradient: Gradient of f on the frozen probe; called five times, once where the step is zero.
        iterate: x_k, named tensors.
        following: x_{k+1}, the same names and shapes.
        fractions: The fractions at which the curve is read, each in (0, 1].
        gradient_error: eta, as for :func:`~estimators.smoothness.measure_directional_smoothness`. The noise floor
            counts how much the polynomials magnify it: 2 eta sum_i |m_i(gamma)| / ||d_eff,i||.

    Returns:
        The measurement, with ``at_zero`` and ``interpolation_error``: the largest difference, over the fractions, from
        the curve that leaves the middle node out.

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
    nodes = lobatto_nodes(NODES)[1:]
    secants: list[Params] = []
    lengths: list[float] = []
    next_grad_norm = None
    for node in nodes:
        point = lerp(iterate, following, node)
        length = distance(iterate, point)
        if length == 0:
            break  # a step so short that it is not there at every node has no curve
        there = gradient(point)
        secants.append(difference(start, there))
        lengths.append(length)
        if node == 1:
            next_grad_norm = norm(there)
    whole = len(secants) == len(nodes)
    ratios: list[float | None] = [None] * len(fractions)
    floors: list[float | None] | None = None if gradient_error is None else [None] * len(fractions)
    at_zero = error = None
    if whole:
        gram = _gram(secants, np.array(lengths))
        at = np.array([0.0, *fractions])
        curve = _read(gram, nodes, at)
        coarse = _read(*_without_middle(gram, nodes), at)
        ratios = [float(value) for value in curve[1:]]
        at_zero = float(curve[0])
        error = float(np.abs(curve[1:] - coarse[1:]).max())
        if gradient_error is not None:
            magnified = np.abs(_lagrange(nodes, at[1:])) @ (2 * gradient_error / np.array(lengths))
            floors = [float(floor) for floor in magnified]
    judgement = judge(ratios, floors)
    return DirectionalSmoothness(
        smoothness=judgement.value,
        argmax_fraction=None if judgement.index is None else fractions[judgement.index],
        by_fraction=tuple(ratios),
        grad_norm=norm(start),
        next_grad_norm=next_grad_norm,
        update_norm=distance(iterate, following),
        noise_floor=judgement.noise_floor,
        snr=judgement.snr,
        trust=judgement.trust,
        num_trusted=judgement.num_trusted,
        at_zero=at_zero,
        interpolation_error=error,
    )


def _gram(changes: Sequence[Params], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inner products of the secants, shape (nodes, nodes)."""
    count = len(changes)
    gram = np.empty((count, count))
    for i in range(count):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = inner(changes[i], changes[j])
    return gram / np.outer(lengths, lengths)


def _lagrange(nodes: Sequence[float], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Lagrange polynomials of the nodes, shape (len(at), len(nodes))."""
    columns = []
    for i, node in enumerate(nodes):
        others = [other for j, other in enumerate(nodes) if j != i]
        columns.append(np.prod([(at - other) / (node - other) for other in others], axis=0))
    return np.stack(columns, axis=-1)


def _read(gram: NDArray[np.float64], nodes: Sequence[float], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve's norm at each place; a quadratic form that rounding made negative is zero."""
    weights = _lagrange(nodes, at)
    squared = np.einsum("ai,ij,aj->a", weights, gram, weights)
    return np.sqrt(np.where(squared < 0, 0.0, squared))


def _without_middle(gram: NDArray[np.float64], nodes: Sequence[float]) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """The same curve through one gradient less."""
    middle = (len(nodes) - 1) // 2
    kept = [i for i in range(len(nodes)) if i != middle]
    return gram[np.ix_(kept, kept)], tuple(nodes[i] for i in kept)
