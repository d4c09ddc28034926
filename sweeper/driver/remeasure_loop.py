"""The loop of ``clipsweep estimate``: wait, take notice, do what the queue says, commit in groups; no policy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.driver.open_segments import failed_rows
from sweeper.protocol import events
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import EstimatorBeat, EstimatorDown, EstimatorUp, Message, SnapshotHeader, Verdict
from sweeper.protocol.pools import EstimatorPool
from sweeper.schedule.kept_queue import MeasureQueue
from sweeper.schedule.liveness import Pulses

if TYPE_CHECKING:
    from sweeper.driver.commit import Committer

__all__ = ["measure_again"]

_log = logging.getLogger(__name__)

_GROUP_S = 1.0
"""How long a measured snapshot waits for others to share its part."""

_SAY_EVERY_S = 10.0
_TICK_S = 0.25


def measure_again(
    todo: Sequence[SnapshotId],
    section: Mapping[str, Any],
    *,
    committer: Committer,
    pool: EstimatorPool,
    num_estimators: int,
    uses: Mapping[str, str] | None = None,
    max_attempts: int = 3,
    stall_timeout_s: float | None = None,
    beat: Callable[[], object] = lambda: None,
    say: Callable[[str], object] = lambda text: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[int, bool]:
    """Measure kept snapshots and make their rows durable, until all are measured or given up.

    Args:
        todo: What is to be measured.
        section: As :func:`sweeper.remeasure.remeasure_section` gives it.
        committer: Makes rows durable.
        pool: The workers.
        num_estimators: Slots to fill.
        uses: Trial to the problem of the user's own that its snapshots may name.
        max_attempts: How often a snapshot may fail.
        stall_timeout_s: An estimator that does not get on for so long is ended; None to wait for ever.
        beat: Called now and then, to show that this driver lives.
        say: Is told how it goes.
        stop_requested: Whether the user wants to end early.

    Returns:
        How many snapshots could not be measured, and whether the user ended it early.
    """
    queue = MeasureQueue(todo, max_attempts=max_attempts)
    pulses = Pulses(stall_timeout_s)
    rows: dict[SnapshotId, Mapping[str, Mapping[str, Any]]] = {}
    failed, count, stopping = 0, 0, False
    commit_at = said_at = time.monotonic()
    for slot in range(num_estimators):
        pool.start_estimator(slot)
    while not queue.finished:
        news: list[events.Event] = []
        for message in pool.poll(timeout_s=_TICK_S, read_trainers=False):
            if isinstance(message, EstimatorBeat):
                pulses.hear(message.slot, message.beats, now=time.monotonic())
                continue
            if isinstance(message, Verdict) and message.rows is not None:
                rows[message.snapshot] = message.rows
            if isinstance(message, (Verdict, EstimatorDown)):
                pulses.end(message.slot)
            news.append(_event(message, say))
        for slot, error in pulses.hanging(now=time.monotonic()):
            pool.kill_estimator(slot)
            pulses.end(slot)
            news.append(_event(EstimatorDown(slot=slot, error=error), say))
        for slot in pulses.to_ask(now=time.monotonic()):
            pool.ask_estimator(slot)
        if stop_requested() and not stopping:
            stopping = True
            news.append(events.StopRequested())
        for command in [command for event in news for command in queue.handle(event)]:
            match command:
                case events.Measure(slot=slot, snapshot=snapshot):
                    pulses.begin(slot, now=time.monotonic())
                    pool.measure(slot, snapshot, _header(snapshot, section, uses or {}), None)
                case events.MeasureFailed(snapshot=snapshot, error=error):
                    say(f"{snapshot.trial}: step {snapshot.step} could not be measured: {error}")
                    rows[snapshot] = failed_rows(_header(snapshot, section, uses or {}), error)
                    failed += 1
                case events.ReplaceEstimator(slot=slot):
                    pool.start_estimator(slot)
        now = time.monotonic()
        if rows and (queue.finished or now - commit_at > _GROUP_S):
            committer.commit_measured(rows)
            count += len(rows)
            rows, commit_at = {}, now
        if now - said_at > _SAY_EVERY_S:
            say(f"{count} of {len(todo)} measured")
            said_at = now
        beat()
    return failed, stopping


def _header(snapshot: SnapshotId, section: Mapping[str, Any], uses: Mapping[str, str]) -> SnapshotHeader:
    """Which snapshot is meant; what it is of, the file says to the worker that opens it."""
    return SnapshotHeader(
        trial=snapshot.trial,
        seed=0,
        step=snapshot.step,
        epoch=math.nan,
        problem={"use": uses[snapshot.trial]} if snapshot.trial in uses else {},
        measure=section,
        nbytes=0,
    )


def _event(message: Message, say: Callable[[str], object]) -> events.Event:
    match message:
        case EstimatorUp(slot=slot, facts=facts):
            _log.info("estimator %d is up: %s", slot, facts)
            return events.EstimatorReady(slot=slot)
        case EstimatorDown(slot=slot, error=error):
            say(f"estimator {slot} died: {error}; starting another")
            return events.EstimatorDied(slot=slot, error=error)
        case Verdict(slot=slot, snapshot=snapshot, rows=None, error=error, traceback=traceback):
            _log.warning("%s: %s", snapshot, traceback or error)
            return events.MeasureRaised(slot=slot, snapshot=snapshot, error=error)
        case Verdict(slot=slot, snapshot=snapshot):
            return events.Measured(slot=slot, snapshot=snapshot)
    raise AssertionError(f"no message of an estimator: {message!r}")
