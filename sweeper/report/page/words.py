"""The answer of a sweep in sentences, before any table; and what the sweep does not show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import stdtrit

from estimators.fits.significance import replications_needed
from sweeper.labels import counted
from sweeper.report.answers import Answers
from sweeper.report.cells import Cell
from sweeper.report.comparisons import Comparison
from sweeper.report.correlations import is_mechanical
from sweeper.report.fits import CellFit
from sweeper.report.render.comparisons import comparison_lines, comparison_text
from sweeper.report.render.numbers import number_text
from sweeper.report.render.searched import searched_lines
from sweeper.report.searched import Searched, SearchedRatio
from sweeper.report.stability import FrontierRatio
from sweeper.report.summary import Report

__all__ = ["answer", "limits", "more_seeds"]

_MOST = 4
"""Sentences of one kind; the tables below them have all."""

_LEVEL = 0.05


def answer(report: Report, answers: Answers | None, searched: Searched | None = None) -> list[str]:
    """What a sweep says of clipping, the most important first.

    Args:
        report: The report.
        answers: What ``clipsweep advise`` says; None while no trial has ended.
        searched: What the search of the run has found; None for a run without one.

    Returns:
        Sentences: how much larger the rate may be, how much lower the loss is and how sure that is, whether smoothness
        grows with the gradient norm, what diverged.
    """
    if answers is None:
        return ["No trial has ended yet, so there is no answer."]
    ratios = [] if searched is None else [_searched_ratio(one, searched.found.over[0]) for one in searched.ratios]
    lines = _some(ratios + [_ratio(one) for one in answers.ratios], "threshold")
    lines += [_sentence(line) for line in searched_lines(searched) if not line.startswith("note:")]
    lines += [_sentence(text) for text in _compared(report.comparisons)]
    lines += _best(report)
    if grows := _smoothness(report.cells):
        lines.append(grows)
    lines.append(_divergence(report))
    return lines


def _some(lines: Sequence[str], noun: str) -> list[str]:
    left = len(lines) - _MOST
    return [*lines[:_MOST], *([f"Of {counted(left, f'more {noun}')} the frontier below tells."] if left > 0 else [])]


def _sentence(text: str) -> str:
    """With a full stop. No capital: many begin with the name of an arm."""
    return text if text.endswith(".") else f"{text}."


def _within(context: str) -> str:
    return f" [{context}]" if context else ""


def _ratio(one: FrontierRatio) -> str:
    """How much larger the rate may be with a threshold than without."""
    what = f"Clipping at {one.clip_norm:g} ({one.arm}{_within(one.context)})"
    seeds = counted(one.seeds, "seed")
    bounded = math.isfinite(one.high)
    if one.low > 1:
        size = f"{number_text(one.low)} to {number_text(one.high)}" if bounded else f"at least {number_text(one.low)}"
        return f"{what} lets the learning rate be {size} times as large ({seeds})."
    if one.high < 1:
        size = (
            f"{number_text(one.low)} to {number_text(one.high)}" if one.low > 0 else f"at most {number_text(one.high)}"
        )
        return f"{what} calls for a smaller learning rate: {size} times that without it ({seeds})."
    if one.low <= 0 and not bounded:
        return f"{what}: this grid does not bound how much larger the learning rate may be."
    if not bounded:
        least = "as large as" if one.low == 1 else f"{number_text(one.low)} times"
        return (
            f"{what}: the largest stable learning rate is at least {least} that without it; whether it is larger, this "
            f"grid does not tell ({seeds})."
        )
    least = f"{number_text(one.low)} to" if one.low > 0 else "at most"
    return (
        f"{what}: whether it lets the learning rate be larger is open: the largest stable one is {least} "
        f"{number_text(one.high)} times that without it ({seeds})."
    )


def _searched_ratio(one: SearchedRatio, over: str) -> str:
    ratio, name = one.ratio, over.rpartition(".")[2].replace("_", " ")
    if not math.isfinite(ratio.mean):
        return (
            f"{one.label} against {one.base}: the search does not know the ratio of their largest stable {name}s yet."
        )
    between = "" if math.isnan(ratio.low) else f" [{number_text(ratio.low)}, {number_text(ratio.high)}]"
    return (
        f"{one.label}: the largest stable {name} is {number_text(ratio.mean)}{between} times that of {one.base} "
        f"({counted(one.seeds, 'seed')})."
    )


def _compared(comparisons: Sequence[Comparison]) -> list[str]:
    if len(comparisons) > _MOST:
        return comparison_lines(comparisons, more="")
    return [_compared_one(one) for one in comparisons]


def _compared_one(one: Comparison) -> str:
    """A comparison, with the number of seeds that would decide it where it is not."""
    text = comparison_text(one, one.loss.replace("_", " "))
    if one.is_decided or one.difference.count < 2:
        return text
    wanted = more_seeds(one)
    if wanted is None:
        return f"{text}; a difference as small as this one takes more than 10,000 seeds to tell"
    more = wanted - one.difference.count
    told_by = counted(one.difference.count, "seed")
    return f"{text}; as far as {told_by} can say, {counted(max(1, more), 'more seed')} would tell"


def more_seeds(comparison: Comparison) -> int | None:
    """How many seeds in all would decide a comparison, if mean and spread stay as they are.

    Args:
        comparison: An undecided one of at least two seeds.

    Returns:
        The number at which the paired t test finds the difference in four of five sweeps, at a level that counts the
        cells tried and the comparisons of the report (Bonferroni); None for more than 10,000, or no difference at all.
    """
    gain = comparison.gain
    if gain.count < 2 or not math.isfinite(gain.high):
        return None
    half = (gain.high - gain.low) / 2
    spread = half * math.sqrt(gain.count) / float(stdtrit(gain.count - 1, 1 - _LEVEL / 2))
    better = comparison.cells_tried[0 if gain.mean > 0 else 1]
    level = _LEVEL / (better * max(1, comparison.num_compared))
    return replications_needed(gain.mean, spread, level=level)


def _best(report: Report) -> list[str]:
    """The best cell of every arm, in a sentence each."""
    found = [best for best in report.bests if best.cell is not None]
    if len(found) > _MOST:
        return []
    loss = report.primary.replace("_", " ")
    return [
        f"Best {best.arm}{_within(best.context)}: {best.label or 'the only cell'}, {loss} "
        f"{number_text(best.cell.losses[report.primary].mean, digits=4)} ({counted(best.cells_tried, 'cell')} tried)."
        for best in found
        if best.cell is not None
    ]


def _smoothness(cells: Sequence[Cell]) -> str:
    """How smoothness goes with the gradient norm, and in how many cells that is more than chance."""
    measured = [cell for cell in cells if cell.rank_correlation.count and math.isfinite(cell.rank_correlation.mean)]
    if not measured:
        return ""
    means = [cell.rank_correlation.mean for cell in measured]
    points = sorted(cell.points for cell in measured)
    text = (
        f"Rank correlations of smoothness with the gradient norm: from {min(means):.2f} to {max(means):.2f} in "
        f"{counted(len(measured), 'measured cell')}, of {_range(points)} snapshots each"
    )
    told = [cell for cell in measured if cell.rank_correlation.count > 1]
    if not told:
        return f"{text}; one seed a cell says nothing about chance."
    rising = [cell for cell in told if cell.rank_correlation.low > 0]
    text += f"; above 0 beyond chance, at 95 % over the seeds, in {len(rising) or 'none'} of them"
    mechanical = sum(
        is_mechanical(
            cell.rank_correlation.mean,
            cell.bound_correlation.mean,
            cell.partial_correlation.mean,
            cell.control_correlation.mean,
        )
        for cell in rising
    )
    if mechanical:
        text += f"; in {mechanical} of these arithmetic alone may explain it"
    return f"{text}."


def _range(values: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(str(value) for value in (values[0], values[-1])))


def _divergence(report: Report) -> str:
    """How many trials of every arm diverged."""
    arms: dict[str, tuple[int, int]] = {}
    for cell in report.cells:
        diverged, ended = arms.get(cell.arm, (0, 0))
        arms[cell.arm] = diverged + cell.diverged, ended + cell.diverged + cell.done
    told = [f"{diverged} of {ended} ({arm})" for arm, (diverged, ended) in arms.items() if ended]
    if not any(diverged for diverged, _ in arms.values()):
        return "No trial diverged."
    return f"Diverged: {', '.join(told[:_MOST])}{', …' if len(told) > _MOST else ''}."


def limits(
    report: Report,
    answers: Answers | None,
    fits: Sequence[CellFit],
    *,
    noiseless: bool = False,
    measured: bool = True,
) -> list[str]:
    """What the sweep does not show, as far as it follows from what was run.

    Args:
        report: The report.
        answers: What ``clipsweep advise`` says; None while no trial has ended.
        fits: The fits of L0 and L1; none where nothing was measured.
        noiseless: Whether the trials are of analytic functions without noise, of which one seed says all.
        measured: Whether any estimator has measured anything.

    Returns:
        Sentences.
    """
    cells = report.cells
    lines = [] if noiseless else _of_chance(report)
    if not any(cell.has_threshold for cell in cells) and cells:
        lines.append("No rule of this sweep clips, so that it says nothing about clipping.")
    elif all(cell.has_threshold for cell in cells):
        lines.append("Every rule of this sweep clips, so that there is nothing to compare clipping with.")
    if answers is not None and answers.edges:
        lines.append("The best value of an arm is at an edge of the grid: beyond it may be a better one.")
    if answers is not None and any(not math.isfinite(one.high) for one in answers.ratios):
        lines.append("Some rules were stable at the largest rate tried: how large a rate they take is open.")
    if not any(cell.points for cell in cells):
        how = " above its noise floor" if measured else ""
        lines.append(f"No smoothness was measured{how}, so that nothing is said of the paper's claim.")
    else:
        lines.append(
            "Smoothness is measured along the steps that were taken, on frozen probe batches: it is a lower bound of "
            "the constant of Definition 1 there, and says nothing of places that training did not visit."
        )
        if not any(cell.control_correlation.count for cell in cells):
            lines.append("Curvature was not measured, so that nothing controls for the arithmetic of eq. (20).")
    if fits and all(fit.unidentifiable for fit in fits):
        lines.append("L0 and L1 could not be identified in any cell.")
    return lines


def _of_chance(report: Report) -> list[str]:
    """What other seeds and other data may change."""
    cells, lines = report.cells, []
    fewest = min((cell.seeds for cell in cells), default=0)
    if fewest == 1:
        lines.append("Cells of one seed say nothing about chance: another seed may turn what is better.")
    elif fewest < 5:
        lines.append(f"{counted(fewest, 'seed')} a cell is few: intervals over so few are wide, and rest on normality.")
    if report.primary == "final_train_loss":
        lines.append(
            "There is no validation loss: cells are ranked by the training loss, which says nothing of others."
        )
    if not any(cell.test_losses for cell in cells):
        lines.append("No test data was evaluated: the best cell is better on the data by which it was chosen.")
    return lines
