"""Shared by the conformance suites: a trial trained in one go or in pieces, and everything it produced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from trainers.problem import Problem
from trainers.training.checkpoint import dump, load
from trainers.training.loop import Segment, Snapshot, SnapshotSchedule, TrainSettings, train
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule

torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    rows: dict[str, bytes]
    snapshots: dict[int, bytes]
    parameters: bytes
    num_clipped: int
    outcome: str


@pytest.fixture(scope="session")
def record() -> Callable[..., TrialRecord]:
    """Trains a trial to its end and returns everything it produced, comparable with ==."""
    return _record


def _record(
    build: Callable[[], Problem],
    rule: UpdateRule,
    settings: TrainSettings,
    *,
    stops: Iterable[int] = (),
    seed: int = 7,
    snapshots: SnapshotSchedule | None = None,
) -> TrialRecord:
    """Train to the end; stop gracefully at every step in ``stops``, and resume from bytes in a newly built problem."""
    segments: list[Segment] = []
    taken: dict[int, bytes] = {}
    state = None
    for stop in [*sorted(set(stops)), None]:
        problem = build()
        steps_left = iter(range(10**9) if stop is None else range(stop - (state.step if state else 0)))
        for item in train(
            problem,
            rule,
            settings,
            seed=seed,
            resume=state,
            snapshots=snapshots,
            should_stop=lambda left=steps_left: next(left, None) is None,
        ):
            if isinstance(item, Snapshot):
                assert item.step not in taken
                taken[item.step] = item.iterates.tobytes()
            elif isinstance(item, Segment):
                segments.append(item)
        if segments[-1].outcome != "stopped":
            break
        assert segments[-1].state is not None
        state = load(dump(segments[-1].state))
    assert [s.start for s in segments[1:]] == [s.stop for s in segments[:-1]]
    return TrialRecord(
        rows=_union([segment.rows for segment in segments]),
        snapshots=taken,
        parameters=flat_parameters(problem.model).numpy().tobytes(),
        num_clipped=sum(segment.num_clipped for segment in segments),
        outcome=segments[-1].outcome,
    )


def _union(parts: list[dict[str, np.ndarray[Any, Any]]]) -> dict[str, bytes]:
    names = {name for part in parts for name in part}
    return {
        name: np.concatenate([part.get(name, np.full(len(part["step"]), np.nan)) for part in parts]).tobytes()
        for name in sorted(names)
    }
