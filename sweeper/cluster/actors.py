"""The workers as Ray actors, which load torch in their own processes only, so that drivers start without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from sweeper.cluster.last_words import begin, outputs
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import (
    Assignment,
    KeptSnapshot,
    SegmentItem,
    SnapshotHeader,
    SnapshotItem,
    TrainerItem,
    Verdict,
    WorkerFacts,
    ends_attempt,
)

__all__ = ["EstimatorActor", "TrainerActor", "gathered"]


class TrainerActor:
    """The trainer as an actor. Imports torch in its own process only, so that the driver starts without it."""

    def __init__(self, **settings: Any) -> None:
        from sweeper.workers.trainer import TrainerWorker

        self._worker = TrainerWorker(**settings, begin=begin)
        # In addition to the host, which several nodes may share.
        self._node = ray.get_runtime_context().get_node_id()

    def facts(self) -> WorkerFacts:
        """Where it runs, and where it prints to."""
        return replace(self._worker.facts(), node=self._node, outputs=outputs())

    def stop(self) -> None:
        """Stop the running trial, and any later one, at its next step."""
        self._worker.stop()

    def train(self, assignments: Sequence[Assignment]) -> Iterator[Any]:
        """Lists of items; a snapshot's array follows its list separately, so that the driver can pass it on unread."""
        from sweeper.workers.worker import own_code_of

        # The user's code may end the process, and with it what is held of the trials before.
        risky = any(own_code_of(one.problem, one.update_rule) for one in assignments)
        for items in gathered(self._worker.train(assignments), holds_ends=not risky):
            match items[-1]:
                case SnapshotItem() as snapshot:
                    yield [*map(self._located, items[:-1]), replace(snapshot, payload=None)]
                    yield snapshot.payload
                case _:
                    yield [*map(self._located, items)]

    def _located(self, item: TrainerItem) -> TrainerItem:
        """The item, with the Ray node on which a segment was trained."""
        return replace(item, facts=replace(item.facts, node=self._node)) if isinstance(item, SegmentItem) else item


class EstimatorActor:
    """The estimator as an actor; imports torch only in its own process, too."""

    def __init__(self, **settings: Any) -> None:
        from sweeper.workers.estimator import EstimatorWorker

        self._worker = EstimatorWorker(**settings, begin=begin)

    def facts(self) -> WorkerFacts:
        """Where it runs, and where it prints to."""
        node = ray.get_runtime_context().get_node_id()
        return replace(self._worker.facts(), node=node, outputs=outputs())

    def beats(self) -> int:
        """A number that grows while it makes progress."""
        return self._worker.beats()

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> Verdict:
        """The verdict on a snapshot."""
        return self._worker.measure(slot, snapshot, header, payload)

    def measure_kept(self, slot: int, snapshot: SnapshotId, kept: KeptSnapshot) -> Verdict:
        """The verdict on a snapshot in the run directory."""
        return self._worker.measure_kept(slot, snapshot, kept)


_SEND_EVERY_S = 0.1
"""How long a trainer collects items of very short trials before sending; half the delay that people notice."""


def gathered(
    items: Iterable[TrainerItem], *, holds_ends: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[list[TrainerItem]]:
    """A trainer's items in lists, since sending one costs a millisecond.

    Nothing is held back while something long may follow: a list that ends with a snapshot or a checkpoint is sent at
    once, and so is an item that comes more than a tenth of a second after the last list. Only the ends of very short
    trials wait for each other.

    Args:
        items: The trainer's items.
        holds_ends: Whether the end of a trial may wait for that of the next.
        clock: Returns seconds.

    Yields:
        Lists with at least one item, of which only the last may be a snapshot.
    """
    held: list[TrainerItem] = []
    sent = clock()
    for item in items:
        held.append(item)
        more_follows = isinstance(item, SnapshotItem) or (isinstance(item, SegmentItem) and item.outcome is None)
        if more_follows or (ends_attempt(item) and not holds_ends) or clock() - sent > _SEND_EVERY_S:
            yield held
            held, sent = [], clock()
    if held:
        yield held
