"""The state of thousands of trials as tensors, and the step that they all take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from trainers.analytic.arrays import sum_of_rows
from trainers.analytic.function import Function
from trainers.analytic.lane import Lane, Mode
from trainers.analytic.noise import NoiseStream

__all__ = ["State", "norms", "start_state"]


@dataclass(kw_only=True)
class State:
    """All lanes of a group before step k. Tensors of shape (lanes,), points of shape (dimension, lanes).

    Everything is in float64 on one device, but for the two that count or say yes or no.

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
    index: Tensor
    epsilon: Tensor
    eta: Tensor
    numerator: Tensor
    offset: Tensor
    friction: Tensor
    undamped: Tensor
    tau: Tensor
    x: Tensor
    velocity: Tensor
    above: Tensor
    age: Tensor
    num_clipped: Tensor
    lowest: Tensor
    tail: Tensor

    @property
    def num_lanes(self) -> int:
        """How many there are."""
        return len(self.index)

    def take(self, lanes: Tensor) -> State:
        """A copy of some lanes, chosen by a mask of shape (lanes,)."""
        places = lanes.nonzero().squeeze(1)
        tensors: dict[str, Any] = {
            f.name: value.index_select(-1, places)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        numbers = {f.name: getattr(self.function, f.name).index_select(-1, places) for f in fields(self.function)}
        noise = None if self.noise is None else self.noise.take(places)
        return replace(self, function=self.function.with_numbers(numbers), noise=noise, **tensors)

    def put(self, lanes: Tensor, state: State) -> None:
        """Replace what a step changes in some lanes, chosen by a mask of shape (lanes,), by that of their copies."""
        places = lanes.nonzero().squeeze(1)
        for name in _CHANGING:
            getattr(self, name).index_copy_(-1, places, getattr(state, name))

    def copy(self) -> State:
        """The same lanes, with a separate copy of everything that a step changes."""
        return replace(self, **{name: getattr(self, name).clone() for name in _CHANGING})

    def grad_norm(self) -> Tensor:
        """||grad f(x_k)||, without noise."""
        return norms(self.function.gradient(self.x))

    def is_finite(self) -> Tensor:
        """Whether x_k and the gradient there are; shape (lanes,)."""
        return torch.isfinite(self.grad_norm()) & torch.isfinite(self.x).all(0)

    def noisy_gradient(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """||grad f(x_k)||, and the gradient that the rule is given, with its norm."""
        gradient = self.function.gradient(self.x)
        norm = norms(gradient)
        if self.noise is None:
            return norm, gradient, norm
        gradient += self.tau * self.noise.at(step)
        return norm, gradient, norms(gradient)

    def step_size(self, norm: Tensor) -> Tensor:
        """h for a gradient of this norm."""
        if not self.mode.scaled:
            return self.eta
        size = self.numerator / (norm + self.offset if self.mode.offset else norm)
        return torch.minimum(size, self.eta, out=size)

    def advance(self, step: int) -> None:
        """All lanes from x_k to x_{k+1}; where lanes stop at a hit, those that have hit stay where they are."""
        self._advance(step, watched=True)

    def advance_unwatched(self, step: int) -> None:
        """All lanes from x_k to x_{k+1}, without looking which of them hit: half the work.

        For a lane that does, or whose gradient is not finite, this is not the step of :meth:`advance`; ``lowest`` and
        ``x`` tell. ``age`` and ``above`` stay as they are.
        """
        self._advance(step, watched=False)

    def _advance(self, step: int, *, watched: bool) -> None:
        norm, gradient, noisy_norm = self.noisy_gradient(step)
        if watched:
            torch.fmin(self.lowest, norm, out=self.lowest)
            # False for NaN: a lane that is no longer finite does not age.
            self.above &= norm > self.epsilon
            self.age += self.above
        else:
            torch.minimum(self.lowest, norm, out=self.lowest)
        if not self.mode.stops_at_hit and 2 * step >= self.mode.steps:
            self.tail += norm
        size = self.step_size(noisy_norm)
        stops = watched and self.mode.stops_at_hit
        if self.mode.scaled:
            # As floats, which are compared and counted at half the price of truth values.
            shortened = torch.lt(size, self.eta, out=torch.empty_like(size))
            self.num_clipped += shortened * self.above if stops else shortened
        gradient *= size
        update = self._with_momentum(step, gradient) if self.mode.momentum else gradient
        if stops:
            update *= self.above
        self.x -= update

    def _with_momentum(self, step: int, gradient: Tensor) -> Tensor:
        """The buffer of torch.optim.SGD times the learning rate: its first value is not dampened."""
        self.velocity *= self.friction
        self.velocity += gradient if step == 0 else gradient * self.undamped
        return gradient + self.friction * self.velocity if self.mode.nesterov else self.velocity.clone()


_CHANGING = ("x", "velocity", "above", "age", "num_clipped", "lowest", "tail")
"""What a step changes."""


def start_state(lanes: Sequence[Lane], indices: Sequence[int], device: str = "cpu") -> State:
    """Lanes of one kind, at their starts.

    Args:
        lanes: The trials.
        indices: Their numbers.
        device: Where they run.

    Returns:
        The state before step 0.
    """
    first = lanes[0]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    x = column([lane.start for lane in lanes]).repeat(first.dimension, 1)
    noise = None
    if first.noise:
        noise = NoiseStream(first.noise_kind, [lane.seed for lane in lanes], first.dimension, device)
    # One number for each lane in the last axis.
    numbers = {
        f.name: column([getattr(lane.function, f.name) for lane in lanes]).movedim(0, -1).contiguous()
        for f in fields(first.function)
    }
    return State(
        mode=first.mode,
        function=first.function.with_numbers(numbers),
        noise=noise,
        index=torch.tensor(indices, device=device),
        epsilon=column([lane.epsilon for lane in lanes]),
        eta=column([lane.rule.eta for lane in lanes]),
        numerator=column([lane.rule.numerator for lane in lanes]),
        offset=column([lane.rule.offset for lane in lanes]),
        friction=column([lane.momentum for lane in lanes]),
        undamped=1.0 - column([lane.dampening for lane in lanes]),
        tau=column([lane.noise for lane in lanes]),
        x=x,
        velocity=torch.zeros_like(x),
        above=torch.ones(len(lanes), dtype=torch.bool, device=device),
        age=torch.zeros(len(lanes), dtype=torch.int64, device=device),
        num_clipped=torch.zeros_like(x[0]),
        lowest=torch.full_like(x[0], torch.inf),
        tail=torch.zeros_like(x[0]),
    )


def norms(points: Tensor) -> Tensor:
    """Euclidean norms of points of shape (dimension, lanes), also where their squares overflow or underflow."""
    if len(points) == 1:
        return points[0].abs()
    squares = sum_of_rows(points * points)
    lengths: Tensor = squares.sqrt()
    # False for NaN, too.
    odd = ~((squares > _SMALLEST_SQUARE) & (squares < torch.inf))
    # On a GPU looking would cost more than the work that it saves.
    if points.device.type == "cpu" and not odd.any():
        return lengths
    largest = points.abs().amax(0)
    scale = torch.where((largest > 0) & (largest < torch.inf), largest, 1.0)
    return torch.where(odd, sum_of_rows((points / scale) ** 2).sqrt() * scale, lengths)


_SMALLEST_SQUARE = 2.0**-1000
"""Below, squares lose digits or vanish."""
