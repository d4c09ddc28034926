"""What of a clip survives Adam, whose updates do not know the scale of gradients."""

from __future__ import annotations

import numpy as np
import torch

from trainers.clip_audit.answers import Answer, trouble
from trainers.clip_audit.cases import Case, gradients_of
from trainers.clip_audit.scan import Player, Scan, merged

__all__ = ["adam_reference", "after_adam"]

_STEPS = 10
_SPIKE_AT = 5
_SPIKE = 100.0
_SAME = 0.05
"""Adam's own epsilon, 1e-8, is a few per cent of gradients that a loss scale has had clipped to a millionth."""


def adam_reference(gradients: list[np.ndarray]) -> list[np.ndarray]:
    """Updates of Adam at learning rate 1.

    Args:
        gradients: One for each step, shape (SIZE,).

    Returns:
        How far each step moves the weights.

    Example:
        >>> [round(float(step[0]), 6) for step in adam_reference([np.array([2.0]), np.array([2.0])])]
        [-1.0, -1.0]
    """
    weights = torch.zeros(gradients[0].size, dtype=torch.float64)
    optimizer = torch.optim.Adam([weights], lr=1.0)
    moved = []
    for gradient in gradients:
        before = weights.clone()
        weights.grad = torch.from_numpy(gradient)
        optimizer.step()
        moved.append((weights - before).numpy())
    return moved


def after_adam(player: Player, scanned: Scan, threshold: float) -> list[Answer]:
    """Compare the step under Adam with Adam on gradients that nothing clips.

    Args:
        player: Plays cases.
        scanned: What is known of the step.
        threshold: That of the average gradient.

    Returns:
        Two answers: where every step is clipped, and where one of ten is.
    """
    every, one = "Adam, all", "Adam, one"
    results = {}
    for question, norms in (
        (every, [10 * threshold] * _STEPS),
        (one, [threshold * (_SPIKE if at == _SPIKE_AT else 0.5) for at in range(_STEPS)]),
    ):
        steps = [
            gradients_of(20 + at, ranks=player.ranks, micro_batches=1, norm=norm, spread=1.5)
            for at, norm in enumerate(norms)
        ]
        outcomes = player(Case(name=question, steps=steps, optimizer="adam"))
        key, words, spot = trouble(outcomes)
        kind = outcomes[0].facts.get("kind")
        if key or kind != "Adam":
            why = f"under Adam the step {key}: {words}" if key else f"not asked: prepare builds {kind} of its own"
            return [
                Answer(
                    question=name,
                    verdict="cannot tell" if key else "note",
                    key=key or "not asked",
                    found=why,
                    fix="build the optimizer with the make_optimizer that prepare is given",
                    spot=spot,
                )
                for name in (every, one)
            ]
        seen = [merged([rank.seen[at] for rank in outcomes]) for at in range(_STEPS)]
        plain = adam_reference([scanned.linear.contributions(given).sum((0, 1)) for given in steps])
        results[question] = seen, plain
    seen, plain = results[every]
    whole = float(np.linalg.norm(sum(seen)) / np.linalg.norm(sum(plain)))
    off = float(np.linalg.norm(sum(seen) - sum(plain)) / np.linalg.norm(sum(plain)))
    survives_not = off < _SAME
    first = Answer(
        question=every,
        verdict="note" if survives_not else "ok",
        key="nothing survives" if survives_not else "something survives",
        found=(
            "nothing of the clip survives: Adam divides a constant scale out again"
            if survives_not
            else "the clip changes Adam's path even at a constant norm, so it is more than a constant scale"
        ),
        evidence=f"{_STEPS} gradients of 10 thresholds: path {whole:.4f} of the unclipped one's, off by {off:.2g}",
        fix="change the learning rate in place of the threshold" if survives_not else "",
    )
    seen, plain = results[one]
    at_spike = _ratio(seen[_SPIKE_AT : _SPIKE_AT + 1], plain[_SPIKE_AT : _SPIKE_AT + 1])
    behind = _ratio(seen[_SPIKE_AT + 1 :], plain[_SPIKE_AT + 1 :])
    second = Answer(
        question=one,
        verdict="ok",
        key="survives",
        found=(
            f"a step of {_SPIKE:g} thresholds among steps of half a one moves {at_spike:.2g} times as far as "
            f"without a clip, and the {_STEPS - _SPIKE_AT - 1} steps after it {behind:.2g} times"
        ),
        evidence=f"ratios of update norms {at_spike:.4f} and {behind:.4f}",
    )
    return [first, second]


def _ratio(seen: list[np.ndarray], plain: list[np.ndarray]) -> float:
    return float(np.linalg.norm(sum(seen)) / np.linalg.norm(sum(plain)))
