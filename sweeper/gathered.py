"""When a trainer sends what it has to say: in few lists, and none held back while something long may follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from sweeper.messages import SegmentItem, SnapshotItem, TrainerItem

__all__ = ["gathered"]

_SEND_EVERY_S = 0.1
"""How long a trainer gathers what very short trials have to say; half the time in which people see a change."""


def gathered(
    items: Iterable[TrainerItem], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[list[TrainerItem]]:
    """What a trainer says, in lists, since sending one costs a millisecond.

    Nothing is held back while something long may follow: what a snapshot or a checkpoint ends is sent at once, and so
    is what comes a tenth of a second after the last list. The ends of very short trials wait for each other.

    Args:
        items: What it says.
        clock: Seconds.

    Yields:
        Lists with at least one item, of which the last alone may be a snapshot.
    """
    held: list[TrainerItem] = []
    sent = clock()
    for item in items:
        held.append(item)
        more_follows = isinstance(item, SnapshotItem) or (isinstance(item, SegmentItem) and item.outcome is None)
        if more_follows or clock() - sent > _SEND_EVERY_S:
            yield held
            held, sent = [], clock()
    if held:
        yield held
