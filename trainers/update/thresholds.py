"""Thresholds on the gradient norm that change from step to step: from its history, or by a schedule."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainers.update.averaged_thresholds import MovingAverage, ZScore

__all__ = [
    "THRESHOLDS",
    "MovingAverage",
    "Percentile",
    "Schedule",
    "Threshold",
    "ZScore",
    "build_threshold",
    "threshold_scale",
]


class Threshold(Protocol):
    """A threshold that changes from step to step."""

    def at(self, step: int, norm: Tensor) -> Tensor:
        """The threshold gamma_k of a step, and note the norm for later ones.

        Args:
            step: k; called once for each step, in order.
            norm: The norm of what is clipped, a scalar on any device. One that is not finite changes nothing for later
                steps.

        Returns:
            A scalar of type float64 on the same device; infinite where the step has no threshold.
        """

    def state(self) -> dict[str, Any]:
        """What later thresholds depend on: a tree of tensors and numbers, not copied."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned; its tensors are on the device of the norms."""


def threshold_scale(norm: Tensor, threshold: Tensor) -> Tensor:
    """The factor by which clipping shortens the step: below 1 just where the norm is above the threshold.

    :func:`~trainers.update.transforms.clip_scale` for a threshold that may be the very norm, or zero: it multiplies by
    a reciprocal, whose rounding may give a factor below 1 there.

    Args:
        norm: A scalar tensor.
        threshold: The threshold, of type float64, on the same device; infinity for none.

    Returns:
        A scalar of type float64 on the device; exactly 1 where nothing is clipped, or the norm is NaN.

    Example:
        >>> threshold_scale(torch.tensor(4.0), torch.tensor(1.0, dtype=torch.float64)).item()
        0.25
        >>> threshold_scale(torch.tensor(0.0), torch.tensor(0.0, dtype=torch.float64)).item()
        1.0
    """
    wide = norm.double()
    return torch.where(wide > threshold, threshold / wide, 1.0)


class Percentile:
    r"""AutoClip: a percentile of the norms so far, those of this step included.

    Seetharaman et al. (2020), Section 3: gamma_k is the p-th percentile of ||g_0||, ..., ||g_k||. Between two norms it
    is on the line between them, as in NumPy.

    The norm is read from its device at every step.

    Args:
        percentile: p, in (0, 100].
        window: How many of the last norms count; None for all.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> half = Percentile(percentile=50.0)
        >>> [half.at(step, torch.tensor(norm)).item() for step, norm in enumerate([1.0, 3.0, 9.0, 5.0])]
        [1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, *, percentile: float = 10.0, window: int | None = 10_000) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, not {percentile!r}")
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, not {window!r}")
        self._share = percentile / 100
        self._window = window
        # Kept in order: a percentile is looked up, and a norm inserted with one move of memory.
        self._ordered = array("d")
        self._recent: deque[float] = deque()

    def at(self, step: int, norm: Tensor) -> Tensor:
        """See :class:`Threshold`."""
        value = norm.item()
        if math.isfinite(value):
            self._note(value)
        return norm.new_full((), self._found(), dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """The norms that count, 8 bytes each."""
        kept = self._ordered if self._window is None else self._recent
        return {"norms": torch.from_numpy(np.fromiter(kept, np.float64, len(kept)))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        norms = state["norms"].tolist()
        self._ordered = array("d", sorted(norms))
        self._recent = deque() if self._window is None else deque(norms)

    def _note(self, value: float) -> None:
        insort(self._ordered, value)
        if self._window is None:
            return
        self._recent.append(value)
        if len(self._recent) > self._window:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]

    def _found(self) -> float:
        if not self._ordered:
            return math.inf
        place = self._share * (len(self._ordered) - 1)
        low = math.floor(place)
        below, above = self._ordered[low], self._ordered[min(low + 1, len(self._ordered) - 1)]
        return below + (above - below) * (place - low)


class Schedule:
    r"""A threshold that is a function of the step, given at some of them.

    From point (k, gamma) to the next one (l, delta), with t = (step - k)/(l - k):

        linear:     (1 - t) gamma + t delta
        geometric:  gamma^(1 - t) delta^t
        hold:       gamma

    Before the first point it is that of the first, after the last point that of the last.

    Args:
        points: Pairs (step, threshold); steps rise, thresholds are positive.
        between: ``linear``, ``geometric`` or ``hold``.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> falling = Schedule(points=[(0, 1.0), (4, 0.0625)], between="geometric")
        >>> [falling.at(step, torch.tensor(9.0)).item() for step in (0, 1, 2, 4, 9)]
        [1.0, 0.5, 0.25, 0.0625, 0.0625]
    """

    def __init__(self, *, points: Sequence[Sequence[float]], between: str = "linear") -> None:
        if not points or any(len(point) != 2 for point in points):
            raise ValueError(f"points must be pairs of a step and a threshold, not {points!r}")
        self._steps, self._values = zip(*points, strict=True)
        if any(later <= step for step, later in zip(self._steps, self._steps[1:], strict=False)):
            raise ValueError(f"the steps of points must rise from one to the next, not {points!r}")
        if not all(0 < value < math.inf for value in self._values):
            raise ValueError(f"thresholds must be positive and finite, not {points!r}")
        if between not in {"linear", "geometric", "hold"}:
            raise ValueError(f"between must be linear, geometric or hold, not {between!r}")
        self._between = between

    def at(self, step: int, norm: Tensor) -> Tensor:
        """See :class:`Threshold`."""
        return norm.new_full((), self._value(step), dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    def _value(self, step: int) -> float:
        after = bisect_left(self._steps, step + 1)
        if after in {0, len(self._steps)} or self._between == "hold":
            return float(self._values[max(0, after - 1)])
        first, last = self._values[after - 1], self._values[after]
        through = (step - self._steps[after - 1]) / (self._steps[after] - self._steps[after - 1])
        if self._between == "geometric":
            return float(first ** (1 - through) * last**through)
        return float((1 - through) * first + through * last)


THRESHOLDS: dict[str, type[Percentile | ZScore | MovingAverage | Schedule]] = {
    "percentile": Percentile,
    "z_score": ZScore,
    "moving_average": MovingAverage,
    "schedule": Schedule,
}


def build_threshold(section: Mapping[str, Any]) -> Threshold:
    """A threshold by name, at its beginning.

    Args:
        section: ``use``, one of :data:`THRESHOLDS`, and its options.

    Returns:
        The threshold.

    Raises:
        ValueError: The name or an option is unknown, or a value is out of range.
    """
    options = dict(section)
    name = options.pop("use", None)
    if name not in THRESHOLDS:
        raise ValueError(f"unknown clip_threshold {name!r}; known: {', '.join(THRESHOLDS)}")
    try:
        return THRESHOLDS[name](**options)
    except TypeError as error:
        raise ValueError(f"clip_threshold {name!r} does not accept {options!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"clip_threshold {name!r}: {error}") from error
