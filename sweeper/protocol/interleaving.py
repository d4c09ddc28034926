"""In which order workers are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

__all__ = ["interleaved"]


def interleaved(trainers: int, estimators: int) -> Iterator[Literal["trainer", "estimator"]]:
    """The order in which workers are asked for, so that both kinds come to share each GPU.

    Ray puts a fraction of a GPU where it fits most tightly: trainers that are asked for first would fill one GPU and
    leave a remainder that no estimator fits into.

    Args:
        trainers: Their number.
        estimators: Their number.

    Yields:
        The kinds, in proportion, a trainer first.

    Example:
        >>> list(interleaved(1, 2))
        ['trainer', 'estimator', 'estimator']
    """
    started, measuring = 0, 0
    while started < trainers or measuring < estimators:
        if measuring >= estimators or (started < trainers and started * estimators <= measuring * trainers):
            started += 1
            yield "trainer"
        else:
            measuring += 1
            yield "estimator"
