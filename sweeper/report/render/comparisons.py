"""Comparisons of two arms as sentences: what is better, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sweeper.labels import counted
from sweeper.report.cells import TEST_LOSS
from sweeper.report.comparisons import Comparison
from sweeper.report.render.numbers import bracket_text, ends_text

__all__ = ["comparison_lines", "comparison_notes", "comparison_text"]

_MOST = 15
"""Comparisons that are all put into words: those of six arms."""


def comparison_text(comparison: Comparison, loss: str) -> str:
    """A comparison in words; clipping is compared with no clipping.

    Args:
        comparison: The comparison.
        loss: What is compared.

    Returns:
        A sentence. A difference that chance may have made is told by its interval alone: its own digits say nothing.
    """
    one, within = comparison, f" [{comparison.context}]" if comparison.context else ""
    gain, seeds = one.gain, counted(one.difference.count, "paired seed")
    against = f"{one.first} against {one.second}{within}"
    of_cells = ""
    if max(one.cells_tried) > 1:
        first, second = ("the only cell" if tried == 1 else f"the best of {tried} cells" for tried in one.cells_tried)
        of_cells = f", {first} against {second}"
    if gain.count == 0:
        return f"{against}: no seed that all of their cells have done"
    way = "better" if gain.mean >= 0 else "worse"
    size = bracket_text(gain if gain.mean >= 0 else replace(gain, mean=-gain.mean, low=-gain.high, high=-gain.low))
    if gain.count == 1:
        return f"{against}: {size} {way} in {loss}, but one seed says nothing about chance{of_cells}"
    if one.is_decided:
        return f"{one.first} is {way} than {one.second}{within} by {size} in {loss} ({seeds}{of_cells})"
    if gain.low > 0 or gain.high < 0:
        reasons = [f"{one.num_compared} comparisons"] if one.num_compared > 1 else []
        reasons += [f"{max(one.cells_tried)} cells to choose from"] if max(one.cells_tried) > 1 else []
        return (
            f"{against}: {way} by {size} in {loss} taken alone, but undecided with {' and '.join(reasons)}, "
            f"p = {one.p_adjusted:.2g} ({seeds}{of_cells})"
        )
    if gain.low == gain.high:
        return f"{against}: no difference in {loss} ({seeds}{of_cells})"
    worst, best = ends_text(gain.low, gain.high)
    return f"{against}: undecided at 95 %, from {worst} worse to {best} better in {loss} ({seeds}{of_cells})"


def comparison_lines(comparisons: Sequence[Comparison], *, more: str = "; --format json has all") -> list[str]:
    """A sentence per comparison; of very many, those that are decided and how many others there are.

    Args:
        comparisons: The comparisons of a report: with n arms n (n - 1) / 2 of each loss.
        more: Where those are that are left out.

    Returns:
        Sentences.
    """
    shown = [one for one in comparisons if len(comparisons) <= _MOST or one.is_decided]
    lines = [comparison_text(one, one.loss.replace("_", " ")) for one in shown]
    if left := len(comparisons) - len(shown):
        pairs = counted(left, "other pair" if shown else "pair")
        alone = all(one.difference.count < 2 for one in comparisons)
        why = "one seed says nothing about chance" if alone else "nothing is decided"
        lines.append(f"{pairs} of arms: {why}{more}")
    return lines


def comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What to know of the comparisons of a report.

    Args:
        comparisons: The comparisons.

    Returns:
        Notes.
    """
    notes = []
    tested = [one for one in comparisons if one.difference.count > 1]
    if any(max(one.cells_tried) > 1 for one in tested):
        notes.append(
            "on each seed the cells are compared that are the best of the other seeds, so that choosing them does not "
            "make them better; a verdict counts every cell of the better arm as a test (Bonferroni)"
        )
    unequal = [one for one in tested if len(set(one.cells_tried)) > 1]
    if unequal:
        pairs = [f"{one.first} {one.cells_tried[0]} and {one.second} {one.cells_tried[1]}" for one in unequal]
        pairs[_MOST:] = [f"{len(pairs) - _MOST} more pairs"] if len(pairs) > _MOST else []
        notes.append(f"arms had unequal numbers of cells ({', '.join(pairs)}): more tries find a better best")
    if any(one.loss == TEST_LOSS for one in tested):
        notes.append(
            "in the test loss the same cells are compared, chosen by the loss above it and never by the test data"
        )
    if (compared := max((one.num_compared for one in tested), default=0)) > 1:
        notes.append(
            f"{compared} comparisons: each interval is 95 % by itself, and what is better is decided by Holm's "
            "correction at 5 % for all of them together"
        )
    return notes
