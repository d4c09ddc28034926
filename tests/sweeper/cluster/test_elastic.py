"""What the cluster has room for: asked now and then, waited for, given up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from sweeper.cluster.elastic import Answer, Elastic
from sweeper.cluster.waiting import in_background
from sweeper.errors import ClusterError
from sweeper.protocol.pools import PoolSize

TWO = PoolSize(trainers=2, estimators=2)
ONE = PoolSize(trainers=1, estimators=1)


class World:
    """A clock, a head and a room that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers = True
        self.room: PoolSize | None = TWO
        self.asked = 0
        self.hangs = False
        self.elastic = Elastic(
            room=self.ask,
            head_answers=lambda: self.answers,
            size=TWO,
            patience_s=60,
            clock=lambda: self.now,
            start=self.start,
        )

    def start(self, ask: Callable[[], Answer]) -> Future[Answer]:
        future: Future[Answer] = Future()
        if not self.hangs:
            future.set_result(ask())
        return future

    def ask(self) -> PoolSize | None:
        self.asked += 1
        return self.room

    def after(self, seconds: float) -> PoolSize | None:
        self.now += seconds
        return self.elastic.look()


def test_only_what_changes_is_told_and_the_cluster_is_not_asked_all_the_time() -> None:
    world = World()
    assert world.after(0.1) is None
    assert world.asked == 0
    assert world.after(3) is None
    world.room = ONE
    assert world.after(3) == ONE
    assert world.after(3) is None
    world.room = TWO
    assert world.after(3) == TWO
    assert world.asked == 4


def test_no_room_at_all_is_waited_for_and_then_ends_the_sweep_with_how_to_go_on() -> None:
    world = World()
    world.room = None
    assert world.after(50) is None
    world.room = ONE
    assert world.after(3) == ONE
    world.room = None
    assert world.after(50) is None
    with pytest.raises(
        ClusterError, match=r"has had room for a worker for 65 s \(cluster\.patience_s\).*run the same command"
    ) as raised:
        world.after(15)
    assert raised.value.exit_code == 3


def test_a_silent_head_is_not_asked_for_room_and_ends_the_sweep_before_ray_ends_the_process() -> None:
    world = World()
    world.answers = False
    assert world.after(15) is None
    world.answers = True
    assert world.after(3) is None
    world.answers = False
    assert world.after(15) is None
    assert world.asked == 1
    with pytest.raises(
        ClusterError, match="has not answered for 30 s; what was committed is safe: run the same command"
    ):
        world.after(15)


def test_a_question_that_is_never_answered_is_a_silent_head_and_nobody_waits_for_it() -> None:
    world = World()
    world.hangs = True
    assert world.after(15) is None
    with pytest.raises(
        ClusterError, match="has not answered for 30 s; what was committed is safe: run the same command"
    ):
        world.after(15)


def test_a_question_in_the_background_gives_its_answer_or_its_error_and_returns_at_once() -> None:
    never = threading.Event()
    waiting = in_background(lambda: (never.wait(), TWO))
    assert not waiting.done()
    never.set()
    assert waiting.result(timeout=60) == (True, TWO)

    def fail() -> Answer:
        raise ClusterError("gone")

    with pytest.raises(ClusterError, match="gone"):
        in_background(fail).result(timeout=60)
