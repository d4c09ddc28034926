"""Where the time of a run went: training, evaluating, measuring, waiting, starting; from its journal alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sweeper.labels import duration
from sweeper.store.journal import RunState
from sweeper.store.records import CommittedSegment
from sweeper.store.spans import Span, spans_of

__all__ = ["GROUPS", "Spent", "Times", "build_times", "closing_line", "spent_by_trial", "worker_name"]

GROUPS = ("trial", "worker", "node")
"""What times can be told by."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Where the time of some segments went, in seconds of trainers unless it says otherwise.

    Attributes:
        label: The trial, the worker (host and process) or the node.
        trials: Trials among them.
        steps: Steps trained.
        snapshots: Snapshots taken; NaN if an earlier version did not record it.
        train_s: Training.
        evaluate_s: Evaluating the problem's metrics.
        waited_s: Waiting for estimators to take a snapshot; NaN if an earlier version did not record it.
        other_s: Building the problem, resuming and writing checkpoints.
        idle_s: Without committed work while others were at work: between trials, after the last one, or in attempts
            that failed or were cut off. NaN of a trial.
        estimate_s: What estimators took for the snapshots: their seconds, added up.
    """

    label: str
    trials: int
    steps: int
    snapshots: float
    train_s: float
    evaluate_s: float
    waited_s: float
    other_s: float
    idle_s: float
    estimate_s: float


@dataclass(frozen=True, kw_only=True)
class Times:
    """Where the time of a run went.

    Attributes:
        run: The run directory.
        drivers: Drivers that committed something.
        total_s: Seconds for which they were at work, by the clock.
        starting_s: Seconds of those until the first trial began; NaN if an earlier version did not record it.
        by: What the rows are told by.
        rows: By trial, worker or node; the longest first.
        whole: All of it.
        advice: What to change, if one thing stands out; the clearest first.
        uncommitted: Attempts that failed or were cut off before they committed anything; their time is in no row.
        recorder: What recorded loops of the user's own; None for a sweep, whose keys alone ``advice`` names.
    """

    run: str
    drivers: int
    total_s: float
    starting_s: float
    by: str
    rows: tuple[Spent, ...]
    whole: Spent
    advice: tuple[str, ...]
    uncommitted: int
    recorder: str | None = None


def build_times(run: str, state: RunState, *, by: str = "worker") -> Times:
    """Add up the time of a run.

    Args:
        run: The run directory, as it will be shown.
        state: The run.
        by: One of :data:`GROUPS`.

    Returns:
        The times. Trials that a changed spec has replaced count: their time was spent.

    Raises:
        ValueError: ``by`` is unknown.
    """
    spans = spans_of(state)
    segments = [segment for span in spans for segment in span.segments]
    # Which process, not which slot: a slot gets a new process when its old one dies.
    workers = _grouped(segments, worker_name)
    idle = {worker: _idle(of, spans) for worker, of in workers.items()}
    other = {worker: _other(of) for worker, of in workers.items()}
    match by:
        case "worker":
            rows = [_spent(name, of, other=other[name], idle=idle[name]) for name, of in workers.items()]
        case "node":
            rows = [
                _spent(
                    name,
                    of,
                    other=sum(other[worker] for worker in {worker_name(segment) for segment in of}),
                    idle=sum(idle[worker] for worker in {worker_name(segment) for segment in of}),
                )
                for name, of in _grouped(segments, _node).items()
            ]
        case "trial":
            rows = list(spent_by_trial(state).values())
        case _:
            raise ValueError(f"unknown group {by!r}; known: {', '.join(GROUPS)}")
    starting = [math.nan if span.starting_s is None else span.starting_s for span in spans]
    whole = _spent("all", segments, other=sum(other.values()), idle=sum(idle.values()))
    return Times(
        run=run,
        drivers=len(spans),
        total_s=sum(span.total_s for span in spans),
        starting_s=sum(starting),
        by=by,
        rows=tuple(sorted(rows, key=lambda row: -(row.train_s + row.evaluate_s + _known(row.waited_s)))),
        whole=whole,
        advice=() if state.recorder is not None else tuple(_advice(whole)),
        recorder=state.recorder,
        uncommitted=sum(
            len(trial.attempts - {(segment.driver_epoch, segment.attempt) for segment in trial.segments})
            for trial in state.trials.values()
        ),
    )


def spent_by_trial(state: RunState) -> dict[str, Spent]:
    """Where the time of each trial went.

    Args:
        state: The run.

    Returns:
        Trial id to its times; trials that have committed nothing are left out.
    """
    segments = [segment for span in spans_of(state) for segment in span.segments]
    labels = state.labels()
    shared = {id(segment) for of in _grouped(segments, worker_name).values() for segment in _side_by_side(of)}
    return {
        name: _spent(
            labels[name],
            of,
            other=_other([segment for segment in of if id(segment) not in shared]),
            idle=math.nan,
        )
        for name, of in _grouped(segments, lambda segment: segment.trial).items()
    }


def closing_line(state: RunState) -> str | None:
    """Where the time of the last driver went, in one line.

    Args:
        state: The run.

    Returns:
        The line; None if it committed nothing.
    """
    spans = [span for span in spans_of(state) if span.driver_epoch == state.driver_epoch]
    if not spans:
        return None
    (span,) = spans
    facts = [segment.facts for segment in span.segments]
    parts = {
        "training": sum(fact.train_s for fact in facts),
        "evaluating": sum(fact.evaluate_s for fact in facts),
        "measuring": sum(fact.estimate_s for fact in facts),
        "waiting for estimators": sum(fact.waited_s or 0.0 for fact in facts),
    }
    text = ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts.items() if seconds >= 0.5)
    started = f"; {duration(span.starting_s)} until the first step" if span.starting_s is not None else ""
    return f"time of the trainers and their estimators: {text or 'under a second'}{started}"


def _grouped(
    segments: Iterable[CommittedSegment], key: Callable[[CommittedSegment], str]
) -> dict[str, list[CommittedSegment]]:
    groups: dict[str, list[CommittedSegment]] = {}
    for segment in segments:
        groups.setdefault(key(segment), []).append(segment)
    return groups


def worker_name(segment: CommittedSegment) -> str:
    """Which process trained a segment.

    Args:
        segment: The segment.

    Returns:
        Its host and process id; the host alone for runs of an early version.
    """
    facts = segment.facts
    return facts.host if facts.pid is None else f"{facts.host} pid {facts.pid}"


def _node(segment: CommittedSegment) -> str:
    facts = segment.facts
    return facts.host if facts.node is None else f"{facts.host} ({facts.node[:8]})"


def _spent(label: str, segments: Sequence[CommittedSegment], *, other: float, idle: float) -> Spent:
    facts = [segment.facts for segment in segments]
    return Spent(
        label=label,
        trials=len({segment.trial for segment in segments}),
        steps=sum(segment.stop - segment.start for segment in segments),
        snapshots=sum(math.nan if fact.num_snapshots is None else fact.num_snapshots for fact in facts),
        train_s=sum(fact.train_s for fact in facts),
        evaluate_s=sum(fact.evaluate_s for fact in facts),
        waited_s=sum(math.nan if fact.waited_s is None else fact.waited_s for fact in facts),
        other_s=other,
        idle_s=idle,
        estimate_s=sum(fact.estimate_s for fact in facts),
    )


def _busy(segments: Iterable[CommittedSegment]) -> float:
    """Seconds covered by segments of one worker; analytic trials run side by side, so theirs overlap."""
    covered, reached = 0.0, -math.inf
    for begin, end in sorted((segment.facts.started_at, segment.facts.ended_at) for segment in segments):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def _side_by_side(segments: Iterable[CommittedSegment]) -> Iterator[CommittedSegment]:
    """Segments of one worker that overlap with another: analytic trials, which share their seconds."""
    before: CommittedSegment | None = None
    for segment in sorted(segments, key=lambda segment: (segment.facts.started_at, segment.facts.ended_at)):
        if before is not None and segment.facts.started_at < before.facts.ended_at:
            yield from (before, segment)
        if before is None or segment.facts.ended_at >= before.facts.ended_at:
            before = segment


def _other(segments: Sequence[CommittedSegment]) -> float:
    """Seconds of one worker's segments that are neither training, evaluating nor waiting."""
    return max(0.0, _busy(segments) - sum(segment.facts.busy_s for segment in segments))


def _idle(segments: Sequence[CommittedSegment], spans: Sequence[Span]) -> float:
    """Seconds for which a worker had nothing to do while its driver's trials were under way."""
    total = 0.0
    for span in spans:
        own = [segment for segment in segments if segment.driver_epoch == span.driver_epoch]
        if own:
            total += max(0.0, span.last_at - span.first_at - _busy(own))
    return total


def _known(seconds: float) -> float:
    return 0.0 if math.isnan(seconds) else seconds


_LEAST_S = 20.0
"""Less time than that is not worth advice."""

_STANDS_OUT = 0.25
"""A share of the trainers' time that is worth a line."""


def _advice(whole: Spent) -> Iterable[str]:
    there = whole.train_s + whole.evaluate_s + _known(whole.waited_s) + whole.other_s + whole.idle_s
    if there < _LEAST_S:
        return
    found = []
    if (waited := _known(whole.waited_s)) > _STANDS_OUT * there:
        found.append((
            waited,
            f"trainers waited {_percent(waited / there)} of their time for estimators: measure less often "
            "(measure.every), on less data (measure.data_fraction), or with more estimators "
            "(resources.estimators.count)",
        ))
    if whole.evaluate_s > max(whole.train_s, _STANDS_OUT * there):
        found.append((
            whole.evaluate_s,
            f"evaluating took {whole.evaluate_s / max(whole.train_s, 1e-9):.1f} times as long as training: evaluate "
            "less often (train.evaluate_every)",
        ))
    if whole.idle_s > _STANDS_OUT * there:
        found.append((
            whole.idle_s,
            f"trainers had nothing to show for {_percent(whole.idle_s / there)} of their time: at the "
            "end there were fewer trials than trainers, or attempts failed (see `clipsweep status`)",
        ))
    for _, text in sorted(found, reverse=True):
        yield text


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
