"""What a search goes by: the training loss and the metrics of a segment, in four numbers each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from trainers.metric_names import OWNED

__all__ = ["scores_of"]


_TAIL = 10
"""The last training loss is the mean over one in so many of those logged: one batch's loss is mostly noise."""


def scores_of(
    rows: Mapping[str, np.ndarray[Any, Any]], *, tests: Collection[str] = (), logged_before: int | None = None
) -> dict[str, list[float]]:
    """First, last, smallest and largest finite value of the training loss and of each metric.

    Args:
        rows: The columns of a segment, in the order of its steps.
        tests: Metrics of the test data, by which nothing may be chosen.
        logged_before: How many training losses earlier segments have logged; the last one is then the mean over the
            last tenth of all, as in ``final_train_loss``, as far as they are in this segment. None for the very last.

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
            tail = 1
            if name == "train_loss" and logged_before is not None:
                tail = min(len(finite), max(1, round((logged_before + len(finite)) / _TAIL)))
            found[name] = [float(finite[0]), float(finite[-tail:].mean()), float(finite.min()), float(finite.max())]
    return found
