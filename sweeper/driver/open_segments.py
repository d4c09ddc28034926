"""What trainers and estimators have delivered but is not committed yet: the contents behind the schedule's ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.driver.estimators import failed_rows
from sweeper.protocol.events import SegmentId, SnapshotId
from sweeper.protocol.messages import SegmentItem, SnapshotItem
from sweeper.protocol.pools import EstimatorPool

__all__ = ["OpenSegment", "OpenSegments"]


@dataclass
class OpenSegment:
    """A segment in progress: its rows arrive with the trainer's item, its measurements one by one."""

    item: SegmentItem | None = None
    measurements: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    estimate_s: float = 0.0
    unmeasured: dict[str, int] = field(default_factory=dict)
    measured_on: dict[str, None] = field(default_factory=dict)

    def add(self, rows: Mapping[str, Mapping[str, Any]], estimate_s: float) -> None:
        """Add the measurements of one snapshot."""
        for estimator, row in rows.items():
            self.measurements.setdefault(estimator, []).append(row)
        for error in dict.fromkeys(row["error"] for row in rows.values() if row.get("error")):
            self.unmeasured[error] = self.unmeasured.get(error, 0) + 1
        self.estimate_s += estimate_s


class OpenSegments:
    """Segments that have not been handed over to be committed, and their snapshots.

    Example:
        >>> segments = OpenSegments()
        >>> segments.hand_over(SegmentId("a", 1, 0), print)  # doctest: +ELLIPSIS
        SegmentId(trial='a', attempt=1, number=0) OpenSegment(item=None, ...)
    """

    def __init__(self) -> None:
        self._open: dict[SegmentId, OpenSegment] = {}
        self._snapshots: dict[SnapshotId, SnapshotItem] = {}

    @property
    def waits_for_rows(self) -> bool:
        """Whether any snapshot has no rows yet."""
        return bool(self._snapshots)

    def take(self, item: SnapshotItem) -> SnapshotId:
        """A trainer has handed over a snapshot."""
        self._snapshots[item.snapshot] = item
        return item.snapshot

    def end(self, item: SegmentItem) -> None:
        """A trainer has reached the end of a segment."""
        self._segment(item.segment).item = item

    def hand_out(self, pool: EstimatorPool, slot: int, snapshot: SnapshotId) -> None:
        """Give a snapshot to an idle estimator."""
        item = self._snapshots[snapshot]
        pool.measure(slot, snapshot, item.header, item.payload)

    def add_rows(
        self, snapshot: SnapshotId, rows: Mapping[str, Mapping[str, Any]], estimate_s: float, device: str = "cpu"
    ) -> bool:
        """Add the measurements of a snapshot, and release its contents.

        Args:
            snapshot: Which snapshot.
            rows: Estimator to row.
            estimate_s: Seconds that it took.
            device: Where: ``cpu``, or the name of a GPU.

        Returns:
            Whether its segment was still wanted.
        """
        item = self._snapshots.pop(snapshot, None)
        if item is None:
            return False
        segment = self._segment(item.segment)
        segment.add(rows, estimate_s)
        if device != "cpu":
            segment.measured_on[device] = None
        return True

    def add_failed(self, snapshot: SnapshotId, error: str) -> None:
        """Add rows of nulls that say why a snapshot cannot be measured."""
        item = self._snapshots[snapshot]
        self.add_rows(snapshot, failed_rows(snapshot, item.header.measure, error, epoch=item.header.epoch), 0.0)

    def hand_over(self, segment: SegmentId, take: Callable[[SegmentId, OpenSegment], object]) -> None:
        """Hand a complete segment over to be committed."""
        take(segment, self._open.pop(segment, OpenSegment()))

    def discard(self, segment: SegmentId) -> None:
        """Forget a segment and its snapshots: it will be trained again."""
        self._open.pop(segment, None)
        for snapshot in [name for name, item in self._snapshots.items() if item.segment == segment]:
            del self._snapshots[snapshot]

    def _segment(self, segment: SegmentId) -> OpenSegment:
        return self._open.setdefault(segment, OpenSegment())
