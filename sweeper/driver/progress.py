"""A sweep's progress, for people: a view for the listener, and the same as a file for ``clipsweep status``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from sweeper.labels import counted
from sweeper.planning.plan import Trial
from sweeper.protocol.messages import ProgressItem, SegmentItem
from sweeper.protocol.view import Active, Listener, View
from sweeper.schedule.schedule import Schedule
from sweeper.store.journal import TrialState
from sweeper.store.run_dir import RunDir
from sweeper.tables.schemas import METRICS

__all__ = ["KeptProgress", "TrainingProgress", "ending"]

_SHOW_EVERY_S = 0.2
_LIVE_EVERY_S = 1.0
_SAY_EVERY_S = 10.0


class TrainingProgress:
    """Shows a sweep's progress, often enough to watch and rarely enough to cost little.

    Args:
        run_dir: The run directory.
        trials: Every trial of the plan by id.
        states: Their states according to the journal; kept up to date by others.
        schedule: Knows what waits and which trainer works on what.
        listener: Receives the view and the messages.
        labels: Trial id to its readable name.
    """

    def __init__(
        self,
        *,
        run_dir: RunDir,
        trials: Mapping[str, Trial],
        states: Mapping[str, TrialState],
        schedule: Schedule,
        listener: Listener,
        labels: Mapping[str, str],
    ) -> None:
        self.say = listener.say
        self._run_dir = run_dir
        self._trials = trials
        self._labels = labels
        self._states = states
        self._schedule = schedule
        self._listener = listener
        self._heard: dict[str, ProgressItem] = {}
        self._live_at = 0.0
        self._show_at = 0.0

    def label(self, trial: str) -> str:
        """A trial's readable name."""
        return self._labels[trial]

    def begin(self, trial: str) -> None:
        """An attempt begins at the last committed step: progress of earlier attempts no longer counts."""
        self._heard.pop(trial, None)

    def hear(self, trial: str, item: ProgressItem) -> None:
        """A trial has made progress."""
        self._heard[trial] = item

    def show(self, *, measured: int, stopping: bool, waiting_for: str | None, force: bool = False) -> None:
        """Show the current state, if an update is due.

        Args:
            measured: Snapshots measured by this driver.
            stopping: Whether the sweep is ending early.
            waiting_for: Why requested workers do not start; None if they do.
            force: Show it even if no update is due.
        """
        started = time.monotonic()
        if not force and started < self._show_at:
            return
        running = [trial for _, trial in sorted(self._schedule.at_work.items())]
        counts, steps_done = self._counted(frozenset(running))
        view = View(
            counts=counts,
            steps_done=steps_done,
            total=len(self._trials),
            steps_total=sum(trial.train["steps"] for trial in self._trials.values()),
            active=tuple(self._active(trial) for trial in running),
            waiting=self._schedule.num_waiting,
            queued_snapshots=self._schedule.num_queued_snapshots,
            measuring=self._schedule.num_measuring,
            measured=measured,
            held_back=not self._schedule.takes_snapshots,
            stopping=stopping,
            waiting_for=waiting_for,
        )
        self._listener.show(view)
        now = time.monotonic()
        # A view of many trials costs a few milliseconds; spend at most a twentieth of the driver's time on it.
        self._show_at = now + max(_SHOW_EVERY_S, 20 * (now - started))
        if force or now - self._live_at > _LIVE_EVERY_S:
            self._live_at = now
            active = [vars(active) for active in view.active]
            document = {**vars(view), "counts": dict(view.counts), "active": active}
            self._run_dir.publish(self._run_dir.live, json.dumps(document).encode())

    def _counted(self, running: Collection[str]) -> tuple[dict[str, int], int]:
        """The number of trials by status, and how many steps are done."""
        counts: dict[str, int] = {}
        done = 0
        for name, trial in self._trials.items():
            state = self._states[name]
            status = state.status(running=name in running)
            counts[status] = counts.get(status, 0) + 1
            at = self._heard.get(name) if name in running else None
            done += trial.train["steps"] if state.resolved else max(state.step, at.step if at else 0)
        return counts, done

    def _active(self, trial: str) -> Active:
        at = self._heard.get(trial)
        return Active(
            trial=self.label(trial),
            step=at.step if at else self._states[trial].step,
            steps=self._trials[trial].train["steps"],
            loss=at.loss if at else None,
            clipped_fraction=at.clipped_fraction if at else None,
        )


class KeptProgress:
    """Reports from time to time how many of the kept snapshots are measured.

    Args:
        total: How many snapshots to measure.
        say: Receives one line.
    """

    def __init__(self, *, total: int, say: Callable[[str], object]) -> None:
        self._total = total
        self._say = say
        self._said_at = time.monotonic()

    def show(self, *, measured: int, stopping: bool, waiting_for: str | None, force: bool = False) -> None:
        """Report it, if an update is due; stopping and waiting were reported when they began."""
        now = time.monotonic()
        if now - self._said_at > _SAY_EVERY_S:
            self._said_at = now
            self._say(f"{measured} of {self._total} measured")


def ending(item: SegmentItem) -> str:
    """How a trial ended, in words.

    Args:
        item: Its last segment.

    Returns:
        The rest of a line that begins with the trial.
    """
    match item.outcome:
        case "diverged":
            return f"diverged at step {item.facts.diverged_step}"
        case "stopped":
            return f"stopped at step {item.stop}, checkpointed"
        case _:
            return f"done after {counted(item.stop, 'step')}{_last_values(item.rows)}"


def _last_values(rows: Mapping[str, Any]) -> str:
    """The last finite value of every loss and metric."""
    found = []
    for name in [name for name in rows if name == "train_loss" or name not in METRICS.names]:
        finite = rows[name][np.isfinite(rows[name])]
        if len(finite):
            found.append(f"{name.replace('_', ' ')} {finite[-1]:.4g}")
    return ": " + ", ".join(found) if found else ""
