"""The slowest trials and workers, and the reason that is given for each: from segments whose seconds are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sweeper.protocol.messages import SegmentFacts
from sweeper.report.slow import Slow, slowest
from sweeper.store.journal import RunState, apply
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.records import Committed, CommittedSegment, Failed, Opened, Planned


def run_of(trials: Mapping[str, Mapping[str, Any]]) -> RunState:
    """Trials one after the other on the worker ``pid``, by default 1; each has 10 steps in a second by default."""
    state = RunState()
    records = tuple(
        TrialRecord(
            trial_id=name,
            cell_id=str(facts.get("cell", "cell")),
            arm="sgd",
            seed=seed,
            swept={},
            learning_rate=1.0,
            clip_norm=None,
            steps=10,
        )
        for seed, (name, facts) in enumerate(trials.items())
    )
    apply(state, Planned(measurement="m", measure=None, trials=records))
    apply(state, Opened(driver_epoch=1, environment={}, started_at=0.0))
    segments = []
    ends: dict[int, float] = {}
    for name, facts in trials.items():
        pid, steps = facts.get("pid", 1), facts.get("steps", 10)
        seconds = {"train_s": 1.0, "evaluate_s": 0.0, "waited_s": 0.0}
        seconds |= {key: facts[key] for key in seconds if key in facts}
        begin = ends.get(pid, 1.0)
        ends[pid] = begin + sum(seconds.values()) + facts.get("other_s", 0.0)
        known = SegmentFacts(
            num_steps=steps, num_clipped=0, started_at=begin, ended_at=ends[pid], host="tall", pid=pid, **seconds
        )
        segments.append(
            CommittedSegment(
                trial=name,
                driver_epoch=1,
                attempt=facts.get("attempt", 1),
                start=0,
                stop=steps,
                outcome="done",
                checkpoint=None,
                measurement="m",
                facts=known,
            )
        )
    apply(state, Committed(parts=(), segments=tuple(segments)))
    return state


USUAL: dict[str, dict[str, Any]] = {name: {} for name in ("a", "b", "c", "d")}


def found(**odd: Any) -> Slow:
    return slowest("runs/x", run_of({**USUAL, "odd": odd}))


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"train_s": 4.0, "steps": 40}, "40 steps, 4.0 times as many as others"),
        ({"train_s": 4.0}, "a step took 400 ms, 4.0 times as long as in others"),
        ({"waited_s": 3.0}, "waited 3 s for estimators"),
        ({"evaluate_s": 3.0, "waited_s": 1.0}, "evaluated for 3 s"),
        ({"other_s": 5.0}, "5 s to build the problem, resume and write checkpoints"),
        (
            {"train_s": 4.0, "pid": 2},
            "a step took 400 ms, 4.0 times as long as in others; on a slow worker, tall pid 2",
        ),
    ],
    ids=["steps", "step", "waiting", "evaluating", "starting", "worker"],
)
def test_the_reason_is_what_took_longest_beyond_the_others(odd: dict[str, Any], why: str) -> None:
    slow = found(**odd)
    first = slow.trials[0]
    assert (first.trial_id, first.why) == ("odd", why)
    assert first.of_median == pytest.approx(first.seconds)
    assert {trial.why for trial in slow.trials[1:]} == {"no longer than the others"}


def test_attempts_that_came_to_nothing_are_told_with_the_reason() -> None:
    state = run_of({**USUAL, "odd": {"waited_s": 3.0, "attempt": 2}})
    lost = Failed(trial="odd", driver_epoch=1, attempt=1, kind="lost", error="worker died", final=False)
    apply(state, lost)
    assert slowest("x", state).trials[0].why == "waited 3 s for estimators; 1 attempt besides came to nothing"


def test_a_slow_worker_is_one_whose_steps_of_the_same_cell_take_longer() -> None:
    same = slowest("x", run_of({"a": {}, "b": {"pid": 2, "train_s": 3.0}}))
    assert (same.workers[0].worker, same.workers[0].step_ratio) == ("tall pid 2", 3.0)
    assert "a step took 3.0 times as long as on other workers" in same.workers[0].why
    other = slowest("x", run_of({"a": {}, "b": {"pid": 2, "train_s": 3.0, "cell": "larger"}}))
    assert {worker.step_ratio for worker in other.workers} == {1.0}, "another cell may just be a larger model"


def test_a_worker_with_nothing_to_do_is_told_with_its_time() -> None:
    slow = slowest("x", run_of({**USUAL, "short": {"pid": 2}}))
    assert slow.workers[0].worker == "tall pid 2"
    assert slow.workers[0].why.startswith("3 s of 4 s without committed work")
    assert slow.workers[1].why == "nothing stands out"


def test_only_the_slowest_are_told_and_nothing_of_a_run_that_has_committed_nothing() -> None:
    many = {str(number): {"train_s": 1.0 + number} for number in range(20)}
    assert [trial.trial_id for trial in slowest("x", run_of(many), most=3).trials] == ["19", "18", "17"]
    assert slowest("x", RunState()) == Slow(trials=(), workers=(), advice=())
    (only,) = slowest("x", run_of({"a": {}})).trials
    assert only.why == "the only one"
