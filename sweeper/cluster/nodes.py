"""What a cluster's nodes have, what a worker takes, and which nodes hold how many workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Layout", "Node", "Share", "WorkerSettings", "total"]


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The resources of one worker.

    Attributes:
        cpus: Ray CPUs, may be a fraction.
        gpus: Ray GPUs, may be a fraction; at most 1.
        threads: Threads of each numerical kernel.
        cuda_graphs: Whether it records gradients as CUDA graphs; for a trainer, ``auto`` for those of registered
            problems on a GPU.
        accelerator_type: Ray's name of the only GPU model that will do; None for any.
    """

    cpus: float
    gpus: float
    threads: int
    cuda_graphs: bool | Literal["auto"] = False
    accelerator_type: str | None = None

    @property
    def device(self) -> str:
        """``cuda`` if the worker has a share of a GPU, otherwise ``cpu``."""
        return "cuda" if self.gpus > 0 else "cpu"


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one node of a cluster has.

    Attributes:
        cpus: Ray CPUs.
        gpus: Ray GPUs.
        accelerator_types: Ray's names of its accelerators; None if they are not known.
        store_bytes: Shared memory for objects.
        name: Ray's id of the node; empty if it is not known.
    """

    cpus: float
    gpus: float = 0.0
    accelerator_types: frozenset[str] | None = frozenset()
    store_bytes: int = 0
    name: str = ""

    def has_type(self, worker: WorkerSettings) -> bool:
        """Whether the node has the accelerator that a worker asks for, as far as is known."""
        wanted = worker.accelerator_type
        return wanted is None or self.accelerator_types is None or wanted in self.accelerator_types


@dataclass(frozen=True, kw_only=True)
class Share:
    """Workers of each kind on one node, or on all of them."""

    trainers: int = 0
    estimators: int = 0

    @property
    def pairs(self) -> int:
        """Trainers that have an estimator of their own."""
        return min(self.trainers, self.estimators)


@dataclass(kw_only=True)
class Layout:
    """The shares of a cluster's nodes by Ray's ids, replaced as a whole when nodes come or go.

    Ray by itself would fill nodes in an order of its own, which can leave a worker without a place.
    """

    shares: Mapping[str, Share] = field(default_factory=dict)

    def node_for(self, kind: Literal["trainer", "estimator"], taken: Mapping[str, int]) -> str | None:
        """Where the next worker of a kind belongs.

        Args:
            kind: The kind.
            taken: How many of it each node has.

        Returns:
            The id of the node that lacks most; None if none lacks any.

        Example:
            >>> layout = Layout(shares={"a": Share(trainers=2), "b": Share(trainers=1)})
            >>> layout.node_for("trainer", {}), layout.node_for("trainer", {"a": 2})
            ('a', 'b')
        """
        lacking = {
            name: (share.trainers if kind == "trainer" else share.estimators) - taken.get(name, 0)
            for name, share in self.shares.items()
        }
        name = max(lacking, key=lambda each: lacking[each], default=None)
        return name if name is not None and lacking[name] > 0 else None


def total(shares: Iterable[Share]) -> Share:
    """The workers on all nodes together.

    Args:
        shares: Those on each.

    Returns:
        Their sum.
    """
    listed = list(shares)
    return Share(
        trainers=sum(share.trainers for share in listed),
        estimators=sum(share.estimators for share in listed),
    )
