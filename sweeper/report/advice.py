"""Learning rates and thresholds that theory derives from a fitted L0 and L1, and when it applies at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estimators.fits.intervals import Interval, geometric_interval
from estimators.fits.line import SmoothnessFit
from estimators.fits.sections import Bounds
from sweeper.cell_labels import Labels
from sweeper.report.fits import CellFit
from sweeper.value_texts import key_of
from trainers.analytic.theory import THEORIES, Setting, rule_of

__all__ = ["Advice", "AdvisedRule", "build_advice"]

_CONDITIONS = (
    "for the full gradient and without momentum",
    "L0 and L1 describe the visited region and one direction at a time: both may be larger elsewhere",
)

_OF_HESSIAN = (
    "for the full gradient and without momentum",
    "L0 and L1 describe the Hessian's norm in the visited region: both may be larger elsewhere",
)

_NO_GROWTH = 0.01
"""Share of L0 by which the smoothness must grow over the visited range for L1 to mean anything."""


@dataclass(frozen=True, kw_only=True)
class AdvisedRule:
    """A rule that a theorem sets.

    Attributes:
        theory: Its name, as in ``update_rule.from_theory``.
        learning_rate: eta, with its interval.
        clip_norm: The threshold on the gradient norm, with its interval; None if the rule does not clip.
        note: What it is, and what to be careful about.
    """

    theory: str
    learning_rate: Interval
    clip_norm: Interval | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What theory advises for one problem.

    Attributes:
        context: What tells the swept values outside the update rule from those of other problems.
        context_values: These values, by short name.
        source: The cell whose fit is used: of those that descend along the gradient, and whose constants bound a rule,
            the one that visited the widest range of gradient norms.
        measured: What was fitted: ``hessian_spectral_norm`` where there are enough points of it, else
            ``directional_smoothness``.
        quantile: Quantile of its upper line; NaN where there is none.
        L0: L0 of its upper line: the geometric mean over the seeds with its interval, or the one seed's own.
        L1: L1 of its upper line.
        range: Gradient norms that it visited.
        tau: Noise of the mini-batch gradient, the largest of the measured values, as Assumption 5 bounds all; None if
            it was not measured.
        rules: The advised rules; empty if there is no advice.
        conditions: The conditions under which the advice holds.
        silent: Why there is no advice; empty if there is.
    """

    context: str
    context_values: dict[str, Any]
    source: str
    measured: str
    quantile: float
    L0: Interval
    L1: Interval
    range: tuple[float, float]
    tau: float | None
    rules: tuple[AdvisedRule, ...]
    conditions: tuple[str, ...]
    silent: str


def build_advice(
    cells: Sequence[CellFit],
    *,
    steps: int,
    tau: Mapping[str, float] | None = None,
    hessian: Sequence[CellFit] = (),
) -> tuple[Advice, ...]:
    """Advised rules for each problem in the sweep.

    Args:
        cells: The fits of directional smoothness.
        steps: Steps of a trial: T of Theorem 7.
        tau: Cell to the largest noise of a mini-batch gradient that was measured in it, Assumption 5.
        hessian: The fits of the Hessian's norm, which is what Definition 1 of the paper bounds, for the cells in which
            it was measured; directional smoothness is a lower bound of it.

    Returns:
        One piece of advice per context, or why there is none.
    """
    contexts: dict[Hashable, list[CellFit]] = {}
    for cell in cells:
        contexts.setdefault(key_of(cell.context), []).append(cell)
    labels = Labels([found[0].context for found in contexts.values()])
    of_hessian = {cell.cell_id: cell for cell in hessian if not cell.unidentifiable}
    noise = tau or {}
    return tuple(
        _advice(labels.label(found[0].context), found, steps, noise, of_hessian) for found in contexts.values()
    )


def _advice(
    context: str, cells: Sequence[CellFit], steps: int, noise: Mapping[str, float], hessian: Mapping[str, CellFit]
) -> Advice:
    along = [cell for cell in cells if _descends(cell.arm)]
    told = [cell for cell in along if not cell.unidentifiable]
    # Momentum leads away from the gradient: without it where there is a choice.
    source = max(
        told or along or cells,
        key=lambda cell: ("(" not in cell.arm, not _silence(hessian.get(cell.cell_id, cell)), cell.decades),
    )
    fitted = hessian.get(source.cell_id, source)
    tau = max((noise[cell.cell_id] for cell in cells if cell.cell_id in noise), default=None)
    fits = _identified(fitted)
    L0, L1 = _constants(fits)
    silent = ""
    if not along:
        silent = f"no cell descends along the gradient ({source.arm}), which is what these theorems are about"
    elif not told:
        silent = f"L1 is not identifiable in any cell ({max(along, key=lambda cell: cell.points).unidentifiable})"
    else:
        silent = _silence(fitted)
    conditions: tuple[str, ...] = _CONDITIONS if fitted is source else _OF_HESSIAN
    if "(" in source.arm:
        conditions += (f"measured along the updates of {source.arm}",)
    return Advice(
        context=context,
        context_values=source.context,
        source=source.label,
        measured="directional_smoothness" if fitted is source else "hessian_spectral_norm",
        quantile=fitted.quantile,
        L0=L0,
        L1=L1,
        range=fitted.range,
        tau=tau,
        rules=() if silent else _rules(fits, steps, tau),
        conditions=conditions,
        silent=silent,
    )


def _descends(arm: str) -> bool:
    """Whether a rule moves along the gradient, by whatever length."""
    return arm.partition(" + ")[0].partition("(")[0] in {"sgd", *THEORIES}


def _identified(cell: CellFit) -> list[SmoothnessFit]:
    return [fit for fit in cell.trajectories.values() if not fit.unidentifiable]


def _constants(fits: Sequence[SmoothnessFit]) -> tuple[Interval, Interval]:
    """L0 and L1 over the seeds; of a single seed with its trajectory's own intervals."""
    return (
        _over_seeds([fit.upper[0] for fit in fits], [fit.L0 for fit in fits]),
        _over_seeds([fit.upper[1] for fit in fits], [fit.L1 for fit in fits]),
    )


def _over_seeds(values: Sequence[float], bounds: Sequence[Bounds]) -> Interval:
    if len(values) == 1:
        return Interval(mean=values[0], low=bounds[0].low, high=bounds[0].high, count=1)
    return geometric_interval(values)


def _silence(cell: CellFit) -> str:
    """Why a cell's constants bound no rule; empty where they do."""
    if cell.unidentifiable:
        return cell.unidentifiable
    L0, L1 = _constants(_identified(cell))
    largest = cell.range[1]
    if L1.mean * largest < _NO_GROWTH * L0.mean:
        return "the smoothness does not grow with the gradient norm here, so these theorems call for no threshold"
    for name, constant, of in (("L0", L0, "learning rate"), ("L1", L1, "threshold")):
        if math.isnan(constant.low):
            return f"{name} = {constant.mean:.3g} has no interval: too few independent points, or one seed of few"
        if constant.low == 0:
            high = f"{constant.high:.3g}" if math.isfinite(constant.high) else "unknown"
            return f"{name} may be 0 (its upper end is {high}), which leaves the {of} without an upper end"
        if not math.isfinite(constant.high):
            return f"{name} has no upper end, which leaves the {of} without a lower one"
    return ""


def _rules(fits: Sequence[SmoothnessFit], steps: int, tau: float | None) -> tuple[AdvisedRule, ...]:
    notes = {
        "vankov2024": "eta = 1/(2 L0), threshold 2 L0/(3 L1)",
        "theorem3": "eta = 1/(10 L0), threshold min(10 L0, L0/L1): conservative",
    }
    if tau:
        notes["theorem7"] = f"with noise tau = {tau:.3g}, corrected"
    return tuple(_rule(theory, note, fits, steps, tau) for theory, note in notes.items())


def _rule(theory: str, note: str, fits: Sequence[SmoothnessFit], steps: int, tau: float | None) -> AdvisedRule:
    """One theorem's rule: its own of each seed, summarised; of one seed with the ends that its L0 and L1 allow."""

    def eta(L0: float, L1: float) -> float:
        return rule_of(theory, _setting(L0, L1, steps, tau)).eta

    def threshold(L0: float, L1: float) -> float:
        found = rule_of(theory, _setting(L0, L1, steps, tau)).threshold
        return math.nan if found is None else found

    rate, clip_norm = (_summed(fits, of) for of in (eta, threshold))
    if tau is not None and clip_norm.low < tau:
        verb = "is" if clip_norm.mean < tau else "may be"
        note += f"; the threshold {verb} below tau = {tau:.3g}: it clips noise, which biases the step"
    return AdvisedRule(
        theory=theory,
        learning_rate=rate,
        clip_norm=None if math.isnan(clip_norm.mean) else clip_norm,
        note=note,
    )


def _setting(L0: float, L1: float, steps: int, tau: float | None) -> Setting:
    return Setting(L0=L0, L1=L1, gap=1.0, epsilon=1.0, M=1.0, tau=tau or 0.0, horizon=max(1, steps))


def _summed(fits: Sequence[SmoothnessFit], of: Callable[[float, float], float]) -> Interval:
    """A function of L0 and L1 over the seeds."""
    values = [of(*fit.upper) for fit in fits]
    if len(fits) > 1:
        return geometric_interval(values)
    (fit,) = fits
    corners = [of(L0, L1) for L0 in (fit.L0.low, fit.L0.high) for L1 in (fit.L1.low, fit.L1.high)]
    return Interval(mean=values[0], low=min(corners), high=max(corners), count=1)
