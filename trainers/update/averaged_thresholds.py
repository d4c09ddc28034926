"""Thresholds from running averages of the gradient norm: ZClip, and a multiple of the mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["MovingAverage", "ZScore"]


class _Averages:
    """Exponential averages of the norm and of its variance, which begin as those of the first steps."""

    def __init__(self, *, decay: float, warmup: int) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay!r}")
        if warmup < 1:
            raise ValueError(f"warmup must be at least 1, not {warmup!r}")
        self._decay = decay
        self._warmup = warmup
        self._seen = 0
        # Floats, or tensors on the device.
        self._mean: Any = 0.0
        self._variance: Any = 0.0

    def at(self, step: int, norm: Tensor) -> Tensor:
        """See :class:`~trainers.update.thresholds.Threshold`."""
        ops, value = _scalar(norm)
        threshold: Any
        if self._seen < self._warmup:
            threshold, noted = math.inf, value
            kept, weight = self._seen / (self._seen + 1), 1 / (self._seen + 1)
        else:
            threshold = self._threshold(ops, value)
            noted, kept, weight = self._noted(ops, value, threshold), self._decay, 1 - self._decay
        mean = kept * self._mean + weight * noted
        # Welford's update is that of a plain variance; the one of ZClip's Section 3 takes the deviation from the new
        # mean twice.
        before = self._mean if self._seen < self._warmup else mean
        variance = kept * self._variance + weight * (noted - before) * (noted - mean)
        is_finite = ops.isfinite(value)
        self._mean = ops.where(is_finite, mean, self._mean)
        self._variance = ops.where(is_finite, variance, self._variance)
        self._seen += 1
        return threshold if isinstance(threshold, Tensor) else norm.new_full((), float(threshold), dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """Both averages, and how many steps there were."""
        mean, variance = (torch.as_tensor(value, dtype=torch.float64) for value in (self._mean, self._variance))
        return {"seen": self._seen, "mean": mean, "variance": variance}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self._seen = state["seen"]
        self._mean, self._variance = (_scalar(state[name])[1] for name in ("mean", "variance"))

    def _threshold(self, ops: Any, norm: Any) -> Any:
        raise NotImplementedError

    def _noted(self, ops: Any, norm: Any, threshold: Any) -> Any:
        return ops.minimum(norm, threshold)


class _Floats:
    """What formulas need of torch, for Python's floats, with which they take a tenth of the time."""

    isfinite = staticmethod(math.isfinite)
    minimum = staticmethod(min)
    sqrt = staticmethod(math.sqrt)

    @staticmethod
    def where(condition: bool, chosen: float, other: float) -> float:
        return chosen if condition else other


def _scalar(norm: Tensor) -> tuple[Any, Any]:
    """What to compute with, and a scalar in float64: a GPU would have to be waited for, a CPU has it at hand."""
    return (torch, norm.double()) if norm.device.type != "cpu" else (_Floats, float(norm.item()))


class ZScore(_Averages):
    r"""ZClip: norms that are more than z standard deviations above their mean are clipped.

    Kumar et al. (2025), "ZClip: Adaptive spike mitigation for LLM pre-training", Section 3. A norm is a spike if it is
    above mu + z sigma, and is then clipped to

        reciprocal:  mu + z sigma / (s / z),   s = (||g|| - mu) / sigma      (the paper's: further out, further down)
        boundary:    mu + z sigma
        mean:        mu

    After the step, with g* the norm after clipping:

        mu <- a mu + (1 - a) g*,   sigma^2 <- a sigma^2 + (1 - a) (g* - mu)^2,   mu being the new one

    They begin as mean and variance of the norms of the first ``warmup`` steps, in which nothing is clipped.

    Args:
        z: z, positive.
        decay: a, in [0, 1).
        warmup: How many steps, at least 1.
        clip_to: ``reciprocal``, ``boundary`` or ``mean``.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> rule = ZScore(z=2.0, decay=0.5, warmup=2)
        >>> [rule.at(step, torch.tensor(norm)).item() for step, norm in enumerate([1.0, 3.0, 4.0, 100.0])]
        [inf, inf, 4.0, 3.04123...]
    """

    def __init__(self, *, z: float = 2.5, decay: float = 0.97, warmup: int = 25, clip_to: str = "reciprocal") -> None:
        super().__init__(decay=decay, warmup=warmup)
        if not 0 < z < math.inf:
            raise ValueError(f"z must be positive and finite, not {z!r}")
        if clip_to not in {"reciprocal", "boundary", "mean"}:
            raise ValueError(f"clip_to must be reciprocal, boundary or mean, not {clip_to!r}")
        self._z = z
        self._clip_to = clip_to

    def _threshold(self, ops: Any, norm: Any) -> Any:
        mean = self._mean
        boundary = mean + self._z * ops.sqrt(self._variance)
        if self._clip_to == "boundary":
            return boundary
        is_spike = norm > boundary
        # z sigma / (s / z) without dividing by a sigma that may be zero, nor, for other norms, by zero.
        beyond = ops.where(is_spike, norm - mean, 1.0)
        cut = mean if self._clip_to == "mean" else mean + self._z**2 * self._variance / beyond
        return ops.where(is_spike, cut, boundary)


class MovingAverage(_Averages):
    r"""A multiple of the average norm, as Pascanu et al. (2013), Section 3.2, set thresholds by hand.

        gamma_k = c m_k,   m_{k+1} = a m_k + (1 - a) min(||g_k||, gamma_k)

    m begins as the mean norm of the first ``warmup`` steps, in which nothing is clipped.

    Args:
        factor: c, positive; above 1 where the average is of clipped norms, which could only fall otherwise.
        decay: a, in [0, 1).
        warmup: How many steps, at least 1.
        average_of: ``clipped`` norms, or ``raw`` ones, ||g_k|| in place of the minimum.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> rule = MovingAverage(factor=2.0, decay=0.5, warmup=1)
        >>> [rule.at(step, torch.tensor(norm)).item() for step, norm in enumerate([1.0, 100.0, 1.0])]
        [inf, 2.0, 3.0]
    """

    def __init__(
        self, *, factor: float = 2.0, decay: float = 0.99, warmup: int = 25, average_of: str = "clipped"
    ) -> None:
        super().__init__(decay=decay, warmup=warmup)
        if average_of not in {"clipped", "raw"}:
            raise ValueError(f"average_of must be clipped or raw, not {average_of!r}")
        if not 0 < factor < math.inf:
            raise ValueError(f"factor must be positive and finite, not {factor!r}")
        if factor <= 1 and average_of == "clipped":
            raise ValueError(f"factor must be above 1 where the average is of clipped norms, not {factor!r}")
        self._factor = factor
        self._is_raw = average_of == "raw"

    def _threshold(self, ops: Any, norm: Any) -> Any:
        return self._factor * self._mean

    def _noted(self, ops: Any, norm: Any, threshold: Any) -> Any:
        return norm if self._is_raw else super()._noted(ops, norm, threshold)
