"""What a trainer says is gathered only where what follows is as short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sweeper.cluster.actors import gathered
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import (
    ProgressItem,
    RaisedItem,
    SegmentFacts,
    SegmentItem,
    SnapshotHeader,
    SnapshotItem,
    TrainerItem,
)

SEGMENT = SegmentId("a", 1, 0)
FACTS = SegmentFacts(num_steps=3, num_clipped=0, started_at=0.0, ended_at=1.0, train_s=1.0, evaluate_s=0.0, host="here")
PROGRESS = ProgressItem(segment=SEGMENT, step=1, loss=0.5, clipped_fraction=0.0)
SNAPSHOT = SnapshotItem(
    segment=SEGMENT,
    header=SnapshotHeader(trial="a", seed=0, step=3, epoch=0.5, problem={}, measure={}, nbytes=8),
    payload="array",
)


def segment(outcome: str | None) -> SegmentItem:
    rows = {"step": np.arange(3)}
    return SegmentItem(segment=SEGMENT, start=0, stop=3, rows=rows, checkpoint=None, outcome=outcome, facts=FACTS)


class Trainer:
    """Says things, each after so many seconds; its consumer sees what it knows by then."""

    def __init__(self, *said: tuple[float, TrainerItem], holds_ends: bool = True) -> None:
        self.said = said
        self.holds_ends = holds_ends
        self.now = 0.0

    def __iter__(self) -> Iterator[TrainerItem]:
        for seconds, item in self.said:
            self.now += seconds
            yield item

    def sent(self) -> list[tuple[float, list[Any]]]:
        """When each list was sent, and what was in it."""
        return [(self.now, items) for items in gathered(self, holds_ends=self.holds_ends, clock=lambda: self.now)]


def test_a_finished_segment_is_sent_at_once_though_its_trial_goes_on_for_long() -> None:
    first, second = segment(None), segment("done")
    trainer = Trainer((0.0, first), (60.0, PROGRESS), (0.0, second))
    assert trainer.sent() == [(0.0, [first]), (60.0, [PROGRESS]), (60.0, [second])]


def test_a_segment_that_ends_right_after_a_sign_of_life_does_not_wait_for_the_next() -> None:
    first = segment(None)
    trainer = Trainer((1.0, PROGRESS), (0.0, first), (30.0, PROGRESS))
    assert trainer.sent() == [(1.0, [PROGRESS]), (1.0, [first]), (31.0, [PROGRESS])]


def test_the_ends_of_very_short_trials_share_a_list_a_tenth_of_a_second() -> None:
    ends = [segment("done") for _ in range(9)]
    trainer = Trainer(*((0.03, end) for end in ends))
    assert [items for _, items in trainer.sent()] == [ends[:4], ends[4:8], ends[8:]]


def test_ends_do_not_wait_where_the_next_trial_may_end_the_process() -> None:
    ends: list[TrainerItem] = [
        segment("done"),
        RaisedItem(segment=SEGMENT, error="no", traceback="no"),
        segment("done"),
    ]
    trainer = Trainer(*((0.01, item) for end in ends for item in (PROGRESS, end)), holds_ends=False)
    assert [items for _, items in trainer.sent()] == [[PROGRESS, end] for end in ends]


@pytest.mark.parametrize("before", [[], [PROGRESS], [segment("done")]])
def test_a_snapshot_ends_its_list(before: list[TrainerItem]) -> None:
    trainer = Trainer(*((0.0, item) for item in before), (0.0, SNAPSHOT), (0.0, PROGRESS))
    assert [items for _, items in trainer.sent()] == [[*before, SNAPSHOT], [PROGRESS]]


def test_who_says_nothing_sends_nothing() -> None:
    assert Trainer().sent() == []
