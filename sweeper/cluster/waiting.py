"""Why requested workers do not start: what they need, what there is, and what to set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["NodeRoom", "Question", "Waiting", "Want", "explain", "in_background"]

Answer = TypeVar("Answer")


def in_background(ask: Callable[[], Answer]) -> Future[Answer]:
    """Ask in a separate thread that nobody waits for: Ray's calls to a head that has just died do not return.

    Args:
        ask: The question.

    Returns:
        The answer, which may arrive late or never.
    """
    future: Future[Answer] = Future()

    def work() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="clipsweep-question", daemon=True).start()
    return future


class Question(Generic[Answer]):
    """A question that is asked from time to time, but never twice at once.

    Args:
        ask: The question.
        every_s: Seconds from an answer to the next asking, and to the first.
        clock: Returns seconds.
        start: Runs it in the background.
    """

    def __init__(
        self,
        ask: Callable[[], Answer],
        *,
        every_s: float,
        clock: Callable[[], float],
        start: Callable[[Callable[[], Answer]], Future[Answer]] = in_background,
    ) -> None:
        self._ask = ask
        self._every_s = every_s
        self._clock = clock
        self._start = start
        self._asked: Future[Answer] | None = None
        self._ask_at = clock() + every_s

    @property
    def is_out(self) -> bool:
        """Whether it has been asked and not answered yet."""
        return self._asked is not None

    def poll(self) -> Future[Answer] | None:
        """Ask, if it is time to; never blocks.

        Returns:
            An answer that has arrived, returned once; None if there is none.
        """
        if self._asked is None:
            if self._clock() < self._ask_at:
                return None
            self._asked = self._start(self._ask)
        if not self._asked.done():
            return None
        answered, self._asked = self._asked, None
        self._ask_at = self._clock() + self._every_s
        return answered


_FIRST_S = 5.0
"""How long workers may wait for a place before the user is told."""

_FIRST_PRIVATE_S = 20.0
"""The same where they only have to start."""

_AGAIN_S = 60.0
"""When the same reason is repeated, at first; the interval doubles each time, up to ten minutes."""

_NAMES = {"cpus": ("CPU", "CPUs"), "gpus": ("GPU", "GPUs")}


@dataclass(frozen=True, kw_only=True)
class NodeRoom:
    """The ``cpus`` and ``gpus`` that one node has, and those that are free now."""

    total: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Want:
    """Workers of one kind that have no place.

    Attributes:
        kind: ``trainer`` or ``estimator``.
        count: How many.
        each: ``cpus`` and ``gpus`` of each.
    """

    kind: str
    count: int
    each: Mapping[str, float]


def explain(want: Want, nodes: Sequence[NodeRoom], *, opening: str = "waiting for") -> str:
    """Why workers have no place, and what to do about it.

    Args:
        want: The workers.
        nodes: The living nodes.
        opening: How the line begins.

    Returns:
        One line.

    Example:
        >>> node = NodeRoom(total={"cpus": 2, "gpus": 0}, free={"cpus": 2, "gpus": 0})
        >>> explain(Want(kind="trainer", count=1, each={"cpus": 1, "gpus": 1}), [node])
        'waiting for 1 GPU (1 trainer): the cluster has none; set resources.trainers.gpus: 0'
    """
    who = f"({want.count} {want.kind}{'s' if want.count != 1 else ''})"
    section = f"resources.{want.kind}s"
    for name, need in want.each.items():
        largest = max((node.total.get(name, 0.0) for node in nodes), default=0.0)
        if need > largest + 1e-9:
            has = "the cluster has none" if largest == 0 else f"no node has more than {_amount(name, largest)}"
            return f"{opening} {_amount(name, need)} {who}: {has}; set {section}.{name}: {largest:g}"
    asked = " and ".join(_amount(name, need) for name, need in want.each.items() if need > 0) or "a place"
    fitting = [node for node in nodes if _holds(node.total, want.each)]
    if not fitting:
        return f"{opening} {asked} {who}: no single node has both; lower {section}.cpus or {section}.gpus"
    scarce = [name for name, need in want.each.items() if need > 0]
    free = " and ".join(
        f"{sum(node.free.get(name, 0.0) for node in fitting):g} of "
        f"{_amount(name, sum(node.total.get(name, 0.0) for node in fitting))}"
        for name in scarce
    )
    if any(_holds(node.free, want.each) for node in fitting):
        return f"{opening} {asked} {who}: {free} are free, but Ray has not placed the workers yet"
    return (
        f"{opening} {asked} {who}: only {free} are free, the rest is taken by other jobs or by this sweep's own "
        f"workers; they start when it is released; lower resources.*.count to continue with fewer"
    )


def _holds(there: Mapping[str, float], need: Mapping[str, float]) -> bool:
    return all(there.get(name, 0.0) + 1e-9 >= amount for name, amount in need.items())


def _amount(name: str, number: float) -> str:
    """A number with its unit."""
    one, many = _NAMES[name]
    return f"{number:g} {one if number == 1 else many}"


class Waiting:
    """Asks from time to time why workers wait, and reports it now and then.

    Args:
        ask: Returns the current reason, or None; called in another thread, and may never return.
        say: Receives the reasons.
        clock: Returns seconds.
        start: Runs a question in the background.
        private: Whether nothing but this sweep is in the way, so that workers only wait for a busy machine.
    """

    def __init__(
        self,
        ask: Callable[[], str | None],
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], str | None]], Future[str | None]] = in_background,
        *,
        private: bool = False,
    ) -> None:
        self.reason: str | None = None
        """Why workers wait now; None if none do."""
        self._say = say
        self._clock = clock
        self._since: float | None = None
        self._patience_s = _FIRST_PRIVATE_S if private else _FIRST_S
        self._question = Question(ask, every_s=_FIRST_S / 2, clock=clock, start=start)
        self._say_at = 0.0
        self._again_s = _AGAIN_S

    def look(self) -> None:
        """Ask, if it is time to, and report a reason that is new or was not repeated recently; never blocks."""
        answered = self._question.poll()
        if answered is None:
            return
        now, reason = self._clock(), answered.result()
        if reason is None:
            if self.reason is not None:
                self._say("the waiting workers now have a place")
            self.reason, self._since, self._again_s = None, None, _AGAIN_S
            return
        if self._since is None:
            # Not at once: most are placed within a second.
            self._since = now
        if now - self._since < self._patience_s - _FIRST_S / 2 - 1e-9:
            return
        if self.reason is None or now >= self._say_at:
            self._say(reason)
            self._say_at = now + self._again_s
            self._again_s = min(600.0, 2 * self._again_s)
        self.reason = reason
