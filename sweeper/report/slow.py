"""What was slow in a run, and why: its slowest trials and workers next to the others, from its journal alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low

from sweeper.labels import counted, duration
from sweeper.report.times import Spent, build_times, spent_by_trial, worker_name
from sweeper.store.journal import RunState, TrialState
from sweeper.store.records import CommittedSegment

__all__ = ["Slow", "SlowTrial", "SlowWorker", "slowest"]

_STANDS_OUT = 1.25
"""Times the median from which on something is called slow."""

_LEAST_S = 0.5
"""Less time than that needs no reason."""


@dataclass(frozen=True, kw_only=True)
class SlowTrial:
    """One of the slowest trials.

    Attributes:
        trial_id: Its id.
        trial: Its label.
        seconds: For which it held a trainer.
        of_median: The same, in medians over all trials that have begun.
        why: What took longer than in the others, in words.
    """

    trial_id: str
    trial: str
    seconds: float
    of_median: float | None
    why: str


@dataclass(frozen=True, kw_only=True)
class SlowWorker:
    """One of the slowest workers.

    Attributes:
        worker: Its host and process.
        seconds: For which it was at work or could have been.
        step_ratio: How long a step took there, where 1 is the median over the workers that trained the same cells.
        why: What it spent time on besides training, or how its steps compare, in words.
    """

    worker: str
    seconds: float
    step_ratio: float
    why: str


@dataclass(frozen=True, kw_only=True)
class Slow:
    """What was slow.

    Attributes:
        trials: The slowest, the slowest first.
        workers: Those with the slowest steps or the most time without training, the worst first.
        advice: What to change, if one thing stands out.
    """

    trials: tuple[SlowTrial, ...]
    workers: tuple[SlowWorker, ...]
    advice: tuple[str, ...]


def slowest(run: str, state: RunState, *, most: int = 5) -> Slow:
    """The slowest trials and workers of a run.

    Args:
        run: The run directory, as it will be shown.
        state: The run.
        most: How many of each.

    Returns:
        Them; none of a run that has committed nothing.
    """
    times = build_times(run, state)
    spent = spent_by_trial(state)
    ratios = _step_ratios(state)
    usual_s = median(map(_seconds, spent.values())) if spent else 0.0
    trials = [
        SlowTrial(
            trial_id=name,
            trial=spent[name].label,
            seconds=_seconds(spent[name]),
            of_median=_seconds(spent[name]) / usual_s if usual_s > 0 else None,
            why=_why_trial(spent[name], list(spent.values()), _note(state.trials[name], ratios)),
        )
        for name in sorted(spent, key=lambda name: -_seconds(spent[name]))[:most]
    ]
    rows = sorted(times.rows, key=lambda row: -max(ratios.get(row.label, 1.0) - 1, _share_lost(row)))[:most]
    workers = [
        SlowWorker(
            worker=row.label,
            seconds=_seconds(row) + row.idle_s,
            step_ratio=ratios.get(row.label, 1.0),
            why=_why_worker(row, ratios.get(row.label, 1.0)),
        )
        for row in rows
    ]
    return Slow(trials=tuple(trials), workers=tuple(workers), advice=times.advice)


def _known(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else seconds


def _seconds(spent: Spent) -> float:
    """For how long it held a trainer."""
    return spent.train_s + spent.evaluate_s + _known(spent.waited_s) + spent.other_s


def _why_trial(one: Spent, all_of_them: Sequence[Spent], note: str) -> str:
    """What a trial took longer for than the trial in the middle, the largest part first."""
    usual_s = median(map(_seconds, all_of_them))
    if _seconds(one) < max(_STANDS_OUT * usual_s, usual_s + _LEAST_S):
        return "no longer than the others" if len(all_of_them) > 1 else "the only one"
    beyond = {
        name: _known(getattr(one, name)) - median(_known(getattr(other, name)) for other in all_of_them)
        for name in ("train_s", "evaluate_s", "waited_s", "other_s")
    }
    largest = max(beyond, key=lambda name: beyond[name])
    seconds = duration(_known(getattr(one, largest)))
    match largest:
        case "waited_s":
            why = f"waited {seconds} for estimators"
        case "evaluate_s":
            why = f"evaluated for {seconds}"
        case "other_s":
            why = f"{seconds} to build the problem, resume and write checkpoints"
        case _:
            why = _why_training(one, all_of_them)
    return why + note


def _why_training(one: Spent, all_of_them: Sequence[Spent]) -> str:
    usual = median(other.steps for other in all_of_them)
    steps_s = [other.train_s / other.steps for other in all_of_them if other.steps]
    each_s = one.train_s / one.steps if one.steps else 0.0
    more, slower = (one.steps / usual if usual else 1.0), (each_s / median(steps_s) if steps_s else 1.0)
    if more >= slower:
        return f"{counted(one.steps, 'step')}, {more:.1f} times as many as others"
    return f"a step took {1000 * each_s:.3g} ms, {slower:.1f} times as long as in others"


def _note(trial: TrialState, ratios: Mapping[str, float]) -> str:
    """What else may have made a trial slow: its worker, and attempts that came to nothing."""
    workers = {worker_name(segment) for segment in trial.segments}
    slow = sorted(worker for worker in workers if ratios.get(worker, 1.0) >= _STANDS_OUT)
    lost = len(trial.attempts - {(segment.driver_epoch, segment.attempt) for segment in trial.segments})
    return (f"; on a slow worker, {', '.join(slow)}" if slow else "") + (
        f"; {counted(lost, 'attempt')} besides came to nothing" if lost else ""
    )


def _share_lost(row: Spent) -> float:
    """The share of a worker's time in which it did not train."""
    total = _seconds(row) + row.idle_s
    return (total - row.train_s) / total if total >= _LEAST_S else 0.0


def _why_worker(row: Spent, ratio: float) -> str:
    """What a worker did besides training, or how its steps compare; the worst first."""
    total = _seconds(row) + row.idle_s
    lost = {
        "evaluating": row.evaluate_s,
        "waiting for estimators": _known(row.waited_s),
        "building problems, resuming and writing checkpoints": row.other_s,
        "without committed work, at the end or in attempts that came to nothing": row.idle_s,
    }
    what = max(lost, key=lambda name: lost[name])
    found = []
    if ratio >= _STANDS_OUT:
        found.append(f"a step took {ratio:.1f} times as long as on other workers that trained the same cells")
    if lost[what] >= max(_LEAST_S, (_STANDS_OUT - 1) * total):
        found.append(f"{duration(lost[what])} of {duration(total)} {what}")
    return "; ".join(found) or "nothing stands out"


def _step_ratios(state: RunState) -> dict[str, float]:
    """Worker to how long its steps took, where 1 is the median over workers for a step of the same cell."""
    cells: dict[str, dict[str, list[CommittedSegment]]] = {}
    for trial in state.trials.values():
        for segment in trial.segments:
            if segment.facts.num_steps > 0 and segment.facts.train_s > 0:
                cell = cells.setdefault(trial.record.cell_id, {})
                cell.setdefault(worker_name(segment), []).append(segment)
    taken: dict[str, float] = {}
    usual: dict[str, float] = {}
    for cell in cells.values():
        steps = {worker: sum(segment.facts.num_steps for segment in of) for worker, of in cell.items()}
        seconds = {worker: sum(segment.facts.train_s for segment in of) for worker, of in cell.items()}
        # The lower of two: one of them is not slower than their mean alone.
        each = median_low(seconds[worker] / steps[worker] for worker in cell)
        for worker in cell:
            taken[worker] = taken.get(worker, 0.0) + seconds[worker]
            usual[worker] = usual.get(worker, 0.0) + each * steps[worker]
    return {worker: taken[worker] / usual[worker] for worker in taken}
