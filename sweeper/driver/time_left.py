"""How long a sweep will still take: what was expected, corrected by what is seen; without a clock of its own."""

from __future__ import annotations

__all__ = ["TimeLeft"]

_EXPECTED_COUNTS_S = 10.0
"""For how many seconds of observation the expectation counts: after a minute it is a seventh of the estimate."""

_LEAST_S = 3.0
"""Without an expectation, how long to watch before an estimate is worth showing."""


class TimeLeft:
    """Estimates from work done since the first progress was seen, so that starting up does not count.

    Args:
        per_s: Work per second that is expected of the whole sweep; None where nothing is known.

    Example:
        >>> left = TimeLeft(per_s=2.0)
        >>> left.estimate(now=0.0, gained=0.0, left=600.0, longest=10.0, lanes=2)
        300.0

        Nothing was known, and a fifth took 20 s once work had begun:

        >>> left = TimeLeft(per_s=None)
        >>> left.estimate(now=0.0, gained=0.0, left=100.0, longest=50.0, lanes=2)
        >>> left.estimate(now=60.0, gained=0.0, left=100.0, longest=50.0, lanes=2)
        >>> left.estimate(now=80.0, gained=20.0, left=80.0, longest=40.0, lanes=2)
        80.0
    """

    def __init__(self, *, per_s: float | None) -> None:
        self._per_s = per_s
        self._silent_until: float | None = None
        self._before = 0.0
        self._begun = False

    def estimate(self, *, now: float, gained: float, left: float, longest: float, lanes: int) -> float | None:
        """Seconds until everything is done.

        Args:
            now: Seconds of a clock that only goes forward.
            gained: Work done so far, in the units of ``per_s``.
            left: Work that is left.
            longest: The most work that is left of a single trial, which cannot be shared.
            lanes: How many trials are at work.

        Returns:
            The estimate; None while there is nothing to judge by.
        """
        if self._silent_until is None:
            self._silent_until, self._before = now, gained
        self._begun = self._begun or gained > self._before
        if not self._begun:
            # Work is reported some steps at a time: what comes with the first report was begun in silence.
            self._silent_until = now
        elapsed, seen = now - self._silent_until, gained - self._before
        if self._per_s is not None:
            speed = (self._per_s * _EXPECTED_COUNTS_S + seen) / (_EXPECTED_COUNTS_S + elapsed)
        elif seen > 0 and elapsed >= _LEAST_S:
            speed = seen / elapsed
        else:
            return None
        return max(left / speed, longest * max(1, lanes) / speed)
