"""Measuring again is decided without clock, disk, torch or Ray."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sweeper.protocol import events
from sweeper.protocol.events import SnapshotId
from sweeper.schedule.kept_queue import KeptQueue


def snapshots(**counts: int) -> list[SnapshotId]:
    return [SnapshotId(trial, 0, step) for trial, count in counts.items() for step in range(count)]


def given_out(commands: list[events.Command]) -> list[tuple[int, str, int]]:
    return [(c.slot, c.snapshot.trial, c.snapshot.step) for c in commands if isinstance(c, events.Measure)]


def test_an_estimator_stays_with_its_trial_in_the_order_of_steps() -> None:
    queue = KeptQueue(snapshots(a=2, b=2), max_attempts=3)
    assert given_out(queue.handle(events.EstimatorReady(slot=0))) == [(0, "a", 0)]
    assert given_out(queue.handle(events.EstimatorReady(slot=1))) == [(1, "b", 0)]
    assert given_out(queue.handle(events.Measured(slot=1, snapshot=SnapshotId("b", 0, 0)))) == [(1, "b", 1)]
    assert given_out(queue.handle(events.Measured(slot=0, snapshot=SnapshotId("a", 0, 0)))) == [(0, "a", 1)]


def test_one_that_has_finished_its_trial_helps_where_most_is_left() -> None:
    queue = KeptQueue(snapshots(a=1, b=5), max_attempts=3)
    queue.handle(events.EstimatorReady(slot=0))
    queue.handle(events.EstimatorReady(slot=1))
    assert given_out(queue.handle(events.Measured(slot=0, snapshot=SnapshotId("a", 0, 0)))) == [(0, "b", 1)]


def test_a_dead_estimator_is_replaced_and_its_snapshot_measured_by_another() -> None:
    queue = KeptQueue(snapshots(a=2), max_attempts=2)
    queue.handle(events.EstimatorReady(slot=0))
    assert queue.handle(events.EstimatorDied(slot=0, error="killed")) == [events.ReplaceEstimator(slot=0)]
    assert given_out(queue.handle(events.EstimatorReady(slot=1))) == [(1, "a", 0)]


def test_a_spoiled_estimator_is_replaced_before_it_measures_another_snapshot() -> None:
    queue = KeptQueue(snapshots(a=2), max_attempts=2)
    queue.handle(events.EstimatorReady(slot=0))
    replaced = [events.RetireEstimator(slot=0), events.ReplaceEstimator(slot=0)]
    assert queue.handle(events.Measured(slot=0, snapshot=SnapshotId("a", 0, 0), spoiled=True)) == replaced
    assert given_out(queue.handle(events.EstimatorReady(slot=0))) == [(0, "a", 1)]
    failed = events.MeasureRaised(slot=0, snapshot=SnapshotId("a", 0, 1), error="no", spoiled=True)
    assert queue.handle(failed) == replaced
    assert given_out(queue.handle(events.EstimatorReady(slot=0))) == [(0, "a", 1)]
    last = events.Measured(slot=0, snapshot=SnapshotId("a", 0, 1), spoiled=True)
    assert queue.handle(last) == [events.RetireEstimator(slot=0)], "nothing is left to measure"
    assert queue.finished


def test_a_snapshot_that_fails_again_and_again_is_given_up_and_the_rest_goes_on() -> None:
    queue = KeptQueue(snapshots(a=2), max_attempts=2)
    queue.handle(events.EstimatorReady(slot=0))
    failed = events.MeasureRaised(slot=0, snapshot=SnapshotId("a", 0, 0), error="no")
    assert given_out(queue.handle(failed)) == [(0, "a", 0)]
    commands = queue.handle(failed)
    assert commands[0] == events.MeasureFailed(snapshot=SnapshotId("a", 0, 0), error="no")
    assert given_out(commands) == [(0, "a", 1)]
    queue.handle(events.Measured(slot=0, snapshot=SnapshotId("a", 0, 1)))
    assert queue.finished


def test_a_stop_waits_for_what_is_being_measured_and_begins_nothing() -> None:
    queue = KeptQueue(snapshots(a=3), max_attempts=2)
    queue.handle(events.EstimatorReady(slot=0))
    assert queue.handle(events.StopRequested()) == []
    assert not queue.finished
    assert queue.handle(events.Measured(slot=0, snapshot=SnapshotId("a", 0, 0))) == []
    assert queue.finished
    assert queue.num_waiting == 2


def test_estimators_come_and_go_with_the_room_for_them_and_what_they_measured_waits_again() -> None:
    queue = KeptQueue(snapshots(a=3), max_attempts=1)
    assert queue.handle(events.RoomChanged(trainers=0, estimators=2)) == [
        events.ReplaceEstimator(slot=0),
        events.ReplaceEstimator(slot=1),
    ]
    for slot in (0, 1):
        queue.handle(events.EstimatorReady(slot=slot))
    assert queue.handle(events.RoomChanged(trainers=0, estimators=1)) == [events.RetireEstimator(slot=1)]
    assert queue.num_waiting == 2
    assert given_out(queue.handle(events.Measured(slot=0, snapshot=SnapshotId("a", 0, 0)))) == [(0, "a", 1)]


@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1),
    slots=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_whatever_dies_every_snapshot_ends_measured_or_given_up_once(
    counts: dict[str, int], slots: int, seed: int
) -> None:
    chance = random.Random(seed)
    everything = snapshots(**counts)
    queue = KeptQueue(everything, max_attempts=3)
    busy: dict[int, SnapshotId] = {}
    ended: list[SnapshotId] = []
    news: list[events.Event] = [events.EstimatorReady(slot=slot) for slot in range(slots)]
    while not queue.finished:
        if not news:
            slot = chance.choice(sorted(busy))
            snapshot = busy.pop(slot)
            kind = chance.random()
            if kind < 0.6:
                ended.append(snapshot)
                news.append(events.Measured(slot=slot, snapshot=snapshot))
            elif kind < 0.8:
                news.append(events.MeasureRaised(slot=slot, snapshot=snapshot, error="raised"))
            else:
                news.append(events.EstimatorDied(slot=slot, error="died"))
        for command in queue.handle(news.pop(0)):
            match command:
                case events.Measure(slot=slot, snapshot=snapshot):
                    assert slot not in busy
                    busy[slot] = snapshot
                case events.MeasureFailed(snapshot=snapshot):
                    ended.append(snapshot)
                case events.ReplaceEstimator(slot=slot):
                    news.append(events.EstimatorReady(slot=slot))
    assert sorted(ended) == sorted(everything)
