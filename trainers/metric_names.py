"""Names that a problem's own metrics may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from reprlib import Repr

__all__ = ["OWNED", "TEST", "alike", "unfit"]

TEST = "test_"
"""Beginning of the names of metrics of the test data."""

OWNED = frozenset([
    *("trial_id", "cell_id", "measurement_id", "seed", "step", "epoch"),
    *("train_loss", "grad_norm", "step_size", "clipped", "update_norm", "learning_rate", "threshold"),
])
"""Columns that every table of metrics has, and keys by which it is joined with others."""

_LONGEST = 100


def unfit(name: str) -> str:
    r"""Why a metric cannot be called so.

    Args:
        name: The name.

    Returns:
        The reason, with what to call it instead; empty for a name that fits.

    Example:
        >>> unfit("valid/accuracy"), unfit("Step")
        ('', "the metric 'Step' is called like the column step that every trial has: rename it, for example own_step")
        >>> unfit("a\tb")
        "the metric 'a\\tb' has characters that cannot be printed in its name"
    """
    shown = _SHORT.repr(name)
    if not name or name != name.strip():
        return f"the metric {shown} has a name that is empty or has spaces around it"
    if not name.isprintable():
        return f"the metric {shown} has characters that cannot be printed in its name"
    if len(name) > _LONGEST:
        return f"the metric {shown} has a name of {len(name)} characters; at most {_LONGEST}"
    # SQL does not tell upper from lower case.
    if (column := name.lower()) in OWNED:
        return (
            f"the metric {shown} is called like the column {column} that every trial has: rename it, for example "
            f"own_{column}"
        )
    return ""


def alike(names: Iterable[str]) -> str:
    r"""Why two metrics of one problem cannot both be called as they are.

    Args:
        names: The names of all metrics.

    Returns:
        The reason; empty where each has a name that SQL and people tell from the others.

    Example:
        >>> alike(["loss", "accuracy"]), alike(["loss", "Loss"])
        ('', "the metrics 'loss' and 'Loss' differ only in case or in how their letters are encoded: rename one")
    """
    seen: dict[str, str] = {}
    for name in names:
        # SQL does not tell upper from lower case, and people not two ways to encode an accent.
        before = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if before != name:
            pair = f"{_SHORT.repr(before)} and {_SHORT.repr(name)}"
            if not pair.isascii():
                pair = f"{before!a} and {name!a}"
            return f"the metrics {pair} differ only in case or in how their letters are encoded: rename one"
    return ""


_SHORT = Repr()
_SHORT.maxstring = 60
