"""What a search goes by: the training loss and the metrics of a segment, in four numbers each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from trainers.metric_names import OWNED

__all__ = ["scores_of"]


def scores_of(rows: Mapping[str, np.ndarray[Any, Any]], *, tests: Collection[str] = ()) -> dict[str, list[float]]:
    """First, last, smallest and largest finite value of the training loss and of each metric.

    Args:
        rows: The columns of a segment, in the order of its steps.
        tests: Metrics of the test data, by which nothing may be chosen.

    Returns:
        Column to its four numbers; without those of which no value is finite.

    Example:
        >>> scores_of({"step": np.array([0, 1, 2]), "train_loss": np.array([3.0, 1.0, np.inf])})
        {'train_loss': [3.0, 1.0, 1.0, 3.0]}
    """
    found: dict[str, list[float]] = {}
    for name, column in rows.items():
        if name in tests or (name in OWNED and name != "train_loss"):
            continue
        values = np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)
        finite = values[np.isfinite(values)]
        if len(finite):
            found[name] = [float(finite[0]), float(finite[-1]), float(finite.min()), float(finite.max())]
    return found
