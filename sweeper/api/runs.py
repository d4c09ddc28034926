"""A run that answers from Python what the command line answers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.api.answers import Answer, PageAnswer
from sweeper.errors import ClipsweepError
from sweeper.labels import counted, printable
from sweeper.tables.run import Run as Tables

if TYPE_CHECKING:
    from sweeper.report.answers import Answers
    from sweeper.report.fits import CellFit
    from sweeper.report.run_comparison import RunsComparison
    from sweeper.report.summary import Report
    from sweeper.run import Outcome

__all__ = ["Run", "answer_advise", "answer_compare", "answer_fit", "answer_report", "page_of"]

Where = str | Sequence[str]
"""A condition, or several that all hold: ``"learning_rate <= 20 and clip_norm != none"``."""


class Run(Tables):
    """What a run has produced so far: its tables as pandas frames, and its answers; usable while it runs.

    Args:
        path: The run directory.
        measurement: Id, or the beginning of one, of the settings whose measurements count in answers; by default the
            latest measurement of each snapshot by the sweep itself.

    Attributes:
        outcome: How the driver ended that this run comes from; None of a run that was only opened.

    Raises:
        RunDirectoryError: There is no run in this directory, or it was never measured under such an id.

    Example:
        >>> Run("runs/nowhere")
        Traceback (most recent call last):
        ...
        sweeper.errors.RunDirectoryError: runs/nowhere: no such directory
    """

    outcome: Outcome | None = None

    def report(self, *, by: Where = (), where: Where = (), sort: str | None = None) -> Answer[Report]:
        """What ``clipsweep report`` says: each cell over its seeds, and the best of each arm.

        Args:
            by: Columns; a row for each of their values instead of for each cell.
            where: Which trials count.
            sort: Column that orders the rows; with ``-`` in front, largest first.

        Returns:
            The report.
        """
        return answer_report(self, by=_listed(by), where=_listed(where), sort=sort)

    def fit(self, *, where: Where = (), by_layer: bool = False, along: str = "step") -> Answer[tuple[CellFit, ...]]:
        """What ``clipsweep fit`` says: L0 and L1 of every cell, with intervals.

        Args:
            where: Which trials count.
            by_layer: Whether there is a row for each parameter tensor.
            along: Direction of the smoothness: ``step``, ``gradient`` or ``random``.

        Returns:
            The fits.
        """
        return answer_fit(self, where=_listed(where), by_layer=by_layer, along=along)

    def advise(self, *, where: Where = ()) -> Answer[Answers]:
        """What ``clipsweep advise`` says: where training is stable, what clipping did, what to try next.

        Args:
            where: Which trials count.

        Returns:
            The advice.
        """
        return answer_advise(self, where=_listed(where))

    def compare(self, *others: Tables | str | os.PathLike[str], where: Where = ()) -> Answer[RunsComparison]:
        """What ``clipsweep compare`` says, with this run as the reference.

        Args:
            *others: Runs, or their directories.
            where: Which trials count.

        Returns:
            The comparison.
        """
        runs = [self, *(other if isinstance(other, Tables) else Run(Path(other)) for other in others)]
        return answer_compare(runs, where=_listed(where))

    def page(self, *, where: Where = (), sort: str | None = None) -> PageAnswer:
        """The page that ``clipsweep report --format html`` writes.

        Args:
            where: Which trials count.
            sort: Order of the cells.

        Returns:
            The page.
        """
        return page_of(self, [self.path], where=_listed(where), sort=sort)

    def to_html(self, file: str | os.PathLike[str], *, where: Where = (), sort: str | None = None) -> Path:
        """Write the page.

        Args:
            file: Where to; replaced if it exists.
            where: Which trials count.
            sort: Order of the cells.

        Returns:
            The file.
        """
        return self.page(where=where, sort=sort).to_html(file)

    def __str__(self) -> str:
        trials = [trial for name, trial in self.state.trials.items() if name not in self.state.superseded]
        counts = Counter(trial.status() for trial in trials)
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{printable(str(self.path))}: {counted(len(trials), 'trial')}{': ' if said else ''}{said}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


def answer_report(
    run: Tables, *, by: Sequence[str] = (), where: Sequence[str] = (), sort: str | None = None
) -> Answer[Report]:
    """The report of a run, or of several as one; as for :meth:`Run.report`."""
    from sweeper.report.render.summary import render
    from sweeper.report.searched import report_with_search

    report, searched = report_with_search(run, by=by, where=where, sort=sort)
    return Answer(name=f"report of {report.path}", found=report, _render=partial(render, report, searched=searched))


def answer_fit(
    run: Tables, *, where: Sequence[str] = (), by_layer: bool = False, along: str = "step"
) -> Answer[tuple[CellFit, ...]]:
    """The fits of a run.

    Args:
        run: The run.
        where: Conditions.
        by_layer: As for :meth:`Run.fit`.
        along: As there.

    Returns:
        The fits.

    Raises:
        ClipsweepError: There is no such direction, or it does not go with ``by_layer``.
    """
    if by_layer and along != "step":
        raise ClipsweepError(f"--by-layer is measured along the step: leave out --along {along}")
    from sweeper.report.fits import fit_cells, with_laws
    from sweeper.report.other_fits import fit_direction, fit_layers, with_probes
    from sweeper.report.render.fits import render_fits
    from sweeper.report.select import select

    trials = select(run, where)
    if by_layer:
        cells = fit_layers(run, trials)
    elif along != "step":
        cells = fit_direction(run, trials, along)
    else:
        cells = with_probes(run, trials, with_laws(run, trials, fit_cells(run, trials)))
    path = str(run.path)
    return Answer(name=f"fits of {path}", found=cells, _render=partial(render_fits, path, cells))


def answer_advise(run: Tables, *, where: Sequence[str] = ()) -> Answer[Answers]:
    """The advice of a run; as for :meth:`Run.advise`."""
    from sweeper.report.answers import build_answers
    from sweeper.report.render.answers import render_answers
    from sweeper.report.searched import build_searched

    searched = build_searched(run.path)
    answers = build_answers(run, where=where, searched=searched.found.over if searched is not None else None)
    return Answer(
        name=f"advice on {answers.path}", found=answers, _render=partial(render_answers, answers, searched=searched)
    )


def answer_compare(runs: Sequence[Tables], *, where: Sequence[str] = ()) -> Answer[RunsComparison]:
    """Runs compared with the first; as for :meth:`Run.compare`."""
    from sweeper.report.render.run_comparison import render_comparison
    from sweeper.report.run_comparison import build_comparison

    found = build_comparison(runs, where=where)
    names = " against ".join([", ".join(list(found.paths)[1:]), found.reference])
    return Answer(name=f"comparison of {names}", found=found, _render=partial(render_comparison, found))


def page_of(
    run: Tables,
    paths: Sequence[Path],
    *,
    where: Sequence[str] = (),
    sort: str | None = None,
    comparison: RunsComparison | None = None,
) -> PageAnswer:
    """The page of a run, or of several as one.

    Args:
        run: The run, or :class:`~sweeper.tables.several.SeveralRuns`.
        paths: The run directories.
        where: Conditions.
        sort: Order of the cells.
        comparison: What differs between the runs, which comes first; None to leave that out.

    Returns:
        The page.
    """
    from sweeper.report.page.contents import build_page
    from sweeper.report.page.html import render_page

    page = build_page(run, paths, where=where, sort=sort, comparison=comparison)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return PageAnswer(name=f"page of {page.title}", answer=tuple(page.answer), html=render_page(page, made=made))


def _listed(given: Where) -> Sequence[str]:
    """One text as a list of one: its letters are no conditions."""
    return [given] if isinstance(given, str) else list(given)
