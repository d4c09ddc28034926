"""Which nodes hold how many workers of each kind, when the spec says ``auto``; pure arithmetic without Ray.

Ray counts resources in ten-thousandths, places a worker on one node, and its fraction of a GPU within one GPU: the one
that it fits most tightly. Three cases follow:

- Both kinds need GPUs, or neither does: they share what they need, so each node holds as many *pairs* of a trainer and
  an estimator as there is room for. Of a GPU, what is left over goes to further workers, the scarcer kind first.
- One kind needs GPUs: it takes those that there are, and the other kind the CPUs that remain, on all nodes.
- Their accelerators differ: each kind has the nodes with its own.

A worker without a partner beside it takes a whole core at least, since ``cpus`` is what it takes of a
shared one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from sweeper.cluster.nodes import Node, Share, WorkerSettings, total
from sweeper.protocol.interleaving import interleaved

__all__ = ["most_beside", "own_room", "place", "places_all"]

_UNITS = 10_000
"""Ray's resolution: units of one CPU or GPU."""

_MOST_PER_GPU = 48
"""Clients that NVIDIA's MPS serves on a GPU: more workers would be refused there."""

_MOST_PER_PARTNER = 64
"""Workers of the kind with more room, for each of the other kind: more would be idle."""


def place(nodes: Sequence[Node], trainer: WorkerSettings, estimator: WorkerSettings | None) -> tuple[Share, ...]:
    """As many workers as there is room for, node by node.

    Adding a node never lowers the number of pairs.

    Args:
        nodes: The living nodes.
        trainer: What a trainer takes.
        estimator: What an estimator takes; None if nothing is measured.

    Returns:
        A share for each node, in their order; all empty if there is no room.

    Example:
        A node with four GPUs, of which both kinds take 0.4: two workers fit on each GPU.

        >>> part = WorkerSettings(cpus=0.5, gpus=0.4, threads=1)
        >>> place([Node(cpus=16, gpus=4)], part, part)
        (Share(trainers=4, estimators=4),)

        One GPU that trains, and measuring on all cores.

        >>> gpu, cpu = WorkerSettings(cpus=1, gpus=1, threads=1), WorkerSettings(cpus=1, gpus=0, threads=1)
        >>> place([Node(cpus=4, gpus=1), Node(cpus=4)], gpu, cpu)
        (Share(trainers=1, estimators=3), Share(trainers=0, estimators=4))
    """
    if estimator is None:
        return tuple(Share(trainers=own_room(node, trainer, cpus=max(trainer.cpus, 1.0))) for node in nodes)
    if (trainer.gpus > 0) == (estimator.gpus > 0):
        return _bounded(_sharing(nodes, trainer, estimator))
    # The GPUs first, unless that leaves the other kind with less than pairs would.
    return _bounded(
        max(
            (tuple(_beside(node, trainer, estimator, paired=paired) for node in nodes) for paired in (False, True)),
            key=lambda shares: total(shares).pairs,
        )
    )


def own_room(node: Node, worker: WorkerSettings, *, cpus: float | None = None) -> int:
    """How many workers of one kind a node holds if it holds nothing else.

    Args:
        node: The node.
        worker: What one takes.
        cpus: The CPUs of each, if not the worker's own number.

    Returns:
        The number.

    Example:
        >>> own_room(Node(cpus=32, gpus=4), WorkerSettings(cpus=1, gpus=0.4, threads=1))
        8
    """
    if not node.has_type(worker):
        return 0
    by_cpus = _fit(_units(node.cpus), _units(worker.cpus if cpus is None else cpus))
    if worker.gpus > 0:
        return min(by_cpus if by_cpus is not None else 2**30, int(node.gpus) * _per_gpu(worker))
    # Without CPUs of its own, a worker still computes on one.
    return by_cpus if by_cpus is not None else ceil(node.cpus)


def places_all(node: Node, trainer: WorkerSettings, estimator: WorkerSettings, share: Share) -> bool:
    """Whether Ray finds a place on a node for all workers of a share, asked for alternately.

    Args:
        node: The node, otherwise empty.
        trainer: What a trainer takes.
        estimator: What an estimator takes.
        share: How many of each.

    Returns:
        Whether all of them are placed.

    Example:
        >>> small, large = (WorkerSettings(cpus=0, gpus=gpus, threads=1) for gpus in (0.1, 0.45))
        >>> places_all(Node(cpus=1, gpus=4), small, large, Share(trainers=4, estimators=8))
        True
        >>> places_all(Node(cpus=1, gpus=4), large, large, Share(trainers=5, estimators=4))
        False
    """
    if not node.cpus and not node.gpus:
        # A head that only drives, even if workers take no CPUs of their own.
        return not share.trainers + share.estimators
    if (share.trainers and not node.has_type(trainer)) or (share.estimators and not node.has_type(estimator)):
        return False
    taken = share.trainers * _units(trainer.cpus) + share.estimators * _units(estimator.cpus)
    if taken > _units(node.cpus):
        return False
    if not trainer.gpus and not estimator.gpus:
        return True
    left = [_UNITS] * int(node.gpus)
    needs = {"trainer": _units(trainer.gpus), "estimator": _units(estimator.gpus)}
    for kind in interleaved(share.trainers, share.estimators):
        if need := needs[kind]:
            tightest = min((units for units in left if units >= need), default=None)
            if tightest is None:
                return False
            left[left.index(tightest)] -= need
    return True


def _sharing(nodes: Sequence[Node], trainer: WorkerSettings, estimator: WorkerSettings) -> list[Share]:
    """Pairs where both kinds may go, then single workers where something is left."""
    shares = [_without_other(node, trainer, estimator) or _pairs(node, trainer, estimator) for node in nodes]
    for index, node in enumerate(nodes):
        # Of cores, what is left beside pairs stays free, for the driver and the system.
        while trainer.gpus > 0 or not shares[index].trainers + shares[index].estimators:
            both = total(shares)
            order = [(0, 1), (1, 0)] if both.estimators <= both.trainers and both.trainers else [(1, 0), (0, 1)]
            if (grown := _first_fitting(node, trainer, estimator, shares[index], order)) is None:
                break
            shares[index] = grown
    for index, node in enumerate(nodes):
        # Nodes that only one kind may use leave more of the others to the other kind.
        while abs(lead := (both := total(shares)).trainers - both.estimators) > 1:
            order = [(-1, 1)] if lead > 0 else [(1, -1)]
            if (swapped := _first_fitting(node, trainer, estimator, shares[index], order)) is None:
                break
            shares[index] = swapped
    return shares


def _first_fitting(
    node: Node, trainer: WorkerSettings, estimator: WorkerSettings, share: Share, changes: Iterable[tuple[int, int]]
) -> Share | None:
    """A share changed by the first of some numbers of trainers and estimators that Ray finds a place for."""
    for trainers, estimators in changes:
        changed = Share(trainers=share.trainers + trainers, estimators=share.estimators + estimators)
        if min(changed.trainers, changed.estimators) >= 0 and _fits_gpus(node, trainer, estimator, changed):
            return changed
    return None


def _fits_gpus(node: Node, trainer: WorkerSettings, estimator: WorkerSettings, share: Share) -> bool:
    within = trainer.gpus == 0 or share.trainers + share.estimators <= _MOST_PER_GPU * int(node.gpus)
    return within and places_all(node, trainer, estimator, share)


def _without_other(node: Node, trainer: WorkerSettings, estimator: WorkerSettings) -> Share | None:
    """What a node holds that only one kind may use, because of its accelerator; None for other nodes."""
    trains, measures = node.has_type(trainer), node.has_type(estimator)
    if trains and measures:
        return None
    return Share(
        trainers=own_room(node, trainer) if trains else 0, estimators=own_room(node, estimator) if measures else 0
    )


def _pairs(node: Node, trainer: WorkerSettings, estimator: WorkerSettings) -> Share:
    """As many pairs as a node holds."""
    pair_cpus = _units(trainer.cpus) + _units(estimator.cpus)
    most = _fit(_units(node.cpus), pair_cpus)
    if trainer.gpus > 0:
        by_gpus = int(node.gpus) * _UNITS // (_units(trainer.gpus) + _units(estimator.gpus))
        by_gpus = min(by_gpus, int(node.gpus) * _MOST_PER_GPU // 2)
        most = by_gpus if most is None else min(most, by_gpus)
    elif most is None:
        most = int(node.cpus)
    fitting = (count for count in range(most, 0, -1) if places_all(node, trainer, estimator, _both(count)))
    return _both(next(fitting, 0))


def _both(count: int) -> Share:
    return Share(trainers=count, estimators=count)


def _beside(node: Node, trainer: WorkerSettings, estimator: WorkerSettings, *, paired: bool) -> Share:
    """One kind on a node's GPUs, and the other on the CPUs that are left: at least one each if ``paired``."""
    trains = trainer.gpus > 0
    on_gpus, on_cpus = (trainer, estimator) if trains else (estimator, trainer)
    first = own_room(node, on_gpus)
    cpus, each, other = _units(node.cpus), _units(on_gpus.cpus), _units(on_cpus.cpus)
    if paired:
        by_cpus = _fit(cpus, each + other)
        first = first if by_cpus is None else min(first, by_cpus)
    left = cpus - first * each
    # Beside a worker on a GPU, its partner may share a core with it; the others have one of their own, or several.
    partners = first if not other else min(first, left // other)
    alone = max(other, on_cpus.threads * _UNITS)
    second = partners + (left - partners * other) // alone
    return Share(trainers=first, estimators=second) if trains else Share(trainers=second, estimators=first)


def _bounded(shares: Sequence[Share]) -> tuple[Share, ...]:
    """Without the workers that would find nothing to do, taken from the nodes with the most."""
    all_of = total(shares)
    if not all_of.pairs:
        return tuple(shares)
    most = _MOST_PER_PARTNER * all_of.pairs
    trainers = _leveled([share.trainers for share in shares], most)
    estimators = _leveled([share.estimators for share in shares], most)
    return tuple(
        Share(trainers=trains, estimators=measures) for trains, measures in zip(trainers, estimators, strict=True)
    )


def _leveled(counts: Sequence[int], most: int) -> list[int]:
    """Counts cut to a sum, the largest first."""
    surplus = sum(counts) - most
    if surplus <= 0:
        return list(counts)
    level = max(counts)
    while sum(min(count, level) for count in counts) > most:
        level -= 1
    cut = [min(count, level) for count in counts]
    for index, count in enumerate(counts):
        if sum(cut) < most and count > level:
            cut[index] += 1
    return cut


def most_beside(nodes: Sequence[Node], trainer: WorkerSettings, estimator: WorkerSettings, *, trainers: int) -> float:
    """A bound on the estimators that fit beside trainers on the GPUs of a cluster, however they are placed.

    Args:
        nodes: The living nodes.
        trainer: What a trainer takes.
        estimator: What an estimator takes; both need GPUs.
        trainers: How many trainers there are.

    Returns:
        The bound; negative if not even the trainers fit.

    Example:
        >>> part = WorkerSettings(cpus=0.5, gpus=0.4, threads=1)
        >>> most_beside([Node(cpus=16, gpus=4)], part, part, trainers=5)
        3.0
    """
    measuring = sum(int(node.gpus) for node in nodes if node.has_type(estimator))
    shared = sum(int(node.gpus) for node in nodes if node.has_type(estimator) and node.has_type(trainer))
    training = sum(int(node.gpus) for node in nodes if node.has_type(trainer))
    each, other = _per_gpu(trainer), _units(estimator.gpus)
    beside = [(_UNITS - count * _units(trainer.gpus)) // other for count in range(each + 1)]
    left = trainers - (training - shared) * each
    if left > shared * each:
        return -1.0
    # The lower bound on what a trainer displaces: the least steep way from a GPU without trainers to one with some.
    displaced = 0.0
    at = 0
    while left > 0 and at < each:
        slope, stop = min(((beside[at] - beside[to]) / (to - at), -to) for to in range(at + 1, each + 1))
        moved = min(left, shared * (-stop - at))
        displaced, left, at = displaced + moved * slope, left - moved, -stop
    return measuring * beside[0] - displaced


def _units(amount: float) -> int:
    return round(amount * _UNITS)


def _fit(there: int, each: int) -> int | None:
    """How many shares fit; None if nothing bounds them."""
    return there // each if each else None


def _per_gpu(worker: WorkerSettings) -> int:
    """Workers of one kind that fit on a GPU."""
    return _UNITS // max(1, _units(worker.gpus))
