"""Which nodes hold how many workers, by tables and by a simulation of what Ray does; no Ray and no GPU is needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cluster.nodes import Node, Share, WorkerSettings, total
from sweeper.cluster.placement import most_beside, own_room, place, places_all
from sweeper.protocol.interleaving import interleaved


def worker(cpus: float = 0.5, gpus: float = 0.0, *, threads: int = 1, on: str | None = None) -> WorkerSettings:
    return WorkerSettings(cpus=cpus, gpus=gpus, threads=threads, accelerator_type=on)


def node(cpus: float, gpus: float = 0, *types: str) -> Node:
    return Node(cpus=cpus, gpus=gpus, accelerator_types=frozenset(types))


HALF = worker()
HEAD, GPU_NODE, FOUR_GPUS, EIGHT_GPUS, CPU_NODE = node(0), node(16, 1), node(32, 4), node(64, 8), node(32)
A100, H100 = node(32, 4, "A100"), node(64, 8, "H100")


@pytest.mark.parametrize(
    ("nodes", "trainer", "estimator", "expected"),
    [
        # Cores only: pairs that share a core.
        ([node(2)], HALF, HALF, (2, 2)),
        ([node(2), node(2)], HALF, HALF, (4, 4)),
        ([HEAD, node(2)], HALF, HALF, (2, 2)),
        ([node(3)], worker(1), worker(1), (1, 1)),
        # A second pair fits nowhere, but the nodes are not left empty.
        ([node(3)] * 4, worker(2), worker(2), (2, 2)),
        ([node(8)], worker(0), worker(0), (8, 8)),
        # GPU trainers, CPU estimators: 1 + 1 when only pairs on the GPU node counted.
        ([GPU_NODE, *[CPU_NODE] * 10], worker(1, 1), worker(1), (1, 64)),
        ([FOUR_GPUS, *[CPU_NODE] * 10], worker(1, 1), worker(1), (4, 256)),
        ([FOUR_GPUS, CPU_NODE], worker(1, 1), worker(1), (4, 60)),
        ([FOUR_GPUS, CPU_NODE], worker(1, 1), worker(1, threads=4), (4, 18)),
        ([FOUR_GPUS], worker(1, 1), worker(1), (4, 28)),
        # The reverse: 4 + 4 on 336 cores when only pairs counted.
        ([node(16, 4), *[CPU_NODE] * 10], worker(1), worker(1, 1), (256, 4)),
        ([node(16, 4)], HALF, worker(1, 1), (14, 4)),
        # Few cores beside the GPUs: pairs, rather than all cores for the kind that has the GPUs.
        ([node(2, 4)], worker(0.5, 0.25), HALF, (2, 2)),
        # But elsewhere there are cores enough.
        ([node(2, 4), node(8)], worker(0.5, 0.25), HALF, (4, 8)),
        # Fractions lie within one GPU: 5 + 5 when only the sum counted.
        ([node(16, 4)], worker(0.5, 0.4), worker(0.5, 0.4), (4, 4)),
        ([node(16, 4)], worker(0.5, 0.6), worker(0.5, 0.6), (2, 2)),
        ([node(16, 2)], worker(1, 1), worker(1, 1), (1, 1)),
        ([node(16, 1)], worker(1, 0.5), worker(1, 0.5), (1, 1)),
        ([node(16, 1), HEAD], worker(1, 0.3), worker(1, 0.3), (1, 2)),
        ([node(16, 1)], worker(0.5, 0.1), worker(0.5, 0.45), (1, 2)),
        ([EIGHT_GPUS], worker(1, 1), worker(1, 1), (4, 4)),
        ([EIGHT_GPUS] * 2, worker(1, 0.5), worker(1, 0.5), (16, 16)),
        ([EIGHT_GPUS, *[CPU_NODE] * 3], worker(1, 0.5), worker(1, 0.5), (8, 8)),
        # One GPU on each node, of which no two workers fit on one.
        ([GPU_NODE] * 4, worker(1, 1), worker(1, 1), (2, 2)),
        ([GPU_NODE] * 4, worker(1, 0.7), worker(1, 0.5), (2, 4)),
        # Too few cores for all GPUs.
        ([node(4, 8)], worker(1, 0.5), worker(1, 0.5), (2, 2)),
        # Accelerators.
        ([A100, H100], worker(1, 1, on="A100"), worker(1, 1, on="H100"), (4, 8)),
        ([A100, H100], worker(1, 1, on="H100"), worker(1, 1), (6, 6)),
        ([A100, H100, CPU_NODE], worker(1, 1, on="A100"), worker(1), (4, 124)),
        ([A100], worker(1, 1, on="H100"), worker(1), (0, 32)),
        # Nothing measured.
        ([node(4)], HALF, None, (4, 0)),
        ([node(16, 4)], worker(0.5, 0.4), None, (8, 0)),
    ],
)
def test_auto_finds_the_room_that_there_is(
    nodes: list[Node], trainer: WorkerSettings, estimator: WorkerSettings | None, expected: tuple[int, int]
):
    found = total(place(nodes, trainer, estimator))
    assert (found.trainers, found.estimators) == expected


def test_a_trainer_takes_a_gpu_where_it_fits_most_tightly_so_both_kinds_are_asked_for_in_turn():
    recipe = worker(0, 0.1), worker(0, 0.45)
    assert list(interleaved(1, 2)) == ["trainer", "estimator", "estimator"]
    assert places_all(node(1, 4), *recipe, Share(trainers=4, estimators=8))
    assert not places_all(node(1, 4), *recipe, Share(trainers=5, estimators=8))


def test_workers_are_bounded_by_what_mps_serves():
    tiny = worker(0, 0.01)
    found = total(place([node(8, 2)], tiny, tiny))
    assert found.trainers + found.estimators == 96


def test_an_unknown_accelerator_may_be_the_right_one():
    anything = Node(cpus=4, gpus=1, accelerator_types=None)
    assert own_room(anything, worker(1, 1, on="H100")) == 1
    assert own_room(node(4, 1), worker(1, 1, on="H100")) == 0


@pytest.mark.parametrize(
    ("trainers", "most"), [(0, 8), (1, 7), (4, 4), (8, 0), (9, -1)], ids=["none", "one", "half", "all", "too many"]
)
def test_beside_trainers_there_is_room_for_no_more(trainers: int, most: int):
    part = worker(0.5, 0.4)
    assert most_beside([node(16, 4)], part, part, trainers=trainers) == most


# Properties

sizes = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.45, 0.5, 0.7, 1.0])
cpus_each = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.0])
kinds = st.sampled_from([None, "A100", "H100"])
workers = st.builds(
    lambda cpus, gpus, threads, on: worker(cpus, gpus, threads=threads, on=on if gpus else None),
    cpus_each, sizes, st.integers(1, 4), kinds,
)  # fmt: skip
nodes_strategy = st.builds(
    lambda cpus, gpus, on: node(cpus, gpus, *([on] if gpus and on else [])),
    st.integers(0, 16), st.integers(0, 4), kinds,
)  # fmt: skip
clusters = st.lists(nodes_strategy, min_size=1, max_size=4)


def placed_by_ray(there: Node, trainer: WorkerSettings, estimator: WorkerSettings, share: Share) -> bool:
    """Ray's own way: a worker fits on a node or not; its fraction goes to the GPU with the least left that suffices."""
    cpus, gpus = there.cpus, [1.0] * int(there.gpus)
    for kind in interleaved(share.trainers, share.estimators):
        wanted = trainer if kind == "trainer" else estimator
        if wanted.accelerator_type is not None and wanted.accelerator_type not in (there.accelerator_types or ()):
            return False
        cpus = round(cpus - wanted.cpus, 6)
        if cpus < 0:
            return False
        if wanted.gpus:
            fitting = sorted((left, index) for index, left in enumerate(gpus) if round(left - wanted.gpus, 6) >= 0)
            if not fitting:
                return False
            gpus[fitting[0][1]] = round(fitting[0][0] - wanted.gpus, 6)
    return True


@given(clusters, workers, workers)
def test_whatever_is_returned_can_be_placed(nodes: list[Node], trainer: WorkerSettings, estimator: WorkerSettings):
    shares = place(nodes, trainer, estimator)
    assert len(shares) == len(nodes)
    for there, share in zip(nodes, shares, strict=True):
        assert placed_by_ray(there, trainer, estimator, share)


def pairs(nodes: Sequence[Node], trainer: WorkerSettings, estimator: WorkerSettings) -> int:
    return total(place(nodes, trainer, estimator)).pairs


@given(clusters, nodes_strategy, st.integers(0, 4), workers, workers)
def test_another_node_never_lowers_the_number_of_pairs(
    nodes: list[Node], another: Node, at: int, trainer: WorkerSettings, estimator: WorkerSettings
):
    assert pairs([*nodes[:at], another, *nodes[at:]], trainer, estimator) >= pairs(nodes, trainer, estimator)


@given(clusters, workers, workers)
def test_no_kind_is_left_at_one_where_there_is_room_for_a_pair_on_every_node(
    nodes: list[Node], trainer: WorkerSettings, estimator: WorkerSettings
):
    both = Share(trainers=1, estimators=1)
    rooms = sum(
        placed_by_ray(there, trainer, estimator, both) for there in nodes if there.cpus >= 1  # zero CPUs drive only
    )  # fmt: skip
    assert pairs(nodes, trainer, estimator) >= rooms


@given(clusters, workers, workers)
def test_the_bound_never_refuses_what_can_be_placed(
    nodes: list[Node], trainer: WorkerSettings, estimator: WorkerSettings
):
    found = total(place(nodes, trainer, estimator))
    if trainer.gpus:
        assert found.trainers <= sum(own_room(there, trainer) for there in nodes)
    if estimator.gpus:
        assert found.estimators <= sum(own_room(there, estimator) for there in nodes)
    if trainer.gpus and estimator.gpus:
        assert found.estimators <= most_beside(nodes, trainer, estimator, trainers=found.trainers) + 1e-9
