"""What the loss itself says of a curve of secants: by how much it fails the fundamental theorem of calculus."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch

from estimators.probe.gradient import Params
from estimators.smoothness.curve import Numbers, lagrange

__all__ = ["Defects", "LossAlong"]

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(12)
"""Exact for polynomials of degree 23, the degree of curves through about twenty gradients."""

_ROUNDING = 8.0
"""Units in the last place by which a loss may be off; a loss is a mean, and adds up with few roundings of its own."""


class Defects(NamedTuple):
    """How the change of the loss between neighbouring points differs from the integral of the curve, by interval.

    Attributes:
        ends: Where the intervals end, as fractions of the step, ascending; the first begins at 0. Shape (n,).
        means: Mean of <grad f, d> that the curve misses in each, beyond what rounding explains. Shape (n,).
        shares: The miss as a share of the integral of |<grad f - grad f(x_k), d>|, infinite where that is zero.
            Shape (n,).
    """

    ends: Numbers
    means: Numbers
    shares: Numbers

    def shares_at(self, at: Numbers) -> Numbers:
        """The shares of the intervals in which fractions lie.

        Args:
            at: Fractions, in (0, 1], none beyond the last point. Shape (m,).

        Returns:
            Shape (m,).
        """
        return self.shares[np.searchsorted(self.ends, at)]

    def ratio_errors(self, at: Numbers, step_length: float) -> Numbers:
        """The mean miss as an error of the ratio r(gamma), whose change of <grad f, d> is gamma ||d||^2 times as large.

        Args:
            at: As for :meth:`shares_at`.
            step_length: ||d||, positive.

        Returns:
            Shape (m,).
        """
        return self.means[np.searchsorted(self.ends, at)] / (at * step_length**2)


class LossAlong:
    """The loss, and the gradient's part along the step, at the points of a step where both are known.

    Args:
        iterate: x_k; its type says how well losses are known.
        loss: f(x_k).
        slope: <grad f(x_k), d>.

    Example:
        f = x^2 from 0 to 1 is the integral of its own gradient, and f = x^4 is not that of the line through it:

        >>> origin = {"x": torch.tensor(0.0, dtype=torch.float64)}
        >>> known = LossAlong(origin, loss=0.0, slope=0.0)
        >>> known.add(1.0, loss=1.0, change=2.0)
        >>> known.defects().means.tolist()
        [0.0]
        >>> known = LossAlong(origin, loss=0.0, slope=0.0)
        >>> known.add(1.0, loss=1.0, change=4.0)
        >>> known.defects().means.round(12).tolist()
        [1.0]
    """

    def __init__(self, iterate: Params, *, loss: float, slope: float) -> None:
        self._losses, self._changes = {0.0: loss}, {0.0: 0.0}
        self._slope = slope
        self._error = _ROUNDING * max(torch.finfo(tensor.dtype).eps for tensor in iterate.values())

    def add(self, fraction: float, *, loss: float, change: float) -> None:
        """Note a point.

        Args:
            fraction: gamma.
            loss: f(x_k + gamma d).
            change: <grad f(x_k + gamma d) - grad f(x_k), d>.
        """
        self._losses[fraction], self._changes[fraction] = loss, change

    def defects(self) -> Defects:
        """The misses between all neighbouring points, of which there are at least two.

        Returns:
            The misses; NaN where a loss is not finite.
        """
        nodes = sorted(self._changes)
        changes = np.array([self._changes[node] for node in nodes])
        means, shares = [], []
        for left, right in itertools.pairwise(nodes):
            half = (right - left) / 2
            along = lagrange(nodes, left + half * (1 + _POINTS)) @ changes
            integral = half * float(_WEIGHTS @ along) + (right - left) * self._slope
            size = half * float(_WEIGHTS @ np.abs(along))
            before, after = self._losses[left], self._losses[right]
            missed = abs(after - before - integral)
            shares.append(missed / size if size > 0 else math.inf)
            # Not max(): it would take NaN for 0.
            beyond = missed - self._error * max(abs(before), abs(after))
            means.append(0.0 if beyond < 0 else beyond / (right - left))
        return Defects(np.array(nodes[1:]), np.array(means), np.array(shares))
