"""Whoever is slow loses events, and is told; nobody waits for them."""

from __future__ import annotations

import json
import os
import select
import threading
from typing import Any

from sweeper.notify.outlet import Outlet
from sweeper.notify.stream import Stream

EVENT = {"format": 1, "event": "trial_done", "at": "now", "run": "runs/x"}


def event(number: int) -> dict[str, Any]:
    return {**EVENT, "number": number}


def test_an_outlet_hands_on_everything_in_order_before_it_closes() -> None:
    sent: list[Any] = []
    outlet = Outlet(lambda document, dropped: sent.append(document["number"]), room=1000, name="test")
    for number in range(500):
        outlet.hear(event(number))
    assert outlet.close(within_s=60) == 0
    assert sent == list(range(500))


def test_an_outlet_that_is_stuck_drops_what_has_no_room_and_says_how_many() -> None:
    began, go_on = threading.Event(), threading.Event()
    sent: list[tuple[Any, int]] = []

    def send(document: Any, dropped: int) -> None:
        began.set()
        assert go_on.wait(60)
        sent.append((document["number"], dropped))

    outlet = Outlet(send, room=2, name="test")
    outlet.hear(event(0))
    assert began.wait(60)
    for number in range(1, 10):
        outlet.hear(event(number))
    go_on.set()
    assert outlet.close(within_s=60) == 0
    assert sent == [(0, 0), (1, 7), (2, 0)]


def test_closing_an_outlet_that_is_stuck_ends_what_is_sent_and_counts_the_rest() -> None:
    began = threading.Event()
    stopped: list[Any] = []

    def send(document: Any, dropped: int) -> None:
        began.set()
        assert outlet.stop.wait(60)
        stopped.append(document["number"])

    outlet = Outlet(send, room=5, name="test")
    outlet.hear(event(0))
    assert began.wait(60)
    for number in range(1, 4):
        outlet.hear(event(number))
    assert outlet.close(within_s=0.0, to_stop_s=60) == 3
    assert stopped == [0]


def test_a_stream_is_one_json_object_per_line_written_at_once() -> None:
    read, write = os.pipe()
    stream = Stream(write, gone=lambda text: None)
    stream.hear(event(0))
    with os.fdopen(read, "rb") as lines:
        assert json.loads(lines.readline()) == event(0), "readable while the stream is open"
        stream.hear({**event(1), "error": "a\nb\x1b[2J"})
        stream.close()
        os.close(write)
        rest = lines.read()
    assert rest.count(b"\n") == 1
    assert json.loads(rest)["error"] == "a\nb\x1b[2J"
    assert b"\x1b" not in rest


def test_a_reader_that_goes_away_is_told_of_once_and_nothing_raises() -> None:
    read, write = os.pipe()
    os.close(read)
    said: list[str] = []
    stream = Stream(write, gone=said.append)
    for number in range(100):
        stream.hear(event(number))
    stream.close()
    os.close(write)
    assert said == ["events: stdout cannot be written any more (Broken pipe); the sweep goes on"]


def test_a_reader_that_never_reads_holds_nobody_up_and_one_that_is_slow_hears_what_it_missed() -> None:
    read, write = os.pipe()
    said: list[str] = []
    stream = Stream(write, gone=said.append, room=10)
    long = {**EVENT, "text": "x" * 100_000}
    stream.hear(long)
    assert select.select([read], [], [], 60)[0], "the thread writes, and is stuck as the pipe is full"
    for _ in range(100):
        stream.hear(long)
    stream.close(within_s=0.0)
    (text,) = said
    assert text.startswith("events: the reader of stdout has not taken the last ")
    # Read what the pipe holds, so that the thread that is stuck comes free.
    with os.fdopen(read, "rb") as lines:
        assert json.loads(lines.readline()) == long
        os.close(write)


def test_a_stream_says_how_many_events_were_dropped_before_the_next() -> None:
    read, write = os.pipe()
    stream = Stream(write, gone=lambda text: None)
    stream._write(event(7), 3)
    stream.close()
    os.close(write)
    with os.fdopen(read, "rb") as file:
        dropped, following = map(json.loads, file)
    assert (dropped["event"], dropped["count"], dropped["format"]) == ("events_dropped", 3, 1)
    assert following == event(7)
