"""Whether busy workers make progress or hang; the caller passes the time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["EstimatorHeartbeats", "TrainerTimeouts"]

_ASK_TIMES = 4
"""How often an estimator is asked for its count within the timeout after which it counts as hanging."""


@dataclass
class _Heartbeat:
    """What is known about one estimator measuring one snapshot; times in seconds of the monotonic clock."""

    since: float
    ask_at: float
    beats: int = -1


class EstimatorHeartbeats:
    """Heartbeats of estimators at work.

    One snapshot may take hours, so what matters is not the time it takes but whether the estimator's own count grows.

    Args:
        timeout_s: An estimator whose count does not grow for this long counts as hanging; None for no limit.

    Example:
        >>> heartbeats = EstimatorHeartbeats(8.0)
        >>> heartbeats.begin(7, now=0.0)
        >>> list(heartbeats.to_ask(now=2.0)), list(heartbeats.hanging(now=8.0))
        ([7], [])
        >>> heartbeats.hear(7, 1, now=3.0)
        >>> heartbeats.hear(7, 1, now=9.0)
        >>> list(heartbeats.hanging(now=11.5))
        [(7, 'no sign of life for 8 s (resources.stall_timeout_s)')]
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._heartbeats: dict[int, _Heartbeat] = {}

    def begin(self, slot: int, *, now: float) -> None:
        """An estimator is given a snapshot."""
        if self._timeout_s is not None:
            self._heartbeats[slot] = _Heartbeat(since=now, ask_at=now + self._timeout_s / _ASK_TIMES)

    def end(self, slot: int) -> None:
        """It is done, or gone."""
        self._heartbeats.pop(slot, None)

    def hear(self, slot: int, beats: int, *, now: float) -> None:
        """It has answered. Another thread than the measuring one answers, so only a larger count is a sign of life."""
        heartbeat = self._heartbeats.get(slot)
        if heartbeat is not None and beats != heartbeat.beats:
            heartbeat.beats, heartbeat.since = beats, now

    def to_ask(self, *, now: float) -> Iterator[int]:
        """Estimators that should be asked for their count now.

        Yields:
            Their slots.
        """
        for slot, heartbeat in self._heartbeats.items():
            if now >= heartbeat.ask_at:
                assert self._timeout_s is not None
                heartbeat.ask_at = now + self._timeout_s / _ASK_TIMES
                yield slot

    def hanging(self, *, now: float) -> list[tuple[int, str]]:
        """Estimators that hang.

        Returns:
            Their slots, and what is wrong, in words.
        """
        return _too_long({slot: now - heartbeat.since for slot, heartbeat in self._heartbeats.items()}, self._timeout_s)


class TrainerTimeouts:
    """How long busy trainers have been silent: they send messages unasked.

    Args:
        timeout_s: A trainer that sends nothing for this long counts as hanging; None for no limit.

    Example:
        >>> timeouts = TrainerTimeouts(8.0)
        >>> timeouts.hear(0, now=0.0)
        >>> timeouts.hanging([0], now=8.0, listening=True)
        []
        >>> timeouts.hanging([0], now=9.0, listening=True)
        [(0, 'no sign of life for 9 s (resources.stall_timeout_s)')]
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._heard_at: dict[int, float] = {}

    def hear(self, slot: int, *, now: float) -> None:
        """It has sent something, or was given something to do."""
        self._heard_at[slot] = now

    def hanging(self, at_work: Collection[int], *, now: float, listening: bool) -> list[tuple[int, str]]:
        """Trainers that hang.

        Args:
            at_work: Trainers that have work.
            now: Seconds of the monotonic clock.
            listening: Whether their messages are being read: while not, they wait for the estimators, as intended.

        Returns:
            Their slots, and what is wrong, in words.
        """
        if not listening:
            self._heard_at |= dict.fromkeys(at_work, now)
        return _too_long({slot: now - self._heard_at[slot] for slot in at_work}, self._timeout_s)


def _too_long(silent_s: Mapping[int, float], timeout_s: float | None) -> list[tuple[int, str]]:
    if timeout_s is None:
        return []
    return [
        (slot, f"no sign of life for {seconds:.0f} s (resources.stall_timeout_s)")
        for slot, seconds in silent_s.items()
        if seconds > timeout_s
    ]
