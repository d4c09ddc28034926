"""The state of thousands of trials as arrays, and the step that they all take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from trainers.analytic.function import Array, Function
from trainers.analytic.lane import Lane, Mode
from trainers.analytic.noise import NoiseStream

__all__ = ["Mask", "State", "norms", "start_state"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(kw_only=True)
class State:
    """All lanes of a group before step k. Arrays of shape (lanes,), points of shape (dimension, lanes).

    Attributes:
        mode: What they share.
        function: f, one number per lane.
        noise: Draws of norm at most 1; None for none.
        index: Which trial a lane is.
        epsilon: The gradient norm to be reached.
        eta: Largest step size.
        numerator: As in :class:`~trainers.analytic.theory.StepRule`.
        offset: As there.
        friction: Momentum.
        undamped: One minus the dampening.
        tau: Bound on the noise.
        x: x_k.
        velocity: Momentum's buffer times the step size.
        above: Whether no iterate before x_k has hit.
        age: How many iterates before x_k had not hit; once ``above`` is False, T of eq. (7).
        num_clipped: Shortened steps.
        lowest: Smallest gradient norm before x_k.
        tail: Sum of the gradient norms in the second half of the cap.
    """

    mode: Mode
    function: Function
    noise: NoiseStream | None
    index: Counts
    epsilon: Array
    eta: Array
    numerator: Array
    offset: Array
    friction: Array
    undamped: Array
    tau: Array
    x: Array
    velocity: Array
    above: Mask
    age: Counts
    num_clipped: Counts
    lowest: Array
    tail: Array

    def take(self, lanes: Mask) -> State:
        """A copy of some lanes, chosen by a mask of shape (lanes,)."""
        arrays: dict[str, Any] = {
            f.name: value[..., lanes] for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray)
        }
        numbers = {f.name: getattr(self.function, f.name)[..., lanes] for f in fields(self.function)}
        noise = None if self.noise is None else self.noise.take(lanes)
        return replace(self, function=type(self.function)(**numbers), noise=noise, **arrays)

    def copy(self) -> State:
        """The same lanes, with a separate copy of everything that a step changes."""
        return replace(
            self,
            x=self.x.copy(),
            velocity=self.velocity.copy(),
            above=self.above.copy(),
            age=self.age.copy(),
            num_clipped=self.num_clipped.copy(),
            lowest=self.lowest.copy(),
            tail=self.tail.copy(),
        )

    def grad_norm(self) -> Array:
        """||grad f(x_k)||, without noise."""
        return norms(self.function.gradient(self.x))

    def noisy_gradient(self, step: int) -> tuple[Array, Array, Array]:
        """||grad f(x_k)||, and the gradient that the rule is given, with its norm."""
        gradient = self.function.gradient(self.x)
        norm = norms(gradient)
        if self.noise is None:
            return norm, gradient, norm
        gradient += self.tau * self.noise.at(step)
        return norm, gradient, norms(gradient)

    def step_size(self, norm: Array) -> Array:
        """h for a gradient of this norm."""
        if not self.mode.scaled:
            return self.eta
        size: Array = self.numerator / (norm + self.offset)
        np.minimum(size, self.eta, out=size)
        return size

    def advance(self, step: int) -> None:
        """All lanes from x_k to x_{k+1}; where lanes stop at a hit, those that have hit stay where they are."""
        norm, gradient, noisy_norm = self.noisy_gradient(step)
        np.fmin(self.lowest, norm, out=self.lowest)
        # False for NaN: a lane that is no longer finite does not age.
        self.above &= norm > self.epsilon
        self.age += self.above
        if not self.mode.stops_at_hit and 2 * step >= self.mode.steps:
            self.tail += norm
        size = self.step_size(noisy_norm)
        if self.mode.scaled:
            shortened = size < self.eta
            if self.mode.stops_at_hit:
                shortened &= self.above
            self.num_clipped += shortened
        gradient *= size
        update = self._with_momentum(step, gradient) if self.mode.momentum else gradient
        if self.mode.stops_at_hit:
            update *= self.above
        self.x -= update

    def _with_momentum(self, step: int, gradient: Array) -> Array:
        """The buffer of torch.optim.SGD times the learning rate: its first value is not dampened."""
        self.velocity *= self.friction
        self.velocity += gradient if step == 0 else gradient * self.undamped
        return gradient + self.friction * self.velocity if self.mode.nesterov else self.velocity.copy()


def start_state(lanes: Sequence[Lane], indices: Sequence[int]) -> State:
    """Lanes of one kind, at their starts.

    Args:
        lanes: The trials.
        indices: Their numbers.

    Returns:
        The state before step 0.
    """
    first = lanes[0]
    num = len(lanes)
    x = np.repeat(np.array([[lane.start for lane in lanes]]), first.dimension, axis=0)
    return State(
        mode=first.mode,
        function=_stack([lane.function for lane in lanes]),
        noise=NoiseStream(first.noise_kind, [lane.seed for lane in lanes], first.dimension) if first.noise else None,
        index=np.array(indices),
        epsilon=np.array([lane.epsilon for lane in lanes]),
        eta=np.array([lane.rule.eta for lane in lanes]),
        numerator=np.array([lane.rule.numerator for lane in lanes]),
        offset=np.array([lane.rule.offset for lane in lanes]),
        friction=np.array([lane.momentum for lane in lanes]),
        undamped=1.0 - np.array([lane.dampening for lane in lanes]),
        tau=np.array([lane.noise for lane in lanes]),
        x=x,
        velocity=np.zeros_like(x),
        above=np.ones(num, dtype=np.bool_),
        age=np.zeros(num, dtype=np.int64),
        num_clipped=np.zeros(num, dtype=np.int64),
        lowest=np.full(num, np.inf),
        tail=np.zeros(num),
    )


def norms(points: Array) -> Array:
    """Euclidean norms of points of shape (dimension, lanes)."""
    if len(points) == 1:
        lengths: Array = np.abs(points[0])
        return lengths
    squares = (points * points).sum(axis=0)
    lengths = np.sqrt(squares)
    # False for NaN, too.
    if squares.size and not (np.minimum.reduce(squares) > _SMALLEST_SQUARE and np.maximum.reduce(squares) < np.inf):
        _rescale(points, squares, lengths)
    return lengths


_SMALLEST_SQUARE = 2.0**-1000
"""Below, squares lose digits or vanish."""


def _rescale(points: Array, squares: Array, lengths: Array) -> None:
    """Replace the norms whose squares overflow or underflow by those of the points scaled by their largest entry."""
    odd = np.flatnonzero(~((squares > _SMALLEST_SQUARE) & (squares < np.inf)))
    chosen = points[:, odd]
    largest = np.abs(chosen).max(axis=0)
    scale = np.where((largest > 0) & (largest < np.inf), largest, 1.0)
    lengths[odd] = np.sqrt(((chosen / scale) ** 2).sum(axis=0)) * scale


def _stack(functions: Sequence[Function]) -> Function:
    """One function whose numbers are arrays, with one number per lane in the last axis."""
    first = functions[0]
    columns = {}
    for name in (f.name for f in fields(first)):
        values = np.asarray([getattr(function, name) for function in functions], dtype=np.float64)
        columns[name] = np.ascontiguousarray(values.T)
    return type(first)(**columns)
