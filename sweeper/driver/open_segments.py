"""What trainers and estimators have delivered and is not committed: the contents behind the schedule's names."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.protocol.events import SegmentId, SnapshotId, Start
from sweeper.protocol.messages import SegmentItem, SnapshotHeader, SnapshotItem

__all__ = ["OpenSegment", "OpenSegments", "failed_rows"]


@dataclass
class OpenSegment:
    """A segment on its way: its rows come with the trainer's item, its measurements one by one."""

    steps: int
    item: SegmentItem | None = None
    measurements: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    estimate_s: float = 0.0

    def add(self, rows: Mapping[str, Mapping[str, Any]], estimate_s: float = 0.0) -> None:
        """Take in what the estimators say of one snapshot."""
        for estimator, row in rows.items():
            self.measurements.setdefault(estimator, []).append(row)
        self.estimate_s += estimate_s


def failed_rows(header: SnapshotHeader, error: str) -> dict[str, dict[str, Any]]:
    """Rows of nulls, which say why there is nothing.

    Args:
        header: The snapshot that could not be measured.
        error: What was raised.

    Returns:
        Estimator to row.
    """
    # Of a kept snapshot whose file is damaged the epoch is not known.
    epoch = None if math.isnan(header.epoch) else header.epoch
    described = {"trial_id": header.trial, "step": header.step, "epoch": epoch, "error": error}
    row = described | {"data_fraction": header.measure["data_fraction"]}
    return {entry["use"]: dict(row) for entry in header.measure["estimators"]}


class OpenSegments:
    """Segments that are not handed over to be committed, the trainers that are at them, and their snapshots.

    A trainer works through a queue of trials, and reports on its current segment alone.

    Args:
        steps: Of each trial.

    Example:
        >>> segments = OpenSegments(steps={"a": 10, "b": 10})
        >>> segments.hand_out(0, [Start("a", 1, 0), Start("b", 1, 0)])
        >>> segments.current
        {0: SegmentId(trial='a', attempt=1, number=0)}
        >>> segments.begin_next(0)
        >>> segments.current
        {0: SegmentId(trial='b', attempt=1, number=0)}
        >>> segments.begin_next(0)
        >>> segments.current
        {}
    """

    def __init__(self, *, steps: Mapping[str, int]) -> None:
        self.current: dict[int, SegmentId] = {}
        """The segment that each trainer at work is at."""
        self._steps = steps
        self._queues: dict[int, deque[SegmentId]] = {}
        self._open: dict[SegmentId, OpenSegment] = {}
        self._snapshots: dict[SnapshotId, SnapshotItem] = {}
        self._segment_of: dict[SnapshotId, SegmentId] = {}

    @property
    def num_snapshots(self) -> int:
        """Snapshots that have no rows yet."""
        return len(self._snapshots)

    @property
    def idle(self) -> bool:
        """Whether no trainer is at work and no snapshot waits for its rows."""
        return not self.current and not self._snapshots

    # Trainers

    def hand_out(self, slot: int, starts: Iterable[Start]) -> None:
        """A trainer is given attempts, and begins with the first."""
        self._queues[slot] = deque(SegmentId(start.trial, start.attempt, 0) for start in starts)
        self.begin_next(slot)

    def begin_next(self, slot: int) -> None:
        """A trainer goes on to the next trial of its queue, or is idle."""
        self.current.pop(slot, None)
        if self._queues[slot]:
            self._begin(slot, self._queues[slot].popleft())

    def end(self, slot: int, item: SegmentItem) -> SegmentId:
        """A trainer has come to the end of its segment, and goes on to what follows.

        Args:
            slot: The trainer.
            item: What it says of the segment.

        Returns:
            The segment that has ended.
        """
        segment = self.current[slot]
        self._open[segment].item = item
        if item.outcome is None:
            self._begin(slot, segment._replace(number=segment.number + 1))
        elif item.outcome == "stopped":
            self.drop(slot)
        else:
            self.begin_next(slot)
        return segment

    def drop(self, slot: int) -> SegmentId | None:
        """Forget what a trainer has not begun, and that it is at anything.

        Args:
            slot: The trainer.

        Returns:
            The segment that it was at; None where it was idle. What came of it stays until it is discarded.
        """
        self._queues.pop(slot, None)
        return self.current.pop(slot, None)

    def _begin(self, slot: int, segment: SegmentId) -> None:
        self.current[slot] = segment
        self._open[segment] = OpenSegment(steps=self._steps[segment.trial])

    # Snapshots

    def take(self, slot: int, item: SnapshotItem) -> SnapshotId:
        """A trainer has handed over a snapshot of its segment."""
        segment = self.current[slot]
        snapshot = SnapshotId(trial=segment.trial, attempt=segment.attempt, step=item.header.step)
        self._snapshots[snapshot] = item
        self._segment_of[snapshot] = segment
        return snapshot

    def snapshot(self, snapshot: SnapshotId) -> SnapshotItem:
        """What a trainer has handed over under this name."""
        return self._snapshots[snapshot]

    def add_rows(self, snapshot: SnapshotId, rows: Mapping[str, Mapping[str, Any]], estimate_s: float = 0.0) -> bool:
        """Take in what the estimators say of a snapshot, which nobody needs any more.

        Args:
            snapshot: Which.
            rows: Estimator to row.
            estimate_s: Seconds that it took.

        Returns:
            Whether its segment was still wanted.
        """
        self._snapshots.pop(snapshot, None)
        segment = self._segment_of.pop(snapshot, None)
        if segment is None:
            return False
        self._open[segment].add(rows, estimate_s)
        return True

    # What becomes of a segment

    def close(self, segment: SegmentId) -> OpenSegment:
        """Hand a segment over to be committed."""
        return self._open.pop(segment)

    def discard(self, segment: SegmentId) -> None:
        """Forget a segment and its snapshots: it is trained again."""
        self._open.pop(segment, None)
        for snapshot in [snapshot for snapshot, of in self._segment_of.items() if of == segment]:
            del self._snapshots[snapshot], self._segment_of[snapshot]
