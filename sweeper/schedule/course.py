"""The course of one trial: attempts, their segments, and the order of commits; part of the schedule, and as pure.

An *attempt* runs in *segments* that end at checkpoints. A segment is complete once its rows and all measurements of its
snapshots are there, and it is committed after the segments before it. Segments that an attempt finished are committed
even if the attempt fails; only then does the next attempt begin, from the last committed step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sweeper.protocol.events import SegmentId, SnapshotId, Start

__all__ = ["Course", "Segment"]


@dataclass
class Segment:
    """What one attempt trains between two checkpoints, on its way to being committed."""

    id: SegmentId
    unmeasured: set[SnapshotId] = field(default_factory=set)
    stop: int = -1
    outcome: str | None = None
    ended: bool = False
    handed_over: bool = False


class Course:
    """One trial that is not resolved.

    Args:
        trial: Its id.
        committed_step: The step from which it continues.
        failures: Attempts that ended in a failure so far.
        attempt: Number of its latest attempt; 0 if there was none.

    Attributes:
        slot: The trainer that runs it; None if none does.
        attempt: Number of the latest attempt; 0 if there was none.
        failures: As above.
        withdrawn: Whether its trainer was retired while running it: it waits like a failed trial, but this does not
            count as a failure.

    Example:
        >>> course = Course("a")
        >>> course.start(slot=0)
        Start(trial='a', attempt=1, step=0)
        >>> course.end_segment(stop=10, outcome=None)
        >>> course.complete()
        [SegmentId(trial='a', attempt=1, number=0)]
        >>> [segment.id for segment in course.fail("died", "killed")]
        [SegmentId(trial='a', attempt=1, number=1)]
        >>> course.take_failure() is None
        True
        >>> course.committed(SegmentId("a", 1, 0))
        False
        >>> course.take_failure(), course.start(slot=0)
        (('died', 'killed'), Start(trial='a', attempt=2, step=10))
    """

    def __init__(self, trial: str, *, committed_step: int = 0, failures: int = 0, attempt: int = 0) -> None:
        self.slot: int | None = None
        self.attempt = attempt
        self.failures = failures
        self.withdrawn = False
        self._trial = trial
        self._committed_step = committed_step
        self._segments: deque[Segment] = deque()
        self._failed: tuple[str, str] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a trainer runs it, or some of its segments are not committed yet."""
        return self.slot is not None or bool(self._segments)

    # With a trainer

    def start(self, slot: int) -> Start:
        """Another attempt begins."""
        self.attempt += 1
        self.slot = slot
        self._segments.append(Segment(SegmentId(trial=self._trial, attempt=self.attempt, number=0)))
        return Start(trial=self._trial, attempt=self.attempt, step=self._committed_step)

    def take_back(self) -> None:
        """Undo a start: the trainer that the attempt was given to has not begun it."""
        self.slot = None
        self._segments.pop()

    def end_segment(self, stop: int, outcome: str | None) -> None:
        """The trainer has reached a checkpoint, or the end of the attempt."""
        segment = self._segments[-1]
        segment.stop, segment.outcome, segment.ended = stop, outcome, True
        if outcome is None:
            self._segments.append(Segment(segment.id.following))
        else:
            self.slot = None

    def fail(self, kind: str, error: str) -> list[Segment]:
        """The attempt has failed; returns the segment that it leaves unfinished, if any."""
        self.slot = None
        self._failed = (kind, error)
        return [self._segments.pop()] if self._segments and not self._segments[-1].ended else []

    def take_failure(self) -> tuple[str, str] | None:
        """Kind and error of a failed attempt, once all its finished segments are committed; returned only once."""
        # The next attempt starts at the last committed step. Were it started while finished segments still wait, it
        # would train their steps again, and the same rows would be committed twice.
        if self._segments:
            return None
        failed, self._failed = self._failed, None
        return failed

    # Snapshots

    def take_snapshot(self, step: int) -> SnapshotId:
        """The trainer has handed over a snapshot."""
        snapshot = SnapshotId(trial=self._trial, attempt=self.attempt, step=step)
        self._segments[-1].unmeasured.add(snapshot)
        return snapshot

    def settle(self, snapshot: SnapshotId) -> None:
        """A snapshot is measured, or was given up: its segment no longer waits for it."""
        for segment in self._segments:
            segment.unmeasured.discard(snapshot)

    def lose(self, snapshot: SnapshotId, error: str) -> list[Segment]:
        """A snapshot's bytes are gone: the attempt has failed, and its segment and all later ones must be run again.

        Args:
            snapshot: The snapshot, which has not been measured.
            error: What happened to it.

        Returns:
            These segments, the last first. If :attr:`slot` is set, that trainer is already past them.
        """
        # Later segments go too, even measured ones: commits are in order, and this one will not be committed.
        affected = next(i for i, segment in enumerate(self._segments) if snapshot in segment.unmeasured)
        self._failed = ("lost", error)
        return [self._segments.pop() for _ in range(len(self._segments) - affected)]

    # Commits

    def complete(self) -> list[SegmentId]:
        """Segments at the head that have become complete, in order; each is returned only once."""
        found = []
        for segment in self._segments:
            # Stop at the first incomplete one, even if later ones are complete: a crash may keep any prefix of the
            # commits, and a resumed trial must not find a gap before its last committed step.
            if not segment.ended or segment.unmeasured:
                break
            if not segment.handed_over:
                segment.handed_over = True
                found.append(segment.id)
        return found

    def committed(self, committed: SegmentId) -> bool:
        """A segment is durable; returns whether that ends the trial, or whether it is held where a search wants it."""
        segment = self._segments.popleft()
        assert segment.id == committed, f"{committed} was committed before {segment.id}"
        self._committed_step = segment.stop
        return segment.outcome in {"done", "diverged", "held"}
