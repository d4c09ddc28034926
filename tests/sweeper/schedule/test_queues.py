"""An estimator follows its trajectory, but never at the cost of a snapshot that waits for ever."""

from __future__ import annotations

from sweeper.protocol.events import Command, Measure, SnapshotId
from sweeper.schedule.queues import SnapshotQueue


def steps(commands: list[Command]) -> list[tuple[int, str, int]]:
    return [(c.slot, c.snapshot.trial, c.snapshot.step) for c in commands if isinstance(c, Measure)]


def of(trial: str, step: int, attempt: int = 1) -> SnapshotId:
    return SnapshotId(trial, attempt, step)


def test_two_estimators_follow_a_trial_each() -> None:
    queue = SnapshotQueue()
    for step in range(3):
        for trial in ("a", "b"):
            queue.add(of(trial, step))
    queue.free(0)
    queue.free(1)
    assert steps(queue.hand_out()) == [(0, "a", 0), (1, "b", 0)]
    for step in (1, 2):
        queue.free(1)
        assert steps(queue.hand_out()) == [(1, "b", step)]
        queue.free(0)
        assert steps(queue.hand_out()) == [(0, "a", step)]


def test_the_oldest_is_passed_over_three_times_at_most() -> None:
    queue = SnapshotQueue()
    queue.free(0)
    queue.add(of("a", 0))
    assert steps(queue.hand_out()) == [(0, "a", 0)]
    queue.add(of("old", 0))
    for step in range(1, 6):
        queue.add(of("a", step))
    order = []
    for _ in range(6):
        queue.free(0)
        order += steps(queue.hand_out())
    assert [trial for _, trial, _ in order] == ["a", "a", "a", "old", "a", "a"]


def test_another_attempt_is_another_trajectory() -> None:
    queue = SnapshotQueue()
    queue.free(0)
    queue.add(of("a", 0))
    queue.hand_out()
    queue.add(of("b", 0))
    queue.add(of("a", 1, attempt=2))
    queue.free(0)
    assert steps(queue.hand_out()) == [(0, "b", 0)]


def test_a_lost_estimator_gives_back_what_it_had_and_gets_nothing_more() -> None:
    queue = SnapshotQueue()
    queue.free(0)
    queue.add(of("a", 0))
    queue.hand_out()
    assert queue.num_measuring == 1
    assert queue.lose(0) == of("a", 0)
    queue.put_back(of("a", 0))
    assert queue.hand_out() == []
    assert (queue.num_waiting, queue.num_measuring) == (1, 0)
    queue.withdraw(of("a", 0))
    assert queue.num_waiting == 0
