"""Names that a problem's own metrics may have."""

from __future__ import annotations

from reprlib import Repr

__all__ = ["OWNED", "TEST", "unfit"]

TEST = "test_"
"""Beginning of the names of metrics of the test data."""

OWNED = frozenset([
    *("trial_id", "cell_id", "measurement_id", "seed", "step", "epoch"),
    *("train_loss", "grad_norm", "step_size", "clipped", "update_norm", "learning_rate"),
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


_SHORT = Repr()
_SHORT.maxstring = 60
