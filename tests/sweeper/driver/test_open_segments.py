"""What was delivered stays with its segment until that is handed over or discarded; without workers."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.driver.open_segments import OpenSegments, failed_rows
from sweeper.protocol.events import SegmentId, SnapshotId, Start
from sweeper.protocol.messages import SegmentItem, SnapshotHeader, SnapshotItem

MEASURE = {"data_fraction": 0.5, "estimators": [{"use": "one"}, {"use": "other"}]}
ROWS = {"one": {"step": 3}}


def ended(outcome: str | None, stop: int = 5) -> SegmentItem:
    rows = {"step": np.arange(stop)}
    return SegmentItem(start=0, stop=stop, rows=rows, checkpoint=None, outcome=outcome, facts={})


def taken(trial: str, step: int) -> SnapshotItem:
    header = SnapshotHeader(trial=trial, seed=0, step=step, epoch=0.5, problem={}, measure=MEASURE, nbytes=8)
    return SnapshotItem(header=header, payload="array")


@pytest.fixture
def segments() -> OpenSegments:
    """Trainer 3 is at the first segment of ``a``, with ``b`` to follow."""
    segments = OpenSegments(steps={"a": 10, "b": 20})
    segments.hand_out(3, [Start("a", 1, 0), Start("b", 2, 0)])
    return segments


def test_after_a_checkpoint_a_trainer_is_at_the_next_segment_and_after_the_end_at_the_next_trial(
    segments: OpenSegments,
) -> None:
    assert segments.end(3, ended(None)) == SegmentId("a", 1, 0)
    assert segments.current == {3: SegmentId("a", 1, 1)}
    assert segments.end(3, ended("done")) == SegmentId("a", 1, 1)
    assert segments.current == {3: SegmentId("b", 2, 0)}
    assert not segments.idle
    segments.end(3, ended("diverged"))
    assert segments.idle


def test_a_trainer_that_was_stopped_begins_nothing_more(segments: OpenSegments) -> None:
    segments.end(3, ended("stopped"))
    assert segments.current == {}
    assert segments.idle


def test_rows_come_to_the_segment_in_which_their_snapshot_was_taken(segments: OpenSegments) -> None:
    first = segments.take(3, taken("a", 3))
    assert first == SnapshotId("a", 1, 3)
    segments.end(3, ended(None))
    second = segments.take(3, taken("a", 7))
    assert segments.num_snapshots == 2
    assert segments.add_rows(second, {"one": {"step": 7}}, 0.25)
    assert segments.add_rows(first, ROWS, 0.5)
    head, following = segments.close(SegmentId("a", 1, 0)), segments.close(SegmentId("a", 1, 1))
    assert (head.measurements, head.estimate_s, head.steps) == ({"one": [{"step": 3}]}, 0.5, 10)
    assert (following.measurements, following.estimate_s) == ({"one": [{"step": 7}]}, 0.25)
    assert segments.num_snapshots == 0


def test_rows_of_a_segment_that_was_discarded_meanwhile_are_not_wanted(segments: OpenSegments) -> None:
    snapshot = segments.take(3, taken("a", 3))
    assert segments.snapshot(snapshot).payload == "array"
    assert segments.drop(3) == SegmentId("a", 1, 0)
    segments.discard(SegmentId("a", 1, 0))
    assert not segments.add_rows(snapshot, ROWS)
    assert segments.idle
    with pytest.raises(KeyError):
        segments.close(SegmentId("a", 1, 0))


def test_a_snapshot_that_could_not_be_measured_has_a_row_of_every_estimator_that_says_why() -> None:
    rows = failed_rows(taken("a", 3).header, "no gradient")
    row = {"trial_id": "a", "step": 3, "epoch": 0.5, "error": "no gradient", "data_fraction": 0.5}
    assert rows == {"one": row, "other": row}
