"""Which trials wait for a trainer, and how many it is given at once; part of the schedule, and as pure."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable

__all__ = ["TrialQueue"]

_BATCH_S = 0.25
"""Trials shorter than this are handed out several at a time: sending one costs some milliseconds."""


class TrialQueue:
    """Trials that wait, in the order in which they are to run.

    A trainer is given one at a time, unless they are very short: then as many as it runs in a quarter of a second, and
    fewer as the end comes near. Trials that one trainer runs side by side go out in shares, never mixed with others.

    Args:
        trials: Those that wait.
        side_by_side: Trials that one trainer runs all at once.
        share: How many of these a trainer is given at a time.

    Example:
        >>> queue = TrialQueue("abcdefgh")
        >>> queue.take(num_trainers=1)
        ['a']
        >>> queue.ran(0.01)
        >>> queue.take(num_trainers=1)
        ['b', 'c', 'd']
        >>> queue.put_back("d")
        >>> queue.ran(3.0)
        >>> queue.take(num_trainers=1)
        ['d']
    """

    def __init__(self, trials: Iterable[str], *, side_by_side: Collection[str] = (), share: int = 1) -> None:
        self._waiting = deque(trials)
        self._side_by_side = frozenset(side_by_side)
        self._share = share
        self._trial_s = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, trial: str) -> None:
        """A trial waits, behind the others."""
        self._waiting.append(trial)

    def put_back(self, trial: str) -> None:
        """A trial waits again, in front."""
        self._waiting.appendleft(trial)

    def ran(self, seconds: float) -> None:
        """A trial has taken so long."""
        # The longest of late: one slow trial among quick ones ends the batches for a while.
        self._trial_s = max(seconds, 0.0 if self._trial_s == math.inf else 0.5 * self._trial_s)

    def take(self, *, num_trainers: int) -> list[str]:
        """What a trainer is given next.

        Args:
            num_trainers: How many there are to share what waits.

        Returns:
            Trials, at least one; they wait no longer.
        """
        return [self._waiting.popleft() for _ in range(self._batch_size(num_trainers))]

    def _batch_size(self, num_trainers: int) -> int:
        alike = self._waiting[0] in self._side_by_side
        # A batch is of one kind: trials that run side by side, or one after the other.
        run = itertools.takewhile(lambda trial: (trial in self._side_by_side) == alike, self._waiting)
        if alike:
            return min(sum(1 for _ in run), self._share)
        fair = len(self._waiting) // (2 * num_trainers)
        most = max(1, min(fair, int(_BATCH_S / max(self._trial_s, 1e-3))))
        return sum(1 for _ in itertools.islice(run, most))
