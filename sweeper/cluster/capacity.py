"""How many workers a sweep starts on a cluster, and what it may keep there; pure arithmetic without Ray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sweeper.cluster.nodes import Node, Share, WorkerSettings, total
from sweeper.cluster.placement import most_beside, own_room, place
from sweeper.cluster.waiting import NodeRoom, Want, explain
from sweeper.errors import ClusterError
from sweeper.labels import counted, printable
from sweeper.protocol.pools import PoolSize
from sweeper.spec.sections.settings import EstimatorPool, Pool, TrainerPool

__all__ = [
    "Cluster",
    "Node",
    "Wanted",
    "WorkerSettings",
    "num_estimators",
    "pool_size",
    "shares_of",
    "snapshot_bytes",
    "worker_settings",
]

_SHARE_OF_STORE = 3
"""Of which part of the shared memory snapshots take one: messages, and copies for estimators elsewhere, take others."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The living nodes of a cluster."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> float:
        """Ray CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Ray GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a spec asks for.

    Attributes:
        trainers: A number, or ``auto``.
        estimators: A number, or ``auto``; 0 if nothing is measured.
        num_trials: Trials left to run: more trainers than that would be idle.
    """

    trainers: int | Literal["auto"]
    estimators: int | Literal["auto"]
    num_trials: int


def pool_size(
    cluster: Cluster,
    trainer: WorkerSettings,
    estimator: WorkerSettings,
    wanted: Wanted,
) -> PoolSize:
    """How many workers of each kind fit on the cluster.

    ``auto`` takes as many of both as :func:`~sweeper.cluster.placement.place` finds room for; if nothing is measured,
    trainers take everything.

    Args:
        cluster: The cluster's nodes.
        trainer: Resources of a trainer.
        estimator: Resources of an estimator.
        wanted: What the spec asks for.

    Returns:
        The sizes, and what they may keep in shared memory.

    Raises:
        ClusterError: There is no room for what the spec asks for.

    Example:
        >>> half = WorkerSettings(cpus=0.5, gpus=0, threads=1)
        >>> two_cores = Cluster(nodes=(Node(cpus=2),))
        >>> size = pool_size(two_cores, half, half, Wanted(trainers="auto", estimators="auto", num_trials=8))
        >>> str(size)
        '2 trainers and 2 estimators'
    """
    measured = wanted.estimators != 0
    _check_each(cluster, trainer, "trainer")
    if measured:
        _check_each(cluster, estimator, "estimator")
    room = total(place(cluster.nodes, trainer, estimator if measured else None))
    size = PoolSize(
        trainers=min(wanted.num_trials, max(1, room.trainers)) if wanted.trainers == "auto" else wanted.trainers,
        estimators=max(1, room.estimators) if wanted.estimators == "auto" else wanted.estimators,
    )
    _check_together(cluster, trainer, estimator, size)
    return replace(size, snapshot_bytes=snapshot_bytes(cluster, trainer))


def shares_of(
    cluster: Cluster, trainer: WorkerSettings, estimator: WorkerSettings, *, measured: bool
) -> dict[str, Share]:
    """What each node is to hold, for a :class:`~sweeper.cluster.nodes.Layout`.

    Args:
        cluster: The cluster's nodes.
        trainer: Resources of a trainer.
        estimator: Resources of an estimator.
        measured: Whether there are estimators.

    Returns:
        The shares by Ray's ids of the nodes.
    """
    shares = place(cluster.nodes, trainer, estimator if measured else None)
    return {node.name: share for node, share in zip(cluster.nodes, shares, strict=True)}


def snapshot_bytes(cluster: Cluster, trainer: WorkerSettings) -> int:
    """How many bytes of snapshots may be in flight: a third of the shared memory of the nodes that can train.

    A snapshot lies on the node where it was taken until it is measured. Each of the nodes is counted with what the
    smallest of them has, since nothing says that trainers take equally many everywhere. A node that cannot hold a
    trainer, such as a head without CPUs, does not count.

    Args:
        cluster: The cluster's nodes.
        trainer: Resources of a trainer.

    Returns:
        The bound.

    Example:
        >>> head, node = Node(cpus=0, store_bytes=6), Node(cpus=8, store_bytes=300)
        >>> snapshot_bytes(Cluster(nodes=(head, node, node)), WorkerSettings(cpus=1, gpus=0, threads=1))
        200
    """
    holding = [node for node in cluster.nodes if _holds_one(node, trainer)] or cluster.nodes
    stores = [node.store_bytes for node in holding]
    return min(stores, default=0) * len(stores) // _SHARE_OF_STORE


def _holds_one(node: Node, worker: WorkerSettings) -> bool:
    enough = node.cpus + 1e-9 >= worker.cpus and node.gpus + 1e-9 >= worker.gpus
    # Without this, a head that only drives would count as soon as workers take no CPUs of their own.
    return enough and node.has_type(worker) and (node.cpus > 0 or node.gpus > 0)


def _check_together(cluster: Cluster, trainer: WorkerSettings, estimator: WorkerSettings, size: PoolSize) -> None:
    """Raise if both kinds cannot be there at once."""
    for what, need, there in (
        ("CPUs", size.trainers * trainer.cpus + size.estimators * estimator.cpus, cluster.cpus),
        ("GPUs", size.trainers * trainer.gpus + size.estimators * estimator.gpus, cluster.gpus),
    ):
        if need > there + 1e-9:
            raise ClusterError(
                f"resources: {size} take {need:g} {what}, "
                f"but the cluster has {there:g}; lower resources.*.count or resources.*.{what.lower()}"
            )
    for kind, worker, count in (("trainer", trainer, size.trainers), ("estimator", estimator, size.estimators)):
        room = sum(own_room(node, worker) for node in cluster.nodes)
        if worker.gpus > 0 and count > room:
            raise ClusterError(
                f"resources: {counted(count, kind)} with {worker.gpus:g} of a GPU each do not fit: each lies within "
                f"one GPU, so that the cluster holds {room}; lower resources.{kind}s.count or resources.{kind}s.gpus"
            )
    if trainer.gpus > 0 and estimator.gpus > 0:
        most = int(most_beside(cluster.nodes, trainer, estimator, trainers=size.trainers) + 1e-9)
        if size.estimators > most:
            raise ClusterError(
                f"resources: {size} do not fit: each lies within one GPU, so that beside "
                f"{counted(size.trainers, 'trainer')} there is room for {counted(max(0, most), 'estimator')}; "
                "lower resources.*.count or resources.*.gpus"
            )


def _check_each(cluster: Cluster, each: WorkerSettings, kind: str) -> None:
    """Raise unless some node can hold one worker."""
    typed = [node for node in cluster.nodes if node.has_type(each)]
    if not typed:
        found = sorted({name for node in cluster.nodes for name in node.accelerator_types or ()})
        raise ClusterError(
            f"no room for 1 {kind}: no node has an accelerator of type {printable(each.accelerator_type or '')!r} "
            f"(the cluster has {', '.join(map(printable, found)) or 'none'}); "
            f"set resources.{kind}s.accelerator_type to one that it has, or to null"
        )
    if any(node.cpus + 1e-9 >= each.cpus and node.gpus + 1e-9 >= each.gpus for node in typed):
        return
    raise ClusterError(
        explain(
            Want(kind=kind, count=1, each={"cpus": each.cpus, "gpus": each.gpus}),
            [NodeRoom(total={"cpus": node.cpus, "gpus": node.gpus}, free={}) for node in typed],
            opening="no room for",
        )
    )


def num_estimators(
    cluster: Cluster, estimator: WorkerSettings, *, count: int | Literal["auto"], num_snapshots: int
) -> int:
    """How many estimators to start if nothing is trained alongside.

    Args:
        cluster: The cluster's resources.
        estimator: Resources of an estimator.
        count: A number, or ``auto``: as many as there are cores for their threads, or shares of a GPU.
        num_snapshots: Snapshots to measure: more estimators than that would be idle.

    Returns:
        The number, at least 1.

    Raises:
        ClusterError: There is no room for what the spec asks for.

    Example:
        >>> half = WorkerSettings(cpus=0.5, gpus=0, threads=1)
        >>> num_estimators(Cluster(nodes=(Node(cpus=2),)), half, count="auto", num_snapshots=9)
        2
    """
    _check_each(cluster, estimator, "estimator")
    room = sum(own_room(node, estimator) for node in cluster.nodes)
    by_threads = room if estimator.gpus else int(cluster.cpus / max(estimator.cpus, estimator.threads) + 1e-9)
    wanted = max(1, min(by_threads if count == "auto" else count, num_snapshots))
    if wanted > room:
        raise ClusterError(
            f"resources: no room for {counted(wanted, 'estimator')}: the cluster has {counted(cluster.cpus, 'CPU')} "
            f"and {counted(cluster.gpus, 'GPU')}; lower resources.estimators.count, cpus or gpus"
        )
    return wanted


def worker_settings(section: Pool) -> WorkerSettings:
    """The resources of one worker, from its part of the spec's ``resources``.

    Args:
        section: ``resources.trainers`` or ``resources.estimators``.

    Returns:
        The settings.
    """
    return WorkerSettings(
        cpus=section.cpus,
        gpus=section.gpus,
        threads=section.threads,
        cuda_graphs=section.cuda_graphs if isinstance(section, TrainerPool | EstimatorPool) else False,
        accelerator_type=section.accelerator_type,
    )
