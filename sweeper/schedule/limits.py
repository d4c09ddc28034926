"""How many snapshots may be in flight between trainers and rows, and which slots workers have; pure, too."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from sweeper.protocol.events import SnapshotId

__all__ = ["InFlight", "Slots"]


@dataclass
class _Snapshot:
    nbytes: int
    failures: int = 0


class InFlight:
    """Snapshots that were taken and have no rows yet: they occupy memory, so they are bounded.

    Args:
        most: Bound on their number.
        most_bytes: Bound on their bytes; a single snapshot is always accepted.

    Example:
        >>> snapshots = InFlight(most=2, most_bytes=100)
        >>> snapshots.add(SnapshotId("a", 1, 0), nbytes=1000)
        >>> snapshots.room
        False
        >>> snapshots.remove(SnapshotId("a", 1, 0))
        >>> snapshots.room
        True
    """

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._snapshots: dict[SnapshotId, _Snapshot] = {}
        self._most = most
        self._most_bytes = most_bytes
        self._per_estimator: float | None = None

    def __contains__(self, snapshot: object) -> bool:
        return snapshot in self._snapshots

    @property
    def room(self) -> bool:
        """Whether there is room for another."""
        num, nbytes = len(self._snapshots), sum(snapshot.nbytes for snapshot in self._snapshots.values())
        return num == 0 or (num < self._most and nbytes < self._most_bytes)

    def scale(self, num_estimators: int) -> None:
        """Scale the bound on the number in proportion to the estimators; the first call sets the reference."""
        num_estimators = max(1, num_estimators)
        if self._per_estimator is None:
            self._per_estimator = self._most / num_estimators
        self._most = max(1, round(self._per_estimator * num_estimators))

    def limit(self, most_bytes: int) -> None:
        """Change the bound on bytes: nodes that hold snapshots have come or gone."""
        self._most_bytes = most_bytes

    def add(self, snapshot: SnapshotId, *, nbytes: int) -> None:
        """A snapshot was taken."""
        self._snapshots[snapshot] = _Snapshot(nbytes)

    def remove(self, snapshot: SnapshotId) -> None:
        """A snapshot has its rows, or is no longer wanted."""
        self._snapshots.pop(snapshot, None)

    def fail(self, snapshot: SnapshotId) -> int:
        """A snapshot could not be measured; returns how often that has happened to it."""
        held = self._snapshots[snapshot]
        held.failures += 1
        return held.failures


class Slots:
    """Slots of the workers that should exist, whether they are up yet or not.

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

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: int) -> None:
        """A worker has come up in a slot."""
        self._slots.add(slot)

    def resize(self, size: int, *, cost: Callable[[int], int]) -> tuple[list[int], list[int]]:
        """Change the number of slots.

        Args:
            size: The new number of slots.
            cost: What giving up a slot costs; the cheapest go first, among equals the highest.

        Returns:
            The slots that were added, and those that were given up.
        """
        surplus = max(0, len(self._slots) - size)
        given_up = sorted(self._slots, key=lambda slot: (cost(slot), -slot))[:surplus]
        self._slots.difference_update(given_up)
        free = (slot for slot in itertools.count() if slot not in self._slots)
        new = list(itertools.islice(free, max(0, size - len(self._slots))))
        self._slots.update(new)
        return new, given_up
