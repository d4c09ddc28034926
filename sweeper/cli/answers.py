"""The commands that evaluate runs, from ``report`` to ``plot``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.api.answers import write_text
from sweeper.cli.completion import (
    PLOT_KINDS,
    complete_column,
    complete_run,
    complete_run_or_plot,
    complete_sort,
    one_of,
)
from sweeper.cli.options import (
    TEXT_FORMATS,
    AsJson,
    Format,
    Measurement,
    RunPath,
    TextFormat,
    Where,
    note,
    show,
    show_json,
)
from sweeper.errors import ClipsweepError
from sweeper.formats import FORMATS, choose_format, csv_table
from sweeper.labels import printable
from sweeper.store.run_dir import RunDir

if TYPE_CHECKING:
    from sweeper.tables.run import Run

__all__ = ["advise", "compare", "fit", "plot", "reach", "report", "theory", "times"]

_PAGE_FORMATS = (*FORMATS, "html")

PageFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(_PAGE_FORMATS),
        autocompletion=one_of(*_PAGE_FORMATS),
        help="How to print it; a table by default. html is one page with charts, for --out.",
        show_default=False,
    ),
]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there instead of printing it.")]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories; several are compared in one.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="COLUMN", help="Row per value; may be repeated.", autocompletion=complete_column),
    ] = None,
    where: Where = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="[-]COLUMN", help="Order of the rows.", autocompletion=complete_sort),
    ] = None,
    out: OutFile = None,
    wanted: PageFormat = None,
    as_json: AsJson = False,
    measurement: Measurement = None,
) -> None:
    """Aggregate a run over its seeds: losses with intervals, divergence, clipping, smoothness, best of each arm."""
    style = choose_format(wanted, as_json=as_json, known=_PAGE_FORMATS)
    if style == "html" and by:
        raise ClipsweepError("--by: a page has a row for each cell, and filters them there; leave it out")
    _refuse_terminal(style, out)
    opened = _opened_all(runs, measurement)
    width, color = (None, False) if out is not None else _terminal()
    from sweeper.api.runs import answer_report, page_of

    if style == "html":
        text = page_of(opened, runs, where=where or [], sort=sort).html
    else:
        answer = answer_report(opened, by=by or [], where=where or [], sort=sort)
        text = answer.text(style, width=width, color=color)
    _show(text, style, color, out)


def _refuse_terminal(style: str, out: Path | None) -> None:
    if style == "html" and out is None and sys.stdout.isatty():
        raise ClipsweepError("a page is not for a terminal: --out report.html says where to write it")


def reach(
    run: RunPath,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="What reaches the level; probe_grad_norm for the measured ‖∇f‖."),
    ] = None,
    level: Annotated[
        float | None, typer.Option("--level", help="The level; by default the hardest that every arm's best reaches.")
    ] = None,
    where: Where = None,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """How many steps each cell takes until a loss or a gradient norm reaches a level, and which arm takes fewer."""
    style = choose_format(wanted, as_json=as_json)
    opened = _opened(run)
    from sweeper.report.reach import build_reach
    from sweeper.report.render.reach import render_reach

    width, color = _terminal()
    found = build_reach(opened, metric=metric, level=level, where=where or [])
    _show(render_reach(found, style, width=width, color=color), style, color)


def fit(
    run: RunPath,
    where: Where = None,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="A row per parameter tensor, of layer_smoothness.")
    ] = False,
    along: Annotated[
        str,
        typer.Option(
            "--along",
            metavar="step|gradient|random",
            help="Direction of the smoothness: other_directions.",
            autocompletion=one_of("step", "gradient", "random"),
        ),
    ] = "step",
    wanted: Format = None,
    as_json: AsJson = False,
    measurement: Measurement = None,
) -> None:
    """Fit L0 and L1 to every cell: the upper edge of smoothness against gradient norm, with intervals."""
    style = choose_format(wanted, as_json=as_json)
    opened = _opened(run, measurement)
    from sweeper.api.runs import answer_fit

    width, color = _terminal()
    answer = answer_fit(opened, where=where or [], by_layer=by_layer, along=along)
    _show(answer.text(style, width=width, color=color), style, color)


def advise(
    run: RunPath,
    where: Where = None,
    wanted: Format = None,
    as_json: AsJson = False,
    measurement: Measurement = None,
) -> None:
    """Interpret a sweep: stability, what clipping did, edges of the grid, what theory advises."""
    style = choose_format(wanted, as_json=as_json)
    opened = _opened(run, measurement)
    from sweeper.api.runs import answer_advise

    width, color = _terminal()
    _show(answer_advise(opened, where=where or []).text(style, width=width, color=color), style, color)


def theory(
    run: RunPath,
    where: Where = None,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Hitting times of analytic trials next to the theorems' bounds, and gradient descent against clipping."""
    style = choose_format(wanted, as_json=as_json)
    opened = _opened(run)
    from sweeper.report.render.theory import render_theory
    from sweeper.report.theory import build_theory

    width, color = _terminal()
    found = build_theory(opened, where=where or [])
    _show(render_theory(found, style, width=width, color=color), style, color)


def times(
    run: RunPath,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="trial|worker|node",
            help="A row for each.",
            autocompletion=one_of("trial", "worker", "node"),
        ),
    ] = "worker",
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Where a run's time went: training, evaluating, measuring, waiting, starting. Also while it runs."""
    style = choose_format(wanted, as_json=as_json)
    run_dir = RunDir(run).require()
    from sweeper.report.render.times import render_times
    from sweeper.report.times import GROUPS, build_times
    from sweeper.store.journal import open_state

    if by not in GROUPS:
        raise ClipsweepError(f"--by {by!r}: unknown; known: {', '.join(GROUPS)}")
    width, color = _terminal()
    found = build_times(str(run_dir.path), open_state(run_dir), by=by)
    _show(render_times(found, style, width=width, color=color), style, color)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Two run directories or more; the first is the reference.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    where: Where = None,
    out: OutFile = None,
    wanted: PageFormat = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: what differs in spec, code and environment, and in the losses of the cells in common."""
    style = choose_format(wanted, as_json=as_json, known=_PAGE_FORMATS)
    _refuse_terminal(style, out)
    opened = [_opened(run) for run in runs]
    from sweeper.api.runs import answer_compare, page_of

    width, color = (None, False) if out is not None else _terminal()
    compared = answer_compare(opened, where=where or [])
    if style == "html":
        text = page_of(_several(runs, None), runs, where=where or [], comparison=compared.found).html
    else:
        text = compared.text(style, width=width, color=color)
    _show(text, style, color, out)


def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories; several in one figure.",
            show_default=False,
            autocompletion=complete_run_or_plot,
        ),
    ],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="smoothness, loss, fit, frontier, agreement, sharpness, stability, noise; of theory: phase, speedup, "
            "floor.",
            show_default=False,
            autocompletion=one_of(*PLOT_KINDS),
        ),
    ],
    where: Where = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help=".png, .svg or .pdf; plots/KIND.png in the first RUN by default."),
    ] = None,
    width: Annotated[
        float | None, typer.Option("--width", metavar="INCHES", min=1, max=40, help="By default what the panels need.")
    ] = None,
    height: Annotated[
        float | None, typer.Option("--height", metavar="INCHES", min=1, max=40, help="By default what the panels need.")
    ] = None,
    dpi: Annotated[int, typer.Option("--dpi", metavar="N", min=30, max=1200, help="Dots per inch of a PNG.")] = 300,
    style: Annotated[
        str,
        typer.Option(
            "--style", metavar="paper|talk", help="Size of the print.", autocompletion=one_of("paper", "talk")
        ),
    ] = "paper",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE.csv", help="Also write the numbers drawn, as CSV.")
    ] = None,
    measurement: Measurement = None,
    wanted: TextFormat = None,
    as_json: AsJson = False,
) -> None:
    """Draw the paper's figures, and those of its theory."""
    answer = choose_format(wanted, as_json=as_json, known=TEXT_FORMATS)
    opened = _opened_all(runs, measurement)
    from sweeper.report.plots.draw import draw

    others = "".join(f"-{run.resolve().name}" for run in runs[1:])
    file = out or runs[0] / "plots" / f"{kind}{others}.png"
    rows = draw(opened, kind, file, where=where or [], style=style, width=width, height=height, dpi=dpi)
    if data is not None:
        _write_data(data, rows)
    if answer == "json":
        show_json({"runs": runs, "kind": kind, "file": file, "data": data, "rows": len(rows)})
        return
    show(str(file))
    if data is not None:
        show(str(data))


def _write_data(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, each with the columns of all."""
    write_text(file, csv_table(rows))


def _opened(path: Path, measurement: str | None = None) -> Run:
    """The run, before pandas and SciPy are loaded: a mistyped name is told at once."""
    RunDir(path).require()
    from sweeper.tables.run import Run

    return Run(path, measurement=measurement)


def _opened_all(paths: Sequence[Path], measurement: str | None) -> Run:
    """One run, or several as one."""
    return _opened(paths[0], measurement) if len(paths) == 1 else _several(paths, measurement)


def _several(paths: Sequence[Path], measurement: str | None) -> Run:
    """Several runs as one."""
    if measurement is not None:
        raise ClipsweepError("--measurement: belongs to one run; leave it out where several are drawn")
    for path in paths:
        RunDir(path).require()
    from sweeper.tables.several import SeveralRuns

    return SeveralRuns(paths)


def _show(text: str, style: str, color: bool, out: Path | None = None) -> None:
    """Print an answer, or write it where that was asked for."""
    # The names of a page were escaped when it was made, and those of a coloured table one by one.
    shown = text if style == "html" or (color and style == "table") else printable(text)
    if out is None:
        typer.echo(shown)
        return
    write_text(out, shown)
    note(str(out))


def _terminal() -> tuple[int | None, bool]:
    """Width of the terminal, if stdout is one, and whether it may show colours."""
    import shutil

    if not sys.stdout.isatty():
        return None, False
    return shutil.get_terminal_size().columns, not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
