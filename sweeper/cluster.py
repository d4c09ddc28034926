"""Start a local Ray or join a cluster, and see how many workers fit."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from sweeper.elastic import PoolSize
from sweeper.errors import ClusterError
from sweeper.guarded_paths import make_folder
from sweeper.joining import listens
from sweeper.shield import deaf_children, ended_with
from sweeper.waiting import NodeRoom, Want, explain

__all__ = [
    "Cluster",
    "PoolSize",
    "WorkerSettings",
    "connect",
    "head_answers",
    "node_rooms",
    "num_estimators",
    "pool_size",
    "reason_of",
    "room_now",
    "without_place",
    "worker_settings",
]

_log = logging.getLogger(__name__)


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
class Cluster:
    """What the cluster has.

    Attributes:
        cpus: Ray CPUs of all nodes.
        gpus: Ray GPUs of all nodes.
        object_store_bytes: Shared memory for snapshots, of the smallest node.
        nodes: CPUs and GPUs of each node; empty where one has it all.
    """

    cpus: float
    gpus: float
    object_store_bytes: int
    nodes: tuple[tuple[float, float], ...] = ()


@contextlib.contextmanager
def connect(address: str, *, logs: Path, code: Path | None = None) -> Iterator[Cluster]:
    """Start a private local Ray, or join a cluster, for the length of a ``with`` block.

    Args:
        address: ``local`` or ``host:port``.
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
                f"the Ray cluster was lost: {reason_of(error)}; what was committed is safe: "
                "run the same command to go on"
            ) from error
        finally:
            _leave()
    finally:
        if session is not None:
            _keep_logs(session, logs)
            shutil.rmtree(session, ignore_errors=True)


def _start(options: dict[str, Any], attempts: int) -> None:
    """Start or join; a local start can fail on a busy machine, so it is tried again once."""
    for attempt in range(1, attempts + 1):
        try:
            with deaf_children():
                ray.init(**options)
        except (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            _leave()
            if attempt < attempts:
                _log.warning("Ray did not start (%s); trying again", error)
                continue
            address = options["address"]
            if address == "local":
                raise ClusterError(f"a local Ray could not be started: {error}") from error
            # It answered a moment ago: see `joining`.
            raise ClusterError(
                f"cluster.address {address!r}: the cluster answers, but cannot be joined: {reason_of(error)}; "
                "look at the logs of its head, or use `--address local`"
            ) from error
        except BaseException:
            # The user is tired of waiting.
            _leave()
            raise
        else:
            return


def _leave() -> None:
    """Leave a cluster, or end a local Ray with all that it has started."""
    node = ray._private.worker._global_node
    started = [] if node is None else [info.process for infos in node.all_processes.values() for info in infos]
    for process in started:
        # Ray would ask each to go, and wait a second for it; but they are deaf.
        process.terminate = process.kill
    with ended_with([process.pid for process in started]):
        ray.shutdown()


def _describe() -> Cluster:
    living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [_cpus_gpus(resources) for resources in living]
    return Cluster(
        cpus=sum(room["cpus"] for room in rooms),
        gpus=sum(room["gpus"] for room in rooms),
        object_store_bytes=int(min((resources.get("object_store_memory", 0) for resources in living), default=0)),
        nodes=tuple((room["cpus"], room["gpus"]) for room in rooms),
    )


def node_rooms() -> list[NodeRoom]:
    """What the living nodes have, and what is free there now."""
    free = ray._private.state.available_resources_per_node()
    return [
        NodeRoom(total=_cpus_gpus(node["Resources"]), free=_cpus_gpus(free.get(node["NodeID"], {})))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _cpus_gpus(resources: Mapping[str, float]) -> dict[str, float]:
    return {"cpus": resources.get("CPU", 0.0), "gpus": resources.get("GPU", 0.0)}


def room_now(
    trainer: WorkerSettings,
    estimator: WorkerSettings,
    *,
    trainers: int | Literal["auto"],
    estimators: int | Literal["auto"],
    num_trials: int,
) -> PoolSize | None:
    """How many workers the living nodes have room for.

    Args:
        trainer: What a trainer takes.
        estimator: What an estimator takes.
        trainers: The most that are wanted, or ``auto``.
        estimators: The same; 0 where nothing is measured.
        num_trials: Trials of the sweep.

    Returns:
        The sizes, at most what is wanted; None where there is no room for one of each.
    """
    measured: Literal["auto", 0] = "auto" if estimators != 0 else 0
    try:
        size = pool_size(_describe(), trainer, estimator, trainers="auto", estimators=measured, num_trials=num_trials)
    except ClusterError:
        return None
    return PoolSize(
        trainers=size.trainers if trainers == "auto" else min(trainers, size.trainers),
        estimators=size.estimators if estimators == "auto" else min(estimators, size.estimators),
    )


def head_answers() -> bool:
    """Whether the head of the joined cluster takes connections."""
    return listens(ray.get_runtime_context().gcs_address, timeout_s=1.0)


def without_place(actor: Any) -> bool:
    """Whether no node has been found for an actor that was asked for."""
    known = ray._private.state.actors(actor._actor_id.hex())
    return (
        bool(known) and known["State"] in {"DEPENDENCIES_UNREADY", "PENDING_CREATION"} and not known["Address"]["Port"]
    )


def _usable_cores() -> int:
    """Cores that this process may use, which in a container or under a batch system are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _local_store_bytes() -> int:
    """Shared memory for snapshots: a quarter of what is free in /dev/shm, between 100 MiB and 4 GiB."""
    try:
        free = shutil.disk_usage("/dev/shm").free  # no file is made there  # nosec B108
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
                make_folder(target)
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
    nodes = cluster.nodes or ((cluster.cpus, cluster.gpus),)
    _check_each(nodes, trainer, "trainer")
    if measured:
        _check_each(nodes, estimator, "estimator")
    # Node by node: half a worker here and half there is none.
    room = sum(min(_fit(cpus, pair_cpus), _fit(gpus, pair_gpus)) for cpus, gpus in nodes)
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


def _check_each(nodes: Sequence[tuple[float, float]], each: WorkerSettings, kind: str) -> None:
    """Some node must hold one worker."""
    if any(cpus + 1e-9 >= each.cpus and gpus + 1e-9 >= each.gpus for cpus, gpus in nodes):
        return
    raise ClusterError(
        explain(
            Want(kind=kind, count=1, each={"cpus": each.cpus, "gpus": each.gpus}),
            [NodeRoom(total={"cpus": cpus, "gpus": gpus}, free={}) for cpus, gpus in nodes],
            opening="no room for",
        )
    )


def num_estimators(
    cluster: Cluster, estimator: WorkerSettings, *, count: int | Literal["auto"], num_snapshots: int
) -> int:
    """How many estimators to start where nothing is trained beside them.

    Args:
        cluster: What there is.
        estimator: What an estimator takes.
        count: A number, or ``auto``: as many as there are cores for their threads, or shares of a GPU.
        num_snapshots: What there is to measure: more estimators would idle.

    Returns:
        The number, at least 1.

    Raises:
        ClusterError: There is no room for what the spec asks for.

    Example:
        >>> half = WorkerSettings(cpus=0.5, gpus=0, threads=1)
        >>> num_estimators(Cluster(cpus=2, gpus=0, object_store_bytes=0), half, count="auto", num_snapshots=9)
        2
    """
    nodes = cluster.nodes or ((cluster.cpus, cluster.gpus),)
    _check_each(nodes, estimator, "estimator")
    room = sum(min(_fit(cpus, estimator.cpus), _fit(gpus, estimator.gpus)) for cpus, gpus in nodes)
    by_threads = room if estimator.gpus else _fit(cluster.cpus, max(estimator.cpus, estimator.threads))
    wanted = max(1, min(by_threads if count == "auto" else count, num_snapshots))
    if wanted > room:
        raise ClusterError(
            f"resources: {wanted} estimators do not fit, the cluster has {cluster.cpus:g} CPUs and "
            f"{cluster.gpus:g} GPUs; lower resources.estimators.count, cpus or gpus"
        )
    return wanted


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


def reason_of(error: Exception) -> str:
    """Ray's long-winded errors in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
