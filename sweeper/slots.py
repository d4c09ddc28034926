"""Which slots a pool of workers has, as the room for it grows and shrinks; part of the schedule, and as pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

__all__ = ["Slots"]


class Slots:
    """Numbers of the workers that are wanted, whether they are up or not.

    Example:
        >>> slots = Slots()
        >>> slots.resize(3, cost=lambda slot: 0)
        ([0, 1, 2], [])
        >>> slots.resize(2, cost=lambda slot: {0: 1, 1: 0, 2: 1}[slot])
        ([], [1])
        >>> slots.resize(3, cost=lambda slot: 0)
        ([1], [])
    """

    def __init__(self) -> None:
        self._slots: set[int] = set()

    def __contains__(self, slot: object) -> bool:
        return slot in self._slots

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._slots))

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: int) -> None:
        """A worker has come up in a slot."""
        self._slots.add(slot)

    def resize(self, size: int, *, cost: Callable[[int], int]) -> tuple[list[int], list[int]]:
        """Have so many slots from now on.

        Args:
            size: How many.
            cost: What giving up a slot costs; the cheapest go first, of equal ones the last.

        Returns:
            The slots that are new, and those that are given up.
        """
        surplus = max(0, len(self._slots) - size)
        given_up = sorted(self._slots, key=lambda slot: (cost(slot), -slot))[:surplus]
        self._slots.difference_update(given_up)
        free = (slot for slot in itertools.count() if slot not in self._slots)
        new = list(itertools.islice(free, max(0, size - len(self._slots))))
        self._slots.update(new)
        return new, given_up
