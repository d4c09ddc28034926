"""What the audited step is given, and what is seen of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trainers.clip_audit.layout import SIZE, TENSORS

__all__ = ["Call", "Case", "Outcome", "Play", "Seen", "Spot", "gradients_of"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One or several calls of the step, from weights that are 0.

    Attributes:
        name: What it is called in messages.
        steps: For each call the gradients of every micro-batch of every rank, shape (ranks, micro-batches, SIZE), in
            numbers that float32 has.
        optimizer: What moves the weights.
        frozen: Whether the decoder's head is frozen.
    """

    name: str
    steps: Sequence[np.ndarray]
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A line of the user's.

    Attributes:
        file: Its file.
        number: From 1.
        function: The function that it is in.
        code: The line itself.
    """

    file: str
    number: int
    function: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of one of torch's functions that clip.

    Attributes:
        function: Its name.
        threshold: What it was given.
        order: Of the norm, where it has one.
        num_tensors: How many tensors it was given that had a gradient.
        num_given: How many tensors it was given.
        backwards: How many micro-batches had gone backward before.
        updates: How many times the optimizer had stepped before.
        spot: The user's line.
    """

    function: str
    threshold: float
    order: float
    num_tensors: int
    num_given: int
    backwards: int
    updates: int
    spot: Spot | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one call of the step did on one rank.

    Attributes:
        moved: How far it moved each weight, shape (SIZE,); 0 where another rank holds it.
        held: Which weights this rank holds, shape (SIZE,).
        factors: Factor with which backward reached the loss of each forward; 0 where it did not.
        rates: Learning rates of the parameter groups at each step of the optimizer.
        rate: Learning rate at which each weight moved first, shape (SIZE,); 1 where no optimizer stepped.
        calls: Calls of torch's functions that clip, in order.
    """

    moved: np.ndarray
    held: np.ndarray
    factors: Sequence[float]
    rates: Sequence[Sequence[float]]
    calls: Sequence[Call] = ()
    rate: np.ndarray = field(default_factory=lambda: np.ones(SIZE))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a case did on one rank.

    Attributes:
        seen: One item for each call that came to its end.
        raised: What ended the last one, in a line; empty where nothing did.
        spot: The user's line that raised, or that the rank hung in.
        hung_s: Seconds after which the rank was given up; 0 where it was not.
        died: How the process ended, where it did.
        facts: What is known of the optimizer: ``kind``, ``momentum``, ``weight_decay``, ``dtype``, ``ours``.
    """

    seen: Sequence[Seen] = ()
    raised: str = ""
    spot: Spot | None = None
    hung_s: float = 0.0
    died: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every call came to its end."""
        return not (self.raised or self.hung_s or self.died)


Play = Callable[[Case], Sequence[Outcome]]
"""Plays a case on every rank."""


def gradients_of(seed: int, *, ranks: int, micro_batches: int, norm: float = 1.0, spread: float = 3.0) -> np.ndarray:
    """Gradients that no two ways of clipping treat alike: every tensor of every micro-batch has a norm of its own.

    Args:
        seed: Other gradients for another one.
        ranks: Number of ranks.
        micro_batches: Number of micro-batches on each.
        norm: Norm of their average.
        spread: By which factor norms of tensors and of micro-batches differ.

    Returns:
        Shape (ranks, micro_batches, SIZE), in numbers that float32 has.

    Example:
        >>> given = gradients_of(0, ranks=1, micro_batches=2, norm=5.0)
        >>> given.shape == (1, 2, SIZE), round(float(np.linalg.norm(given.mean((0, 1)))), 5)
        (True, 5.0)
    """
    drawn = np.random.default_rng(seed)
    given = drawn.normal(size=(ranks, micro_batches, SIZE))
    for rank in given:
        for one in rank:
            one *= spread ** drawn.uniform(-1, 1)
            for place in TENSORS:
                one[place.slice] *= spread ** drawn.uniform(-1, 1) / math.sqrt(place.size)
    given *= norm / np.linalg.norm(given.mean((0, 1)))
    return given.astype(np.float32).astype(np.float64)
