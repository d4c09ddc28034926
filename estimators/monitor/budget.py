"""What a monitor may take of the time of the loop that it watches."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Budget"]

_SURPRISE = 1.25
"""By how much a measurement may be more expensive than those before it, where others use the machine, too."""

_REMEMBERED = 3
"""Measurements of which the most expensive one says what the next may cost."""


class Budget:
    """Allows a measurement when the time that the loop has taken pays for it.

    It has no clock: whoever holds it says what has passed. The first measurement is always allowed, since nobody knows
    its cost before; the next one waits until the first has been paid back.

    Args:
        share: The largest share of the loop's own time that everything the monitor does may take; None for no limit.

    Attributes:
        loop_s: Seconds of the loop, without those of the monitor.
        own_s: Seconds of the monitor: measuring, reading gradients, writing.
        measured_s: Those of them that went into measurements.

    Raises:
        ValueError: The share is not above 0.

    Example:
        >>> budget = Budget(0.1)
        >>> budget.allows()
        True
        >>> budget.spend(2.0, measuring=True)
        >>> budget.passes(30.0), budget.allows()
        (None, False)
        >>> budget.passes(20.0), budget.allows(), budget.spent
        (None, True, 0.04)
    """

    def __init__(self, share: float | None) -> None:
        if share is not None and (isinstance(share, bool) or not 0 < share < math.inf):
            raise ValueError(
                f"budget={share!r}: must be a share of the loop's time, for example 0.03 for 3 %, or None for no limit"
            )
        self.share = share
        self.loop_s = 0.0
        self.own_s = 0.0
        self.measured_s = 0.0
        self._costs: deque[float] = deque(maxlen=_REMEMBERED)

    def passes(self, seconds: float) -> None:
        """Note time of the loop."""
        self.loop_s += seconds

    def spend(self, seconds: float, *, measuring: bool = False) -> None:
        """Note time of the monitor; ``measuring`` if it went into a measurement, so that another will cost as much."""
        self.own_s += seconds
        if measuring:
            self.measured_s += seconds
            self._costs.append(seconds)

    def allows(self) -> bool:
        """Whether everything spent so far and another measurement stay within the share.

        Returns:
            True also for the first one, and where there is no limit.
        """
        if self.share is None or not self._costs:
            return True
        return self.own_s + _SURPRISE * max(self._costs) <= self.share * self.loop_s

    @property
    def spent(self) -> float:
        """The share of the loop's time that was spent so far; NaN before the first step."""
        return self.own_s / self.loop_s if self.loop_s > 0 else math.nan
