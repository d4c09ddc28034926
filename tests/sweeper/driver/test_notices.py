"""What a driver tells machines: every trial that starts, every segment, every ending, each once, after the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sweeper.protocol.notices import SegmentCommitted, TrialDiverged, TrialDone, TrialFailed, TrialStarted

SPEC = """
name: told
problem: {use: deep_linear, layers: 2, width: 6, samples: 32, batch_size: 8}
update_rule: {learning_rate: 0.01}
train: {steps: 30, checkpoint_every: 10, evaluate_every: 10}
sweep:
  grid: {update_rule.learning_rate: [0.01, 500.0]}
"""


def of(told: list[Any], kind: type[Any]) -> list[Any]:
    return [notice for notice in told if isinstance(notice, kind)]


def test_every_segment_and_every_ending_is_told_once(inline_run: Callable[..., Any]) -> None:
    run = inline_run(SPEC)()
    trials = run.driver._committer.state.trials
    assert {(one.trial_id, one.step) for one in of(run.told, TrialStarted)} == {(name, 0) for name in trials}
    committed = [(one.trial_id, one.start, one.stop, one.outcome) for one in of(run.told, SegmentCommitted)]
    assert sorted(committed, key=str) == sorted(
        ((name, one.start, one.stop, one.outcome) for name, trial in trials.items() for one in trial.segments), key=str
    )
    (done,), (diverged,) = of(run.told, TrialDone), of(run.told, TrialDiverged)
    assert (done.trial, done.step, set(done.values)) == ("learning_rate=0.01 seed=0", 30, {"train_loss", "valid_loss"})
    assert diverged.trial == "learning_rate=500 seed=0"
    assert diverged.step == trials[diverged.trial_id].segments[-1].facts.diverged_step
    assert of(run.told, TrialFailed) == []


def test_a_driver_that_goes_on_tells_nothing_of_what_ended_before(inline_run: Callable[..., Any]) -> None:
    first = inline_run(SPEC)()
    again = inline_run(SPEC)()
    assert of(first.told, TrialDiverged)
    assert again.told == []


def test_endings_are_told_once_however_often_workers_die(inline_run: Callable[..., Any]) -> None:
    run = inline_run(SPEC.replace("checkpoint_every: 10", "checkpoint_every: 2"), chaos=0.3, seed=3)()
    assert run.pools.deaths
    endings = [*of(run.told, TrialDone), *of(run.told, TrialDiverged)]
    assert sorted(one.trial_id for one in endings) == sorted(run.driver._committer.state.trials)
    assert max(one.attempt for one in of(run.told, TrialStarted)) > 1


def test_a_trial_that_is_given_up_is_told_of_with_its_status(inline_run: Callable[..., Any]) -> None:
    run = inline_run(SPEC, chaos=1.0)(max_attempts=1)
    failed = of(run.told, TrialFailed)
    states = run.driver._committer.state.trials
    assert {one.trial_id: one.status for one in failed} == {
        name: trial.status() for name, trial in states.items() if trial.given_up
    }
    assert failed
    assert all(one.error for one in failed)
