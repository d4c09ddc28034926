"""What drivers need of their workers: ``cluster.pools`` uses Ray actors, tests use workers in their own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import Assignment, KeptSnapshot, Message, SnapshotHeader

__all__ = ["EstimatorPool", "PoolSize", "Pools", "Room"]


class EstimatorPool(Protocol):
    """Estimators only, which is all that measuring again needs."""

    def start_estimator(self, slot: int) -> None:
        """Start an estimator in an empty slot; ``EstimatorUp`` or ``EstimatorDown`` follows."""

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> None:
        """Let an idle estimator measure a snapshot; a ``Verdict`` follows."""

    def measure_kept(self, slot: int, snapshot: SnapshotId, kept: KeptSnapshot) -> None:
        """Let an idle estimator measure a snapshot in the run directory; a ``Verdict`` follows."""

    def ask_estimator(self, slot: int) -> None:
        """Ask a measuring estimator whether it makes progress; an ``EstimatorBeat`` follows, unless it hangs."""

    def kill_estimator(self, slot: int) -> None:
        """End an estimator's process; nothing more comes from it."""

    def poll(self, *, timeout_s: float, read_trainers: bool) -> list[Message]:
        """Wait for messages from workers, at most ``timeout_s`` seconds."""


class Pools(EstimatorPool, Protocol):
    """Trainers and estimators."""

    def start_trainer(self, slot: int) -> None:
        """Start a trainer in an empty slot; ``TrainerUp`` or ``TrainerDown`` follows."""

    def train(self, slot: int, assignments: Sequence[Assignment]) -> None:
        """Let an idle trainer run attempts, one after the other; their items follow."""

    def stop_trainer(self, slot: int) -> None:
        """Ask a trainer to checkpoint and return."""

    def kill_trainer(self, slot: int) -> None:
        """End a trainer's process; nothing more comes from it."""


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """How many workers of each kind there should be.

    Attributes:
        trainers: Workers that train.
        estimators: Workers that measure.
        snapshot_bytes: Bound on the snapshots in flight, by the shared memory of the nodes that can train; None if it
            is not known.
    """

    trainers: int
    estimators: int
    snapshot_bytes: int | None = None

    def __str__(self) -> str:
        """In words.

        Returns:
            For example ``2 trainers and 1 estimator``.
        """
        counts = ((self.trainers, "trainer"), (self.estimators, "estimator"))
        return " and ".join(f"{count} {kind}{'s' if count != 1 else ''}" for count, kind in counts)


class Room(Protocol):
    """How many workers there is room for, and why requested ones do not start."""

    @property
    def size(self) -> PoolSize:
        """The number of workers that there is room for, as far as is known."""

    @property
    def waiting_for(self) -> str | None:
        """Why requested workers do not start; None if all have a place."""

    def look(self) -> bool:
        """Look again, if it is time to; never blocks on an answer.

        Returns:
            Whether the room has changed.

        Raises:
            ClusterError: The cluster is gone, or has had no room at all for too long.
        """
