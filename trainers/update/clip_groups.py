"""Clipping by norm in groups of parameters, each with a threshold of its own, chosen by patterns of names."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from trainers.errors import TrainerError
from trainers.update.norms import norms
from trainers.update.pieces import multiply_pieces
from trainers.update.transforms import Direction, clip_scale, shrinkage

__all__ = ["ClipGroups", "check_groups", "matched"]

_SHOWN = 5
"""Names of parameters in a message."""


def matched(patterns: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Which parameters belong to which pattern: each to the first that matches it.

    Args:
        patterns: Of names, where ``*`` stands for any characters, ``?`` for one and ``[ab]`` for one of these.
        names: The parameters' names.

    Returns:
        For each pattern the places of its parameters in ``names``; a parameter that no pattern matches is in none.

    Raises:
        TrainerError: A pattern matches no parameter, or none that an earlier one has left over.

    Example:
        >>> matched(["embedding.*", "*"], ["embedding.weight", "decoder.weight", "decoder.bias"])
        [[0], [1, 2]]
    """
    left = dict(enumerate(names))
    groups = []
    for pattern in patterns:
        group = [at for at, name in left.items() if fnmatchcase(name, pattern)]
        if not group:
            raise TrainerError(f"clip_groups: {_unmatched(pattern, names)}")
        groups.append(group)
        for at in group:
            del left[at]
    return groups


def _unmatched(pattern: str, names: Sequence[str]) -> str:
    """Why a pattern has no parameter, with names like it."""
    if taken := [name for name in names if fnmatchcase(name, pattern)]:
        whose = f"{taken[0]!r}, belong" if len(taken) > 1 else f"{taken[0]!r}, belongs"
        return (
            f"{pattern!r} matches no parameter that earlier patterns have left over: what it matches, {whose} to an "
            "earlier one; the first pattern that matches counts, so put the narrower one first"
        )
    # What a pattern means is found by its letters: "embed*" is near to "encoder.embedding.weight".
    plain = pattern.strip("*").replace("*", "")
    inside = [name for name in names if plain and plain.lower() in name.lower()]
    near = inside or difflib.get_close_matches(pattern, names, n=_SHOWN, cutoff=0.5)
    hint = f"did you mean {_listed(near)}?" if near else f"the names are {_listed(names)}"
    how = f"; '*{plain}*' matches every name with that in it" if any(plain in name for name in inside) else ""
    return f"no parameter's name matches {pattern!r}; {hint}{how}"


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def check_groups(groups: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that groups are some, whatever the model.

    Args:
        groups: ``match``, a pattern, and ``clip_norm``, its threshold, for each.

    Raises:
        ValueError: There is none, a key is missing or unknown, or a threshold is not positive.
    """
    if not groups:
        raise ValueError("clip_groups is empty: give at least one group, or None")
    for group in groups:
        if group.keys() != {"match", "clip_norm"}:
            raise ValueError(f"clip_groups: a group has match and clip_norm, but found {dict(group)!r}")
        if not group["clip_norm"] > 0:
            raise ValueError(f"clip_groups: clip_norm of {group['match']!r} must be positive")


class ClipGroups:
    """Eq. (5) for each group by itself; parameters in no group are left alone.

    Args:
        groups: As for :func:`check_groups`.
        names: The names of all trained parameters, in the order of a direction's views.

    Raises:
        TrainerError: A pattern matches no parameter.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        places_of = matched([group["match"] for group in groups], names)
        # One group more for the parameters in none.
        self._thresholds = torch.tensor([*(group["clip_norm"] for group in groups), math.inf], dtype=torch.float64)
        self._group_of = torch.full((len(names),), len(groups))
        for group, places in enumerate(places_of):
            self._group_of[places] = group
        self._one = torch.ones(1, dtype=torch.float64)

    def __call__(self, direction: Direction) -> Tensor:
        """Clip a direction in place.

        Args:
            direction: The gradient, or the momentum.

        Returns:
            The factor by which its norm changed, on its device; 1 exactly where nothing was clipped.
        """
        if self._thresholds.device != direction.vector.device:
            self._thresholds = self._thresholds.to(direction.vector.device)
            self._group_of = self._group_of.to(direction.vector.device)
            self._one = self._one.to(direction.vector.device)
        found = norms(direction.views).double()
        # No square is out of range, whatever the largest norm.
        largest = found.max().clamp(min=torch.finfo(torch.float64).tiny)
        scales = clip_scale(self._summed((found / largest).square()).sqrt() * largest, self._thresholds)
        # Not what clip_scale makes of an infinite threshold and an infinite norm.
        multiply_pieces(direction.vector, direction.views, torch.cat([scales[:-1], self._one])[self._group_of])
        return shrinkage(direction, (scales < 1).any())

    def _summed(self, squares: Tensor) -> Tensor:
        """The sum over every group."""
        if squares.device.type == "cpu":
            return torch.zeros_like(self._thresholds).index_add_(0, self._group_of, squares)
        # A GPU's index_add_ adds in whatever order.
        groups = torch.arange(len(self._thresholds), device=squares.device)
        return torch.where(self._group_of == groups[:, None], squares, 0.0).sum(1)
