"""What was delivered stays with its segment until that is handed over or discarded; without workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sweeper.driver.estimators import failed_rows
from sweeper.driver.open_segments import OpenSegment, OpenSegments
from sweeper.protocol.events import SegmentId, SnapshotId
from sweeper.protocol.messages import SegmentFacts, SegmentItem, SnapshotHeader, SnapshotItem

MEASURE = {"data_fraction": 0.5, "estimators": [{"use": "one"}, {"use": "other"}]}
ROWS = {"one": {"step": 3}}
HEAD = SegmentId("a", 1, 0)
FACTS = SegmentFacts(num_steps=5, num_clipped=0, started_at=0.0, ended_at=1.0, train_s=1.0, evaluate_s=0.0, host="here")


def ended(segment: SegmentId, outcome: str | None) -> SegmentItem:
    rows = {"step": np.arange(5)}
    return SegmentItem(segment=segment, start=0, stop=5, rows=rows, checkpoint=None, outcome=outcome, facts=FACTS)


def taken(segment: SegmentId, step: int) -> SnapshotItem:
    header = SnapshotHeader(trial=segment.trial, seed=0, step=step, epoch=0.5, problem={}, measure=MEASURE, nbytes=8)
    return SnapshotItem(segment=segment, header=header, payload="array")


def closed(segments: OpenSegments, segment: SegmentId) -> OpenSegment:
    """What is handed over of a segment."""
    taken: dict[SegmentId, OpenSegment] = {}
    segments.hand_over(segment, taken.__setitem__)
    return taken[segment]


class Pool:
    """Remembers what it was given to measure."""

    def __init__(self) -> None:
        self.given: list[tuple[int, SnapshotId, Any]] = []

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> None:
        self.given.append((slot, snapshot, payload))


def test_rows_come_to_the_segment_in_which_their_snapshot_was_taken() -> None:
    segments = OpenSegments()
    first = segments.take(taken(HEAD, 3))
    assert first == SnapshotId("a", 1, 3)
    segments.end(ended(HEAD, None))
    second = segments.take(taken(HEAD.following, 7))
    assert segments.waits_for_rows
    assert segments.add_rows(second, {"one": {"step": 7}}, 0.25)
    assert segments.add_rows(first, ROWS, 0.5)
    assert not segments.waits_for_rows
    head, following = closed(segments, HEAD), closed(segments, HEAD.following)
    assert (head.measurements, head.estimate_s) == ({"one": [{"step": 3}]}, 0.5)
    assert head.item is not None
    assert head.item.segment == HEAD
    assert (following.measurements, following.estimate_s) == ({"one": [{"step": 7}]}, 0.25)


def test_an_estimator_is_given_what_the_trainer_delivered() -> None:
    segments, pool = OpenSegments(), Pool()
    snapshot = segments.take(taken(HEAD, 3))
    segments.hand_out(pool, 2, snapshot)  # type: ignore[arg-type]
    assert pool.given == [(2, snapshot, "array")]


def test_rows_of_a_segment_that_was_discarded_meanwhile_are_not_wanted() -> None:
    segments = OpenSegments()
    lost, kept = segments.take(taken(HEAD, 3)), segments.take(taken(SegmentId("b", 1, 0), 3))
    segments.discard(HEAD)
    assert not segments.add_rows(lost, ROWS, 0.5)
    assert closed(segments, HEAD).measurements == {}
    assert segments.add_rows(kept, ROWS, 0.5)


@pytest.mark.parametrize("epoch", [0.5, None])
def test_a_snapshot_that_could_not_be_measured_has_a_row_of_every_estimator_that_says_why(epoch: float | None) -> None:
    row = {"trial_id": "a", "step": 3, "epoch": epoch, "error": "no gradient", "data_fraction": 0.5}
    assert failed_rows(SnapshotId("a", 1, 3), MEASURE, "no gradient", epoch=epoch) == {"one": row, "other": row}


def test_the_rows_of_a_snapshot_that_failed_stand_in_its_segment() -> None:
    segments = OpenSegments()
    segments.add_failed(segments.take(taken(HEAD, 3)), "no gradient")
    assert closed(segments, HEAD).measurements["other"][0]["error"] == "no gradient"
