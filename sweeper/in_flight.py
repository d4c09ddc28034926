"""How many snapshots may be on their way from trainers to rows; part of the schedule, and as pure."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.events import SnapshotId

__all__ = ["InFlight"]


@dataclass
class _Snapshot:
    nbytes: int
    failures: int = 0


class InFlight:
    """Snapshots that were taken and have no rows yet: they fill memory, so there is a bound on them.

    Args:
        most: Bound on their number.
        most_bytes: Bound on their bytes; one snapshot is always let through.

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
        self._an_estimator: float | None = None

    def __contains__(self, snapshot: object) -> bool:
        return snapshot in self._snapshots

    @property
    def room(self) -> bool:
        """Whether there is room for another."""
        num, nbytes = len(self._snapshots), sum(snapshot.nbytes for snapshot in self._snapshots.values())
        return num == 0 or (num < self._most and nbytes < self._most_bytes)

    def scale(self, num_estimators: int) -> None:
        """The bound on the number follows the estimators: what it was for the first of these, it is in proportion."""
        num_estimators = max(1, num_estimators)
        if self._an_estimator is None:
            self._an_estimator = self._most / num_estimators
        self._most = max(1, round(self._an_estimator * num_estimators))

    def add(self, snapshot: SnapshotId, *, nbytes: int) -> None:
        """A snapshot was taken."""
        self._snapshots[snapshot] = _Snapshot(nbytes)

    def remove(self, snapshot: SnapshotId) -> None:
        """A snapshot has its rows, or is not wanted any more."""
        self._snapshots.pop(snapshot, None)

    def fail(self, snapshot: SnapshotId) -> int:
        """A snapshot could not be measured; returns how often that was so."""
        held = self._snapshots[snapshot]
        held.failures += 1
        return held.failures
