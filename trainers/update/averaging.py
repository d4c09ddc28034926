"""The mean of the iterates: from a step on, or once validation stops getting better (NT-ASGD)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainers.errors import TrainerError

__all__ = ["IterateAverage"]


class IterateAverage:
    r"""Averages iterates without changing their path (Polyak and Juditsky, 1992).

    Merity et al. (2018), Algorithm 1, starts the average as soon as the validation loss v_t is worse than the best one
    of more than n evaluations before:

        t > n   and   v_t > min(v_0, ..., v_{t-n-1})

    Args:
        options: ``{"use": "from_step", "step": k}`` for x_{k+1} and later ones, or ``{"use": "non_monotone",
            "window": n}`` for the rule above.

    Attributes:
        vector: The mean of the iterates since the start, shape (n,); None before.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._start = options["step"] if options["use"] == "from_step" else math.inf
        self._window = options["window"] if options["use"] == "non_monotone" else None
        self._losses: list[float] = []
        self._count = 0
        self.vector: Tensor | None = None

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of x_k.

        Args:
            step: k.
            metrics: With ``valid_loss``.

        Raises:
            TrainerError: There is no ``valid_loss`` to decide the start by.
        """
        if self._window is None or self._start < math.inf:
            return
        if "valid_loss" not in metrics:
            found = ", ".join(metrics) or "none"
            raise TrainerError(f"average: non_monotone needs the metric valid_loss, but the problem's are: {found}")
        before = self._losses[: len(self._losses) - self._window]
        if len(self._losses) > self._window and metrics["valid_loss"] > min(before):
            self._start = step
        self._losses.append(metrics["valid_loss"])

    def update(self, step: int, iterate: Tensor) -> None:
        """Add x_{k+1} to the mean.

        Args:
            step: k.
            iterate: x_{k+1}, shape (n,); copied.
        """
        if step < self._start:
            return
        self._count += 1
        if self.vector is None:
            self.vector = iterate.detach().clone()
        else:
            self.vector.lerp_(iterate.detach(), 1 / self._count)

    def state(self) -> dict[str, Any]:
        """The whole state as a tree, not copied."""
        start = None if self._start == math.inf else self._start
        return {"start": start, "losses": list(self._losses), "count": self._count, "vector": self.vector}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned; its tensor becomes this average's own."""
        self._start = math.inf if state["start"] is None else state["start"]
        self._losses = list(state["losses"])
        self._count = state["count"]
        self.vector = state["vector"]
