"""Ray: start or join a cluster, keep long-lived trainer and estimator actors in slots, tell what they say."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
)

from sweeper.errors import ClusterError
from sweeper.events import SnapshotId
from sweeper.messages import (
    Assignment,
    EstimatorDown,
    EstimatorUp,
    FromTrainer,
    Message,
    SnapshotHeader,
    SnapshotItem,
    TrainerDown,
    TrainerUp,
    Verdict,
    WorkerFacts,
    ends_attempt,
)

__all__ = ["Cluster", "PoolSize", "RayPools", "WorkerSettings", "connect", "pool_size", "worker_settings"]

_log = logging.getLogger(__name__)

_MAX_UNREAD_ITEMS = 2
"""Items that a trainer may be ahead of the driver: one snapshot is a header and an array."""

_SEND_EVERY_S = 0.1
"""How long a trainer gathers what very short trials have to say; half the time in which people see a change."""

_MAX_START_FAILURES = 3
"""Actors of one kind that may die before they are up, in a row, before the sweep is given up."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What an actor of one kind gets.

    Attributes:
        cpus: Ray CPUs, may be a fraction.
        gpus: Ray GPUs, may be a fraction.
        threads: Threads of each numerical kernel.
    """

    cpus: float
    gpus: float
    threads: int

    @property
    def device(self) -> str:
        """``cuda`` where the actor has a share of a GPU."""
        return "cuda" if self.gpus > 0 else "cpu"


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """How many actors of each kind there are to be."""

    trainers: int
    estimators: int


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the cluster has.

    Attributes:
        cpus: Ray CPUs of all nodes.
        gpus: Ray GPUs of all nodes.
        object_store_bytes: Shared memory for snapshots, of the smallest node.
    """

    cpus: float
    gpus: float
    object_store_bytes: int


@contextlib.contextmanager
def connect(address: str, *, logs: Path, code: Path | None = None) -> Iterator[Cluster]:
    """Start a private local Ray, or join a cluster, for the length of a ``with`` block.

    Args:
        address: ``local``, ``auto``, ``host:port`` or ``ray://host:port``.
        logs: Where the logs of a local Ray are copied in the end.
        code: Folder with the user's own code, shipped to every worker.

    Yields:
        What the cluster has.

    Raises:
        ClusterError: Ray could not be started or reached.
    """
    local = address == "local"
    # A short path: Ray puts Unix sockets below it, whose names may have 107 bytes.
    session = Path(tempfile.mkdtemp(prefix="clipsweep-")) if local else None
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
        "namespace": "clipsweep",
    }
    if code is not None:
        options["runtime_env"] = {"working_dir": str(code)}
    if session is not None:
        options |= {
            "include_dashboard": False,
            "num_cpus": _usable_cores(),
            "object_store_memory": _local_store_bytes(),
            "_temp_dir": str(session),
            "_node_ip_address": "127.0.0.1",
        }
    try:
        _start(options, attempts=2 if local else 1)
        try:
            yield _describe()
        except (RayError, ConnectionError) as error:
            raise ClusterError(
                f"the Ray cluster was lost: {_reason(error)}; what was committed is safe, run the same command to go on"
            ) from error
        finally:
            ray.shutdown()
    finally:
        if session is not None:
            _keep_logs(session, logs)
            shutil.rmtree(session, ignore_errors=True)


def _start(options: dict[str, Any], attempts: int) -> None:
    """Start or join; a local start can fail on a busy machine, so it is tried again once."""
    for attempt in range(1, attempts + 1):
        try:
            ray.init(**options)
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            ray.shutdown()
            if attempt < attempts:
                _log.warning("Ray did not start (%s); trying again", error)
                continue
            address = options["address"]
            if address == "local":
                raise ClusterError(f"a local Ray could not be started: {error}") from error
            raise ClusterError(
                f"cluster.address {address!r}: no Ray cluster could be reached: {error}; "
                "start one with `ray start --head`, or use `--address local`"
            ) from error
        else:
            return


def _describe() -> Cluster:
    resources = ray.cluster_resources()
    stores = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"]]
    return Cluster(
        cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0), object_store_bytes=int(min(stores, default=0))
    )


def _usable_cores() -> int:
    """Cores that this process may use, which in a container or under a batch system are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local_store_bytes() -> int:
    """Shared memory for snapshots: a quarter of what is free in /dev/shm, between 100 MiB and 4 GiB."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        free = 2**30
    return int(min(max(free // 4, 100 * 2**20), 4 * 2**30))


def _keep_logs(session: Path, logs: Path) -> None:
    """Copy a local Ray's logs that hold something into the run directory."""
    target = logs / "ray"
    for path in session.glob("session_*/logs/*"):
        if path.parent.parent.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError):
            if path.stat().st_size and path.suffix in {".err", ".out", ".log"}:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / path.name)


def pool_size(
    cluster: Cluster,
    trainer: WorkerSettings,
    estimator: WorkerSettings,
    *,
    trainers: int | Literal["auto"],
    estimators: int | Literal["auto"],
    num_trials: int,
) -> PoolSize:
    """How many actors of each kind fit the cluster.

    ``auto`` takes as many pairs of a trainer and an estimator as there is room for, so that both kinds share the cores
    by their fractions; where nothing is measured, trainers take all of it.

    Args:
        cluster: What there is.
        trainer: What a trainer takes.
        estimator: What an estimator takes.
        trainers: A number, or ``auto``.
        estimators: A number, or ``auto``; 0 where nothing is measured.
        num_trials: Trials left to run: more trainers would idle.

    Returns:
        The sizes.

    Raises:
        ClusterError: There is no room for what the spec asks for.

    Example:
        >>> half = WorkerSettings(cpus=0.5, gpus=0, threads=1)
        >>> two_cores = Cluster(cpus=2, gpus=0, object_store_bytes=0)
        >>> pool_size(two_cores, half, half, trainers="auto", estimators="auto", num_trials=8)
        PoolSize(trainers=2, estimators=2)
    """
    measured = estimators != 0
    pair_cpus = trainer.cpus + (estimator.cpus if measured else max(0.0, 1 - trainer.cpus))
    pair_gpus = trainer.gpus + (estimator.gpus if measured else 0)
    room = _fit(cluster.cpus, pair_cpus)
    if pair_gpus > 0:
        room = min(room, _fit(cluster.gpus, pair_gpus))
    size = PoolSize(
        trainers=min(num_trials, max(1, room)) if trainers == "auto" else trainers,
        estimators=max(1, room) if estimators == "auto" else estimators,
    )
    for what, need, there in (
        ("CPUs", size.trainers * trainer.cpus + size.estimators * estimator.cpus, cluster.cpus),
        ("GPUs", size.trainers * trainer.gpus + size.estimators * estimator.gpus, cluster.gpus),
    ):
        if need > there + 1e-9:
            raise ClusterError(
                f"resources: {size.trainers} trainers and {size.estimators} estimators take {need:g} {what}, "
                f"the cluster has {there:g}; lower resources.*.count or resources.*.{what.lower()}"
            )
    return size


def _fit(there: float, each: float) -> int:
    """How many shares fit, forgiving the rounding of fractions such as 0.1."""
    return int(there / each + 1e-9) if each > 0 else 2**30


def worker_settings(section: Any) -> WorkerSettings:
    """What an actor gets, from its part of the spec's ``resources``.

    Args:
        section: ``resources.trainers`` or ``resources.estimators``.

    Returns:
        The settings.
    """
    return WorkerSettings(cpus=section.cpus, gpus=section.gpus, threads=section.threads)


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
        # Its own thread for ``stop``, so that a trainer hears it while it trains.
        self._classes = {
            "trainer": ray.remote(concurrency_groups={"control": 1})(_Trainer),
            "estimator": ray.remote(_Estimator),
        }
        self._actors: dict[tuple[str, int], Any] = {}
        self._starting: dict[Any, tuple[str, int]] = {}
        self._streams: dict[Any, int] = {}
        self._unfinished: dict[int, int] = {}
        self._verdicts: dict[Any, tuple[int, SnapshotId]] = {}
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

    def stop_trainer(self, slot: int) -> None:
        """Ask a trainer to checkpoint and return."""
        self._actors["trainer", slot].stop.options(concurrency_group="control").remote()

    def kill_trainer(self, slot: int) -> None:
        """End a trainer's process; nothing more comes from it."""
        actor = self._actors.pop(("trainer", slot), None)
        if actor is not None:
            ray.kill(actor)
        self._streams = {stream: other for stream, other in self._streams.items() if other != slot}

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
        watched = [*self._starting, *self._verdicts, *(self._streams if read_trainers else ())]
        if not watched:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(watched, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(watched) > 1:
            ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0, fetch_local=False)
        return [message for handle in ready for message in self._read(handle)]

    def _start(self, kind: str, slot: int) -> None:
        settings = self._settings[kind]
        actor = (
            self
            ._classes[kind]
            .options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_restarts=0, max_task_retries=0)
            .remote(run_dir=str(self._run_dir), threads=settings.threads, device=settings.device, search=self._search)
        )
        self._actors[kind, slot] = actor
        self._starting[actor.facts.remote()] = (kind, slot)

    def _read(self, handle: Any) -> list[Message]:
        if handle in self._starting:
            return [self._read_start(handle)]
        if handle in self._verdicts:
            return [self._read_verdict(handle)]
        return self._read_stream(handle)

    def _read_start(self, handle: Any) -> Message:
        kind, slot = self._starting.pop(handle)
        try:
            facts = ray.get(handle)
        except RayError as error:
            del self._actors[kind, slot]
            self._start_failures[kind] += 1
            if self._start_failures[kind] >= _MAX_START_FAILURES:
                raise ClusterError(f"no {kind} can be started: {_reason(error)}") from error
            down = TrainerDown if kind == "trainer" else EstimatorDown
            return down(slot=slot, error=_reason(error))
        self._start_failures[kind] = 0
        return TrainerUp(slot=slot, facts=facts) if kind == "trainer" else EstimatorUp(slot=slot, facts=facts)

    def _read_stream(self, stream: Any) -> list[Message]:
        slot = self._streams[stream]
        try:
            items = ray.get(next(stream))
            if isinstance(items[-1], SnapshotItem):
                items[-1] = SnapshotItem(header=items[-1].header, payload=next(stream))
        except StopIteration:
            del self._streams[stream]
            return []
        except RayError as error:
            del self._streams[stream]
            self._actors.pop(("trainer", slot), None)
            return [TrainerDown(slot=slot, error=_reason(error))]
        self._unfinished[slot] -= sum(map(ends_attempt, items))
        if self._unfinished[slot] == 0 or getattr(items[-1], "outcome", None) == "stopped":
            del self._streams[stream]
        return [FromTrainer(slot=slot, item=item) for item in items]

    def _read_verdict(self, handle: Any) -> Message:
        slot, snapshot = self._verdicts.pop(handle)
        try:
            verdict: Verdict = ray.get(handle)
        except RayActorError as error:
            del self._actors["estimator", slot]
            return EstimatorDown(slot=slot, error=_reason(error))
        except (ObjectLostError, OwnerDiedError, GetTimeoutError, RayTaskError) as error:
            return Verdict(slot=slot, snapshot=snapshot, error=_reason(error), lost=True)
        return verdict


class _Trainer:
    """The trainer as an actor. Imports torch in its own process only, so that the driver starts without it."""

    def __init__(self, **settings: Any) -> None:
        from sweeper.actors import TrainerWorker

        self._worker = TrainerWorker(**settings)

    def facts(self) -> WorkerFacts:
        return self._worker.facts()

    def stop(self) -> None:
        self._worker.stop()

    def train(self, assignments: Sequence[Assignment]) -> Iterator[Any]:
        """Lists of items, since sending one costs a millisecond; a snapshot's array follows its list by itself."""
        held: list[Any] = []
        sent = time.monotonic()
        for item in self._worker.train(assignments):
            if isinstance(item, SnapshotItem):
                # The array apart: the driver reads the header and passes the array on unread.
                yield [*held, SnapshotItem(header=item.header, payload=None)]
                yield item.payload
            elif time.monotonic() - sent > _SEND_EVERY_S:
                yield [*held, item]
            else:
                held.append(item)
                continue
            held, sent = [], time.monotonic()
        if held:
            yield held


class _Estimator:
    """The estimator as an actor; torch stays in its process, too."""

    def __init__(self, **settings: Any) -> None:
        from sweeper.actors import EstimatorWorker

        self._worker = EstimatorWorker(**settings)

    def facts(self) -> WorkerFacts:
        return self._worker.facts()

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> Verdict:
        return self._worker.measure(slot, snapshot, header, payload)


def _reason(error: Exception) -> str:
    """Ray's long-winded errors in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
