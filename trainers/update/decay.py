"""Which parameter tensors decay, and the decay of some where an optimiser of one flat vector would take all."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby, pairwise

from torch import Tensor

from trainers.errors import TrainerError
from trainers.update.flat import FlatParameters

__all__ = ["Decay", "decaying", "matching", "runs"]

Layout = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of parameters in the order of a flat vector."""

_SHOWN = 8


def decaying(layout: Layout, *, decay_on: str, no_decay: Sequence[str] | None) -> list[bool]:
    """Which parameters weight decay pulls to zero.

    Args:
        layout: Names and shapes.
        decay_on: ``all``, or ``matrices`` for those of two or more dimensions: no biases, no gains of norms.
        no_decay: Patterns of names that do not decay, with ``*`` for anything; None for no others.

    Returns:
        Whether each does.

    Raises:
        TrainerError: A pattern matches no parameter, or none is left.

    Example:
        >>> layout = [("embedding.weight", (9, 2)), ("fc.weight", (3, 2)), ("fc.bias", (3,))]
        >>> decaying(layout, decay_on="matrices", no_decay=["embedding.*"])
        [False, True, False]
    """
    excepted = matching(layout, no_decay or (), option="no_decay")
    found = [name not in excepted and (decay_on == "all" or len(shape) > 1) for name, shape in layout]
    if not any(found):
        raise TrainerError(
            f"update_rule.weight_decay has no effect: with decay_on {decay_on} and no_decay "
            f"{', '.join(no_decay or ()) or 'null'} no parameter of the model decays"
        )
    return found


def matching(layout: Layout, patterns: Sequence[str], *, option: str) -> set[str]:
    """The parameters that patterns name.

    Args:
        layout: Names and shapes.
        patterns: With ``*`` for anything, dots included.
        option: The option of the update rule that they are of, for the message.

    Returns:
        Names.

    Raises:
        TrainerError: A pattern matches none.
    """
    names = [name for name, _ in layout]
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.4)
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise TrainerError(
                f"update_rule.{option}: no parameter is named {pattern!r}; "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"The model has: {', '.join(names[:_SHOWN])}{more}"
            )
        found |= matched
    return found


def runs(layout: Layout, chosen: Sequence[bool]) -> list[slice]:
    """Where the chosen parameters lie in a flat vector, neighbours as one slice.

    Args:
        layout: Names and shapes.
        chosen: Whether each is.

    Returns:
        Slices in order.

    Example:
        >>> runs([("a", (2,)), ("b", (3,)), ("c", ()), ("d", (1,))], [True, True, False, True])
        [slice(0, 5, None), slice(6, 7, None)]
    """
    ends = [0]
    for _, shape in layout:
        size = 1
        for side in shape:
            size *= side
        ends.append(ends[-1] + size)
    pieces = [(is_chosen, start, stop) for is_chosen, (start, stop) in zip(chosen, pairwise(ends), strict=True)]
    found = []
    for is_chosen, group in groupby(pieces, key=lambda piece: piece[0]):
        members = list(group)
        if is_chosen:
            found.append(slice(members[0][1], members[-1][2]))
    return found


class Decay:
    """Weight decay of some parameters of a flat vector, by the operations of torch's optimisers.

    L2: the gradient g of a decaying parameter x becomes g + lambda x. Decoupled (Loshchilov and Hutter, 2019): x
    becomes (1 - eta lambda) x before the step.

    Args:
        flat: Parameters and gradients.
        weight_decay: lambda.
        decay_on: As for :func:`decaying`; so is ``no_decay``.
        no_decay: See there.

    Raises:
        TrainerError: As :func:`decaying`.
    """

    def __init__(
        self, flat: FlatParameters, *, weight_decay: float, decay_on: str, no_decay: Sequence[str] | None
    ) -> None:
        self._weight_decay = weight_decay
        places = runs(flat.layout, decaying(flat.layout, decay_on=decay_on, no_decay=no_decay))
        self._pieces: list[tuple[Tensor, Tensor]] = [(flat.vector.data[at], flat.gradient[at]) for at in places]

    def add(self) -> None:
        """Add the L2 penalty's gradient to the gradient."""
        for parameters, gradient in self._pieces:
            gradient.add_(parameters, alpha=self._weight_decay)

    def shrink(self, learning_rate: float) -> None:
        """Decay the parameters themselves, before a step at a rate."""
        for parameters, _ in self._pieces:
            parameters.mul_(1 - learning_rate * self._weight_decay)
