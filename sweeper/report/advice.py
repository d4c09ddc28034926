"""Learning rates and thresholds that theory derives from a fitted L0 and L1, and when it applies at all."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.cell_labels import Labels
from sweeper.report.fits import CellFit
from sweeper.value_texts import key_of
from trainers.analytic.theory import Setting, rule_of

__all__ = ["Advice", "AdvisedRule", "build_advice"]

_CONDITIONS = (
    "for the full gradient and without momentum",
    "L0 and L1 describe the visited region and one direction at a time: both may be larger elsewhere",
)


_NO_GROWTH = 0.01
"""Share of L0 by which the smoothness must grow over the visited range for L1 to mean anything."""


@dataclass(frozen=True, kw_only=True)
class AdvisedRule:
    """A rule that a theorem sets.

    Attributes:
        theory: Its name, as in ``update_rule.from_theory``.
        learning_rate: eta.
        clip_norm: The threshold on the gradient norm; None if the rule does not clip.
        note: What it is, and what to be careful about.
    """

    theory: str
    learning_rate: float
    clip_norm: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What theory advises for one problem.

    Attributes:
        context: What tells the swept values outside the update rule from those of other problems.
        context_values: These values, by short name.
        source: The cell whose fit is used: the one that visited the widest range of gradient norms.
        quantile: Quantile of its upper line; NaN where there is none.
        L0: L0 of its upper line, median over the seeds.
        L1: L1 of its upper line, median over the seeds.
        range: Gradient norms that it visited.
        tau: Noise of the mini-batch gradient, median of the measured values; None if it was not measured.
        rules: The advised rules; empty if L1 cannot be identified.
        conditions: The conditions under which the advice holds.
        silent: Why there is no advice; empty if there is.
    """

    context: str
    context_values: dict[str, Any]
    source: str
    quantile: float
    L0: float
    L1: float
    range: tuple[float, float]
    tau: float | None
    rules: tuple[AdvisedRule, ...]
    conditions: tuple[str, ...]
    silent: str


def build_advice(cells: Sequence[CellFit], *, steps: int, tau: float | None = None) -> tuple[Advice, ...]:
    """Advised rules for each problem in the sweep.

    Args:
        cells: The fits.
        steps: Steps of a trial: T of Theorem 7.
        tau: Noise of the mini-batch gradient, Assumption 5; None if it was not measured.

    Returns:
        One piece of advice per context, or why there is none.
    """
    contexts: dict[Hashable, list[CellFit]] = {}
    for cell in cells:
        contexts.setdefault(key_of(cell.context), []).append(cell)
    labels = Labels([found[0].context for found in contexts.values()])
    return tuple(_advice(labels.label(found[0].context), found, steps, tau) for found in contexts.values())


def _advice(context: str, cells: Sequence[CellFit], steps: int, tau: float | None) -> Advice:
    told = [cell for cell in cells if not cell.unidentifiable]
    best = max(told or cells, key=lambda cell: cell.decades)
    fits = [fit for fit in best.trajectories.values() if not fit.unidentifiable]
    L0 = float(np.median([fit.upper[0] for fit in fits])) if fits else float("nan")
    L1 = float(np.median([fit.upper[1] for fit in fits])) if fits else float("nan")
    silent = ""
    if not told:
        silent = f"L1 is not identifiable in any cell ({best.unidentifiable})"
    elif L1 * best.range[1] < _NO_GROWTH * L0:
        silent = "the smoothness does not grow with the gradient norm here, so these theorems call for no threshold"
    elif L0 == 0:
        silent = "the fitted L0 is 0: no gradient norm near zero was visited, so the learning rate is unbounded"
    return Advice(
        context=context,
        context_values=best.context,
        source=best.label,
        quantile=best.quantile,
        L0=L0,
        L1=L1,
        range=best.range,
        tau=tau,
        rules=() if silent else _rules(L0, L1, steps, tau),
        conditions=_CONDITIONS,
        silent=silent,
    )


def _rules(L0: float, L1: float, steps: int, tau: float | None) -> tuple[AdvisedRule, ...]:
    setting = Setting(L0=L0, L1=L1, gap=1.0, epsilon=1.0, M=1.0, tau=tau or 0.0, horizon=max(1, steps))
    notes = {
        "vankov2024": "eta = 1/(2 L0), threshold 2 L0/(3 L1)",
        "theorem3": "eta = 1/(10 L0), threshold min(10 L0, L0/L1): conservative",
    }
    if tau:
        notes["theorem7"] = (
            f"with noise tau = {tau:.3g}, corrected; a threshold below tau clips noise, which biases the step"
        )
    rules = []
    for theory, note in notes.items():
        rule = rule_of(theory, setting)
        rules.append(AdvisedRule(theory=theory, learning_rate=rule.eta, clip_norm=rule.threshold, note=note))
    return tuple(rules)
