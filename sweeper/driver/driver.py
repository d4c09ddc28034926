"""Wait, pass events on, carry out the schedule's commands, commit in groups; no policy of its own.

One loop serves two schedules: trials that are trained and measured (``clipsweep run``), and kept snapshots that are
measured again (``clipsweep estimate``), where there are no trainers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sweeper.driver.commit import Committer
from sweeper.driver.estimators import Estimators
from sweeper.driver.kept import KeptSnapshots
from sweeper.driver.open_segments import OpenSegments
from sweeper.driver.progress import KeptProgress, TrainingProgress
from sweeper.driver.search import Search
from sweeper.driver.session import Driving
from sweeper.driver.trainers import Trainers, Training
from sweeper.planning.plan import Trial
from sweeper.protocol import events
from sweeper.protocol.events import Command, Event
from sweeper.protocol.messages import FromTrainer, Message, TrainerDown, TrainerUp
from sweeper.protocol.pools import EstimatorPool, Pools, Room
from sweeper.schedule.kept_queue import KeptQueue
from sweeper.schedule.schedule import Schedule

__all__ = ["Decides", "Driver", "driver_of_kept", "driver_of_training"]

_TICK_S = 0.25


class Decides(Protocol):
    """Decides what to do next: events in, commands out."""

    @property
    def finished(self) -> bool:
        """Whether everything is done."""

    @property
    def takes_snapshots(self) -> bool:
        """Whether trainers may hand over more."""

    def handle(self, event: Event) -> list[Command]:
        """Process one event."""


class Asks(Protocol):
    """Finds more trials as others end."""

    def more(self) -> Sequence[Trial]:
        """What is to be trained besides, recorded in the journal; none if nothing has changed."""


class Shows(Protocol):
    """Shows progress."""

    def show(self, *, measured: int, stopping: bool, waiting_for: str | None, force: bool = False) -> None:
        """Show it, if an update is due."""


class Driver:
    """Runs a schedule against pools of workers until it is finished.

    Args:
        held: The run directory, under its lock.
        committer: Makes rows durable.
        schedule: Decides what to do next.
        pool: The workers.
        estimators: Handles estimators.
        trainers: Handles trainers; None if nothing is trained.
        progress: Shows progress.
        room: How many workers there is room for.
        search: Asks for more trials as others end; None if all are known.
    """

    def __init__(
        self,
        *,
        held: Driving,
        committer: Committer,
        schedule: Decides,
        pool: EstimatorPool,
        estimators: Estimators,
        trainers: Trainers | None,
        progress: Shows,
        room: Room,
        search: Asks | None = None,
    ) -> None:
        self._held = held
        self._committer = committer
        self._schedule = schedule
        self._pool = pool
        self._estimators = estimators
        self._trainers = trainers
        self._progress = progress
        self._room = room
        self._search = search
        self._stopping = False

    @property
    def num_failed_snapshots(self) -> int:
        """Snapshots that could not be measured."""
        return self._estimators.failed

    def run(self, stop_requested: Callable[[], bool]) -> bool:
        """Drive until nothing is left to do, or until a requested stop is complete.

        Args:
            stop_requested: Whether the user wants to stop early; called several times per second.

        Returns:
            Whether the user stopped it early.

        Raises:
            ClusterError: Workers cannot be started, or the cluster is gone.
            OSError: The run directory cannot be written; what is committed stands.
        """
        self._handle(_room_changed(self._room))
        while not self._schedule.finished:
            if stop_requested() and not self._stopping:
                self._stopping = True
                first = (
                    "trials checkpoint at their next step"
                    if self._trainers
                    else "measurements in progress are finished first"
                )
                self._held.listener.say(f"stopping: {first}; interrupt again to stop at once")
                self._handle(events.StopRequested())
            read = self._schedule.takes_snapshots
            for message in self._pool.poll(timeout_s=self._committer.due_in_s(_TICK_S), read_trainers=read):
                self._take_in(message)
            self._end_stalled(heard=read)
            if self._room.look():
                self._held.listener.say(f"the cluster now has room for {self._room.size}")
                self._handle(_room_changed(self._room))
            # If nothing is in progress, waiting for more segments to share the commit is pointless.
            self._commit(force=self._trainers is not None and self._trainers.idle)
            self._ask()
            self._held.lock.beat()
            self._show()
        self._commit(force=True)
        self._show(force=True)
        return self._stopping

    def _take_in(self, message: Message) -> None:
        if isinstance(message, TrainerUp | TrainerDown | FromTrainer):
            assert self._trainers is not None, f"nothing is trained, but received {message!r}"
            event = self._trainers.notice(message)
        else:
            event = self._estimators.notice(message)
        if event is not None:
            self._handle(event)

    def _end_stalled(self, *, heard: bool) -> None:
        """End workers that hang. Uses the monotonic clock: people and daemons change the time of day."""
        now = time.monotonic()
        if self._trainers is not None:
            for ended in self._trainers.end_stalled(now=now, listening=heard):
                self._take_in(ended)
        for lost in self._estimators.end_stalled(now=now):
            self._take_in(lost)

    def _handle(self, event: Event) -> None:
        for command in self._schedule.handle(event):
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case events.Measure() | events.MeasureFailed() | events.ReplaceEstimator() | events.RetireEstimator():
                self._estimators.do(command)
            case _:
                assert self._trainers is not None, f"nothing is trained, but asked for {command!r}"
                self._trainers.do(command)

    def _commit(self, *, force: bool) -> None:
        running = self._trainers.running if self._trainers is not None else frozenset()
        for item in self._committer.commit(force=force, running=running):
            assert self._trainers is not None, "a segment was committed although nothing is trained"
            self._handle(self._trainers.committed(item))

    def _ask(self) -> None:
        """Start what a search wants next, before the schedule can find that nothing is left."""
        if self._search is None or self._stopping or not (trials := self._search.more()):
            return
        assert self._trainers is not None, "a search has asked for trials although nothing is trained"
        self._handle(self._trainers.add(trials))
        # There may be room for more trainers than there were trials at the start.
        self._handle(_room_changed(self._room))

    def _show(self, *, force: bool = False) -> None:
        self._progress.show(
            measured=self._estimators.measured,
            stopping=self._stopping,
            waiting_for=self._room.waiting_for,
            force=force,
        )


def _room_changed(room: Room) -> Event:
    size = room.size
    return events.RoomChanged(trainers=size.trainers, estimators=size.estimators, snapshot_bytes=size.snapshot_bytes)


def driver_of_training(
    training: Training,
    schedule: Schedule,
    *,
    held: Driving,
    committer: Committer,
    pools: Pools,
    room: Room,
    stall_timeout_s: float | None,
    search: Search | None = None,
) -> Driver:
    """The driver that trains trials and has their snapshots measured.

    Args:
        training: The trials to train.
        schedule: Decides what to do next; has the same trials.
        held: The run directory, under its lock.
        committer: Makes segments durable.
        pools: The workers.
        room: How many workers there is room for.
        stall_timeout_s: A worker that makes no progress for this long is ended; None to wait forever.
        search: Asks for more trials as others end; None if all are known.

    Returns:
        The driver, ready to run.
    """
    segments = OpenSegments()
    progress = TrainingProgress(
        run_dir=held.run_dir,
        training=training,
        states=committer.state.trials,
        schedule=schedule,
        listener=held.listener,
        labels=committer.state.labels(),
    )
    if search is not None:
        search.tell = progress
    return Driver(
        held=held,
        committer=committer,
        schedule=schedule,
        pool=pools,
        estimators=Estimators(
            run_dir=held.run_dir,
            pool=pools,
            snapshots=segments,
            say=held.listener.say,
            label=progress.label,
            stall_timeout_s=stall_timeout_s,
        ),
        trainers=Trainers(
            run_dir=held.run_dir,
            training=training,
            schedule=schedule,
            committer=committer,
            pools=pools,
            segments=segments,
            progress=progress,
            tell=held.tell,
            stall_timeout_s=stall_timeout_s,
        ),
        progress=progress,
        room=room,
        search=search,
    )


def driver_of_kept(
    queue: KeptQueue,
    measure: Mapping[str, Any],
    uses: Mapping[str, str],
    *,
    held: Driving,
    committer: Committer,
    pool: EstimatorPool,
    room: Room,
    stall_timeout_s: float | None,
) -> Driver:
    """The driver that measures kept snapshots again.

    Args:
        queue: Decides what to do next; has the snapshots.
        measure: ``data_fraction``, ``probe``, ``audit`` and ``estimators`` of a resolved measure section.
        uses: Trial to the user's own problem that its snapshots may name.
        held: The run directory, under its lock.
        committer: Makes rows durable.
        pool: The workers.
        room: How many workers there is room for.
        stall_timeout_s: An estimator that makes no progress for this long is ended; None to wait forever.

    Returns:
        The driver, ready to run.
    """
    say = held.listener.say
    return Driver(
        held=held,
        committer=committer,
        schedule=queue,
        pool=pool,
        estimators=Estimators(
            run_dir=held.run_dir,
            pool=pool,
            snapshots=KeptSnapshots(measure=measure, uses=uses, committer=committer),
            say=say,
            label=str,
            stall_timeout_s=stall_timeout_s,
        ),
        trainers=None,
        progress=KeptProgress(run_dir=held.run_dir, queue=queue, listener=held.listener),
        room=room,
    )
