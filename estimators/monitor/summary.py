"""What a monitor has done, in numbers and in a line."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["MonitorSummary"]


@dataclass(frozen=True, kw_only=True)
class MonitorSummary:
    """What a monitor has done so far.

    Attributes:
        steps: Steps seen.
        snapshots: Snapshots measured, or tried.
        failed: How many of them could not be measured.
        loop_s: Seconds of the loop, without those of the monitor.
        own_s: Seconds of the monitor.
        budget: The share of ``loop_s`` that ``own_s`` may take; None for no limit.
    """

    steps: int
    snapshots: int
    failed: int
    loop_s: float
    own_s: float
    budget: float | None

    @property
    def share(self) -> float:
        """The share that it took; NaN before the first step."""
        return self.own_s / self.loop_s if self.loop_s > 0 else math.nan

    def __str__(self) -> str:
        failed = f", {self.failed} of them failed" if self.failed else ""
        limit = "" if self.budget is None else f" (budget {100 * self.budget:g} %)"
        took = (
            "nothing" if math.isnan(self.share) else f"{100 * self.share:.3g} % of the loop's {_seconds(self.loop_s)}"
        )
        snapshots = f"{self.snapshots} snapshot{'' if self.snapshots == 1 else 's'}"
        return f"{snapshots} in {self.steps} steps{failed}; measuring took {took}{limit}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
