"""The state of a plan in a run directory: what is new, paused, done, failed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sweeper.planning.plan import Plan, Trial
from sweeper.spec import Sweep
from sweeper.store.journal import RunState, TrialState

__all__ = ["Standing", "default_run_dir", "held_in", "standing"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A plan compared with what a run directory already holds.

    Attributes:
        new: Trials that were never begun.
        paused: Trials with a committed segment but no end; a driver may be at work on them now.
        held: Trials that a search holds, and wants no more of for now.
        done: Trials that ended, including diverged ones.
        failed: Trials given up; `clipsweep retry` queues them again.
        foreign: Unresolved trials of an earlier spec that this one neither has nor replaces.
    """

    new: tuple[Trial, ...]
    paused: tuple[Trial, ...]
    held: tuple[Trial, ...]
    done: tuple[Trial, ...]
    failed: tuple[Trial, ...]
    foreign: tuple[str, ...]


def default_run_dir(sweep: Sweep) -> Path:
    """``runs/<name>`` below the current folder."""
    return Path("runs") / sweep.name


def standing(plan: Plan, state: RunState, *, go_on: Collection[str] = ()) -> Standing:
    """Sort the trials of a plan by what remains to be done.

    Args:
        plan: The plan.
        state: The run.
        go_on: Trials that were held by a search, and are to go on.

    Returns:
        The plan's trials by kind, each in the order of the plan.
    """
    kinds: dict[str, list[Trial]] = {"new": [], "paused": [], "held": [], "done": [], "failed": []}
    for trial in plan.trials:
        known = state.trials.get(trial.trial_id)
        kinds["paused" if known is not None and trial.trial_id in go_on else _kind(known)].append(trial)
    planned = {trial.trial_id for trial in plan.trials}
    settled = planned | state.superseded
    foreign = tuple(name for name, trial in state.trials.items() if name not in settled and not trial.resolved)
    return Standing(**{kind: tuple(trials) for kind, trials in kinds.items()}, foreign=foreign)


def held_in(plan: Plan, state: RunState) -> dict[str, None]:
    """The trials of a plan without a search that one of an earlier spec has held: they go on to their end.

    Args:
        plan: The plan.
        state: The run.

    Returns:
        Their ids, each with the step at which it is to be held next, which is None.
    """
    trials = (trial.trial_id for trial in plan.trials)
    return {name: None for name in trials if (known := state.trials.get(name)) is not None and known.held}


def _kind(known: TrialState | None) -> str:
    if known is None:
        return "new"
    if known.given_up:
        return "failed"
    if known.resolved:
        return "held" if known.held else "done"
    return "paused" if known.segments else "new"
