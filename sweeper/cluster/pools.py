"""Long-lived trainer and estimator actors in slots: start them, give them work, pass on their messages."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.cluster.actors import EstimatorActor, TrainerActor
from sweeper.cluster.capacity import WorkerSettings
from sweeper.cluster.last_words import last_words
from sweeper.cluster.nodes import Layout
from sweeper.cluster.ray_session import node_rooms, without_place
from sweeper.cluster.waiting import Want, explain
from sweeper.errors import ClusterError, error_line, last_line, memory_advice
from sweeper.labels import counted
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
    SnapshotItem,
    TrainerDown,
    TrainerItem,
    TrainerUp,
    Verdict,
    WorkerFacts,
    ends_attempt,
    ends_work,
)

__all__ = ["RayPools"]

_log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["trainer", "estimator"]

_MAX_UNREAD_ITEMS = 2
"""Objects that a trainer may send ahead of the driver: one snapshot takes two, a header and an array."""

_LAST_WORDS_S = 10.0
"""How long a node may take to say what a worker printed last; starting the process that looks takes a second or two."""

_MAX_START_FAILURES = 3
"""How many actors of one kind in a row may die before they are up; then the sweep gives up."""


# What is expected from a worker, per Ray handle


@dataclass(frozen=True, kw_only=True)
class _Start:
    """A worker's facts, which it sends when it is up."""

    kind: Kind
    slot: int


@dataclass(kw_only=True, eq=False)
class _Stream:
    """What a trainer sends.

    Attributes:
        slot: Slot of the trainer.
        unfinished: Attempts that it was given and has not ended.
        held: A snapshot whose array has not arrived yet.
    """

    kind: ClassVar[Kind] = "trainer"
    slot: int
    unfinished: int
    held: SnapshotItem | None = None


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """The verdict on a snapshot."""

    kind: ClassVar[Kind] = "estimator"
    slot: int
    snapshot: SnapshotId


@dataclass(frozen=True, kw_only=True)
class _Beats:
    """An estimator's answer to whether it makes progress."""

    kind: ClassVar[Kind] = "estimator"
    slot: int


@dataclass(frozen=True, kw_only=True)
class _LastWords:
    """What a worker that has died printed last, asked from its node: its death is told when that is known."""

    kind: Kind
    slot: int
    error: Exception
    until: float

    @property
    def is_late(self) -> bool:
        """Whether nothing more is expected."""
        return time.monotonic() > self.until


_Pending: TypeAlias = _Start | _Stream | _Verdict | _Beats | _LastWords


class RayPools:
    """Trainer and estimator actors in numbered slots.

    Args:
        run_dir: The run directory, as every node sees it.
        trainer: Resources of a trainer.
        estimator: Resources of an estimator.
        private: Whether this Ray is the driver's own, so that nothing else can be in the way of its workers.
        layout: Which node each worker belongs to; without one, or beyond it, Ray decides.
    """

    def __init__(
        self,
        *,
        run_dir: Path,
        trainer: WorkerSettings,
        estimator: WorkerSettings,
        private: bool = False,
        layout: Layout | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._own_ray = private
        self._layout = layout or Layout()
        self._settings: dict[Kind, WorkerSettings] = {"trainer": trainer, "estimator": estimator}
        # A separate thread for ``stop`` and ``beats``, so that they are served while the actor trains or measures.
        self._classes: dict[Kind, Any] = {
            "trainer": ray.remote(concurrency_groups={"control": 1})(TrainerActor),
            "estimator": ray.remote(concurrency_groups={"control": 1})(EstimatorActor),
        }
        self._actors: dict[tuple[Kind, int], Any] = {}
        self._belongs: dict[tuple[Kind, int], str] = {}
        self._facts: dict[tuple[Kind, int], WorkerFacts] = {}
        self._pending: dict[Any, _Pending] = {}
        self._start_failures: dict[Kind, int] = {"trainer": 0, "estimator": 0}

    def start_trainer(self, slot: int) -> None:
        """Start a trainer in an empty slot; :class:`TrainerUp` follows."""
        self._start("trainer", slot)

    def start_estimator(self, slot: int) -> None:
        """Start an estimator in an empty slot; :class:`EstimatorUp` follows."""
        self._start("estimator", slot)

    def train(self, slot: int, assignments: Sequence[Assignment]) -> None:
        """Let an idle trainer run attempts, one after another; their items follow."""
        actor = self._actors["trainer", slot]
        stream = actor.train.options(
            num_returns="streaming", _generator_backpressure_num_objects=_MAX_UNREAD_ITEMS
        ).remote(assignments)
        self._pending[stream] = _Stream(slot=slot, unfinished=len(assignments))

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> None:
        """Let an idle estimator measure a snapshot; a verdict follows."""
        verdict = self._actors["estimator", slot].measure.remote(slot, snapshot, header, payload)
        self._pending[verdict] = _Verdict(slot=slot, snapshot=snapshot)

    def measure_kept(self, slot: int, snapshot: SnapshotId, kept: KeptSnapshot) -> None:
        """Let an idle estimator measure a snapshot in the run directory; a verdict follows."""
        verdict = self._actors["estimator", slot].measure_kept.remote(slot, snapshot, kept)
        self._pending[verdict] = _Verdict(slot=slot, snapshot=snapshot)

    def ask_estimator(self, slot: int) -> None:
        """Ask an estimator whether it makes progress; an :class:`EstimatorBeat` follows, unless its process hangs."""
        known = ("estimator", slot) in self._actors  # not one whose death is about to be told
        if known and _Beats(slot=slot) not in self._pending.values():
            beats = self._actors["estimator", slot].beats.options(concurrency_group="control").remote()
            self._pending[beats] = _Beats(slot=slot)

    def stop_trainer(self, slot: int) -> None:
        """Ask a trainer to checkpoint and return."""
        if ("trainer", slot) in self._actors:
            self._actors["trainer", slot].stop.options(concurrency_group="control").remote()

    def kill_trainer(self, slot: int) -> None:
        """End a trainer's process; nothing more comes from it."""
        self._kill("trainer", slot)

    def kill_estimator(self, slot: int) -> None:
        """End an estimator's process; nothing more comes from it."""
        self._kill("estimator", slot)

    def poll(self, *, timeout_s: float, read_trainers: bool) -> list[Message]:
        """Wait for messages from workers.

        Args:
            timeout_s: How long to wait at most, in seconds.
            read_trainers: Whether trainers may hand over more; an unread trainer waits.

        Returns:
            The messages, possibly none.

        Raises:
            ClusterError: Workers die as soon as they are started.
        """
        watched = [handle for handle, of in self._pending.items() if read_trainers or not isinstance(of, _Stream)]
        if not watched:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(watched, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(watched) > 1:
            ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0, fetch_local=False)
        late = [handle for handle, of in self._pending.items() if isinstance(of, _LastWords) and of.is_late]
        return [message for handle in dict.fromkeys([*ready, *late]) for message in self._read(handle)]

    def held_up(self) -> str | None:
        """Why requested workers have no place yet; None if all have one. May be called from any thread."""
        still: dict[str, int] = {}
        # Copies, each made at once: the driver's thread starts and ends workers meanwhile.
        pending, actors = list(self._pending.values()), dict(self._actors)
        starting = [of for of in pending if isinstance(of, _Start)]
        for kind, settings in self._settings.items():
            slots = [of.slot for of in starting if of.kind == kind]
            count = sum(without_place(actors[kind, slot]) for slot in slots if (kind, slot) in actors)
            if count and self._own_ray:
                still[kind] = count
            elif count:
                each = {"cpus": settings.cpus, "gpus": settings.gpus}
                return explain(Want(kind=kind, count=count, each=each), node_rooms(settings.accelerator_type))
        if not still:
            return None
        who = " and ".join(counted(count, kind) for kind, count in still.items())
        return f"{who} still starting: this machine is busy"

    def _start(self, kind: Kind, slot: int) -> None:
        if (kind, slot) in self._actors:
            # Asked for already: the worker before it was ended, and had died by itself in the same moment.
            return
        settings = self._settings[kind]
        options: dict[str, Any] = {}
        if settings.cuda_graphs and settings.gpus:
            options["cuda_graphs"] = settings.cuda_graphs
        if 0 < settings.gpus < 1:
            options["gpus"] = settings.gpus
        actor = (
            self
            ._classes[kind]
            .options(
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                accelerator_type=settings.accelerator_type,
                scheduling_strategy=self._strategy(kind, slot),
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(
                run_dir=str(self._run_dir),
                threads=settings.threads,
                device=settings.device,
                **options,
            )
        )
        self._actors[kind, slot] = actor
        self._pending[actor.facts.remote()] = _Start(kind=kind, slot=slot)

    def _strategy(self, kind: Kind, slot: int) -> Any:
        """On the node that lacks most workers of the kind, or elsewhere if other jobs leave no room there."""
        taken = Counter(
            node for (of, place), node in self._belongs.items() if of == kind and (of, place) in self._actors
        )
        node = self._layout.node_for(kind, taken)
        if node is None:
            self._belongs.pop((kind, slot), None)
            return "DEFAULT"
        self._belongs[kind, slot] = node
        return NodeAffinitySchedulingStrategy(node_id=node, soft=True, _spill_on_unavailable=True)

    def _kill(self, kind: Kind, slot: int) -> None:
        self._forget(kind, slot)
        self._facts.pop((kind, slot), None)
        actor = self._actors.pop((kind, slot), None)
        if actor is not None:
            ray.kill(actor)

    def _forget(self, kind: Kind, slot: int) -> None:
        """Expect nothing more from a worker."""
        # All its handles at once. A dead worker may have several, and each of them would report the death again; by
        # then the slot may have a new worker, which would be taken for dead.
        self._pending = {handle: of for handle, of in self._pending.items() if (of.kind, of.slot) != (kind, slot)}

    def _read(self, handle: Any) -> list[Message]:
        match self._pending.get(handle):
            case _Start() as start:
                return [self._read_start(handle, start)]
            case _Stream() as stream:
                return self._read_stream(handle, stream)
            case _Verdict() as verdict:
                return self._read_verdict(handle, verdict)
            case _Beats() as beats:
                return self._read_beats(handle, beats)
            case _LastWords() as words:
                return [self._read_last_words(handle, words)]
            case None:
                # From a worker whose death was read earlier in the same batch, see ``_forget``.
                return []

    def _read_start(self, handle: Any, start: _Start) -> Message:
        kind, slot = start.kind, start.slot
        del self._pending[handle]
        try:
            facts = ray.get(handle)
        except RayError as error:
            del self._actors[kind, slot]
            # Not if the whole node went away: that takes many workers at once, and does not mean that none can start.
            self._start_failures[kind] += not isinstance(error, RayActorError) or "node" not in str(error)
            if self._start_failures[kind] >= _MAX_START_FAILURES:
                raise ClusterError(f"no {kind} can be started: {_death_of(kind, error)}") from error
            return _down(kind, slot, error, "")
        self._start_failures[kind] = 0
        self._facts[kind, slot] = facts
        return TrainerUp(slot=slot, facts=facts) if kind == "trainer" else EstimatorUp(slot=slot, facts=facts)

    def _read_stream(self, handle: Any, stream: _Stream) -> list[Message]:
        slot = stream.slot
        try:
            items = self._next_items(handle, stream)
        except StopIteration:
            del self._pending[handle]
            return []
        except RayError as error:
            return self._died("trainer", slot, error)
        stream.unfinished -= sum(map(ends_attempt, items))
        if stream.unfinished == 0 or any(map(ends_work, items)):
            del self._pending[handle]
        return [FromTrainer(slot=slot, item=item) for item in items]

    def _next_items(self, handle: Any, stream: _Stream) -> list[TrainerItem]:
        """Read the one object that is known to have arrived; never waits for the next, since a trainer may hang."""
        # A snapshot takes two objects: a list that ends with its item, without the array, and then the array. The
        # array's reference is passed on to an estimator, so that the bytes never go through the driver's memory. The
        # item is held back until then: waiting for the array here would block the whole driver if the trainer hangs.
        sent = next(handle)
        held, stream.held = stream.held, None
        if held is None:
            items: list[TrainerItem] = ray.get(sent)
            if isinstance(last := items[-1], SnapshotItem):
                stream.held = last
                return items[:-1]
            return items
        if sent == handle.completed():
            # The stream ended instead of delivering the array: the trainer has died, or it raised. Reading the last
            # object raises that error here. Passed on unread, it would look as if the snapshot had been lost later.
            ray.get(sent)
        return [replace(held, payload=sent)]

    def _read_verdict(self, handle: Any, of: _Verdict) -> list[Message]:
        del self._pending[handle]
        try:
            verdict: Verdict = ray.get(handle)
        except (RayActorError, OutOfMemoryError, NodeDiedError) as error:
            return self._died("estimator", of.slot, error)
        except (ObjectLostError, OwnerDiedError, GetTimeoutError, RayTaskError) as error:
            return [Lost(slot=of.slot, snapshot=of.snapshot, error=error_line(error))]
        return [verdict]

    def _died(self, kind: Kind, slot: int, error: Exception) -> list[Message]:
        """A worker has died: told at once if what it printed is on this machine, else when its node has said."""
        self._forget(kind, slot)
        self._actors.pop((kind, slot), None)
        facts = self._facts.pop((kind, slot), None)
        if facts is None or not facts.outputs or isinstance(error, NodeDiedError):
            return [_down(kind, slot, error, "")]
        if facts.host == socket.gethostname() and all(map(os.path.exists, facts.outputs)):
            return [_down(kind, slot, error, last_words(facts.outputs))]
        on_its_node = NodeAffinitySchedulingStrategy(node_id=facts.node, soft=False)
        look = ray.remote(last_words).options(num_cpus=0, max_retries=0, scheduling_strategy=on_its_node)
        words = _LastWords(kind=kind, slot=slot, error=error, until=time.monotonic() + _LAST_WORDS_S)
        self._pending[look.remote(facts.outputs)] = words
        return []

    def _read_last_words(self, handle: Any, of: _LastWords) -> Message:
        del self._pending[handle]
        try:
            printed: str = ray.get(handle, timeout=0 if of.is_late else 1)
        except RayError:
            printed = ""  # the node has gone, too, or is too slow
        return _down(of.kind, of.slot, of.error, printed)

    def _read_beats(self, handle: Any, of: _Beats) -> list[Message]:
        del self._pending[handle]
        try:
            return [EstimatorBeat(slot=of.slot, beats=ray.get(handle))]
        except RayError:
            # It died; the verdict will report that.
            return []


def _down(kind: Kind, slot: int, error: Exception, printed: str) -> Message:
    down = TrainerDown if kind == "trainer" else EstimatorDown
    return down(slot=slot, error=_death_of(kind, error, printed), printed=printed)


def _death_of(kind: Kind, error: Exception, printed: str = "") -> str:
    """How a worker died, in one line; Ray's own text can be twenty lines that do not say it."""
    last = last_line(printed)
    if isinstance(error, OutOfMemoryError):
        return f"Ray ended the {kind} because its node ran short of memory{last}; {memory_advice('cpus')}"
    if "unexpectedly exits" in str(error):
        return (
            f"the {kind}'s process exited, crashed or was killed{last}; if the system was short of memory, "
            f"{memory_advice('cpus')}"
        )
    return f"{error_line(error)}{last}"
