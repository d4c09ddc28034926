"""A sweep at one moment, for people, and who receives it."""

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


@dataclass(frozen=True, kw_only=True)
class View:
    """The sweep at one moment, for people.

    Attributes:
        counts: Trials by status word.
        total: All trials of this run.
        steps_done: Steps trained, of the trials of this run.
        steps_total: Steps that there are to train altogether.
        active: What the trainers are doing.
        waiting: Trials that wait for a trainer.
        queued_snapshots: Snapshots that wait for an estimator.
        measuring: Snapshots that are being measured.
        measured: Snapshots measured by this driver.
        held_back: Whether trainers wait for the estimators.
        stopping: Whether the sweep is ending early.
        waiting_for: Why workers that were asked for do not start; None where they do.
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


class Listener(Protocol):
    """Receives progress."""

    def show(self, view: View) -> None:
        """The sweep as it is now; called several times a second."""

    def say(self, text: str) -> None:
        """Something happened; one line."""


class Silent:
    """A listener that shows nothing; what is said stands in the driver's log all the same."""

    def show(self, view: View) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
