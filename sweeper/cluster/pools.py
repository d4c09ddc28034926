"""Long-lived trainer and estimator actors in slots: start them, give them work, tell what they say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
)

from sweeper.cluster.capacity import WorkerSettings
from sweeper.cluster.ray_session import node_rooms, reason_of, without_place
from sweeper.cluster.waiting import Want, explain
from sweeper.errors import ClusterError, mend_of_memory
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import (
    Assignment,
    EstimatorBeat,
    EstimatorDown,
    EstimatorUp,
    FromTrainer,
    Message,
    SegmentItem,
    SnapshotHeader,
    SnapshotItem,
    TrainerDown,
    TrainerItem,
    TrainerUp,
    Verdict,
    WorkerFacts,
    ends_attempt,
)

__all__ = ["RayPools", "gathered"]

_log = logging.getLogger(__name__)

_MAX_UNREAD_ITEMS = 2
"""Items that a trainer may be ahead of the driver: one snapshot is a header and an array."""

_MAX_START_FAILURES = 3
"""Actors of one kind that may die before they are up, in a row, before the sweep is given up."""


class RayPools:
    """Trainer and estimator actors in numbered slots.

    Args:
        run_dir: The run directory, as every node sees it.
        trainer: What a trainer gets.
        estimator: What an estimator gets.
        search: Folders in which workers look for the user's own modules, besides the shipped code.
    """

    def __init__(
        self, *, run_dir: Path, trainer: WorkerSettings, estimator: WorkerSettings, search: Sequence[str] = ()
    ) -> None:
        self._run_dir = run_dir
        self._search = tuple(search)
        self._settings = {"trainer": trainer, "estimator": estimator}
        # Its own thread for ``stop``, so that a trainer hears it while it trains; and for ``beats``.
        self._classes = {
            "trainer": ray.remote(concurrency_groups={"control": 1})(_Trainer),
            "estimator": ray.remote(concurrency_groups={"control": 1})(_Estimator),
        }
        self._actors: dict[tuple[str, int], Any] = {}
        self._starting: dict[Any, tuple[str, int]] = {}
        self._streams: dict[Any, int] = {}
        self._headers: dict[Any, SnapshotHeader] = {}
        self._unfinished: dict[int, int] = {}
        self._verdicts: dict[Any, tuple[int, SnapshotId]] = {}
        self._beats: dict[Any, int] = {}
        self._start_failures = {"trainer": 0, "estimator": 0}

    def start_trainer(self, slot: int) -> None:
        """Start a trainer in an empty slot; :class:`TrainerUp` follows."""
        self._start("trainer", slot)

    def start_estimator(self, slot: int) -> None:
        """Start an estimator in an empty slot; :class:`EstimatorUp` follows."""
        self._start("estimator", slot)

    def train(self, slot: int, assignments: Sequence[Assignment]) -> None:
        """Let an idle trainer run attempts, one after the other; their items follow."""
        actor = self._actors["trainer", slot]
        stream = actor.train.options(
            num_returns="streaming", _generator_backpressure_num_objects=_MAX_UNREAD_ITEMS
        ).remote(assignments)
        self._streams[stream] = slot
        self._unfinished[slot] = len(assignments)

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> None:
        """Let an idle estimator measure a snapshot; a verdict follows."""
        verdict = self._actors["estimator", slot].measure.remote(slot, snapshot, header, payload)
        self._verdicts[verdict] = (slot, snapshot)

    def ask_estimator(self, slot: int) -> None:
        """Ask an estimator whether it gets on; an :class:`EstimatorBeat` follows, unless it hangs too deep."""
        if slot not in self._beats.values():
            beats = self._actors["estimator", slot].beats.options(concurrency_group="control").remote()
            self._beats[beats] = slot

    def stop_trainer(self, slot: int) -> None:
        """Ask a trainer to checkpoint and return."""
        self._actors["trainer", slot].stop.options(concurrency_group="control").remote()

    def kill_trainer(self, slot: int) -> None:
        """End a trainer's process; nothing more comes from it."""
        self._kill("trainer", slot)
        self._streams = {stream: other for stream, other in self._streams.items() if other != slot}
        self._headers = {stream: header for stream, header in self._headers.items() if stream in self._streams}

    def kill_estimator(self, slot: int) -> None:
        """End an estimator's process; nothing more comes from it."""
        self._kill("estimator", slot)
        self._verdicts = {verdict: of for verdict, of in self._verdicts.items() if of[0] != slot}
        self._drop_beats(slot)

    def poll(self, *, timeout_s: float, read_trainers: bool) -> list[Message]:
        """Wait for what workers say.

        Args:
            timeout_s: How long at most, in seconds.
            read_trainers: Whether trainers may hand over more; an unread trainer waits.

        Returns:
            What was said, possibly nothing.

        Raises:
            ClusterError: Workers die as soon as they are started.
        """
        watched = [*self._starting, *self._verdicts, *self._beats, *(self._streams if read_trainers else ())]
        if not watched:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(watched, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(watched) > 1:
            ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0, fetch_local=False)
        return [message for handle in ready for message in self._read(handle)]

    def held_up(self) -> str | None:
        """Why workers that were asked for have no place yet; None where all have one. For any thread."""
        # Copies, made in one go: this pool's own thread starts and ends workers meanwhile.
        starting, actors = list(self._starting.values()), dict(self._actors)
        for kind, settings in self._settings.items():
            slots = [slot for of, slot in starting if of == kind]
            count = sum(without_place(actors[kind, slot]) for slot in slots if (kind, slot) in actors)
            if count:
                each = {"cpus": settings.cpus, "gpus": settings.gpus}
                return explain(Want(kind=kind, count=count, each=each), node_rooms())
        return None

    def _start(self, kind: str, slot: int) -> None:
        settings = self._settings[kind]
        options = {"cuda_graphs": True} if settings.cuda_graphs else {}
        actor = (
            self
            ._classes[kind]
            .options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_restarts=0, max_task_retries=0)
            .remote(
                run_dir=str(self._run_dir),
                threads=settings.threads,
                device=settings.device,
                search=self._search,
                **options,
            )
        )
        self._actors[kind, slot] = actor
        self._starting[actor.facts.remote()] = (kind, slot)

    def _kill(self, kind: str, slot: int) -> None:
        self._starting = {handle: of for handle, of in self._starting.items() if of != (kind, slot)}
        actor = self._actors.pop((kind, slot), None)
        if actor is not None:
            ray.kill(actor)

    def _read(self, handle: Any) -> list[Message]:
        if handle in self._starting:
            return [self._read_start(handle)]
        if handle in self._verdicts:
            return [self._read_verdict(handle)]
        if handle in self._beats:
            return self._read_beats(handle)
        return self._read_stream(handle)

    def _read_start(self, handle: Any) -> Message:
        kind, slot = self._starting.pop(handle)
        try:
            facts = ray.get(handle)
        except RayError as error:
            del self._actors[kind, slot]
            # A node that goes away takes many with it, and says nothing of whether they can be started.
            self._start_failures[kind] += not isinstance(error, RayActorError) or "node" not in str(error)
            if self._start_failures[kind] >= _MAX_START_FAILURES:
                raise ClusterError(f"no {kind} can be started: {_death_of(kind, error)}") from error
            down = TrainerDown if kind == "trainer" else EstimatorDown
            return down(slot=slot, error=_death_of(kind, error))
        self._start_failures[kind] = 0
        return TrainerUp(slot=slot, facts=facts) if kind == "trainer" else EstimatorUp(slot=slot, facts=facts)

    def _read_stream(self, stream: Any) -> list[Message]:
        slot = self._streams[stream]
        try:
            items = self._next_items(stream)
        except StopIteration:
            del self._streams[stream]
            return []
        except RayError as error:
            del self._streams[stream]
            self._headers.pop(stream, None)
            self._actors.pop(("trainer", slot), None)
            return [TrainerDown(slot=slot, error=_death_of("trainer", error))]
        self._unfinished[slot] -= sum(map(ends_attempt, items))
        if self._unfinished[slot] == 0 or (items and getattr(items[-1], "outcome", None) == "stopped"):
            del self._streams[stream]
        return [FromTrainer(slot=slot, item=item) for item in items]

    def _next_items(self, stream: Any) -> list[TrainerItem]:
        """What a trainer has sent, of which one object is there; never waits for the next, since a trainer may hang."""
        sent = next(stream)
        header = self._headers.pop(stream, None)
        if header is None:
            items: list[TrainerItem] = ray.get(sent)
            if isinstance(last := items[-1], SnapshotItem):
                self._headers[stream] = last.header
                return items[:-1]
            return items
        if sent == stream.completed():
            # In the place of the array, which nobody reads here: the trainer has died, or it raised.
            ray.get(sent)
        return [SnapshotItem(header=header, payload=sent)]

    def _read_verdict(self, handle: Any) -> Message:
        slot, snapshot = self._verdicts.pop(handle)
        try:
            verdict: Verdict = ray.get(handle)
        except (RayActorError, OutOfMemoryError, NodeDiedError) as error:
            del self._actors["estimator", slot]
            self._drop_beats(slot)
            return EstimatorDown(slot=slot, error=_death_of("estimator", error))
        except (ObjectLostError, OwnerDiedError, GetTimeoutError, RayTaskError) as error:
            return Verdict(slot=slot, snapshot=snapshot, error=reason_of(error), lost=True)
        return verdict

    def _read_beats(self, handle: Any) -> list[Message]:
        slot = self._beats.pop(handle)
        try:
            return [EstimatorBeat(slot=slot, beats=ray.get(handle))]
        except RayError:
            # It died, of which its verdict tells.
            return []

    def _drop_beats(self, slot: int) -> None:
        self._beats = {handle: of for handle, of in self._beats.items() if of != slot}


def _death_of(kind: str, error: Exception) -> str:
    """How a worker died, in a line; Ray takes twenty to say that it does not know."""
    if isinstance(error, OutOfMemoryError):
        return f"Ray ended the {kind} since its node ran short of memory; {mend_of_memory('cpus')}"
    if "unexpectedly exits" in str(error):
        return (
            f"the {kind}'s process was ended from outside or crashed, as when the system is short of memory; "
            f"if so, {mend_of_memory('cpus')}"
        )
    return reason_of(error)


class _Trainer:
    """The trainer as an actor. Imports torch in its own process only, so that the driver starts without it."""

    def __init__(self, **settings: Any) -> None:
        from sweeper.workers.trainer import TrainerWorker

        self._worker = TrainerWorker(**settings)
        # Beside the host, which several nodes may share.
        self._node = ray.get_runtime_context().get_node_id()

    def facts(self) -> WorkerFacts:
        return self._worker.facts()

    def stop(self) -> None:
        self._worker.stop()

    def train(self, assignments: Sequence[Assignment]) -> Iterator[Any]:
        """Lists of items; a snapshot's array follows its list by itself: the driver passes it on unread."""
        for items in gathered(self._worker.train(assignments)):
            match items[-1]:
                case SnapshotItem(header=header, payload=payload):
                    yield [*map(self._located, items[:-1]), SnapshotItem(header=header, payload=None)]
                    yield payload
                case _:
                    yield [*map(self._located, items)]

    def _located(self, item: TrainerItem) -> TrainerItem:
        """An item that says on which node of Ray's a segment was trained."""
        return replace(item, facts={**item.facts, "node": self._node}) if isinstance(item, SegmentItem) else item


class _Estimator:
    """The estimator as an actor; torch stays in its process, too."""

    def __init__(self, **settings: Any) -> None:
        from sweeper.workers.estimator import EstimatorWorker

        self._worker = EstimatorWorker(**settings)

    def facts(self) -> WorkerFacts:
        return self._worker.facts()

    def beats(self) -> int:
        return self._worker.beats()

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> Verdict:
        return self._worker.measure(slot, snapshot, header, payload)


_SEND_EVERY_S = 0.1
"""How long a trainer gathers what very short trials have to say; half the time in which people see a change."""


def gathered(
    items: Iterable[TrainerItem], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[list[TrainerItem]]:
    """What a trainer says, in lists, since sending one costs a millisecond.

    Nothing is held back while something long may follow: what a snapshot or a checkpoint ends is sent at once, and so
    is what comes a tenth of a second after the last list. The ends of very short trials wait for each other.

    Args:
        items: What it says.
        clock: Seconds.

    Yields:
        Lists with at least one item, of which the last alone may be a snapshot.
    """
    held: list[TrainerItem] = []
    sent = clock()
    for item in items:
        held.append(item)
        more_follows = isinstance(item, SnapshotItem) or (isinstance(item, SegmentItem) and item.outcome is None)
        if more_follows or clock() - sent > _SEND_EVERY_S:
            yield held
            held, sent = [], clock()
    if held:
        yield held
