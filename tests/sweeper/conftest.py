"""Workers in this process, for tests of the driver without Ray: real training, real measuring, deaths on demand."""

from __future__ import annotations

import os
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeper.driver.commit import Committer
from sweeper.driver.driver import Driver, driver_of_training
from sweeper.driver.search import Search
from sweeper.driver.session import Driving
from sweeper.driver.trainers import Training
from sweeper.planning.packing import packing_of
from sweeper.planning.plan import Trial, expand
from sweeper.planning.searching import searching_of
from sweeper.planning.standing import held_in
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import (
    Assignment,
    EstimatorBeat,
    EstimatorDown,
    EstimatorUp,
    FromTrainer,
    KeptSnapshot,
    Lost,
    Message,
    SnapshotHeader,
    TrainerDown,
    TrainerUp,
    ends_attempt,
    ends_work,
)
from sweeper.protocol.notices import Notice
from sweeper.protocol.pools import PoolSize
from sweeper.protocol.view import View
from sweeper.run import _record_plan, order
from sweeper.schedule.schedule import Progress, Schedule
from sweeper.spec import loads_spec
from sweeper.store.journal import Journal
from sweeper.store.lock import DriverLock
from sweeper.store.records import Opened
from sweeper.store.recovery import recover
from sweeper.store.run_dir import RunDir
from sweeper.workers.estimator import EstimatorWorker
from sweeper.workers.trainer import TrainerWorker


class InlinePools:
    """Implements ``sweeper.protocol.pools.Pools`` in one thread.

    Args:
        run_dir: The run directory.
        chaos: Probability, at each poll, that some worker dies; and that a measurement fails or a snapshot is lost.
        seed: Seed of the chaos.
        measure_every: Polls per measured snapshot: above 1, estimators are the slower side.
    """

    def __init__(self, run_dir: Path, *, chaos: float = 0.0, seed: int = 0, measure_every: int = 1) -> None:
        self.run_dir = run_dir
        self.chaos = chaos
        self.measure_every = measure_every
        self.polls = 0
        self.held_back = 0
        self.random = random.Random(seed)
        self.trainers: dict[int, TrainerWorker] = {}
        self.streams: dict[int, Iterator[Any]] = {}
        self.unfinished: dict[int, int] = {}
        self.estimators: dict[int, EstimatorWorker] = {}
        self.jobs: deque[tuple[int, SnapshotId, Callable[[], Message]]] = deque()
        self.news: list[Message] = []
        self.most_in_flight = 0
        self.deaths = 0
        self.dead_estimators = 0
        self.assignments: list[Assignment] = []
        self.before_poll: Callable[[], None] = lambda: None
        self.hangs: Callable[[int], bool] = lambda slot: False
        self.hangs_measuring: Callable[[int], bool] = lambda slot: False
        self.asked: list[int] = []
        self.started = {"trainer": 0, "estimator": 0}

    def start_trainer(self, slot: int) -> None:
        # The user's own code is next to the spec, or here.
        search = (str(Path(__file__).parent), str(self.run_dir.parent))
        worker = TrainerWorker(run_dir=str(self.run_dir), threads=1, device="cpu", search=search)
        self.trainers[slot] = worker
        self.started["trainer"] += 1
        self.news.append(TrainerUp(slot=slot, facts=worker.facts()))

    def start_estimator(self, slot: int) -> None:
        search = (str(Path(__file__).parent), str(self.run_dir.parent))
        worker = EstimatorWorker(run_dir=str(self.run_dir), threads=1, device="cpu", search=search)
        self.estimators[slot] = worker
        self.started["estimator"] += 1
        self.news.append(EstimatorUp(slot=slot, facts=worker.facts()))

    def train(self, slot: int, assignments: Sequence[Assignment]) -> None:
        assert slot not in self.streams, "a trainer has only one batch"
        self.assignments += assignments
        self.unfinished[slot] = len(assignments)
        self.streams[slot] = iter(self.trainers[slot].train(assignments))

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> None:
        worker = self.estimators[slot]
        self.jobs.append((slot, snapshot, lambda: worker.measure(slot, snapshot, header, payload)))
        self.most_in_flight = max(self.most_in_flight, len(self.jobs))

    def measure_kept(self, slot: int, snapshot: SnapshotId, kept: KeptSnapshot) -> None:
        worker = self.estimators[slot]
        self.jobs.append((slot, snapshot, lambda: worker.measure_kept(slot, snapshot, kept)))

    def ask_estimator(self, slot: int) -> None:
        self.asked.append(slot)
        self.news.append(EstimatorBeat(slot=slot, beats=self.estimators[slot].beats()))

    def stop_trainer(self, slot: int) -> None:
        self.trainers[slot].stop()

    def kill_trainer(self, slot: int) -> None:
        self.streams.pop(slot, None)
        self.trainers.pop(slot, None)

    def kill_estimator(self, slot: int) -> None:
        self.estimators.pop(slot, None)
        self.jobs = deque(job for job in self.jobs if job[0] != slot)

    def poll(self, *, timeout_s: float, read_trainers: bool) -> list[Message]:
        self.before_poll()
        news, self.news = self.news, []
        if self.random.random() < self.chaos:
            news += self._kill_somebody()
        talking = sorted(slot for slot in self.streams if not self.hangs(slot))
        if read_trainers and talking:
            slot = self.random.choice(talking)
            item = next(self.streams[slot])
            news.append(FromTrainer(slot=slot, item=item))
            if ends_attempt(item):
                self.unfinished[slot] -= 1
                if self.unfinished[slot] == 0 or ends_work(item):
                    del self.streams[slot]
        self.polls += 1
        self.held_back += not read_trainers
        free = [job for job in self.jobs if not self.hangs_measuring(job[0])]
        if free and self.polls % self.measure_every == 0:
            self.jobs.remove(free[0])
            slot, snapshot, measure = free[0]
            if self.random.random() < self.chaos:
                news.append(Lost(slot=slot, snapshot=snapshot, error="lost"))
            else:
                news.append(measure())
        self.random.shuffle(news)
        return news

    def _kill_somebody(self) -> list[Message]:
        self.deaths += 1
        if self.streams and self.random.random() < 0.6:
            slot = self.random.choice(sorted(self.streams))
            self.kill_trainer(slot)
            return [TrainerDown(slot=slot, error="killed", printed="its last words")]
        if self.jobs:
            slot = self.jobs[0][0]
            self.jobs = deque(job for job in self.jobs if job[0] != slot)
            del self.estimators[slot]
            self.dead_estimators += 1
            return [EstimatorDown(slot=slot, error="killed", printed="its last words")]
        return []


class Remembering:
    """A listener that remembers everything it received."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.views: list[View] = []

    def show(self, view: View) -> None:
        self.views.append(view)

    def say(self, text: str) -> None:
        self.lines.append(text)


class InlineRun:
    """One call of ``clipsweep run``, without Ray: recover, plan, drive, refresh."""

    def __init__(self, text: str, folder: Path, **chaos: Any) -> None:
        self.sweep = loads_spec(text, folder=folder)
        self.run_dir = RunDir(folder / "run")
        self.pools = InlinePools(self.run_dir.path, **chaos)
        self.listener = Remembering()
        self.told: list[Notice] = []
        self.environment: dict[str, Any] = {}
        self.stop_requested: Callable[[], bool] = lambda: False
        self.look_for_room: Callable[[], PoolSize | None] = lambda: None
        self.make_room = ScriptedRoom
        self.driver: Driver | None = None

    def __call__(
        self, *, max_attempts: int = 1000, max_snapshots: int = 3, stall_timeout_s: float | None = None
    ) -> InlineRun:
        with DriverLock(self.run_dir).hold(create=True) as lock:
            state = recover(self.run_dir, self.listener.say)
            committer = Committer(
                self.run_dir, Journal(self.run_dir.journal, state.next_number), state, measurement="m"
            )
            committer.record(Opened(driver_epoch=state.driver_epoch + 1, environment=self.environment))
            searching = searching_of(self.sweep, state)
            until = {} if searching is None else searching.ask().until
            plan = expand(self.sweep) if searching is None else searching.plan()
            if searching is None:
                until = held_in(plan, state)
            _record_plan(self.run_dir, committer, plan, self.sweep, "m", until=until)
            todo: dict[str, Trial] = {
                trial.trial_id: trial for trial in plan.trials if not state.trials[trial.trial_id].resolved
            }
            progress = {
                name: Progress(committed_step=state.trials[name].step, failures=len(state.trials[name].failures))
                for name in todo
            }
            measure = self.sweep.measure
            packing = packing_of(self.sweep.resources.trainers)
            size = PoolSize(trainers=2 if todo else 0, estimators=2 if todo and measure is not None else 0)
            self.driver = driver_of_training(
                Training(
                    trials=todo,
                    measure=measure.model_dump(mode="json") if measure is not None else None,
                    packing=packing,
                ),
                Schedule(
                    order(todo, progress),
                    max_attempts=max_attempts,
                    max_snapshots=max_snapshots,
                    side_by_side=[name for name, trial in todo.items() if trial.problem["use"] == "analytic"],
                    share=7,
                    packs=packing.shapes(todo.values()),
                    pack=packing.bounds,
                ),
                held=Driving(run_dir=self.run_dir, lock=lock, listener=self.listener, tell=self.told.append),
                committer=committer,
                pools=self.pools,
                room=ScriptedRoom(size, lambda: self.look_for_room()),
                stall_timeout_s=stall_timeout_s,
                search=None if searching is None else Search(searching, committer, measurement="m"),
            )
            self.driver.run(lambda: self.stop_requested())
            committer.refresh()
        return self


class ScriptedRoom:
    """Room for workers that changes when a test says so."""

    waiting_for = None

    def __init__(self, size: PoolSize, ask: Callable[[], PoolSize | None] = lambda: None) -> None:
        self.size = size
        self._ask = ask

    def look(self) -> bool:
        size = self._ask()
        self.size = size or self.size
        return size is not None


KINKED = """
import torch
from torch import nn
from trainers.problem import Problem


class Kinked(torch.autograd.Function):
    '''A square whose gradient has no gradient of its own.'''

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, slope):
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        return 2 * ctx.saved_tensors[0] * slope
"""
"""The beginning of a module of the user's own: a function that estimators of first derivatives can measure alone."""


@pytest.fixture(autouse=True)
def visible_gpus() -> Iterator[None]:
    """A worker on the CPU hides all GPUs from its process, which here is that of all tests."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before


@pytest.fixture
def new_listener() -> Callable[[], Remembering]:
    """Makes listeners that remember what they received, as ``lines`` and ``views``."""
    return Remembering


@pytest.fixture
def inline_run(tmp_path: Path) -> Callable[..., InlineRun]:
    """``inline_run(spec text, name="a", chaos=0.1)``: a run in its own folder."""

    def make(text: str, *, name: str = "here", **chaos: Any) -> InlineRun:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return InlineRun(text, folder, **chaos)

    return make


@pytest.fixture(scope="module")
def module_inline_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], InlineRun]:
    """One run that the tests of a module only read."""
    return lambda text: InlineRun(text, tmp_path_factory.mktemp("inline"))()


@pytest.fixture(scope="module")
def module_hostile_run() -> Callable[[str, Path], InlineRun]:
    """One run in the module's own folder, whose trials are attempted only once."""

    def make(text: str, folder: Path) -> InlineRun:
        sys.path.insert(0, str(folder))
        try:
            return InlineRun(text, folder)(max_attempts=1)
        finally:
            sys.path.remove(str(folder))

    return make


@pytest.fixture(scope="module")
def module_stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], InlineRun]:
    """One run that was asked to stop after a number of polls, for tests that copy it."""

    def make(text: str, polls: int) -> InlineRun:
        stopped = InlineRun(text, tmp_path_factory.mktemp("stopped"))
        stopped.stop_requested = lambda: stopped.pools.polls >= polls
        return stopped()

    return make
