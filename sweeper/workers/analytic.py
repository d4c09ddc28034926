"""Analytic trials: turns assignments into lanes of one vectorised run, and results into what trainers send."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sweeper.errors import error_line
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import Assignment, ProgressItem, RaisedItem, SegmentFacts, SegmentItem
from sweeper.workers.scores import scores_of
from trainers.analytic.functions import FUNCTIONS
from trainers.analytic.lane import Lane, LaneResult
from trainers.analytic.lanes import watch_lanes
from trainers.analytic.theory import Setting, StepRule, bound_of, rule_of
from trainers.errors import TrainerError

__all__ = ["lane_of", "train_side_by_side"]

_HEARTBEAT_S = 1.0


def train_side_by_side(
    assignments: Sequence[Assignment], *, should_stop: Callable[[], bool], device: str = "cpu"
) -> Iterator[ProgressItem | SegmentItem | RaisedItem]:
    """Run analytic trials in one vectorised call, each from its start to its end: they have no checkpoints.

    Args:
        assignments: The trials.
        should_stop: Called every few steps; once True, the first unfinished trial is reported as stopped.
        device: Where they run, with float64.

    Yields:
        One final item per trial, in the order of the assignments, and heartbeats of the first unfinished one.
    """
    started = time.time()
    host, pid = socket.gethostname(), os.getpid()
    ready: dict[int, SegmentItem | RaisedItem] = {}
    lanes: list[Lane] = []
    settings: list[Setting] = []
    places: list[int] = []
    for place, assignment in enumerate(assignments):
        try:
            lane, setting = lane_of(assignment)
        except TrainerError as error:
            text = error_line(error)
            ready[place] = RaisedItem(segment=_segment_of(assignment), error=text, traceback=text)
            continue
        lanes.append(lane)
        settings.append(setting)
        places.append(place)
    sent = 0
    heartbeat = time.monotonic()
    for item in watch_lanes(lanes, should_stop=should_stop, device=device):
        if isinstance(item, tuple):
            index, result = item
            now = time.time()
            assignment = assignments[places[index]]
            facts = SegmentFacts(
                num_steps=result.num_steps,
                num_clipped=result.num_clipped,
                diverged_step=result.diverged_step,
                last_finite_loss=result.last_finite_loss,
                started_at=started,
                ended_at=now,
                train_s=(now - started) / len(assignments),
                evaluate_s=0.0,
                host=host,
                pid=pid,
                data="analytic",
                columns=_columns(assignment, lanes[index], settings[index], result),
                scores=scores_of({"train_loss": result.rows["train_loss"]}),
            )
            ready[places[index]] = SegmentItem(
                segment=_segment_of(assignment),
                start=0,
                stop=result.num_steps + (1 if result.diverged_step is not None else 0),
                rows=result.rows,
                checkpoint=None,
                outcome="done" if result.diverged_step is None else "diverged",
                facts=facts,
            )
        elif time.monotonic() - heartbeat > _HEARTBEAT_S:
            heartbeat = time.monotonic()
            first = _segment_of(assignments[sent])
            yield ProgressItem(segment=first, step=item.step, loss=float("nan"), clipped_fraction=0.0)
        while sent in ready:
            yield ready.pop(sent)
            sent += 1
    while sent < len(assignments):
        if sent not in ready:
            yield _stopped(assignments[sent], started, host, pid)
            return
        yield ready.pop(sent)
        sent += 1


def lane_of(assignment: Assignment) -> tuple[Lane, Setting]:
    """The lane that a trial runs in, and what the theorems derive for its function.

    Args:
        assignment: A trial of an analytic problem.

    Returns:
        Both.

    Raises:
        TrainerError: There is no such start, or the theorem does not apply.
    """
    problem, rule, steps = assignment.problem, assignment.update_rule, int(assignment.train["steps"])
    numbers = {name: value for name, value in problem["function"].items() if name != "use"}
    if problem["function"]["use"] == "theorem4_flat":
        numbers["epsilon"] = problem["epsilon"]
    function = FUNCTIONS[problem["function"]["use"]](**numbers)
    start = problem["start"]
    if problem["start_gradient_norm"] is not None:
        start = function.start_of_gradient_norm(problem["start_gradient_norm"])
    elif problem["start_gap"] is not None:
        start = function.start_of_gap(problem["start_gap"])
    x = np.full((function.num_coordinates, 1), float(start))
    L0, L1 = function.smoothness()
    if (assumed := problem["assume"]) is not None:
        if not function.belongs_to(assumed["L0"], assumed["L1"]):
            raise TrainerError(
                f"{function} is not ({assumed['L0']!r}, {assumed['L1']!r})-smooth, as problem.assume says"
            )
        L0, L1 = assumed["L0"], assumed["L1"]
    setting = Setting(
        L0=L0,
        L1=L1,
        gap=float(function.value(x)[0] - function.minimum),
        epsilon=problem["epsilon"],
        M=function.sublevel_gradient_norm(float(start)),
        tau=problem["noise"],
        horizon=steps,
        gradient_bound=function.gradient_bound,
    )
    lane = Lane(
        function=function,
        start=float(start),
        epsilon=problem["epsilon"],
        rule=rule_of(rule["from_theory"], setting) if rule["from_theory"] is not None else _rule(rule),
        momentum=rule["momentum"],
        dampening=rule["dampening"],
        nesterov=rule["nesterov"],
        steps=steps,
        log_every=assignment.train["log_every"],
        noise=problem["noise"],
        noise_kind=problem["noise_kind"],
        seed=assignment.seed,
        stops_at_hit=problem["after_hit"] == "stop",
    )
    return lane, setting


def _rule(section: Mapping[str, Any]) -> StepRule:
    """Eq. (4), (5) or (6) with the numbers in the spec."""
    rate = section["learning_rate"]
    if section["normalize"] is not None:
        return StepRule(eta=np.inf, numerator=rate, offset=section["normalize"])
    if section["clip_norm"] is not None:
        return StepRule(eta=rate, numerator=rate * section["clip_norm"], clip_norm=section["clip_norm"])
    return StepRule(eta=rate)


def _columns(assignment: Assignment, lane: Lane, setting: Setting, result: LaneResult) -> dict[str, Any]:
    """The extra columns of an analytic trial in the trials table."""
    theory = assignment.update_rule["from_theory"]
    rule = lane.rule
    columns = {
        "function_name": assignment.problem["function"]["use"],
        "hitting_time": result.hitting_time,
        "hitting_status": result.status,
        "epsilon": lane.epsilon,
        "L0": setting.L0,
        "L1": setting.L1,
        "M": setting.M,
        "initial_gap": setting.gap,
        "noise": setting.tau,
        "iteration_bound": None if theory is None else bound_of(theory, setting),
        "min_grad_norm": result.min_grad_norm if np.isfinite(result.min_grad_norm) else None,
        "tail_grad_norm": result.tail_grad_norm,
    }
    if theory is not None:
        # Numbers that the theorem set, in the columns for those of the spec.
        columns["learning_rate"] = rule.numerator if np.isinf(rule.eta) else rule.eta
        columns["clip_norm"] = rule.threshold
    return columns


def _segment_of(assignment: Assignment) -> SegmentId:
    """The only segment of an attempt: there are no checkpoints."""
    return SegmentId(assignment.trial, assignment.attempt, 0)


def _stopped(assignment: Assignment, started: float, host: str, pid: int) -> SegmentItem:
    """The end of a run that was stopped: nothing to keep, and nothing to resume from."""
    now = time.time()
    facts = SegmentFacts(
        num_steps=0,
        num_clipped=0,
        started_at=started,
        ended_at=now,
        train_s=now - started,
        evaluate_s=0.0,
        host=host,
        pid=pid,
        data="analytic",
    )
    segment = _segment_of(assignment)
    return SegmentItem(segment=segment, start=0, stop=0, rows=_NO_ROWS, checkpoint=None, outcome="stopped", facts=facts)


_NO_ROWS: dict[str, np.ndarray[Any, Any]] = {"step": np.empty(0, dtype=np.int64)}
