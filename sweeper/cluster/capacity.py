"""How many workers a cluster has room for, node by node; pure arithmetic without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.cluster.waiting import NodeRoom, Want, explain
from sweeper.errors import ClusterError
from sweeper.labels import counted
from sweeper.protocol.pools import PoolSize
from sweeper.spec.sections.settings import EstimatorPool, Pool

__all__ = ["Cluster", "Wanted", "WorkerSettings", "num_estimators", "pool_size", "worker_settings"]


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The resources of one worker.

    Attributes:
        cpus: Ray CPUs, may be a fraction.
        gpus: Ray GPUs, may be a fraction.
        threads: Threads of each numerical kernel.
        cuda_graphs: For an estimator: whether it records its gradient as a CUDA graph.
    """

    cpus: float
    gpus: float
    threads: int
    cuda_graphs: bool = False

    @property
    def device(self) -> str:
        """``cuda`` if the worker has a share of a GPU, otherwise ``cpu``."""
        return "cuda" if self.gpus > 0 else "cpu"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The resources of a cluster.

    Attributes:
        cpus: Ray CPUs of all nodes.
        gpus: Ray GPUs of all nodes.
        object_store_bytes: Shared memory for snapshots, on the node with the least.
        nodes: CPUs and GPUs of each node; empty if there is only one.
    """

    cpus: float
    gpus: float
    object_store_bytes: int
    nodes: tuple[tuple[float, float], ...] = ()


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

    ``auto`` takes as many pairs of a trainer and an estimator as there is room for, so that both kinds share the cores
    by their fractions; if nothing is measured, trainers take everything.

    Args:
        cluster: The cluster's resources.
        trainer: Resources of a trainer.
        estimator: Resources of an estimator.
        wanted: What the spec asks for.

    Returns:
        The sizes.

    Raises:
        ClusterError: There is no room for what the spec asks for.

    Example:
        >>> half = WorkerSettings(cpus=0.5, gpus=0, threads=1)
        >>> two_cores = Cluster(cpus=2, gpus=0, object_store_bytes=0)
        >>> pool_size(two_cores, half, half, Wanted(trainers="auto", estimators="auto", num_trials=8))
        PoolSize(trainers=2, estimators=2)
    """
    trainers, estimators = wanted.trainers, wanted.estimators
    measured = estimators != 0
    pair_cpus = trainer.cpus + (estimator.cpus if measured else max(0.0, 1 - trainer.cpus))
    pair_gpus = trainer.gpus + (estimator.gpus if measured else 0)
    nodes = cluster.nodes or ((cluster.cpus, cluster.gpus),)
    _check_each(nodes, trainer, "trainer")
    if measured:
        _check_each(nodes, estimator, "estimator")
    # Node by node: half a worker on each of two nodes is no worker.
    room = sum(min(_fit(cpus, pair_cpus), _fit(gpus, pair_gpus)) for cpus, gpus in nodes)
    size = PoolSize(
        trainers=min(wanted.num_trials, max(1, room)) if trainers == "auto" else trainers,
        estimators=max(1, room) if estimators == "auto" else estimators,
    )
    for what, need, there in (
        ("CPUs", size.trainers * trainer.cpus + size.estimators * estimator.cpus, cluster.cpus),
        ("GPUs", size.trainers * trainer.gpus + size.estimators * estimator.gpus, cluster.gpus),
    ):
        if need > there + 1e-9:
            raise ClusterError(
                f"resources: {size} take {need:g} {what}, "
                f"but the cluster has {there:g}; lower resources.*.count or resources.*.{what.lower()}"
            )
    return size


def _check_each(nodes: Sequence[tuple[float, float]], each: WorkerSettings, kind: str) -> None:
    """Raise unless some node can hold one worker."""
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
            f"resources: no room for {counted(wanted, 'estimator')}: the cluster has {counted(cluster.cpus, 'CPU')} "
            f"and {counted(cluster.gpus, 'GPU')}; lower resources.estimators.count, cpus or gpus"
        )
    return wanted


def _fit(there: float, each: float) -> int:
    """How many shares fit, tolerating the rounding of fractions such as 0.1."""
    return int(there / each + 1e-9) if each > 0 else 2**30


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
        cuda_graphs=isinstance(section, EstimatorPool) and section.cuda_graphs,
    )
