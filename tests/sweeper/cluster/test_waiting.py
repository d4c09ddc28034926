"""Workers without a place: the reason, told soon, rarely, and never for those that merely start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest

from sweeper.cluster.waiting import NodeRoom, Waiting, Want, explain


def node(cpus: float, gpus: float = 0, *, free: tuple[float, float] | None = None) -> NodeRoom:
    left = (cpus, gpus) if free is None else free
    return NodeRoom(total={"cpus": cpus, "gpus": gpus}, free={"cpus": left[0], "gpus": left[1]})


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "reason"),
    [
        (1, 1, [node(8)], "1 GPU (2 trainers): the cluster has none; set resources.trainers.gpus: 0"),
        (
            4,
            0,
            [node(2), node(3)],
            "4 CPUs (2 trainers): no node has more than 3 CPUs; set resources.trainers.cpus: 3",
        ),
        (
            4,
            1,
            [node(8), node(2, 1)],
            "4 CPUs and 1 GPU (2 trainers): no single node has both; lower resources.trainers.cpus or "
            "resources.trainers.gpus",
        ),
        (
            2,
            0,
            [node(4, free=(1, 0)), node(4, free=(0.5, 0)), node(1)],
            "2 CPUs (2 trainers): only 1.5 of 8 CPUs are free, the rest is taken by other jobs or by this sweep's own "
            "workers; they start when it is released; lower resources.*.count to continue with fewer",
        ),
        (1, 0, [node(4)], "1 CPU (2 trainers): 4 of 4 CPUs are free, but Ray has not placed the workers yet"),
        (1, 0, [], "1 CPU (2 trainers): the cluster has none; set resources.trainers.cpus: 0"),
    ],
)
def test_the_reason_names_what_is_missing_and_what_to_set(
    cpus: float, gpus: float, nodes: Sequence[NodeRoom], reason: str
):
    want = Want(kind="trainer", count=2, each={"cpus": cpus, "gpus": gpus})
    assert explain(want, nodes) == f"waiting for {reason}"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.reason: str | None = None
        self.said: list[tuple[float, str]] = []
        self.asked = 0
        self.answers = True
        self.waiting = Waiting(
            self.ask, lambda text: self.said.append((self.now, text)), lambda: self.now, start=self.start
        )

    def start(self, ask: Callable[[], str | None]) -> Future[str | None]:
        question: Future[str | None] = Future()
        if self.answers:
            question.set_result(ask())
        return question

    def ask(self) -> str | None:
        self.asked += 1
        return self.reason

    def pass_s(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            self.waiting.look()


def test_a_worker_that_is_placed_within_seconds_is_not_spoken_of():
    clock = Clock()
    clock.reason = "no room"
    clock.pass_s(4)
    clock.reason = None
    clock.pass_s(60)
    assert clock.said == []
    assert clock.waiting.reason is None


def test_a_reason_is_told_within_ten_seconds_then_rarely_and_its_end_too():
    clock = Clock()
    clock.reason = "no room"
    clock.pass_s(10)
    assert clock.said == [(105.0, "no room")]
    assert clock.waiting.reason == "no room"
    clock.pass_s(3600)
    assert 5 <= len(clock.said) <= 12
    clock.reason = None
    clock.pass_s(5)
    assert clock.said[-1][1] == "the waiting workers now have a place"
    assert clock.waiting.reason is None


def test_a_cluster_that_never_answers_holds_nobody_up_and_is_asked_once():
    clock = Clock()
    clock.reason = "no room"
    clock.pass_s(10)
    clock.answers = False
    clock.pass_s(3600)
    assert clock.waiting.reason == "no room"
    assert clock.said == [(105.0, "no room")]


def test_asking_is_rare_since_it_costs_a_round_trip():
    clock = Clock()
    clock.pass_s(60)
    assert clock.asked <= 24
