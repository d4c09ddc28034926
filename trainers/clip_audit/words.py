"""Answers about the clip, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainers.clip_audit.answers import Answer, Verdict
from trainers.clip_audit.cases import Call
from trainers.clip_audit.clips import WHERE, Way
from trainers.clip_audit.fit import Fit, Pair, relative_error
from trainers.clip_audit.layout import TENSORS
from trainers.clip_audit.scan import Scan

__all__ = ["how_often", "skips_large", "threshold_answer", "unclipped", "unfitted", "way_answer", "which_weights"]

_WHAT = {
    "all": "the global norm",
    "tensor": "the norm of each tensor by itself",
    "group": "the norm of each parameter group by itself",
    "module": "the norm of each module by itself",
    "shard": "the norm of each rank's shard by itself",
    "value": "each element by itself",
}

_FIXES = {
    "tensor": "clip_grad_norm_(model.parameters(), max_norm), once for all parameters",
    "group": "clip_grad_norm_(model.parameters(), max_norm), not in a loop over optimizer.param_groups",
    "module": "clip_grad_norm_ once, over the parameters of all modules together",
    "shard": "all_reduce the sum of squares of the shards before taking its root",
    "value": "clip_grad_norm_ in place of clip_grad_value_, which turns the gradient",
    "local": "clip after gradients are averaged: behind the last synchronised backward()",
    "own": "clip once behind the last backward, where gradients are complete",
    "own local": "clip once behind the last backward, after gradients are averaged",
    "running local": "clip once behind the last backward, after gradients are averaged",
    "running, then end": "clip once behind the last backward, after gradients are averaged",
    "running": "clip once behind the last backward, where gradients are complete",
    "sum": "divide the losses, so that gradients are averaged before they are clipped",
    "but last": "clip behind the last backward, not before it",
}


def _order_words(order: float) -> str:
    return {1.0: " of order 1", math.inf: " of order infinity, the largest element"}.get(order, "")


def _say(way: Way) -> str:
    parts = [_WHAT[clip.name] + _order_words(clip.order if clip.name != "value" else 2.0) for clip in way.clips]
    what = ", and then ".join(parts)
    if any(clip.kind == "normalise" for clip in way.clips):
        what = f"{what}, to which even smaller gradients are raised"
    return what if way.where == "end" else f"{what}, of {WHERE[way.where]}"


def _key(way: Way) -> str:
    names = {"all": "global norm", "value": "value"}
    parts = [
        names.get(clip.name, f"norm per {clip.name}")
        + ({1.0: " of order 1", math.inf: " of order inf"}.get(clip.order, "") if clip.kind != "value" else "")
        for clip in way.clips
    ]
    key = " then ".join(parts)
    if way.clips[0].kind == "normalise":
        key = f"normalised, {key}"
    return key if way.where == "end" else f"{key}, {way.where}"


def way_answer(fits: Sequence[Fit], scanned: Scan, pairs: Sequence[Pair]) -> Answer:
    """Say what is clipped.

    Args:
        fits: What predicts every step.
        scanned: What is known of the step.
        pairs: The steps.

    Returns:
        The answer to ``what is clipped``.
    """
    question, best = "what is clipped", fits[0]
    way, last = best.way, pairs[0]
    predicted = float(np.linalg.norm(way(last.gradients, best.threshold)))
    evidence = (
        f"norm {np.linalg.norm(last.gradients.sum((0, 1))):.6g} to {predicted:.6g} predicted, "
        f"{np.linalg.norm(last.used):.6g} seen; off by {best.error:.1g} at most in {len(pairs)} cases"
    )
    if len(fits) > 1:
        return Answer(
            question=question, verdict="cannot tell", key="; ".join(_key(fit.way) for fit in fits), evidence=evidence,
            found="more than one explanation fits: " + "; or ".join(_say(fit.way) for fit in fits),
        )  # fmt: skip
    steps_each = scanned.linear.num_updates > 1 and way.where == "own"
    where_ok = way.where == "end" or steps_each
    (clip, *more) = way.clips
    verdict: Verdict = "ok"
    fix = ""
    if not where_ok:
        verdict, fix = "finding", _FIXES[way.where]
    elif clip.kind == "normalise":
        verdict, fix = "finding", "multiply by min(1, threshold / norm), not by threshold / norm"
    elif more:
        verdict, fix = "finding", "leave out one of the two"
    elif clip.name != "all":
        # A shard's own norm is never meant; the others may be.
        verdict, fix = ("finding" if clip.name == "shard" else "note"), _FIXES[clip.name]
    elif clip.order != 2:
        verdict, fix = "note", "norm_type=2"
    shown = Way(where="end", clips=way.clips) if steps_each else way
    found = _say(shown) + (", at each of its own steps" if steps_each else "")
    return Answer(question=question, verdict=verdict, key=_key(shown), found=found, evidence=evidence, fix=fix)


def _ratios(scanned: Scan, ranks: int) -> dict[float, tuple[str, str, str]]:
    """Ratio of the threshold that acts to the one that is meant: key, words and remedy."""
    known: dict[float, tuple[str, str, str]] = {}
    factor = scanned.linear.loss_factor
    if abs(factor - 1) > 1e-3 and scanned.linear.is_scaled:
        known[1 / factor] = (
            "before unscaling",
            f"it is applied to gradients that are still scaled by {factor:g}",
            "scaler.unscale_(optimizer) before clip_grad_norm_",
        )
    if ranks > 1:
        root = math.sqrt(ranks)
        known[1 / root] = (
            "ranks counted twice",
            f"the norm counts the same gradient on {ranks} ranks, and is sqrt({ranks}) times too large",
            "leave out the all_reduce of the norm: after averaging every rank has the whole gradient",
        )
        known[1.0 / ranks] = (
            "on the sum over ranks", f"it is applied to the sum over {ranks} ranks, not to their mean",
            "average before clipping",
        )  # fmt: skip
    return known


def threshold_answer(
    fit: Fit, scanned: Scan, *, ranks: int, intended: float | None, is_stated: bool, later: float | None
) -> Answer:
    """Say at which threshold.

    Args:
        fit: What predicts every step.
        scanned: What is known of the step.
        ranks: Number of ranks.
        intended: The threshold that is meant; None where that is unknown.
        is_stated: Whether the user has stated it, or else torch's function was seen to be given it.
        later: The power of the loss scale with which the threshold goes down; None where that is unknown.

    Returns:
        The answer to ``threshold``.
    """
    question = "threshold"
    acts = fit.threshold * (ranks if fit.way.is_local else 1)
    factor = scanned.linear.loss_factor
    if scanned.linear.is_assumed or fit.way.where == "sum":
        factor = 1.0
    whose = "--max-norm" if is_stated else "the threshold it is given"
    if intended is None:
        found = f"{acts:.6g}"
        if abs(factor - 1) < 1e-3 or not scanned.linear.is_scaled:
            return Answer(
                question=question, verdict="ok", key="seen", found=f"{found}, as far as can be seen",
                evidence="no call of torch's functions names one; --max-norm says which is meant",
            )  # fmt: skip
        evidence = f"backward reaches the loss with a factor of {factor:g}, which the step takes back"
        if later is None:
            return Answer(
                question=question, verdict="cannot tell", key="scaled or not", evidence=evidence,
                found=f"{found} on gradients as they move the weights, or {acts * factor:.6g} on scaled ones",
                fix="say which is meant with --max-norm",
            )  # fmt: skip
        if later > 0.5:
            return Answer(
                question=question, verdict="finding", key="before unscaling",
                found=f"{acts * factor:.6g} on scaled gradients: it acts at {found}, and moves with the loss scale",
                evidence=f"{evidence}; when the scale falls, the threshold rises with power {later:.3f}",
                fix="scaler.unscale_(optimizer) before clip_grad_norm_",
            )  # fmt: skip
        return Answer(
            question=question, verdict="ok", key="seen", found=f"{found}, whatever the loss scale is",
            evidence=f"{evidence}; when the scale falls, the threshold rises with power {later:.3f}",
        )  # fmt: skip
    ratio = acts / intended
    evidence = f"{intended:.6g} meant, {acts:.6g} acts: {ratio:.6g} times"
    near = max(scanned.tolerance * 4, 1e-4)
    if abs(ratio - 1) <= near:
        return Answer(question=question, verdict="ok", key="as meant", found=f"{acts:.6g}, {whose}", evidence=evidence)
    if not scanned.linear.is_scaled and abs(ratio * factor - 1) <= near:
        return Answer(
            question=question, verdict="note", key="scaled behind the clip", evidence=evidence,
            found=f"{intended:.6g}, {whose}; what moves the weights is scaled by {1 / factor:.6g} behind the clip",
            fix="set the optimizer's lr in place of scaling the update by hand, if that is what it is",
        )  # fmt: skip
    for known, (key, words, fix) in _ratios(scanned, ranks).items():
        if abs(ratio / known - 1) <= near:
            return Answer(
                question=question, verdict="finding", key=key, found=f"{acts:.6g}: {words}", evidence=evidence, fix=fix
            )
    return Answer(
        question=question,
        verdict="finding",
        key="another",
        found=f"{acts:.6g}, which is not {whose}",
        evidence=evidence,
        fix="look at what else scales the gradient before or after the clip",
    )


def _each(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def which_weights(fit: Fit, scanned: Scan) -> Answer:
    """Say which weights are clipped.

    Args:
        fit: What predicts every step.
        scanned: What is known of the step.

    Returns:
        The answer to ``which weights``.
    """
    question = "which weights"
    still = [place.name for place in TENSORS if not scanned.linear.moves[place.start]]
    exempt = [place.name for place in TENSORS if scanned.exempt[place.start]]
    tail = f"; {_each(still)} never moved" if still else ""
    if exempt:
        counted = any(clip.counted is not None for clip in fit.way.clips)
        return Answer(
            question=question,
            verdict="finding",
            key=f"not clipped: {', '.join(exempt)}",
            found=f"{_each(exempt)} never clipped, "
            + ("though the norm counts what is not clipped" if counted else "and not part of the norm either")
            + tail,
            evidence="its displacement grows with its gradient over the whole scan",
            fix="give clip_grad_norm_ every parameter that the optimizer has",
        )
    if still:
        return Answer(
            question=question, verdict="finding", key=f"never moved: {', '.join(still)}",
            found=f"{_each(still)} never moved", evidence="displacement 0 at every size of gradient",
            fix="give the optimizer every parameter that is to be trained",
        )  # fmt: skip
    return Answer(question=question, verdict="ok", key="all", found=f"all {len(TENSORS)} tensors of the model")


def how_often(calls: Sequence[Call], num_updates: int, scanned: Scan) -> Answer:
    """Say how often torch's functions were called.

    Args:
        calls: The calls, during a step of three micro-batches.
        num_updates: Steps of the optimizer.
        scanned: What is known of the step.

    Returns:
        The answer to ``how often``.
    """
    question = "how often"
    real = [call for call in calls if call.num_tensors]
    num_steps = max(num_updates, 1)
    if not real:
        return Answer(
            question=question, verdict="ok", key="unseen",
            found="by code of its own: torch's functions are not called, so how often cannot be counted",
        )  # fmt: skip
    spot = real[0].spot
    evidence = (
        f"{len(real)} call{'' if len(real) == 1 else 's'} of {', '.join(sorted({call.function for call in real}))}"
    )
    places = [(call.backwards, call.updates) for call in real]
    thresholds = sorted({call.threshold for call in real})
    if len(real) == num_steps:
        per = " per step of the optimizer" if num_steps > 1 else ""
        return Answer(question=question, verdict="ok", key="once", found=f"once{per}", evidence=evidence, spot=spot)
    if len(set(places)) == len(places):
        return Answer(
            question=question, verdict="finding", key="at several places", spot=spot, evidence=evidence,
            found=f"{len(real)} times in {num_steps} step, with micro-batches in between: after "
            + ", ".join(str(backwards) for backwards, _ in places),
            fix="clip once behind the last backward",
        )  # fmt: skip
    same = len(thresholds) == 1
    alike = len({(call.function.replace("grads_with", "grad"), call.order) for call in real}) == 1
    parts = {call.num_tensors for call in real} != {len(TENSORS)}
    if parts:
        return Answer(
            question=question, verdict="ok", key="by parts", spot=spot, evidence=evidence,
            found=f"{len(real)} times, on parts of the parameters",
        )  # fmt: skip
    return Answer(
        question=question,
        verdict="note",
        key="twice" if alike else "several kinds",
        found=f"{len(real)} times in a row: "
        + (
            "each clips in another way, and all of them count"
            if not alike
            else "the others change nothing"
            if same
            else f"the smallest of {', '.join(f'{one:g}' for one in thresholds)} counts"
        ),
        evidence=evidence,
        fix="leave out all but one",
        spot=real[-1].spot,
    )


def unclipped(calls: Sequence[Call], num_updates: int) -> Answer:
    """Say why nothing is clipped, as far as calls of torch's functions tell.

    Args:
        calls: The calls, during a step of three micro-batches.
        num_updates: Steps of the optimizer.

    Returns:
        The answer to ``what is clipped``.
    """
    evidence = "displacement is that of the whole gradient for norms from 1e-10 to 1e10"
    found, key, fix = (
        "nothing",
        "nothing",
        "no call of torch's functions is seen: clip_grad_norm_ before optimizer.step()",
    )
    spot = calls[0].spot if calls else None
    if calls and all(call.num_given == 0 for call in calls):
        key, found = "nothing: no parameters", "nothing: clip_grad_norm_ is given no parameters at all"
        fix = "pass list(model.parameters()): a generator is empty after its first use"
    elif calls and all(call.num_tensors == 0 for call in calls):
        key, found = "nothing: no gradients", "nothing: the parameters that are clipped have no gradient then"
        fix = "clip between the last backward() and optimizer.step()"
    elif calls and all(call.updates >= max(num_updates, 1) or call.updates > 0 for call in calls):
        key, found = "nothing: after the step", "nothing: gradients are clipped when the optimizer has already stepped"
        fix = "clip between the last backward() and optimizer.step()"
    elif calls and all(call.backwards == 0 for call in calls):
        key, found = "nothing: before backward", "nothing: the clip comes before the gradients that it is for"
        fix = "clip between the last backward() and optimizer.step()"
    elif calls and all(not math.isfinite(call.threshold) for call in calls):
        key, found, fix = "nothing: no threshold", "nothing: the threshold is infinite", "give a finite threshold"
    elif calls:
        key = "nothing: other tensors"
        found = "nothing: what is clipped are not the gradients that move the weights, but perhaps copies"
        fix = "clip the parameters that the optimizer has"
    return Answer(
        question="what is clipped", verdict="finding", key=key, found=found, evidence=evidence, fix=fix, spot=spot
    )


def skips_large(pairs: Sequence[Pair], scanned: Scan) -> Answer | None:
    """Say that large gradients are not clipped but left out.

    Args:
        pairs: The steps.
        scanned: What is known of the step.

    Returns:
        The answer to ``what is clipped``; None unless every step moved weights in full or not at all.
    """
    gone = [not np.abs(pair.used).max() > 0 for pair in pairs]
    full = [relative_error(pair.gradients.sum((0, 1)), pair.used) <= scanned.tolerance for pair in pairs]
    if not (any(gone) and all(map(max, gone, full))):
        return None
    return Answer(
        question="what is clipped", verdict="note", key="skipped",
        found="nothing: steps whose gradients are large are left out, and all others are taken in full",
        evidence=f"{sum(gone)} of {len(pairs)} steps moved nothing; the smallest such norm is {scanned.onset:.3g}",
        fix="clip_grad_norm_ with a finite threshold, if they are to be shortened and not left out",
    )  # fmt: skip


def unfitted(pairs: Sequence[Pair], nearest: Fit | None, scanned: Scan, *, thresholds: Sequence[float] = ()) -> Answer:
    """Say that no known way explains what was seen.

    Args:
        pairs: The steps.
        nearest: The way that comes nearest.
        scanned: What is known of the step.
        thresholds: What torch's functions were given first in each step.

    Returns:
        The answer to ``what is clipped``, with the share of its gradient by which each tensor moved.
    """
    pair = pairs[0]
    whole = pair.gradients.sum((0, 1))
    shares = [
        float(np.linalg.norm(pair.used[place.slice])) / max(float(np.linalg.norm(whole[place.slice])), 1e-300)
        for place in TENSORS
    ]
    listed = ", ".join(f"{place.name} {share:.4g}" for place, share in zip(TENSORS, shares, strict=True))
    near = "" if nearest is None else f"; nearest is {_say(nearest.way)}, off by {nearest.error:.2g}"
    fix = "take parts out of the step until the audit can tell, and put them back one by one"
    if len(set(thresholds)) > 1:
        near = f": its threshold is another one in every step, from {min(thresholds):.4g} to {max(thresholds):.4g}"
        fix = "audit it with a threshold that stays the same; whether it should move is yours to judge"
    return Answer(
        question="what is clipped",
        verdict="cannot tell",
        key="unknown",
        found=f"something, above a norm of {scanned.onset / 10:.3g} to {scanned.onset:.3g}, in no known way{near}",
        evidence=f"share of its gradient by which each tensor moved: {listed}",
        fix=fix,
    )
