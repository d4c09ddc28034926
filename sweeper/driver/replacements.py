"""Why a worker is replaced after a trial, said once for each reason."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.errors import left_advice

__all__ = ["Replacements"]


class Replacements:
    """Says what trials have changed in their workers' processes that cannot be put back.

    Args:
        kind: ``trainer`` or ``estimator``.
        say: Shows a line to the user.
        label: What a trial is called.
    """

    def __init__(self, kind: str, *, say: Callable[[str], object], label: Callable[[str], str]) -> None:
        self._kind = kind
        self._say = say
        self._label = label
        self._told: set[str] = set()

    def tell(self, slot: int, trial: str, left_behind: str | None) -> bool:
        """Say why a worker is replaced, unless the reason has been said: all trials of a sweep may do the same.

        Args:
            slot: Its slot.
            trial: The trial after which it is.
            left_behind: What that has left behind; None for nothing.

        Returns:
            Whether it is to be replaced.
        """
        if left_behind is not None and left_behind not in self._told:
            self._told.add(left_behind)
            self._say(f"{self._kind} {slot} is replaced: {self._label(trial)} {left_advice(left_behind)}")
        return left_behind is not None
