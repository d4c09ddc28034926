"""Does smoothness follow the gradient norm, and would it by arithmetic alone? Correlations of every trial's points."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from estimators.fits.correlations import log_log_correlation, partial_rank_correlation, rank_correlation
from estimators.fits.intervals import Interval
from sweeper.labels import counted
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "BESIDE",
    "BESIDE_NOTE",
    "Correlations",
    "beside_text",
    "is_mechanical",
    "mechanical_note",
    "trial_correlations",
]

_CONTROL = "directional_curvature"

_WORTH_EXPLAINING = 0.3
"""A rank correlation below this is no finding that would have to be explained."""


BESIDE = "of the bound / given it / of the curvature"
"""Head of a column with what a rank correlation is to be read beside."""


BESIDE_NOTE = (
    "of the bound / given it / of the curvature: rank correlation with ‖∇f‖ of what arithmetic alone would give, of "
    "the smoothness with that removed, and of the curvature along the update, into which no step enters"
)
"""What that column holds."""


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """Of one trial's points: of the smoothness with the gradient norm, and what else would make it so.

    Attributes:
        pearson: Of log smoothness with log gradient norm.
        spearman: The same by ranks.
        bound: Spearman's correlation of the mechanical bound, (||grad f(x_k)|| + ||grad f(x_{k+1})||) / ||d||, with the
            gradient norm: what arithmetic alone would give, whatever f is.
        partial: Spearman's correlation of smoothness with gradient norm, with what both share with the bound removed.
        control: Spearman's correlation of the curvature along the update, in absolute value, with the gradient norm:
            no division by a step enters it. NaN where it was not measured.
        points: How many points there are.
    """

    pearson: float
    spearman: float
    bound: float
    partial: float
    control: float
    points: int


def trial_correlations(run: Run, points: pd.DataFrame, *, controlled: bool = True) -> dict[str, Correlations]:
    """The correlations of every trial that has points.

    Args:
        run: The run.
        points: What :func:`~sweeper.report.select.positive` returns.
        controlled: Whether the curvature along the whole update is a control of these points.

    Returns:
        Trial to its correlations.
    """
    controls = _controls(run, points) if controlled else {}
    found = {}
    for trial, group in points.groupby("trial_id", sort=False):
        norms, smoothness, bound = (
            group[name].to_numpy(dtype=float) for name in ("grad_norm", "smoothness", "mechanical_bound")
        )
        found[str(trial)] = Correlations(
            pearson=log_log_correlation(norms, smoothness),
            spearman=rank_correlation(norms, smoothness),
            bound=rank_correlation(norms, bound),
            partial=partial_rank_correlation(norms, smoothness, bound),
            control=controls.get(str(trial), math.nan),
            points=len(group),
        )
    return found


def _controls(run: Run, points: pd.DataFrame) -> dict[str, float]:
    """Trial to the correlation of the curvature along the update with the gradient norm, at the same snapshots."""
    if _CONTROL not in run.estimators:
        return {}
    curvatures = run.measurements(_CONTROL)[["trial_id", "step", "measurement_id", "curvature"]]
    at = points[["trial_id", "step", "measurement_id", "grad_norm"]]
    both = at.merge(curvatures, on=["trial_id", "step", "measurement_id"])
    return {
        str(trial): rank_correlation(group["grad_norm"], group["curvature"].astype(float).abs())
        for trial, group in both.groupby("trial_id", sort=False)
    }


def is_mechanical(smoothness: float, bound: float, partial: float, control: float) -> bool:
    """Whether arithmetic explains a correlation of smoothness with the gradient norm.

    Args:
        smoothness: The rank correlation.
        bound: That of the bound.
        partial: What of it is left, given the bound; NaN where nothing is.
        control: That of the curvature; NaN where it was not measured.

    Returns:
        True where the bound follows the gradient norm at least as closely, less than half of the correlation is left
        without it, and no control shows at least half.

    Example:
        >>> is_mechanical(0.8, 0.9, 0.3, float("nan")), is_mechanical(0.8, 0.9, 0.3, 0.7)
        (True, False)
    """
    if not (smoothness >= _WORTH_EXPLAINING and bound >= smoothness):
        return False
    left = 0.0 if math.isnan(partial) else partial
    return left < smoothness / 2 and not control >= smoothness / 2


def mechanical_note(
    rows: Iterable[tuple[Interval, Interval, Interval, Interval]], *, noun: str = "row"
) -> tuple[str, ...]:
    """A warning where the bound explains what is seen.

    Args:
        rows: Of each row the intervals of the rank correlation, of the bound's, of the partial one and of the
            control's.
        noun: What a row is.

    Returns:
        At most one note.
    """
    found = [all_four for all_four in rows if is_mechanical(*(interval.mean for interval in all_four))]
    if not found:
        return ()
    unmeasured = any(control.count == 0 for *_, control in found)
    return (
        f"in {counted(len(found), noun)} the smoothness may follow the gradient norm by arithmetic alone: its "
        "mechanical bound does, and given the bound less than half of the correlation is left"
        + (f"; the estimator {_CONTROL} is the control" if unmeasured else ", nor does the curvature show it"),
    )


def beside_text(bound: float, partial: float, control: float) -> str:
    """What a rank correlation is to be read beside, with two decimals each.

    Args:
        bound: The correlation of the mechanical bound.
        partial: What is left given the bound.
        control: That of the curvature.

    Returns:
        The three, or a dash where there is none of them.

    Example:
        >>> beside_text(0.91, 0.38, float("nan"))
        '0.91 / 0.38 / –'
    """
    texts = ["–" if math.isnan(value) else f"{value:.2f}" for value in (bound, partial, control)]
    return " / ".join(texts) if set(texts) != {"–"} else "–"
