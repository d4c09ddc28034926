"""How long a sweep will still take, against sweeps whose pace is known."""

from __future__ import annotations

import pytest

from sweeper.driver.time_left import TimeLeft


def followed(left: TimeLeft, *, pace: float, work: float, silent_s: float, until: float) -> float | None:
    """The estimate at a moment of a sweep that starts up in silence and then does ``pace`` units a second."""
    answer = None
    for tick in range(int(until) + 1):
        gained = max(0.0, pace * (tick - silent_s))
        answer = left.estimate(now=1000.0 + tick, gained=gained, left=work - gained, longest=0.0, lanes=2)
    return answer


@pytest.mark.parametrize("silent_s", [0.0, 50.0])
def test_starting_up_does_not_count(silent_s: float) -> None:
    at = silent_s + 30
    assert followed(TimeLeft(per_s=None), pace=2.0, work=260.0, silent_s=silent_s, until=at) == pytest.approx(100.0)
    assert followed(TimeLeft(per_s=2.0), pace=2.0, work=260.0, silent_s=silent_s, until=at) == pytest.approx(100.0)


def test_before_anything_is_seen_it_is_what_the_plan_expects() -> None:
    assert followed(TimeLeft(per_s=4.0), pace=2.0, work=400.0, silent_s=60.0, until=40) == 100.0
    assert followed(TimeLeft(per_s=None), pace=2.0, work=400.0, silent_s=60.0, until=40) is None


@pytest.mark.parametrize("wrong_by", [0.2, 5.0])
def test_a_wrong_expectation_is_outgrown_within_a_minute_or_two(wrong_by: float) -> None:
    work, pace = 2000.0, 2.0
    off = []
    for seconds in (5, 60, 300):
        told = followed(TimeLeft(per_s=pace * wrong_by), pace=pace, work=work, silent_s=10.0, until=10 + seconds)
        assert told is not None
        truth = (work - pace * seconds) / pace
        off.append(max(told / truth, truth / told))
    assert off[0] > off[1] > off[2]
    assert off[1] < 1.6
    assert off[2] < 1.15


def test_the_longest_trial_cannot_be_shared() -> None:
    left = TimeLeft(per_s=4.0)
    # Four lanes at one unit a second each: 40 units are 10 s, unless 30 of them are one trial's.
    assert left.estimate(now=0.0, gained=0.0, left=40.0, longest=10.0, lanes=4) == 10.0
    assert left.estimate(now=0.0, gained=0.0, left=40.0, longest=30.0, lanes=4) == 30.0


def test_work_that_was_done_before_is_not_taken_for_speed() -> None:
    left = TimeLeft(per_s=None)
    for now in range(11):
        told = left.estimate(now=float(now), gained=1000.0 + now, left=100.0 - now, longest=0.0, lanes=1)
    assert told == pytest.approx(90.0)
