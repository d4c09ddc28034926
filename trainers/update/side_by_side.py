"""The steps of several trials at once, by SGD after clipping or normalising, with the bits of each trial by itself.

What rounds is done by the same kernels as for one trial, through PyTorch's operations on lists of tensors, which on a
CPU call them one after another without Python in between. Only products with one factor for each trial are one kernel
over all: they round once, wherever they are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.update.norms import distance, is_right
from trainers.update.rule import ONE_OF, UpdateRule
from trainers.update.transforms import clip_scale, normalize_scale
from trainers.update.updater import Updater

__all__ = ["Mover", "is_plain", "step_side_by_side"]

_BLOCK = 2**17
"""Longer differences are added up in blocks, see :func:`~trainers.update.norms.distance`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mover:
    """One trial's part of a step.

    Attributes:
        rule: A plain one.
        updater: Of that rule; its optimiser keeps the momentum.
        vector: x_k, changed to x_{k+1}.
        learning_rate: eta of the step.
    """

    rule: UpdateRule
    updater: Updater
    vector: Tensor
    learning_rate: float


def is_plain(rule: UpdateRule) -> bool:
    """Whether a rule is SGD, also with momentum and decay, on the gradient, clipped by norm or normalised.

    Args:
        rule: Any.

    Returns:
        Whether :func:`step_side_by_side` takes it; all others step one by one.

    Example:
        >>> is_plain(UpdateRule(learning_rate=1.0, clip_norm=0.1, momentum=0.9))
        True
        >>> is_plain(UpdateRule(learning_rate=1.0, optimizer="adam"))
        False
    """
    others = [name for name in (*ONE_OF, "own_transform") if name not in {"clip_norm", "normalize"}]
    return (
        rule.optimizer == "sgd"
        and rule.transform_of == "gradient"
        and rule.when_exceeded == "clip"
        and rule.average is None
        and not rule.has_decay_groups
        and not rule.clip_each_micro_batch
        and all(getattr(rule, name) is None for name in others)
    )


def step_side_by_side(
    movers: Sequence[Mover], gradients: Tensor, norms: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Go from x_k to x_{k+1} in every trial, as :meth:`~trainers.update.updater.Updater.step` does in one.

    Args:
        movers: The trials.
        gradients: Their gradients, shape (trials, n); overwritten.
        norms: Of these, shape (trials,), all of them right ones, see :func:`~trainers.update.norms.is_right`.
        before: Their x_k, a copy, of the shape of the gradients.

    Returns:
        The factors of the transforms, the norms of the updates and the thresholds, float64, shape (trials,) each.
    """
    rules = [mover.rule for mover in movers]
    scales = _scales(rules, norms)
    gradients.mul_(scales[:, None])
    vectors = [mover.vector for mover in movers]
    directions = list(gradients.unbind())
    _add(directions, vectors, [rule.weight_decay for rule in rules])
    directions = _with_momentum(movers, directions)
    # As torch.optim.SGD steps.
    _add(vectors, directions, [-mover.learning_rate for mover in movers])
    thresholds = [math.inf if rule.clip_norm is None else rule.clip_norm for rule in rules]
    return scales.double(), _distances(vectors, before), torch.tensor(thresholds, dtype=torch.float64)


def _scales(rules: Sequence[UpdateRule], norms: Tensor) -> Tensor:
    """The factor of each transform; exactly 1 for none."""
    clips = [math.inf if rule.clip_norm is None else rule.clip_norm for rule in rules]
    scales = clip_scale(norms, torch.tensor(clips, dtype=norms.dtype))
    if any(rule.normalize is not None for rule in rules):
        offsets = [math.nan if rule.normalize is None else rule.normalize for rule in rules]
        normalized = normalize_scale(norms, torch.tensor(offsets, dtype=norms.dtype))  # type: ignore[arg-type]
        scales = torch.where(torch.tensor([rule.normalize is not None for rule in rules]), normalized, scales)
    return scales


def _with_momentum(movers: Sequence[Mover], directions: list[Tensor]) -> list[Tensor]:
    """The directions of SGD: gradients, or momenta, which the optimisers keep."""
    with_it = [place for place, mover in enumerate(movers) if mover.rule.momentum != 0]
    kept, factors, shares, gradients = [], [], [], []
    for place in with_it:
        rule, state = movers[place].rule, movers[place].updater.optimizer_state
        if (momentum := state.get("momentum_buffer")) is None:
            state["momentum_buffer"] = directions[place].clone()
            continue
        kept.append(momentum)
        factors.append(rule.momentum)
        shares.append(1 - rule.dampening)
        gradients.append(directions[place])
    if kept:
        torch._foreach_mul_(kept, factors)
        _add(kept, gradients, shares)
    ahead = [place for place in with_it if movers[place].rule.nesterov]
    for place in with_it:
        momentum = movers[place].updater.optimizer_state["momentum_buffer"]
        if place in ahead:
            directions[place].add_(momentum, alpha=movers[place].rule.momentum)
        else:
            directions[place] = momentum
    return directions


def _add(targets: Sequence[Tensor], others: Sequence[Tensor], factors: Sequence[float]) -> None:
    """Add to each target its factor times the other one, in the kernel that adds to one: it rounds once."""
    if not any(factors):
        return
    if len(set(factors)) == 1:
        torch._foreach_add_(list(targets), list(others), alpha=factors[0])
        return
    for target, other, factor in zip(targets, others, factors, strict=True):
        if factor:
            target.add_(other, alpha=factor)


def _distances(vectors: Sequence[Tensor], before: Tensor) -> Tensor:
    """||x_{k+1} - x_k||, float64."""
    size, dtype = before.shape[1], before.dtype
    if size > _BLOCK:
        return torch.stack([distance(*pair).double() for pair in zip(vectors, before, strict=True)])
    found = torch.stack(torch._foreach_norm(list((torch.stack(list(vectors)) - before).unbind()))).double()
    for place, plain in enumerate(found.tolist()):
        if not is_right(plain, dtype, size):
            found[place] = distance(vectors[place], before[place])
    return found
