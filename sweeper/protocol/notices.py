"""What a run tells machines: the lines of ``run --events jsonl``, and the bodies that ``on`` hands to commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from sweeper.formats import json_text

__all__ = [
    "FORMAT",
    "Dropped",
    "Hears",
    "Notice",
    "RunEnded",
    "RunStarted",
    "SegmentCommitted",
    "Tell",
    "TrialDiverged",
    "TrialDone",
    "TrialFailed",
    "TrialStarted",
    "TrialTold",
    "as_line",
    "document_of",
]

FORMAT = 1
"""Increased when a key changes its meaning or goes; new keys may come without."""


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A driver begins.

    Attributes:
        name: The sweep's name.
        driver_epoch: Which driver of the run it is, counted from 1.
        trials: Trials of the plan.
        to_train: Those that are left to train.
    """

    name: str
    driver_epoch: int
    trials: int
    to_train: int


@dataclass(frozen=True, kw_only=True)
class TrialTold:
    """Which trial something is about.

    Attributes:
        trial_id: Its id.
        cell_id: Id of its cell.
        trial: What it is called.
        seed: Its seed.
    """

    trial_id: str
    cell_id: str
    trial: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class TrialStarted(TrialTold):
    """A trainer is given a trial.

    Attributes:
        attempt: Which attempt under this driver it is, counted from 1, as in ``telemetry``; one that never
            began leaves a gap.
        step: The step from which it goes on.
    """

    attempt: int
    step: int


@dataclass(frozen=True, kw_only=True)
class SegmentCommitted(TrialTold):
    """Steps of a trial are durable.

    Attributes:
        attempt: The attempt that has trained them.
        start: The first step.
        stop: The step after the last one.
        outcome: How the trial ended with them; None if it goes on.
    """

    attempt: int
    start: int
    stop: int
    outcome: str | None


@dataclass(frozen=True, kw_only=True)
class TrialDone(TrialTold):
    """A trial has trained all of its steps.

    Attributes:
        step: How many.
        values: The last finite value of every loss and metric.
    """

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrialDiverged(TrialTold):
    """A trial has diverged.

    Attributes:
        step: The step at which it did.
        values: The last finite value of every loss and metric.
    """

    step: int | None
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrialFailed(TrialTold):
    """A trial was given up after its last attempt.

    Attributes:
        status: ``failed`` if its own code raised or gave other rows than before, ``lost`` if its worker died.
        error: Why, in a line.
    """

    status: str
    error: str


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """A driver ends.

    Attributes:
        exit_code: That of ``clipsweep run``.
        text: The same in words.
        finished: Whether nothing is left to do: neither an interruption nor an error has ended it.
        did_nothing: Whether nothing was left to do from the start.
        counts: Trials of the plan by status.
    """

    exit_code: int
    text: str
    finished: bool = False
    did_nothing: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """The reader was too slow.

    Attributes:
        count: How many events before this one it does not get.
    """

    count: int


Notice: TypeAlias = (
    RunStarted | TrialStarted | SegmentCommitted | TrialDone | TrialDiverged | TrialFailed | RunEnded | Dropped
)

Tell: TypeAlias = Callable[[Notice], None]
"""Takes a notice, at once and whatever happens to it."""


class Hears(Protocol):
    """Takes events as documents."""

    def hear(self, document: Mapping[str, Any]) -> None:
        """Take one, at once: the driver waits for nobody."""


_NAMES: Mapping[type[Any], str] = {
    RunStarted: "run_started",
    TrialStarted: "trial_started",
    SegmentCommitted: "segment_committed",
    TrialDone: "trial_done",
    TrialDiverged: "trial_diverged",
    TrialFailed: "trial_failed",
    RunEnded: "run_ended",
    Dropped: "events_dropped",
}


def document_of(notice: Notice, *, run: str, at: str) -> dict[str, Any]:
    """A notice as a document.

    Args:
        notice: What has happened.
        run: The run directory.
        at: When, in ISO 8601.

    Returns:
        Plain values. Nothing of the environment is among them.

    Example:
        >>> document_of(Dropped(count=2), run="runs/x", at="2026-01-01T00:00:00+00:00")
        {'format': 1, 'event': 'events_dropped', 'at': '2026-01-01T00:00:00+00:00', 'run': 'runs/x', 'count': 2}
    """
    return {"format": FORMAT, "event": _NAMES[type(notice)], "at": at, "run": run, **vars(notice)}


def as_line(document: Mapping[str, Any]) -> bytes:
    r"""A document as a line of JSON.

    Args:
        document: As :func:`document_of` makes it.

    Returns:
        ASCII without a line break but for that at its end; what is not finite is null.

    Example:
        >>> as_line({"error": "a\nb", "loss": float("nan")})
        b'{"error": "a\\nb", "loss": null}\n'
    """
    return json_text(document, indent=None).encode() + b"\n"
