"""How many workers fit is counted without any Ray."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.cluster.capacity import Cluster, Wanted, WorkerSettings, pool_size
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
    cluster = Cluster(cpus=4, gpus=0, object_store_bytes=0, nodes=((2, 0), (2, 0)))
    estimator = WorkerSettings(cpus=0.5, gpus=0, threads=1)
    with pytest.raises(ClusterError, match=message):
        pool_size(cluster, WorkerSettings(**trainer, threads=1), estimator, AUTO)


def test_room_is_counted_node_by_node():
    two = WorkerSettings(cpus=2, gpus=0, threads=2)
    cluster = Cluster(cpus=9, gpus=0, object_store_bytes=0, nodes=((3, 0), (3, 0), (3, 0)))
    size = pool_size(cluster, two, two, AUTO)
    assert size == PoolSize(trainers=3, estimators=0)
