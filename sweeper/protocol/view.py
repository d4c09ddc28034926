"""The state of a sweep at one moment, for people, and the protocol of who receives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Active", "Listener", "Silent", "View"]


@dataclass(frozen=True, kw_only=True)
class Active:
    """What one trainer is doing."""

    trial: str
    step: int
    steps: int
    loss: float | None
    clipped_fraction: float | None
    trial_id: str = ""


@dataclass(frozen=True, kw_only=True)
class View:
    """The sweep at one moment, for people.

    Attributes:
        counts: Number of trials by status; of snapshots, where kept ones are measured again.
        total: All trials of this run, or all these snapshots.
        steps_done: Steps trained so far, over all trials of this run, or snapshots measured.
        steps_total: Steps to train in total, or snapshots to measure.
        active: What the trainers are doing.
        waiting: Trials waiting for a trainer.
        queued_snapshots: Snapshots waiting for an estimator.
        measuring: Snapshots that are being measured.
        measured: Snapshots measured by this driver.
        held_back: Whether trainers wait for the estimators.
        stopping: Whether the sweep is ending early.
        waiting_for: Why requested workers do not start; None if they do.
        elapsed_s: Seconds since the driver started.
        left_s: Seconds until it is done, as far as can be told; None where that is unknown. Of a search, for the trials
            that it has asked for so far.
        search: What a search knows, in one line; None without one.
    """

    counts: Mapping[str, int]
    total: int
    steps_done: int
    steps_total: int
    active: tuple[Active, ...]
    waiting: int
    queued_snapshots: int
    measuring: int
    measured: int
    held_back: bool
    stopping: bool
    waiting_for: str | None = None
    elapsed_s: float = 0.0
    left_s: float | None = None
    search: str | None = None


class Listener(Protocol):
    """Receives progress."""

    def show(self, view: View) -> None:
        """Show the sweep as it is now; called several times per second."""

    def say(self, text: str) -> None:
        """Report something that happened, in one line."""


class Silent:
    """A listener that shows nothing; messages are still written to the driver's log."""

    def show(self, view: View) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
