"""The kept snapshots behind the ids, for a driver that measures them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.driver.commit import Committer
from sweeper.driver.estimators import failed_rows
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import KeptSnapshot
from sweeper.protocol.pools import EstimatorPool

__all__ = ["KeptSnapshots"]


class KeptSnapshots:
    """Snapshots in the run directory; their rows go straight to the committer.

    Args:
        measure: ``data_fraction``, ``probe``, ``audit`` and ``estimators`` of a resolved measure section.
        uses: Trial to the user's own problem that its snapshots may name.
        committer: Makes rows durable.
    """

    def __init__(self, *, measure: Mapping[str, Any], uses: Mapping[str, str], committer: Committer) -> None:
        self._measure = measure
        self._uses = uses
        self._committer = committer

    def hand_out(self, pool: EstimatorPool, slot: int, snapshot: SnapshotId) -> None:
        """Let an idle estimator read and measure a snapshot."""
        kept = KeptSnapshot(
            trial=snapshot.trial, step=snapshot.step, use=self._uses.get(snapshot.trial), measure=self._measure
        )
        pool.measure_kept(slot, snapshot, kept)

    def add_rows(
        self, snapshot: SnapshotId, rows: Mapping[str, Mapping[str, Any]], estimate_s: float, device: str = "cpu"
    ) -> bool:
        """Pass the rows of a snapshot to the committer; they are always wanted."""
        self._committer.add_measured(snapshot, rows)
        return True

    def add_failed(self, snapshot: SnapshotId, error: str) -> None:
        """Commit rows of nulls that say why a snapshot cannot be measured; only its file knows its epoch."""
        self._committer.add_measured(snapshot, failed_rows(snapshot, self._measure, error, epoch=None))
