"""The audit: questions in their order, each asked of steps that were designed for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainers.clip_audit.adam import after_adam
from trainers.clip_audit.answers import Answer, trouble
from trainers.clip_audit.cases import Call, Case, Play, gradients_of
from trainers.clip_audit.clips import PARTITIONS, Clip, Way, single_ways, twofold_ways
from trainers.clip_audit.fit import Fit, Pair, fitting, relative_error
from trainers.clip_audit.layout import SIZE, TENSORS
from trainers.clip_audit.linear import accumulated
from trainers.clip_audit.nonfinite import nonfinite
from trainers.clip_audit.scan import Player, Scan, scan, used_gradient
from trainers.clip_audit.words import (
    how_often,
    skips_large,
    threshold_answer,
    unclipped,
    unfitted,
    way_answer,
    which_weights,
)

__all__ = ["audit"]

_SIZES = (
    (11, 3, 3.0, 3.0),
    (12, 2, 30.0, 3.0),
    # Some parts are above a threshold of their own, and some below.
    (17, 2, 0.2, 30.0),
    (18, 3, 0.5, 30.0),
    (15, 2, 1.0, 30.0),
    (16, 3, 2.0, 30.0),
    (13, 1, 300.0, 3.0),
    # Micro-batches of very different norms, so that it is seen which of them were clipped by themselves.
    (14, 3, 1e4, 10.0),
)
"""Steps that tell how: seed, number of micro-batches, norm in units of the smallest that is clipped, and spread."""


@dataclass(frozen=True, kw_only=True)
class _Clipped:
    """Steps in which something was clipped."""

    pairs: Sequence[Pair]
    calls: Sequence[Call]
    num_updates: int
    thresholds: Sequence[float] = ()
    stopped: Answer | None = None


def audit(play: Play, *, ranks: int, max_norm: float | None = None) -> Iterator[Answer]:
    """Find out what a training step does to gradients.

    Args:
        play: Plays a case on every rank.
        ranks: Number of ranks.
        max_norm: The threshold that is meant; None for the one that torch's functions are seen to be given.

    Yields:
        One answer for each question that can be asked, in the order of :data:`~trainers.clip_audit.answers.QUESTIONS`.
    """
    player = Player(play=play, ranks=ranks)
    scanned = scan(player)
    if scanned.stopped is not None:
        yield scanned.stopped
        return
    yield _runs(scanned)
    yield accumulated(scanned.linear, tolerance=scanned.tolerance)
    clipped = _clipped_steps(player, scanned)
    if clipped.stopped is not None:
        yield clipped.stopped
        return
    skips = skips_large(clipped.pairs, scanned) if scanned.clips else None
    if skips is not None:
        yield skips
        yield _second(player, scanned, None)
    else:
        fits, nearest = _fits(player.ranks, scanned, clipped) if scanned.clips else ([], None)
        yield from _clip(player, scanned, clipped, max_norm, fits, nearest)
    yield nonfinite(player, scanned, math.inf)
    yield nonfinite(player, scanned, math.nan)
    yield _frozen(player, scanned)
    if scanned.clips and not scanned.linear.is_assumed and skips is None:
        yield from after_adam(player, scanned, fits[0].threshold if fits else scanned.onset / 3)
    if ranks > 1:
        yield _agree(player)


def _runs(scanned: Scan) -> Answer:
    rates = ", ".join(f"{rate:g}" for rate in scanned.rates)
    changed = bool(scanned.rates) and scanned.rates != (1.0,)
    several = len(scanned.rates) > 1
    return Answer(
        question="runs",
        verdict="note" if changed else "ok",
        key="learning rate changed" if changed else "runs",
        found=(
            "it runs"
            + (f", with learning rate {rates} in place of the audit's 1; results are divided by it" if changed else "")
            + (", each group's by its own" if several else "")
        ),
    )


def _clipped_steps(player: Player, scanned: Scan) -> _Clipped:
    """Steps of several sizes, all larger than the smallest that is clipped."""
    base = scanned.onset if scanned.clips else 1.0
    pairs: list[Pair] = []
    calls: Sequence[Call] = ()
    num_updates = 0
    thresholds: list[float] = []
    for seed, micro_batches, size, spread in _SIZES:
        given = gradients_of(seed, ranks=player.ranks, micro_batches=micro_batches, norm=base * size, spread=spread)
        outcomes = player(Case(name=f"gradients of norm {base * size:.3g}", steps=[given]))
        key, words, spot = trouble(outcomes)
        if key:
            stopped = Answer(
                question="what is clipped", verdict="finding", key=key, spot=spot,
                found=f"at gradients of norm {base * size:.3g} the step {key}: {words}",
                fix="let the step come to its end whatever the norm is, on every rank alike",
            )  # fmt: skip
            return _Clipped(pairs=pairs, calls=calls, num_updates=num_updates, stopped=stopped)
        seen = [one.seen[0] for one in outcomes]
        pairs.append(scanned.pair(given, seen))
        thresholds += [call.threshold for call in seen[0].calls[:1]]
        if not calls:
            calls, num_updates = seen[0].calls, len(seen[0].rates)
    return _Clipped(pairs=pairs, calls=calls, num_updates=num_updates, thresholds=thresholds)


def _clip(
    player: Player, scanned: Scan, clipped: _Clipped, max_norm: float | None, fits: list[Fit], nearest: Fit | None
) -> Iterator[Answer]:
    """What is clipped, at which threshold, which weights, how often; and whether the second step is as the first."""
    if not scanned.clips:
        yield unclipped(clipped.calls, clipped.num_updates)
        yield _second(player, scanned, None)
        return
    if scanned.reversal:
        yield Answer(
            question="what is clipped", verdict="finding", key="reversed by the clip",
            found="gradients that are clipped are turned around: the step goes up the gradient",
            evidence=f"the first to be so has norm {scanned.onset:.3g}",
            fix="give a threshold larger than 0",
        )  # fmt: skip
        return
    if not fits:
        yield unfitted(clipped.pairs, nearest, scanned, thresholds=clipped.thresholds)
        yield how_often(clipped.calls, clipped.num_updates, scanned)
        yield _second(player, scanned, None)
        return
    intended = _intended(clipped.calls, max_norm)
    # Before a loss scale is made to fall, which may stay so.
    second = _second(player, scanned, fits[0])
    yield way_answer(fits, scanned, clipped.pairs)
    yield threshold_answer(
        fits[0], scanned, ranks=player.ranks, intended=intended, is_stated=max_norm is not None,
        later=None if intended is not None else _after_backoff(player, scanned),
    )  # fmt: skip
    yield which_weights(fits[0], scanned)
    yield how_often(clipped.calls, clipped.num_updates, scanned)
    yield second


def _intended(calls: Sequence[Call], max_norm: float | None) -> float | None:
    if max_norm is not None:
        return max_norm
    given = {call.threshold for call in calls if call.num_tensors and math.isfinite(call.threshold)}
    return min(given) if given else None


def _fits(ranks: int, scanned: Scan, clipped: _Clipped) -> tuple[list[Fit], Fit | None]:
    """The ways that predict every step: one clip, and only where none does, two."""
    pairs = [pair for pair in clipped.pairs if np.isfinite(pair.used).all()]
    low, high = scanned.onset * 1e-3, scanned.onset * 1e2
    kind = "norm"
    if scanned.linear.is_assumed:
        kind, size = "normalise", max(float(np.linalg.norm(pair.used)) for pair in pairs)
        low, high = size * 1e-2, size * 1e2
    excepted = scanned.exempt | ~scanned.linear.moves
    partitions: dict[str, np.ndarray] = {}
    for name, part in PARTITIONS.items():
        left = np.where(excepted, -1, part)
        # Without the excepted ones, weights alone may be left, and one group is all there is.
        if not any(_is_same(left, other) for other in partitions.values()):
            partitions[name] = left
    ways = list(single_ways(ranks, partitions, kind=kind))
    fits, nearest = fitting(ways, pairs, low=low, high=high, tolerance=scanned.tolerance)
    if fits or kind != "norm":
        return _distinct(fits), nearest
    if excepted.any():
        # The norm may count weights that are not scaled by it.
        counting = [
            Way(where=way.where, clips=tuple(_counting(clip) for clip in way.clips))
            for way in ways
            if way.clips[0].name == "all"
        ]
        fits, _ = fitting(counting, pairs, low=low, high=high, tolerance=scanned.tolerance)
        if fits:
            return _distinct(fits), nearest
    fits, second = fitting(twofold_ways(ways), pairs, low=low, high=high, tolerance=scanned.tolerance)
    near = [one for one in (nearest, second) if one is not None]
    return _distinct(fits), min(near, key=lambda one: one.error, default=None)


def _is_same(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two partitions have the same parts, whatever these are numbered."""
    pairs = set(zip(left.tolist(), right.tolist(), strict=True))
    return len(pairs) == len(set(left.tolist())) == len(set(right.tolist()))


def _counting(clip: Clip) -> Clip:
    return replace(clip, counted=np.zeros(SIZE, dtype=int))


def _distinct(fits: Sequence[Fit]) -> list[Fit]:
    """One fit for ways that differ in their epsilon alone: the best of them."""
    best: dict[object, Fit] = {}
    for fit in fits:
        key = (fit.way.where, tuple((clip.kind, clip.name, clip.order) for clip in fit.way.clips))
        if key not in best or fit.error < best[key].error:
            best[key] = fit
    return list(best.values())


def _after_backoff(player: Player, scanned: Scan) -> float | None:
    """The power of the loss scale with which the threshold falls; None where the scale cannot be made to change."""
    # A step that scales its loss halves the scale after a NaN. A threshold for scaled gradients doubles then.
    if abs(scanned.linear.loss_factor - 1) < 1e-3:
        return None
    given = gradients_of(11, ranks=player.ranks, micro_batches=3, norm=scanned.onset * 1e3)
    bad = given.copy()
    bad[0, 0, 0] = math.nan
    outcomes = player(Case(name="a step, a NaN, the step again", steps=[given, bad, given]))
    if trouble(outcomes)[0]:
        return None
    first, _, third = ([one.seen[at] for one in outcomes] for at in range(3))
    before, after = (sum(seen[0].factors) for seen in (first, third))
    sizes = [float(np.linalg.norm(used_gradient(seen))) for seen in (first, third)]
    if not (all(map(math.isfinite, sizes)) and min(sizes) > 0 and after > 0) or abs(before / after - 1) < 1e-3:
        return None
    return math.log(sizes[1] / sizes[0]) / math.log(before / after)


def _second(player: Player, scanned: Scan, fit: Fit | None) -> Answer:
    """Whether anything of the first step is in the second."""
    question = "second step"
    carried = [name for name in ("momentum", "weight_decay") if scanned.facts.get(name)]
    if carried:
        return Answer(
            question=question, verdict="note", key="not asked",
            found=f"not asked: {' and '.join(carried)} of prepare's optimizer would be in it",
            fix="build the optimizer with the make_optimizer that prepare is given",
        )  # fmt: skip
    if scanned.linear.is_assumed and fit is None:
        return Answer(
            question=question, verdict="note", key="not asked",
            found="not asked: even the smallest gradients are changed, so what the second step should be is not known",
        )  # fmt: skip
    norm = min(scanned.onset / 1000, 1.0)
    first, second = (gradients_of(seed, ranks=player.ranks, micro_batches=2, norm=norm) for seed in (31, 32))
    outcomes = player(Case(name="two small steps", steps=[first, second]))
    key, words, spot = trouble(outcomes)
    if key:
        return Answer(
            question=question, verdict="finding", key=key, found=f"a second call of the step {key}: {words}", spot=spot,
            fix="the step must be able to be called again",
        )  # fmt: skip
    if not scanned.linear.is_assumed:
        used = used_gradient([one.seen[1] for one in outcomes])
        fresh = scanned.linear.contributions(second).sum((0, 1))
        stale = fresh + scanned.linear.contributions(first).sum((0, 1))
        off = relative_error(fresh, used)
        if off > scanned.tolerance:
            is_stale = relative_error(stale, used) <= scanned.tolerance
            return Answer(
                question=question,
                verdict="finding" if is_stale else "cannot tell",
                key="stale" if is_stale else "differs",
                found=(
                    "gradients are never zeroed: the second step moves by the sum of both"
                    if is_stale
                    else "the second step is not what the first one would be on the same gradients"
                ),
                evidence=(
                    f"norm {np.linalg.norm(fresh):.4g} predicted, {np.linalg.norm(used):.4g} seen, "
                    f"{np.linalg.norm(stale):.4g} with the first step's gradient"
                ),
                fix="optimizer.zero_grad() in every step" if is_stale else "",
            )
        evidence = f"norm {np.linalg.norm(fresh):.6g} predicted, {np.linalg.norm(used):.6g} seen"
    else:
        evidence = ""
    if fit is not None:
        steps = [
            gradients_of(seed, ranks=player.ranks, micro_batches=2, norm=size * scanned.onset)
            for seed, size in ((33, 100.0), (34, 10.0))
        ]
        outcomes = player(Case(name="two clipped steps", steps=steps))
        if not trouble(outcomes)[0]:
            pair = scanned.pair(steps[1], [one.seen[1] for one in outcomes])
            predicted = fit.way(pair.gradients, fit.threshold)
            if relative_error(predicted, pair.used) > scanned.tolerance:
                return Answer(
                    question=question, verdict="note", key="depends on earlier steps",
                    found="the clip of the second step is another one: it depends on the step before",
                    evidence=f"norm {np.linalg.norm(predicted):.4g} predicted, {np.linalg.norm(pair.used):.4g} seen",
                )  # fmt: skip
    return Answer(
        question=question, verdict="ok", key="fresh", found="it is as the first one: nothing is left over",
        evidence=evidence,
    )  # fmt: skip


def _frozen(player: Player, scanned: Scan) -> Answer:
    question = "frozen layer"
    norm = min(scanned.onset / 1000, 1.0)
    given = gradients_of(41, ranks=player.ranks, micro_batches=2, norm=norm)
    outcomes = player(Case(name=question, steps=[given], frozen=True))
    key, words, spot = trouble(outcomes)
    if key:
        return Answer(
            question=question, verdict="note" if key == "raises" else "finding", key=key, spot=spot,
            found=f"where a parameter has no gradient, the step {key}: {words}",
            fix="leave out parameters whose grad is None",
        )  # fmt: skip
    moved = used_gradient([one.seen[0] for one in outcomes])
    if np.abs(moved[TENSORS[-1].slice]).max() > 0:
        return Answer(
            question=question, verdict="finding", key="moves",
            found="a parameter with requires_grad=False is moved all the same", fix="look for what sets its grad",
        )  # fmt: skip
    return Answer(question=question, verdict="ok", key="left alone", found="it stays, and the others move")


def _agree(player: Player) -> Answer:
    if player.apart:
        return Answer(
            question="ranks agree",
            verdict="finding",
            key="differ",
            found="weights of the ranks are no longer the same after " + "; ".join(player.apart[:3]),
            evidence=f"largest relative difference {player.worst:.3g}, in {len(player.apart)} cases",
            fix="clip what all ranks share, after it is averaged, and decide alike on every rank",
        )
    return Answer(
        question="ranks agree", verdict="ok", key="agree", found="their weights are the same after every case",
        evidence=f"largest relative difference {player.worst:.3g}",
    )  # fmt: skip
