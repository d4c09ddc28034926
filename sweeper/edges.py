"""Where the best cell lies at the edge of what was tried, and which values to add."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Edge", "edge_of", "grid_override", "grown"]

_ADDED = 2


@dataclass(frozen=True, kw_only=True)
class Edge:
    """The best cell of an arm has the largest or smallest value tried.

    Attributes:
        path: The swept path.
        arm: The arm.
        context: What the best cell has besides, for example its threshold.
        side: ``largest`` or ``smallest``.
        value: The value.
        add: Values that go on beyond it, in the grid's own spacing.
    """

    path: str
    arm: str
    context: str
    side: str
    value: float
    add: tuple[float, ...]


def edge_of(values: Sequence[float], best: float) -> tuple[str, tuple[float, ...]] | None:
    """Whether the best value is the largest or smallest of those tried, and how the grid goes on there.

    Args:
        values: Values tried, positive.
        best: One of them.

    Returns:
        The side and two more values, in the ratio of the outermost two; None in the middle, or below three values.

    Example:
        >>> edge_of([0.01, 0.03, 0.1], 0.1)
        ('largest', (0.333, 1.11))
        >>> edge_of([1, 2, 4], 2) is None
        True
    """
    tried = sorted(set(values))
    if len(tried) < 3 or tried[0] <= 0:
        return None
    if best == tried[-1]:
        ratio = tried[-1] / tried[-2]
        return "largest", tuple(_rounded(best * ratio**power) for power in range(1, _ADDED + 1))
    if best == tried[0]:
        ratio = tried[1] / tried[0]
        return "smallest", tuple(_rounded(best / ratio**power) for power in range(1, _ADDED + 1))
    return None


def grown(values: Sequence[Any], edges: Sequence[Edge]) -> list[Any]:
    """A swept list with the values that its edges ask for, in order; null stays in front.

    Args:
        values: As the sweep has them.
        edges: Of one path.

    Returns:
        The longer list.

    Example:
        >>> edge = Edge(path="a", arm="sgd", context="", side="largest", value=3.0, add=(9.0,))
        >>> grown([None, 1.0, 3.0], [edge])
        [None, 1.0, 3.0, 9.0]
    """
    added = {value for edge in edges for value in edge.add}
    numbers = sorted({value for value in values if value is not None} | added)
    return ([None] if None in values else []) + numbers


def grid_override(grid: Mapping[str, Sequence[Any]], edges: Sequence[Edge]) -> dict[str, list[Any]]:
    """The paths of a grid that grow, with all their values.

    Args:
        grid: Path to values, as the sweep has them.
        edges: What was found.

    Returns:
        Path to the longer list; empty where no edge lies in the grid.
    """
    paths = dict.fromkeys(edge.path for edge in edges if edge.path in grid)
    return {path: grown(grid[path], [edge for edge in edges if edge.path == path]) for path in paths}


def _rounded(value: float) -> float:
    """Three digits are what a person would write."""
    return float(f"{value:.3g}") if math.isfinite(value) else value
