"""What is known of how steps clip: each way as a function from gradients to the gradient that moves the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.clip_audit.layout import SIZE, TENSORS

__all__ = ["PARTITIONS", "STAGES", "WHERE", "Clip", "Way", "single_ways", "twofold_ways"]

Array = npt.NDArray[Any]


def _by(key: str) -> Array:
    """The part of each weight, where tensors that agree in a property of theirs are one part."""
    part = np.zeros(SIZE, dtype=int)
    names: list[object] = []
    for place in TENSORS:
        value = getattr(place, key)
        if value not in names:
            names.append(value)
        part[place.slice] = names.index(value)
    return part


def _halves() -> Array:
    """Upper and lower half of the rows of every tensor, as two ranks of FSDP have them."""
    part = np.zeros(SIZE, dtype=int)
    for place in TENSORS:
        part[place.start + place.size // 2 : place.start + place.size] = 1
    return part


PARTITIONS: Mapping[str, Array] = MappingProxyType({
    "all": np.zeros(SIZE, dtype=int),
    "tensor": _by("name"),
    "group": _by("group"),
    "module": _by("module"),
    "shard": _halves(),
})
"""What a norm is taken of: all weights, or each part by itself. Shape (SIZE,), the part of each weight."""

WHERE: Mapping[str, str] = MappingProxyType({
    "end": "the whole gradient, once",
    "local": "each rank's own gradient, before ranks are averaged",
    "own": "each micro-batch's own gradient",
    "own local": "each micro-batch's own gradient on each rank, before ranks are averaged",
    "running": "what has been accumulated so far, after each micro-batch",
    "running local": "what each rank has accumulated so far, after each micro-batch, before ranks are averaged",
    "running, then end": "what each rank has accumulated so far, after each micro-batch but the last; then the mean",
    "sum": "the sum of the micro-batches, which is divided by their number only afterwards",
    "but last": "what had been accumulated before the last micro-batch",
})
"""The gradient that is clipped, in words."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One application of a clip.

    Attributes:
        kind: ``norm``, ``value`` (each element by itself) or ``normalise`` (to the threshold, even from below).
        order: The order of the norm, 1, 2 or infinity.
        partition: Part of each weight, shape (SIZE,); -1 for weights that are left as they are.
        counted: Part of each weight in the norm, where that is another one; else None.
        epsilon: What is added to the norm before dividing by it; 1e-6 in ``torch.nn.utils.clip_grad_norm_``.
        name: What its partition is called.
    """

    kind: str = "norm"
    order: float = 2.0
    partition: Array
    counted: Array | None = None
    epsilon: float = 0.0
    name: str = "all"

    def __call__(self, gradient: Array, threshold: float) -> Array:
        """The clipped gradient.

        Args:
            gradient: Shape (SIZE,).
            threshold: In its unit; positive.

        Returns:
            Shape (SIZE,).

        Example:
            >>> clip = Clip(partition=PARTITIONS["all"])
            >>> gradient = np.zeros(SIZE)
            >>> gradient[:2] = 3.0, 4.0
            >>> clip(gradient, 1.0)[:2].tolist(), clip(gradient, 10.0)[:2].tolist()
            ([0.6000000000000001, 0.8], [3.0, 4.0])
        """
        clipped = self.partition >= 0
        if self.kind == "value":
            return np.where(clipped, np.clip(gradient, -threshold, threshold), gradient)
        norms = _norms(gradient, self.partition if self.counted is None else self.counted, self.order)
        factors = threshold / np.maximum(norms + self.epsilon, 1e-300)
        if self.kind == "norm":
            factors = np.minimum(factors, 1.0)
        return np.where(clipped, gradient * factors[self.partition], gradient)


def _norms(gradient: Array, partition: Array, order: float) -> Array:
    """The norm of each part."""
    held = partition >= 0
    sizes, num = np.abs(gradient[held]), int(partition.max()) + 1
    if order == np.inf:
        found = np.zeros(num)
        np.maximum.at(found, partition[held].astype(int), sizes)
        return found
    sums: Array = np.bincount(partition[held].astype(int), weights=sizes**order, minlength=num)
    return sums ** (1 / order)


STAGES = ("tensor", "group", "module", "value")
"""What may be clipped first where the global norm is clipped, too, at the same threshold."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way in which a step may clip.

    Attributes:
        where: A key of :data:`WHERE`.
        clips: What is applied there, one after the other, all at one threshold.
    """

    where: str
    clips: tuple[Clip, ...]

    def __call__(self, gradients: Array, threshold: float) -> Array:
        """The gradient that moves the weights.

        Args:
            gradients: What each micro-batch of each rank contributes to it where nothing is clipped: shape (ranks,
                micro-batches, SIZE).
            threshold: That of the averaged gradient. A rank's own gradient, of which the average has a share, is held
                to as much of it as the share is.

        Returns:
            Shape (SIZE,).
        """
        num_ranks = len(gradients)

        def clip(gradient: Array, *, share: int = 1) -> Array:
            for one in self.clips:
                gradient = one(gradient, threshold / share)
            return gradient

        match self.where:
            case "end":
                return clip(gradients.sum((0, 1)))
            case "local":
                return _sum(clip(rank.sum(0)) for rank in gradients)
            case "own":
                return _sum(clip(one) for one in gradients.sum(0))
            case "own local":
                return _sum(clip(one) for rank in gradients for one in rank)
            case "running":
                return _running(gradients.sum(0), clip)
            case "running local":
                return _sum(_running(rank, clip) for rank in gradients)
            case "running, then end":
                held = [_running(rank[:-1], lambda one: clip(one, share=num_ranks)) + rank[-1] for rank in gradients]
                return clip(_sum(held))
            case "sum":
                return clip(gradients.sum((0, 1)), share=gradients.shape[1])
            case "but last":
                before: Array = gradients[:, :-1].sum((0, 1))
                last: Array = gradients[:, -1].sum(0)
                return clip(before) + last
        raise ValueError(f"unknown place {self.where!r}; known: {', '.join(WHERE)}")

    @property
    def is_local(self) -> bool:
        """Whether a rank clips before ranks are averaged, so that its threshold is that of its own gradient."""
        return self.where.endswith("local")


def _sum(gradients: Iterable[Array]) -> Array:
    total = np.zeros(SIZE)
    for one in gradients:
        total = total + one
    return total


def _running(gradients: Array, clip: Callable[[Array], Array]) -> Array:
    total = np.zeros(SIZE)
    for one in gradients:
        total = clip(total + one)
    return total


def single_ways(num_ranks: int, partitions: Mapping[str, Array], *, kind: str = "norm") -> Iterator[Way]:
    """Every known way of clipping once, the right one first.

    Args:
        num_ranks: On one rank nothing can be done before ranks are averaged.
        partitions: Name to part of each weight.
        kind: ``norm``, with ``value``; or ``normalise``.

    Yields:
        One after the other.
    """
    for where in WHERE:
        if num_ranks == 1 and ("local" in where or "then" in where):
            continue
        for name, partition in partitions.items():
            for order in (2.0, np.inf, 1.0):
                for epsilon in (1e-6, 0.0):
                    clip = Clip(kind=kind, partition=partition, order=order, epsilon=epsilon, name=name)
                    yield Way(where=where, clips=(clip,))
        if kind != "norm":
            continue
        held = next(iter(partitions.values()))
        yield Way(where=where, clips=(Clip(kind="value", partition=np.where(held >= 0, 0, -1), name="value"),))


def twofold_ways(ways: Sequence[Way]) -> Iterator[Way]:
    """Parts first and then the global norm, for every way that takes the latter.

    Args:
        ways: Ways of clipping once.

    Yields:
        One after the other.
    """
    for way in ways:
        (last,) = way.clips
        if last.name != "all" or last.order != 2:
            continue
        for name in STAGES:
            kind = "value" if name == "value" else "norm"
            part = PARTITIONS["all" if name == "value" else name]
            first = replace(last, kind=kind, partition=np.where(last.partition >= 0, part, -1), name=name)
            yield replace(way, clips=(first, last))
