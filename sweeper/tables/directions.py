"""Which way a metric gets better: as problem or spec declares, else by the words of its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

__all__ = ["LARGER", "SMALLER", "Direction", "direction_before", "direction_of", "is_known", "is_share"]

Direction: TypeAlias = Literal["min", "max"]

LARGER = frozenset(
    "accuracy acc top1 top5 f1 auc auroc ap map r2 bleu rouge iou miou dice precision recall psnr ssim score reward "
    "return".split()
)
"""Words of names of metrics of which more is better."""

SMALLER = frozenset("loss error err perplexity ppl mse rmse mae nll bpc wer cer fid divergence".split())
"""Words of names of metrics of which less is better. They win over the others: ``top1_error``, ``fid_score``."""

_SHARES = frozenset("accuracy acc top1 top5 f1 auc auroc ap map iou miou dice precision recall".split())
"""Words of names of metrics that lie between 0 and 1, if they are not in percent."""

_ANALYTIC = frozenset({"gap", "full_grad_norm"})
"""Columns of analytic trials, which no problem declares."""


def direction_of(metric: str, declared: Mapping[str, str]) -> Direction:
    """Whether the best of a metric is its minimum or its maximum.

    Args:
        metric: Its name.
        declared: Name to ``min`` or ``max``, as problem or spec have it.

    Returns:
        What is declared; else what a word of the name says, whole words between underscores in upper or lower case;
        else ``min``.

    Example:
        >>> [direction_of(name, {"valid_foo": "max"}) for name in ("valid_foo", "Accuracy", "accuracy_top5")]
        ['max', 'max', 'max']
        >>> [direction_of(name, {}) for name in ("top1_error", "valid_foo", "accent")]
        ['min', 'min', 'min']
    """
    if metric in declared:
        return "max" if declared[metric] == "max" else "min"
    words = _words(metric)
    return "max" if words & LARGER and not words & SMALLER else "min"


def is_known(metric: str, declared: Mapping[str, str]) -> bool:
    """Whether anything says which way a metric gets better.

    Args:
        metric: Its name.
        declared: As of :func:`direction_of`.

    Returns:
        False where it is only taken to be minimised.
    """
    return metric in declared or metric in _ANALYTIC or bool(_words(metric) & (LARGER | SMALLER))


def is_share(metric: str) -> bool:
    """Whether the name of a metric says that it is a share.

    Args:
        metric: Its name.

    Returns:
        True for accuracies and their like, ``top1_error`` too.

    Example:
        >>> is_share("best_valid_accuracy"), is_share("test_loss"), is_share("top1_error")
        (True, False, True)
    """
    return bool(_words(metric) & _SHARES)


def direction_before(metric: str) -> Direction:
    """What the tables of earlier versions took: names that end in ``accuracy`` have a maximum, all others a minimum."""
    return "max" if metric.endswith("accuracy") else "min"


def _words(metric: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", metric.lower()))
