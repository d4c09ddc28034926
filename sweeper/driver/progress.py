"""A sweep's progress, for people: a view for the listener, and the same as a file for ``clipsweep status``."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.driver.time_left import TimeLeft
from sweeper.labels import counted
from sweeper.protocol.messages import ProgressItem, SegmentItem
from sweeper.protocol.view import Active, Listener, View
from sweeper.schedule.kept_queue import KeptQueue
from sweeper.schedule.schedule import Schedule
from sweeper.store.journal import TrialState
from sweeper.store.run_dir import RunDir
from sweeper.tables.schemas import METRICS

if TYPE_CHECKING:
    from sweeper.driver.trainers import Training
    from sweeper.planning.plan import Trial

__all__ = ["KeptProgress", "TrainingProgress", "ending", "last_values"]

_SHOW_EVERY_S = 0.2
_LIVE_EVERY_S = 1.0


class TrainingProgress:
    """Shows a sweep's progress, often enough to watch and rarely enough to cost little.

    Args:
        run_dir: The run directory.
        training: The trials, and how long they are expected to take.
        states: Their states according to the journal; kept up to date by others.
        schedule: Knows what waits and which trainer works on what.
        listener: Receives the view and the messages.
        labels: Trial id to its readable name.

    Attributes:
        search: Where the search stands, in one line; None without one.
    """

    def __init__(
        self,
        *,
        run_dir: RunDir,
        training: Training,
        states: Mapping[str, TrialState],
        schedule: Schedule,
        listener: Listener,
        labels: Mapping[str, str],
    ) -> None:
        self.say = listener.say
        self.search: str | None = None
        self._shown = _Shown(run_dir, listener)
        self._trials = dict(training.trials)
        self._labels = labels
        self._states = states
        self._schedule = schedule
        self._heard: dict[str, ProgressItem] = {}
        self._started = time.monotonic() if training.started is None else training.started
        expectation = training.expectation
        self._work = {name: float(trial.train["steps"]) for name, trial in training.trials.items()}
        if expectation is not None:
            self._work = {name: expectation.work[name] for name in training.trials}
        self._left = TimeLeft(per_s=expectation.per_s if expectation is not None else None)
        self._begun = {name: states[name].step for name in training.trials}

    def add(self, trials: Sequence[Trial], labels: Mapping[str, str]) -> None:
        """A search has asked for more trials.

        Args:
            trials: The new ones.
            labels: Trial id to its readable name, of all trials.
        """
        self._labels = labels
        # Those of a search differ in a few numbers, so one costs what the others do on average.
        of_step = [self._work[name] / max(1, trial.train["steps"]) for name, trial in self._trials.items()]
        each = sum(of_step) / len(of_step) if of_step else 1.0
        for trial in trials:
            self._trials[trial.trial_id] = trial
            self._work[trial.trial_id] = each * trial.train["steps"]
            self._begun[trial.trial_id] = self._states[trial.trial_id].step

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
        if not force and not self._shown.is_due():
            return
        running = [trial for _, trial in sorted(self._schedule.at_work.items())]
        counts, steps_done, left_s = self._counted(self._schedule.under_way)
        view = View(
            counts=counts,
            steps_done=steps_done,
            total=len(self._trials),
            steps_total=sum(self._states[name].target or trial.train["steps"] for name, trial in self._trials.items()),
            active=tuple(self._active(trial) for trial in running),
            waiting=self._schedule.num_waiting,
            queued_snapshots=self._schedule.num_queued_snapshots,
            measuring=self._schedule.num_measuring,
            measured=measured,
            held_back=not self._schedule.takes_snapshots,
            stopping=stopping,
            waiting_for=waiting_for,
            elapsed_s=time.monotonic() - self._started,
            left_s=None if stopping else left_s,
            search=self.search,
        )
        self._shown.show(view, force=force)

    def _counted(self, running: Collection[str]) -> tuple[dict[str, int], int, float | None]:
        """The number of trials by status, how many steps are done, and how long the rest will take."""
        counts: dict[str, int] = {}
        done, gained, left, longest = 0, 0.0, 0.0, 0.0
        for name, trial in self._trials.items():
            state = self._states[name]
            steps = state.target or trial.train["steps"]
            status = state.status(running=name in running)
            counts[status] = counts.get(status, 0) + 1
            at = self._heard.get(name) if name in running else None
            step = max(state.step, at.step if at else 0)
            each = self._work[name] / max(1, trial.train["steps"])
            # The steps that a diverged trial did not take are done, but nobody has worked on them.
            gained += each * (step - self._begun[name])
            if state.resolved:
                done += steps
                continue
            done += step
            left += each * (steps - step)
            longest = max(longest, each * (steps - step))
        left_s = self._left.estimate(
            now=time.monotonic(), gained=gained, left=left, longest=longest, lanes=max(1, len(running))
        )
        return counts, done, left_s

    def _active(self, trial: str) -> Active:
        at = self._heard.get(trial)
        return Active(
            trial_id=trial,
            trial=self.label(trial),
            step=max(at.step if at else 0, self._states[trial].step),
            steps=self._states[trial].target or self._trials[trial].train["steps"],
            loss=at.loss if at else None,
            clipped_fraction=at.clipped_fraction if at else None,
        )


class KeptProgress:
    """Shows how many of the kept snapshots are measured again.

    Args:
        run_dir: The run directory.
        queue: Knows which snapshots wait, and which are being measured.
        listener: Receives the view.
    """

    def __init__(self, *, run_dir: RunDir, queue: KeptQueue, listener: Listener) -> None:
        self._shown = _Shown(run_dir, listener)
        self._queue = queue
        self._total = queue.num_waiting
        self._started = time.monotonic()
        self._left = TimeLeft(per_s=None)

    def show(self, *, measured: int, stopping: bool, waiting_for: str | None, force: bool = False) -> None:
        """Show it, if an update is due.

        Args:
            measured: Snapshots measured by this driver.
            stopping: Whether it is ending early.
            waiting_for: Why requested workers do not start; None if they do.
            force: Show it even if no update is due.
        """
        if not force and not self._shown.is_due():
            return
        waiting, measuring = self._queue.num_waiting, self._queue.num_measuring
        done = self._total - waiting - measuring
        counts = {"measured": measured, "without a result": done - measured, "waiting": waiting + measuring}
        now = time.monotonic()
        view = View(
            counts={what: count for what, count in counts.items() if count},
            total=self._total,
            steps_done=done,
            steps_total=self._total,
            active=(),
            waiting=waiting,
            queued_snapshots=waiting,
            measuring=measuring,
            measured=measured,
            held_back=False,
            stopping=stopping,
            waiting_for=waiting_for,
            elapsed_s=now - self._started,
            left_s=None
            if stopping
            else self._left.estimate(now=now, gained=done, left=waiting + measuring, longest=0.0, lanes=1),
        )
        self._shown.show(view, force=force)


class _Shown:
    """Shows views, and writes them for ``clipsweep status``, as often as their cost allows."""

    def __init__(self, run_dir: RunDir, listener: Listener) -> None:
        self._run_dir = run_dir
        self._listener = listener
        self._live_at = 0.0
        self._show_at = 0.0
        self._asked = 0.0

    def is_due(self) -> bool:
        """Whether it is time for another view, which is then made; its cost counts from here."""
        self._asked = time.monotonic()
        return self._asked >= self._show_at

    def show(self, view: View, *, force: bool) -> None:
        self._listener.show(view)
        now = time.monotonic()
        # A view of many trials costs a few milliseconds; spend at most a twentieth of the driver's time on it.
        self._show_at = now + max(_SHOW_EVERY_S, 20 * (now - self._asked) if not force else 0.0)
        if force or now - self._live_at > _LIVE_EVERY_S:
            self._live_at = now
            active = [vars(active) for active in view.active]
            document = {**vars(view), "counts": dict(view.counts), "active": active}
            self._run_dir.publish(self._run_dir.live, json.dumps(document).encode())


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
        case "held":
            return f"held at step {item.stop}, where the search decides{_last_values(item.rows)}"
        case _:
            return f"done after {counted(item.stop, 'step')}{_last_values(item.rows)}"


def _last_values(rows: Mapping[str, Any]) -> str:
    """The last finite value of every loss and metric, in words."""
    found = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in last_values(rows).items()]
    return ": " + ", ".join(found) if found else ""


def last_values(rows: Mapping[str, Any]) -> dict[str, float]:
    """The last finite value of every loss and metric.

    Args:
        rows: Columns of a segment.

    Returns:
        Name to value, of those that have any.
    """
    found = {}
    for name in [name for name in rows if name == "train_loss" or name not in METRICS.names]:
        values = np.ma.filled(rows[name], np.nan)
        finite = values[np.isfinite(values)]
        if len(finite):
            found[name] = float(finite[-1])
    return found
