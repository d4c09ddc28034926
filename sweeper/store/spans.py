"""When each driver of a run was at work, from its journal alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.store.journal import RunState
from sweeper.store.records import CommittedSegment

__all__ = ["Span", "spans_of", "worked_s"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """The time of one driver, in seconds since 1970 by the clocks of its hosts.

    Attributes:
        driver_epoch: Which driver, counted from 1.
        started_at: When it started; None if an earlier version did not record it.
        first_at: When its first trial began.
        last_at: When the last segment that it committed ended.
        segments: What it committed.
    """

    driver_epoch: int
    started_at: float | None
    first_at: float
    last_at: float
    segments: Sequence[CommittedSegment]

    @property
    def starting_s(self) -> float | None:
        """Seconds until its first trial began; None where its start is unknown."""
        return None if self.started_at is None else max(0.0, self.first_at - self.started_at)

    @property
    def total_s(self) -> float:
        """Seconds from its start, as far as that is known, to its last commit."""
        return max(0.0, self.last_at - (self.first_at if self.started_at is None else self.started_at))


def spans_of(state: RunState) -> list[Span]:
    """When the drivers of a run were at work.

    Args:
        state: The run.

    Returns:
        One span for each driver that committed something, in order.
    """
    committed: dict[int, list[CommittedSegment]] = {}
    for trial in state.trials.values():
        for segment in trial.segments:
            committed.setdefault(segment.driver_epoch, []).append(segment)
    return [
        Span(
            driver_epoch=epoch,
            started_at=state.opened_at.get(epoch),
            first_at=min(segment.facts.started_at for segment in segments),
            last_at=max(segment.facts.ended_at for segment in segments),
            segments=segments,
        )
        for epoch, segments in sorted(committed.items())
    ]


def worked_s(state: RunState, *, before: int) -> float:
    """Seconds for which earlier drivers were at work on a run, pauses between them left out.

    Args:
        state: The run.
        before: The driver epoch up to which they count, itself left out.

    Returns:
        The sum over these drivers; 0 if they committed nothing.
    """
    return sum(span.total_s for span in spans_of(state) if span.driver_epoch < before)
