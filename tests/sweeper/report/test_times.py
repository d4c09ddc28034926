"""Where a run's time went, from segments whose seconds are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from sweeper.protocol.messages import SegmentFacts
from sweeper.report.render.times import render_times
from sweeper.report.times import GROUPS, build_times, closing_line
from sweeper.store.journal import RunState, apply
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.records import Committed, CommittedSegment, Opened, Planned, dump_record, parse_record
from sweeper.store.spans import spans_of, worked_s

RATE = "update_rule.learning_rate"


def segment(
    trial: str, begin: float, end: float, *, pid: int | None = 1, epoch: int = 1, **seconds: Any
) -> CommittedSegment:
    facts: Mapping[str, Any] = {
        "num_steps": 10,
        "num_clipped": 0,
        "train_s": 0.0,
        "evaluate_s": 0.0,
        "num_snapshots": 3,
        "host": "tall",
        "node": "f00dcafe01",
        **seconds,
    }
    return CommittedSegment(
        trial=trial,
        driver_epoch=epoch,
        attempt=1,
        start=0,
        stop=10,
        outcome="done",
        checkpoint=None,
        measurement="m",
        facts=SegmentFacts(started_at=begin, ended_at=end, pid=pid, **facts),
    )


def run_of(*segments: CommittedSegment, opened: Mapping[int, float | None]) -> RunState:
    state = RunState()
    names = list(dict.fromkeys(one.trial for one in segments))
    apply(state, Planned(measurement="m", measure=None, trials=tuple(map(planned, names))))
    for epoch, at in opened.items():
        apply(state, Opened(driver_epoch=epoch, environment={}, started_at=at))
        apply(state, Committed(parts=(), segments=tuple(one for one in segments if one.driver_epoch == epoch)))
    return state


def planned(name: str) -> TrialRecord:
    return TrialRecord(
        trial_id=name,
        cell_id=name,
        arm="sgd",
        seed=0,
        swept={RATE: float(len(name))},
        learning_rate=1.0,
        clip_norm=None,
        steps=10,
    )


@pytest.fixture
def two_workers() -> RunState:
    """From 100 to 160; two trainers begin at 110 and have work until 160 and 140."""
    return run_of(
        segment("a", 110, 140, pid=1, train_s=12.0, evaluate_s=8.0, waited_s=6.0, estimate_s=9.0),
        segment("bb", 145, 160, pid=1, train_s=10.0, evaluate_s=1.0, waited_s=2.0, estimate_s=5.0),
        segment("ccc", 110, 140, pid=2, train_s=20.0, evaluate_s=4.0, waited_s=1.0, estimate_s=3.0),
        opened={1: 100.0},
    )


def test_seconds_of_trainers_add_up_to_the_time_that_they_were_there(two_workers: RunState) -> None:
    times = build_times("runs/a", two_workers)
    assert (times.drivers, times.total_s, times.starting_s) == (1, 60.0, 10.0)
    first, second = sorted(times.rows, key=lambda row: row.label)
    assert (first.label, first.trials, first.steps, first.snapshots) == ("tall pid 1", 2, 20, 6)
    # 45 s under way, of which 39 are accounted for; 5 s between its trials.
    assert (first.train_s, first.evaluate_s, first.waited_s, first.other_s, first.idle_s) == (22, 9, 8, 6, 5)
    assert (second.train_s, second.other_s, second.idle_s) == (20, 5, 20)
    for row in (first, second):
        assert row.train_s + row.evaluate_s + row.waited_s + row.other_s + row.idle_s == times.total_s - 10
    assert times.whole.idle_s == 25
    assert times.whole.estimate_s == 17


@pytest.mark.parametrize("by", GROUPS)
def test_every_grouping_adds_up_to_the_whole(two_workers: RunState, by: str) -> None:
    times = build_times("runs/a", two_workers, by=by)
    assert len(times.rows) == {"trial": 3, "worker": 2, "node": 1}[by]
    for name in ("steps", "snapshots", "train_s", "evaluate_s", "waited_s", "other_s", "estimate_s"):
        assert sum(getattr(row, name) for row in times.rows) == pytest.approx(getattr(times.whole, name))


def test_pauses_between_drivers_are_nobodys_time() -> None:
    state = run_of(
        segment("a", 110, 120, epoch=1, train_s=10.0),
        segment("b", 5010, 5030, epoch=2, train_s=20.0, pid=7),
        opened={1: 105.0, 2: 5000.0, 3: 9000.0},
    )
    assert [(span.starting_s, span.total_s) for span in spans_of(state)] == [(5.0, 15.0), (10.0, 30.0)]
    assert [worked_s(state, before=epoch) for epoch in (1, 2, 3)] == [0.0, 15.0, 45.0]
    times = build_times("runs/a", state)
    assert (times.drivers, times.starting_s, times.whole.idle_s) == (2, 15.0, 0.0)


def test_what_an_earlier_version_did_not_record_is_unknown_not_zero() -> None:
    state = run_of(
        segment("a", 110, 120, pid=None, node=None, train_s=4.0, waited_s=None, num_snapshots=None), opened={1: None}
    )
    times = build_times("runs/a", state)
    assert math.isnan(times.starting_s)
    assert math.isnan(times.whole.waited_s)
    assert math.isnan(times.whole.snapshots)
    assert times.total_s == 10.0
    table = render_times(times, "table")
    assert "waiting" not in table
    assert "until the first step" not in table
    json.loads(render_times(times, "json"), parse_constant=pytest.fail)


def test_trials_that_run_side_by_side_share_their_seconds() -> None:
    state = run_of(*(segment(name, 110, 120, train_s=5.0, waited_s=0.0) for name in ("a", "bb")), opened={1: 108.0})
    by_worker, by_trial = build_times("r", state), build_times("r", state, by="trial")
    assert [row.other_s for row in by_worker.rows] == [0.0]
    assert [row.other_s for row in by_trial.rows] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("seconds", "advised"),
    [
        ({"train_s": 10.0, "evaluate_s": 30.0}, "evaluating took 3.0 times as long as training"),
        ({"train_s": 10.0, "evaluate_s": 1.0, "waited_s": 29.0}, "trainers waited 72 % of their time for estimators"),
        ({"train_s": 39.0, "evaluate_s": 1.0}, None),
    ],
)
def test_what_stands_out_is_named_with_what_to_change(seconds: Mapping[str, float], advised: str | None) -> None:
    times = build_times("r", run_of(segment("a", 110, 150, **seconds), opened={1: 100.0}))
    assert [text[: len(advised or "")] for text in times.advice] == ([advised] if advised else [])
    assert all(text in render_times(times, "table") for text in times.advice)


def test_the_closing_line_is_of_the_last_driver_alone(two_workers: RunState) -> None:
    line = closing_line(two_workers)
    assert line == (
        "time of the trainers and their estimators: training 42 s, evaluating 13 s, measuring 17 s, "
        "waiting for estimators 9 s; 10 s until the first step"
    )
    apply(two_workers, Opened(driver_epoch=2, environment={}, started_at=500.0))
    assert closing_line(two_workers) is None


def test_a_long_run_shows_its_longest_rows_and_its_sum() -> None:
    segments = [segment("x" * n, 100 * n, 100 * n + n, train_s=float(n), waited_s=0.0) for n in range(1, 61)]
    times = build_times("r", run_of(*segments, opened={1: 0.0}), by="trial")
    lines = render_times(times, "table").splitlines()
    assert any("learning_rate=60" in line for line in lines)
    assert not any("learning_rate=20 " in line for line in lines)
    assert any("all" in line and "1830.0" in line for line in lines)
    assert any("40 of 60 rows" in line for line in lines)
    assert len(render_times(times, "csv").splitlines()) == 61


def test_when_a_driver_started_is_in_the_journal_and_not_required_of_earlier_ones() -> None:
    opened = Opened(driver_epoch=3, environment={}, started_at=12.5)
    assert parse_record(dump_record(opened)) == opened
    before = {"type": "opened", "format": 1, "epoch": 3, "environment": {}}
    assert parse_record(before) == Opened(driver_epoch=3, environment={})
    assert dump_record(Opened(driver_epoch=3, environment={})) == before
