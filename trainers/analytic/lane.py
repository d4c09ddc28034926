"""One analytic trial: what it is, what it must share with its group, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trainers.analytic.function import Function
from trainers.analytic.theory import StepRule

__all__ = ["Lane", "LaneResult", "Mode"]


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What is the same for all lanes of a group, besides the kind of function.

    Attributes:
        steps: The cap.
        stops_at_hit: Whether a lane that has hit stays where it is.
        scaled: Whether the rule shortens steps.
        offset: Whether it adds something to the gradient's norm.
        momentum: Whether there is momentum.
        nesterov: Whether it is Nesterov's.
    """

    steps: int
    stops_at_hit: bool
    scaled: bool
    offset: bool
    momentum: bool
    nesterov: bool


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One trial.

    Attributes:
        function: f, with plain numbers.
        start: Every coordinate of x_0.
        epsilon: The gradient norm that is to be reached.
        rule: The step size.
        momentum: Of the steps h g, as torch.optim.SGD has it.
        dampening: Of the momentum.
        nesterov: Nesterov's momentum.
        steps: The cap.
        log_every: Log a row every this many steps; None for the first and the last iterate only.
        noise: Bound on the noise, Assumption 5; 0 for none.
        noise_kind: ``sphere`` or ``ball``.
        seed: Of the noise.
        stops_at_hit: Whether a lane ends once it has hit; otherwise it continues to the cap.
    """

    function: Function
    start: float
    epsilon: float
    rule: StepRule
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    steps: int
    log_every: int | None = None
    noise: float = 0.0
    noise_kind: str = "sphere"
    seed: int = 0
    stops_at_hit: bool = True

    @property
    def dimension(self) -> int:
        """Length of a point."""
        return self.function.num_coordinates

    @property
    def mode(self) -> Mode:
        """What it must share with the other lanes of its group."""
        return Mode(
            steps=self.steps,
            stops_at_hit=self.stops_at_hit,
            scaled=not math.isinf(self.rule.numerator),
            offset=self.rule.offset != 0,
            momentum=self.momentum > 0,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LaneResult:
    """How a trial ended.

    Attributes:
        status: ``hit``, ``diverged`` (an iterate whose gradient is not finite) or ``capped``.
        hitting_time: T of eq. (7), the first t with ||grad f(x_t)|| <= epsilon; None if it was never reached.
        num_steps: Steps taken.
        num_clipped: How many of them were shortened.
        diverged_step: The first k with a gradient that is not finite.
        last_finite_loss: The last finite f(x_k).
        min_grad_norm: The smallest ||grad f(x_k)||.
        tail_grad_norm: Mean of ||grad f(x_k)|| over the second half of the cap; None for a lane that ended earlier.
        rows: Columns of equal length: ``step``, ``epoch``, ``train_loss``, ``grad_norm`` (of the noisy gradient),
            ``step_size``, ``clipped``, ``update_norm``, ``learning_rate``, ``gap`` (f - f*), ``full_grad_norm``, and
            ``threshold``, the norm above which steps are shortened, NaN for none. The last row describes the last
            iterate, from which no step was taken.
    """

    status: Literal["hit", "diverged", "capped"]
    hitting_time: int | None
    num_steps: int
    num_clipped: int
    diverged_step: int | None
    last_finite_loss: float | None
    min_grad_norm: float
    tail_grad_norm: float | None
    rows: dict[str, np.ndarray[Any, Any]] = field(repr=False)
