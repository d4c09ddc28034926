"""How many workers fit is counted without any Ray."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.cluster.capacity import (
    Cluster,
    Node,
    Wanted,
    WorkerSettings,
    num_estimators,
    pool_size,
    snapshot_bytes,
)
from sweeper.errors import ClusterError
from sweeper.protocol.pools import PoolSize

AUTO = Wanted(trainers="auto", estimators=0, num_trials=9)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (
            {"cpus": 1, "gpus": 1},
            r"no room for 1 GPU \(1 trainer\): the cluster has none; set resources.trainers.gpus: 0",
        ),
        ({"cpus": 3, "gpus": 0}, r"no node has more than 2 CPUs; set resources.trainers.cpus: 2"),
    ],
)
def test_what_can_never_fit_is_refused_at_once_with_the_same_words(trainer: dict[str, Any], message: str):
    cluster = Cluster(nodes=(Node(cpus=2), Node(cpus=2)))
    estimator = WorkerSettings(cpus=0.5, gpus=0, threads=1)
    with pytest.raises(ClusterError, match=message):
        pool_size(cluster, WorkerSettings(**trainer, threads=1), estimator, AUTO)


def test_room_is_counted_node_by_node():
    two = WorkerSettings(cpus=2, gpus=0, threads=2)
    cluster = Cluster(nodes=(Node(cpus=3),) * 3)
    size = pool_size(cluster, two, two, AUTO)
    assert size == PoolSize(trainers=3, estimators=0, snapshot_bytes=0)


def test_trainers_and_estimators_are_counted_each_by_its_own_room_where_they_share_nothing():
    on_gpu, on_cpu = WorkerSettings(cpus=1, gpus=1, threads=1), WorkerSettings(cpus=1, gpus=0, threads=1)
    cluster = Cluster(nodes=(Node(cpus=16, gpus=4), *[Node(cpus=32)] * 10))
    auto = Wanted(trainers="auto", estimators="auto", num_trials=100)
    size = pool_size(cluster, on_gpu, on_cpu, auto)
    assert (size.trainers, size.estimators) == (4, 256)
    size = pool_size(cluster, on_cpu, on_gpu, auto)
    assert (size.trainers, size.estimators) == (100, 4)


PART = WorkerSettings(cpus=0.5, gpus=0.4, threads=1)


@pytest.mark.parametrize(
    ("trainers", "estimators", "message"),
    [
        (5, 5, r"5 trainers and 5 estimators do not fit: .* beside 5 trainers there is room for 3 estimators"),
        (
            9,
            1,
            r"9 trainers with 0\.4 of a GPU each do not fit: .* the cluster holds 8; lower resources\.trainers\.count",
        ),
        (1, 9, r"9 estimators with 0\.4 of a GPU each do not fit: .* the cluster holds 8"),
        (20, 20, r"take 16 GPUs, but the cluster has 4"),
    ],
)
def test_counts_whose_sum_fits_but_not_gpu_by_gpu_are_refused(trainers: int, estimators: int, message: str):
    cluster = Cluster(nodes=(Node(cpus=32, gpus=4),))
    with pytest.raises(ClusterError, match=message):
        pool_size(cluster, PART, PART, Wanted(trainers=trainers, estimators=estimators, num_trials=99))


def test_counts_that_fit_gpu_by_gpu_are_taken():
    cluster = Cluster(nodes=(Node(cpus=32, gpus=4),))
    small, large = (WorkerSettings(cpus=0.5, gpus=gpus, threads=1) for gpus in (0.1, 0.45))
    assert str(pool_size(cluster, small, large, Wanted(trainers=4, estimators=8, num_trials=99))) == (
        "4 trainers and 8 estimators"
    )
    assert num_estimators(cluster, large, count="auto", num_snapshots=99) == 8


@pytest.mark.parametrize(
    ("types", "told"), [((), "none"), (("A100", "T4"), "A100, T4")], ids=["no accelerators", "others"]
)
def test_an_accelerator_that_no_node_has_is_refused_with_those_that_there_are(types: tuple[str, ...], told: str):
    cluster = Cluster(nodes=(Node(cpus=8, gpus=1, accelerator_types=frozenset(types)), Node(cpus=8)))
    wanted = WorkerSettings(cpus=1, gpus=1, threads=1, accelerator_type="H100")
    message = rf"no node has an accelerator of type 'H100' \(the cluster has {told}\); set resources\.trainers\.accel"
    with pytest.raises(ClusterError, match=message):
        pool_size(cluster, wanted, PART, AUTO)


GIB = 2**30


@pytest.mark.parametrize(
    ("nodes", "trainer", "bound"),
    [
        # A head without CPUs and with little memory once bounded the whole cluster.
        ([Node(cpus=0, store_bytes=2 * GIB)] + [Node(cpus=8, store_bytes=30 * GIB)] * 4, (1, 0), 40 * GIB),
        ([Node(cpus=8, store_bytes=30 * GIB)], (1, 0), 10 * GIB),
        ([Node(cpus=8, store_bytes=30 * GIB), Node(cpus=8, store_bytes=3 * GIB)], (1, 0), 2 * GIB),
        # Nodes without a GPU hold no trainer that needs one.
        ([Node(cpus=8, gpus=1, store_bytes=30 * GIB), Node(cpus=64, store_bytes=3 * GIB)], (1, 0.5), 10 * GIB),
        # Nor a head that only drives, though its workers ask for no CPUs.
        ([Node(cpus=0, store_bytes=3 * GIB), Node(cpus=8, store_bytes=30 * GIB)], (0, 0), 10 * GIB),
        ([Node(cpus=0, store_bytes=3 * GIB)], (0, 0), GIB),
    ],
)
def test_snapshots_are_bounded_by_the_memory_of_the_nodes_that_can_train(
    nodes: list[Node], trainer: tuple[float, float], bound: int
):
    cpus, gpus = trainer
    found = snapshot_bytes(Cluster(nodes=tuple(nodes)), WorkerSettings(cpus=cpus, gpus=gpus, threads=1))
    assert found == bound
