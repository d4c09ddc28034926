"""The course of one trial: attempts, their segments, and the order of commits; part of the schedule, and as pure.

An *attempt* runs in *segments* that end at checkpoints. A segment is complete once its rows and all measurements of its
snapshots are there, and is committed after those before it. What an attempt has finished is committed even if it
fails; only then does another one begin, from there on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sweeper.protocol.events import SegmentId, SnapshotId, Start

__all__ = ["Course", "Segment"]


@dataclass
class Segment:
    """A stretch of one attempt between two checkpoints, on its way to being committed."""

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
        committed_step: The step from which it goes on.
        failures: Attempts that ended in a failure so far.

    Attributes:
        slot: The trainer that has it; None where none has.
        attempt: The last attempt that was begun; 0 where none was.
        failures: As above.
        withdrawn: Whether its trainer was retired under it: it waits like a failed one, and nothing is held against it.

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

    def __init__(self, trial: str, *, committed_step: int = 0, failures: int = 0) -> None:
        self.slot: int | None = None
        self.attempt = 0
        self.failures = failures
        self.withdrawn = False
        self._trial = trial
        self._committed_step = committed_step
        self._segments: deque[Segment] = deque()
        self._failed: tuple[str, str] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a trainer has it, or something of it is to be committed."""
        return self.slot is not None or bool(self._segments)

    # With a trainer

    def start(self, slot: int) -> Start:
        """Another attempt begins."""
        self.attempt += 1
        self.slot = slot
        self._segments.append(Segment(SegmentId(trial=self._trial, attempt=self.attempt, number=0)))
        return Start(trial=self._trial, attempt=self.attempt, step=self._committed_step)

    def take_back(self) -> None:
        """The attempt was given to a trainer that has not begun with it: nothing has happened."""
        self.slot = None
        self._segments.pop()

    def end_segment(self, stop: int, outcome: str | None) -> None:
        """The trainer has come to a checkpoint, or to the end of the attempt."""
        segment = self._segments[-1]
        segment.stop, segment.outcome, segment.ended = stop, outcome, True
        if outcome is None:
            self._segments.append(Segment(segment.id.following))
        else:
            self.slot = None

    def fail(self, kind: str, error: str) -> list[Segment]:
        """The attempt has ended in a failure; returns what it leaves unfinished."""
        self.slot = None
        self._failed = (kind, error)
        return [self._segments.pop()] if self._segments and not self._segments[-1].ended else []

    def take_failure(self) -> tuple[str, str] | None:
        """Kind and error of an attempt that has failed, once all that it has finished is committed; told once."""
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
        """A snapshot needs no estimator any more."""
        for segment in self._segments:
            segment.unmeasured.discard(snapshot)

    def lose(self, snapshot: SnapshotId, error: str) -> list[Segment]:
        """A snapshot's bytes are gone: the attempt has failed, and its segment and all later ones are to be run again.

        Args:
            snapshot: Which; it has not been measured.
            error: What happened to it.

        Returns:
            These segments, the last first. The trainer is past them: see :attr:`slot`.
        """
        affected = next(i for i, segment in enumerate(self._segments) if snapshot in segment.unmeasured)
        self._failed = ("lost", error)
        return [self._segments.pop() for _ in range(len(self._segments) - affected)]

    # Commits

    def complete(self) -> list[SegmentId]:
        """Segments at the head that have become complete, in order; each is told once."""
        found = []
        for segment in self._segments:
            if not segment.ended or segment.unmeasured:
                break
            if not segment.handed_over:
                segment.handed_over = True
                found.append(segment.id)
        return found

    def committed(self, committed: SegmentId) -> bool:
        """A segment is durable; returns whether that resolves the trial."""
        segment = self._segments.popleft()
        assert segment.id == committed, f"{committed} was committed before {segment.id}"
        self._committed_step = segment.stop
        return segment.outcome in {"done", "diverged"}
