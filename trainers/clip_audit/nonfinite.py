"""What a single inf or NaN does to the weights, to the steps after it, and to the other rank."""

from __future__ import annotations

import math

import numpy as np

from trainers.clip_audit.answers import Answer, trouble
from trainers.clip_audit.cases import Case, gradients_of
from trainers.clip_audit.fit import relative_error
from trainers.clip_audit.layout import SIZE
from trainers.clip_audit.scan import Player, Scan, merged, used_gradient

__all__ = ["nonfinite"]

_AT = 3
"""The weight whose gradient is not finite, on the last rank in the first micro-batch."""


def nonfinite(player: Player, scanned: Scan, value: float) -> Answer:
    """Ask what one number that is not finite does.

    Args:
        player: Plays the case.
        scanned: What is known of the step.
        value: Infinity or NaN.

    Returns:
        The answer.
    """
    name = "inf" if math.isinf(value) else "NaN"
    what = f"{'an' if name == 'inf' else 'a'} {name} in one weight's gradient" + (
        " in one micro-batch of one rank" if player.ranks > 1 else ""
    )
    norm = scanned.onset / 1000 if scanned.clips and not scanned.linear.is_assumed else 1.0
    bad = gradients_of(5, ranks=player.ranks, micro_batches=2, norm=norm)
    bad[-1, 0, _AT] = value
    good = gradients_of(6, ranks=player.ranks, micro_batches=2, norm=norm)
    outcomes = player(Case(name=what, steps=[bad, good]))
    key, words, spot = trouble(outcomes)
    if key in {"hangs", "dies"}:
        return Answer(
            question=name, verdict="finding", key=key, found=f"{what}: the step {key}: {words}", spot=spot,
            fix="let every rank decide alike: all_reduce the flag before anything depends on it",
        )  # fmt: skip
    if key:
        alone = sum(bool(one.raised) for one in outcomes) < len(outcomes)
        return Answer(
            question=name, verdict="finding" if alone else "ok", key="raises on one rank" if alone else "raises",
            found=f"{what}: the step raises: {words}" + (", and not on the others" if alone else ""), spot=spot,
            fix="all_reduce the flag first, so that every rank raises" if alone else "",
        )  # fmt: skip
    first = merged([one.seen[0] for one in outcomes])
    second = used_gradient([one.seen[1] for one in outcomes])
    broken, num_moved = int((~np.isfinite(first)).sum()), int(scanned.linear.moves.sum())
    after = int((~np.isfinite(second)).sum())
    evidence = f"not finite: {broken} of {SIZE} weights after the step, {after} after the next"
    if broken:
        every = broken >= num_moved
        return Answer(
            question=name,
            verdict="note",
            key="poisons all" if every else "poisons some",
            found=(
                f"{what} makes {'every weight' if every else f'{broken} of {SIZE} weights'} "
                f"{'NaN' if np.isnan(first).any() else 'infinite'}"
                + (", since the clip divides all of them by a norm that is not finite" if every else "")
            ),
            evidence=evidence,
            fix="clip_grad_norm_(..., error_if_nonfinite=True), or skip the step where the norm is not finite",
        )
    if after:
        return Answer(
            question=name,
            verdict="finding",
            key="skipped, then poisons",
            found=f"{what}: the step is skipped, but the gradient stays and spoils the next one",
            evidence=evidence,
            fix="optimizer.zero_grad() also where the step is skipped",
        )
    if not np.abs(first).max() > 0:
        return _skipped(name, what, evidence, second, scanned, good)
    clean = bad.copy()
    clean[-1, 0, _AT] = 0.0
    whole = scanned.linear.contributions(clean).sum((0, 1))
    clean[-1, 0] = 0.0
    rest = scanned.linear.contributions(clean).sum((0, 1))
    without = whole.copy()
    without[_AT] = 0.0
    used = used_gradient([one.seen[0] for one in outcomes])
    for candidate, words in (
        (whole, "as if that number were 0"),
        (without, "as if that weight had no gradient"),
        (rest, "as if that micro-batch were not there"),
    ):
        if relative_error(candidate, used) <= scanned.tolerance:
            return Answer(
                question=name, verdict="note", key="replaced", found=f"{what}: the step is taken {words}",
                evidence=evidence,
            )  # fmt: skip
    return Answer(
        question=name,
        verdict="note",
        key="moves on",
        found=f"{what}: the step moves the weights, by {np.linalg.norm(first):.4g}",
        evidence=evidence,
    )


def _skipped(name: str, what: str, evidence: str, second: np.ndarray, scanned: Scan, good: np.ndarray) -> Answer:
    """The step moved nothing; what did the next one, on finite gradients?"""
    if not np.abs(second).max() > 0:
        return Answer(
            question=name,
            verdict="finding",
            key="never again",
            found=f"{what}: the step is skipped, and so is the next one, though its own gradients are finite",
            evidence=evidence,
            fix="optimizer.zero_grad() also where the step is skipped",
        )
    expected = scanned.linear.contributions(good).sum((0, 1))
    off = relative_error(expected, second)
    is_same = scanned.linear.is_assumed or off <= scanned.tolerance
    return Answer(
        question=name,
        verdict="ok" if is_same else "note",
        key="skipped" if is_same else "skipped, then differs",
        found=f"{what}: the step is skipped, and the next one is "
        + ("taken" if is_same else f"another than on its own gradients, by {off:.2g} of it"),
        evidence=evidence,
    )
