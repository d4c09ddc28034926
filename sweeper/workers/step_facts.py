"""What a step was made of, as far as estimators ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainers.update.preconditioner import PRECONDITIONED, stability_threshold
from trainers.update.rule import UpdateRule

__all__ = ["NEED_PRECONDITIONER", "facts_of", "needs_preconditioner", "step_options"]

NEED_PRECONDITIONER = frozenset({"preconditioned_sharpness"})
"""Estimators that need what a step was divided by; as the registry says, which a trainer need not load."""


def facts_of(rule: UpdateRule) -> dict[str, Any]:
    """What is the same for all steps of a rule.

    Args:
        rule: The rule.

    Returns:
        ``clip_norm``, ``stability_threshold`` and ``preconditioned``, as
        :class:`~sweeper.protocol.messages.SnapshotHeader` has them.
    """
    return {
        "clip_norm": rule.step_threshold,
        "stability_threshold": stability_threshold(rule),
        "preconditioned": rule.optimizer in PRECONDITIONED,
    }


def needs_preconditioner(measure: Mapping[str, Any]) -> bool:
    """Whether an estimator of a resolved measure section needs what a step was divided by."""
    return any(entry["use"] in NEED_PRECONDITIONER for entry in measure["estimators"])


def step_options(wanted: tuple[str, ...], facts: Mapping[str, Any], payload: Tensor) -> dict[str, Any]:
    """What an estimator wants to know of a step.

    Args:
        wanted: Names, from :data:`estimators.registry.NEED_STEP`.
        facts: ``learning_rate``, and what :func:`facts_of` says.
        payload: x_k and x_{k+1}, and the preconditioner where it was kept, shape (2, n) or (3, n).

    Returns:
        Name to value.

    Raises:
        ValueError: The preconditioner is wanted, and was not kept.
    """
    options = {name: facts[name] for name in wanted if name != "preconditioner"}
    if "preconditioner" in wanted:
        if facts["preconditioned"] is None:
            raise ValueError("the snapshot does not say by what its step was divided: it is from an earlier clipsweep")
        if facts["preconditioned"] and len(payload) < 3:
            raise ValueError(
                "the snapshot was kept without what its step was divided by: it is there in runs whose measure section "
                "has this estimator"
            )
        options["preconditioner"] = payload[2] if facts["preconditioned"] else None
    return options
