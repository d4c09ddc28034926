"""Which of many points are drawn: as many as a page can hold, chosen by a rule that can be said in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evenly", "share", "thinned"]


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Places of some of many things in a row: the first, the last, and evenly between them.

    Args:
        count: How many things there are.
        most: How many places to give, at least 2.

    Returns:
        Ascending places, all of them where they are not too many.

    Raises:
        ValueError: Fewer than two places are wanted.

    Example:
        >>> evenly(3, 10).tolist(), evenly(101, 5).tolist()
        ([0, 1, 2], [0, 25, 50, 75, 100])
    """
    if most < 2:
        raise ValueError(f"the first and the last are two places: {most} are too few")
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.intp))


def share(total: int, groups: int, *, least: int = 2) -> int:
    """How many points each of some groups may have.

    Args:
        total: How many there may be in all.
        groups: How many groups there are.
        least: What a group needs to say anything.

    Returns:
        A number of at least ``least``.

    Example:
        >>> share(100, 4), share(100, 1000)
        (25, 2)
    """
    return max(least, total // max(1, groups))


def thinned(points: pd.DataFrame, *, by: str, along: str, most: int, always: str | None = None) -> pd.DataFrame:
    """Points thinned within groups: sorted along a column, evenly spaced ones of each group are kept.

    Args:
        points: Rows.
        by: Column of the groups.
        along: Column along which the points of a group are sorted: its ends are kept.
        most: How many points of a group are kept, at least 2.
        always: Column whose smallest and largest value in a group are kept besides, in place of two others.

    Returns:
        Some of the rows, group by group.

    Example:
        >>> import pandas as pd
        >>> points = pd.DataFrame({"cell": [0] * 9 + [1], "x": [*range(9), 5.0], "y": [0, 0, 7, 0, 0, 0, 0, 0, 0, 1]})
        >>> thinned(points, by="cell", along="x", most=3)["x"].tolist()
        [0.0, 4.0, 8.0, 5.0]
        >>> thinned(points, by="cell", along="x", most=5, always="y")["x"].tolist()
        [0.0, 2.0, 4.0, 8.0, 5.0]
    """
    ordered = points.sort_values([by, along], kind="stable").reset_index(drop=True)
    kept: list[NDArray[np.intp]] = []
    for group in ordered.groupby(by, sort=False).indices.values():
        places: NDArray[np.intp] = np.asarray(group)
        if len(places) <= most:
            kept.append(places)
            continue
        if always is None:
            kept.append(places[evenly(len(places), most)])
            continue
        values = ordered[always].to_numpy()[places]
        extremes = places[[int(values.argmin()), int(values.argmax())]]
        kept.append(np.union1d(places[evenly(len(places), max(2, most - 2))], extremes))
    return ordered.iloc[np.concatenate(kept)] if kept else ordered
