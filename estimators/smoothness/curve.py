"""The secants of the gradient along a step as a polynomial curve of vectors, known by their inner products alone.

The secant s(gamma) = (grad f(x + gamma d) - grad f(x)) / (gamma ||d||) is a smooth curve of vectors, whose norm is the
ratio of eq. (20). Let m_i be the Lagrange polynomials of the places gamma_i > 0 where it was measured; then

    ||s(gamma)||^2  ~  m(gamma)^T G m(gamma),   G_ij = <s(gamma_i), s(gamma_j)>,

so the Gram matrix gives the ratio at any fraction without another gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from estimators.probe.gradient import Params
from estimators.probe.vectors import inner

__all__ = ["Numbers", "SecantCurve", "lagrange"]

Numbers = NDArray[np.float64]


def lagrange(nodes: Sequence[float], at: Numbers) -> Numbers:
    """The Lagrange polynomials of some nodes.

    Args:
        nodes: Where one polynomial is 1 and the others 0; all different.
        at: Where they are evaluated, shape (m,).

    Returns:
        Shape (m, len(nodes)).

    Example:
        >>> lagrange([0.0, 1.0], np.array([0.25])).tolist()
        [[0.75, 0.25]]
    """
    columns = [np.ones_like(at) for _ in nodes]
    for i, node in enumerate(nodes):
        for j, other in enumerate(nodes):
            if j != i:
                columns[i] = columns[i] * (at - other) / (node - other)
    return np.stack(columns, axis=-1)


class SecantCurve:
    """The polynomial curve through the secants measured so far.

    Holds the change of the gradient at every node: one vector of the model's size each.

    Example:
        The gradient x^3 from 1 to 2 has the secants 1 + (1 + gamma) + (1 + gamma)^2, here through those at 1/2 and 1:

        >>> import torch
        >>> curve = SecantCurve()
        >>> curve.add(0.5, {"x": torch.tensor([1.5**3 - 1])}, 0.5)
        >>> curve.add(1.0, {"x": torch.tensor([2.0**3 - 1])}, 1.0)
        >>> curve.norms(np.array([0.5, 0.75, 1.0])).tolist()
        [4.75, 5.875, 7.0]
    """

    def __init__(self) -> None:
        self._nodes: list[float] = []
        self._changes: list[Params] = []
        self._lengths: list[float] = []
        self._gram = np.empty((0, 0))

    @property
    def nodes(self) -> tuple[float, ...]:
        """Where it was measured, in the order of measuring."""
        return tuple(self._nodes)

    @property
    def lengths(self) -> Numbers:
        """How far the node's points are from x_k, shape (nodes,)."""
        return np.array(self._lengths)

    def add(self, node: float, change: Params, length: float) -> None:
        """Add one more secant to the curve.

        Args:
            node: The fraction of the step, positive, and not one that was added already.
            change: grad f(x + gamma d) - grad f(x); kept.
            length: The distance of the two points, positive.
        """
        row = [
            inner(change, other) / (length * known) for other, known in zip(self._changes, self._lengths, strict=True)
        ]
        count = len(row)
        gram = np.empty((count + 1, count + 1))
        gram[:count, :count] = self._gram
        gram[count, :count] = gram[:count, count] = row
        gram[count, count] = inner(change, change) / length**2
        self._nodes.append(node)
        self._changes.append(change)
        self._lengths.append(length)
        self._gram = gram

    def weights(self, at: Numbers, *, without: int | None = None) -> Numbers:
        """The weight of each measured secant in the curve.

        Args:
            at: Fractions, shape (m,).
            without: A node that the curve should not go through.

        Returns:
            Shape (m, nodes); zero for a node that was left out.
        """
        kept = [index for index in range(len(self._nodes)) if index != without]
        weights = np.zeros((len(at), len(self._nodes)))
        weights[:, kept] = lagrange([self._nodes[index] for index in kept], at)
        return weights

    def norms(self, at: Numbers, *, without: int | None = None) -> Numbers:
        """||s(gamma)|| of the curve, which estimates the ratio of eq. (20).

        Args:
            at: Fractions, shape (m,); 0 gives the limit ||H d|| / ||d||.
            without: A node that the curve should not go through.

        Returns:
            Shape (m,).
        """
        return self._norms(self.weights(at, without=without))

    def changes_without(self, at: Numbers) -> Numbers:
        """How far the curve moves when a node is left out: ||s(gamma) - s'(gamma)||, the largest over the nodes.

        That is the error of a curve through one secant fewer, so it overestimates the error of this one.

        Args:
            at: Fractions, shape (m,).

        Returns:
            Shape (m,); infinite if there is only one node.
        """
        if len(self._nodes) < 2:
            return np.full(len(at), np.inf)
        weights = self.weights(at)
        moved = [self._norms(weights - self.weights(at, without=index)) for index in range(len(self._nodes))]
        largest: Numbers = np.max(moved, axis=0)
        return largest

    def _norms(self, weights: Numbers) -> Numbers:
        """Norms of combinations of the secants; a quadratic form that rounding made negative is zero."""
        squared = np.einsum("ai,ij,aj->a", weights, self._gram, weights)
        norms: Numbers = np.sqrt(np.where(squared < 0, 0.0, squared))
        return norms
