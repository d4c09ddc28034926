"""The part of a step that is no clip: what it does to gradients that are too small for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.clip_audit.answers import Answer
from trainers.clip_audit.cases import Seen
from trainers.clip_audit.layout import SIZE, TENSORS

__all__ = ["Linear", "accumulated", "linear_part"]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """What each micro-batch weighs in the gradient that moves the weights.

    Attributes:
        weights: Shape (tensors, ranks, micro-batches).
        residual: Relative error of the gradient as this combination of the given ones.
        loss_factor: Factor with which backward reached the losses, in units of what an average would have; a loss
            scale where the step uses one.
        num_updates: Steps of the optimizer in one call.
        is_scaled: Whether backward reached the losses with a factor of its own, other than for a mean or a sum.
        is_assumed: Whether the weights are those of an average because none could be measured, as every gradient is
            changed.
    """

    weights: np.ndarray
    residual: float
    loss_factor: float
    num_updates: int
    is_scaled: bool = False
    is_assumed: bool = False

    @property
    def moves(self) -> np.ndarray:
        """Which weights move at all, shape (SIZE,)."""
        held = np.zeros(SIZE, dtype=bool)
        for place, one in zip(TENSORS, self.weights, strict=True):
            held[place.slice] = bool(np.abs(one).max() > 1e-12)
        return held

    @property
    def undone(self) -> float:
        """What the step multiplies gradients with between backward and the update; 1 over a loss scale."""
        return 1 / self.loss_factor if self.loss_factor > 0 else 1.0

    def contributions(self, gradients: np.ndarray) -> np.ndarray:
        """What each micro-batch would add to the gradient that moves the weights.

        Args:
            gradients: Shape (ranks, micro-batches, SIZE).

        Returns:
            The same shape. For another number of micro-batches than was measured, as their average or sum would.
        """
        weights = self.weights
        num_given, num_known = gradients.shape[1], weights.shape[2]
        if num_given != num_known:
            total = weights.mean(2, keepdims=True)
            factor = _common(weights) * num_known
            # Behind a clip the mean may be scaled once more.
            is_mean = self.num_updates <= 1 and (
                abs(factor - 1) < 1e-3 or (not self.is_scaled and abs(self.loss_factor * factor - 1) < 1e-3)
            )
            weights = np.repeat(total * (num_known / num_given if is_mean else 1.0), num_given, axis=2)
        made = np.empty_like(gradients)
        for place, one in zip(TENSORS, weights, strict=True):
            made[:, :, place.slice] = gradients[:, :, place.slice] * one[:, :, None]
        return made


def _common(weights: np.ndarray) -> float:
    """The sum over ranks of what a micro-batch weighs."""
    return float(np.median(weights.sum(1)))


def linear_part(gradients: np.ndarray, used: np.ndarray, seen: Sequence[Seen], *, num_updates: int) -> Linear:
    """Find what each micro-batch weighs.

    Args:
        gradients: What was given, shape (ranks, micro-batches, SIZE).
        used: What moved the weights, shape (SIZE,).
        seen: What was seen on each rank.
        num_updates: Steps of the optimizer.

    Returns:
        The weights, by least squares for each tensor.
    """
    ranks, micro_batches, _ = gradients.shape
    weights = np.zeros((len(TENSORS), ranks, micro_batches))
    rest = 0.0
    for at, place in enumerate(TENSORS):
        basis = gradients[:, :, place.slice].reshape(ranks * micro_batches, -1).T
        solved, *_ = np.linalg.lstsq(basis, used[place.slice], rcond=None)
        weights[at] = solved.reshape(ranks, micro_batches)
        rest += float(np.sum((basis @ solved - used[place.slice]) ** 2))
    size = float(np.linalg.norm(used))
    factors = [factor for one in seen for factor in one.factors]
    total = _common(weights) * max(micro_batches, 1)
    mean_factor = sum(factors) / len(seen) if factors else 1.0
    # What an unscaled loss would be multiplied with so that the weights come out as they do.
    loss_factor = mean_factor / total if total > 0 and mean_factor > 0 else 1.0
    return Linear(
        weights=weights,
        residual=math.sqrt(rest) / size if size > 0 else 0.0,
        loss_factor=loss_factor,
        num_updates=num_updates,
        is_scaled=all(abs(mean_factor / plain - 1) > 1e-3 for plain in (1, micro_batches)),
    )


def accumulated(linear: Linear, *, tolerance: float) -> Answer:
    """Say how micro-batches and ranks are put together.

    Args:
        linear: What each weighs.
        tolerance: Relative error up to which numbers are the same.

    Returns:
        The answer to ``accumulation``.
    """
    question = "accumulation"
    moving = [one for one in linear.weights if np.abs(one).max() > 1e-12]
    one = np.median(np.stack(moving), axis=0)
    ranks, micro_batches = one.shape
    near = max(tolerance, 1e-4)
    each = "; ".join(" ".join(f"{weight:.4g}" for weight in row) for row in one)
    evidence = f"weights of {micro_batches} micro-batches{' on each rank' if ranks > 1 else ''}: {each}"
    if linear.is_assumed:
        return Answer(
            question=question,
            verdict="note",
            key="scaled away",
            found="not asked: even the smallest gradients are scaled, so what micro-batches weigh cannot be told",
        )
    if linear.residual > near:
        return Answer(
            question=question,
            verdict="cannot tell",
            key="not linear",
            found="even the smallest gradient is changed into something that is no combination of the given ones",
            evidence=f"{linear.residual:.2g} of it is left over",
        )
    if (one < -near).any():
        return Answer(
            question=question,
            verdict="finding",
            key="reversed",
            found="weights move up the gradient, not down",
            evidence=evidence,
            fix="look for a minus sign in the loss, and for a negative threshold",
        )
    rows = one.sum(1)
    if ranks > 1 and rows[0] > 0 and (np.abs(rows[1:]) < near * rows[0]).all():
        return Answer(
            question=question,
            verdict="finding",
            key="not averaged",
            found="each rank moves by its own gradient alone; they are never averaged",
            evidence=evidence,
            fix="wrap the model in DistributedDataParallel, in prepare if you have one, and call the wrapper, not "
            "the model inside; --ranks 1 if your training runs in one process only",
        )
    columns = one.sum(0)
    if np.ptp(rows) > near * np.abs(rows).max():
        return Answer(
            question=question, verdict="finding", key="ranks differ", evidence=evidence,
            found="ranks weigh differently in the gradient", fix="average over ranks with equal weights",
        )  # fmt: skip
    if np.ptp(columns) > near * np.abs(columns).max():
        only_last = (np.abs(columns[:-1]) < near * columns[-1]).all()
        return Answer(
            question=question,
            verdict="finding",
            key="only the last" if only_last else "uneven",
            found=(
                "only the last micro-batch moves the weights; the others are lost"
                if only_last
                else "micro-batches weigh differently"
            ),
            evidence=evidence,
            fix=(
                "call optimizer.zero_grad() once before the first micro-batch, not before each"
                if only_last
                else "divide every loss by the same number"
            ),
        )
    share = float(columns.mean())
    if linear.num_updates >= micro_batches > 1:
        words, key = "each micro-batch by itself: the optimizer steps after each", "one step each"
        verdict_ok = abs(share - 1) < near
    else:
        words, key = f"the mean of {micro_batches} micro-batches", "mean"
        verdict_ok = abs(share * micro_batches - 1) < near
    if ranks > 1:
        words += ", averaged over ranks"
    apart = {
        place.name: float(np.median(own / one))
        for place, own in zip(TENSORS, linear.weights, strict=True)
        if verdict_ok and np.abs(own).max() > 1e-12 and np.abs(own - one).max() > near * np.abs(one).max()
    }
    if apart:
        listed = ", ".join(f"{name} {factor:.4g}" for name, factor in apart.items())
        return Answer(
            question=question, verdict="note", key=f"{key}, tensors scaled", evidence=evidence,
            found=f"{words}, but some tensors have a factor of their own: {listed}",
            fix="set a learning rate for their group, if that is what it is for",
        )  # fmt: skip
    if verdict_ok:
        return Answer(question=question, verdict="ok", key=key, found=words, evidence=evidence)
    if abs(share - 1) < near:
        return Answer(
            question=question,
            verdict="finding",
            key="sum",
            found=(
                f"the sum of the micro-batches, not their mean: with {micro_batches} of them the clip is "
                f"{micro_batches} times as tight, and a step {micro_batches} times as long where nothing is clipped"
            ),
            evidence=evidence,
            fix="(loss / len(micro_batches)).backward()",
        )
    if ranks > 1 and abs(share * micro_batches - ranks) < near * ranks:
        return Answer(
            question=question, verdict="finding", key="sum over ranks", evidence=evidence,
            found=f"the sum over ranks, not their mean: with {ranks} of them the clip is {ranks} times as tight",
            fix="divide by dist.get_world_size() after all_reduce, or use ReduceOp.AVG",
        )  # fmt: skip
    return Answer(
        question=question,
        verdict="note",
        key="scaled",
        found=f"{share * micro_batches:.4g} times the mean of the micro-batches",
        evidence=evidence,
        fix="divide each loss by the number of micro-batches, if that is not meant",
    )
