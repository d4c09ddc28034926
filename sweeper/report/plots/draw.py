"""The paper's figures from a run: smoothness against gradient norm (Figures 2 and 3), losses (Figure 4)."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from sweeper.errors import ClipsweepError
from sweeper.report.plots.agreement import agreement
from sweeper.report.plots.axes import ASKED_WIDTH, Picture
from sweeper.report.plots.fit import fit
from sweeper.report.plots.frontier import frontier
from sweeper.report.plots.loss import loss
from sweeper.report.plots.noise import noise
from sweeper.report.plots.sharpness import sharpness
from sweeper.report.plots.stability import stability
from sweeper.report.plots.theory import floor, phase, speedup
from sweeper.report.plots.trajectories import smoothness
from sweeper.report.select import select
from sweeper.store.guarded_paths import make_folder
from sweeper.tables.run import Run

__all__ = ["PLOTS", "STYLE", "STYLES", "SUFFIXES", "draw"]

_LOG = logging.getLogger(__name__)

SUFFIXES = (".png", ".svg", ".pdf")


STYLE: Any = {
    "figure.dpi": 150,
    # What journals ask for; and letters stay letters, in fonts that can be edited and searched.
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "clipsweep",
}


STYLES: Any = {
    "paper": STYLE,
    "talk": {**STYLE, "font.size": 12, "axes.titlesize": 12, "lines.linewidth": 2.5, "axes.linewidth": 1.2},
}
"""Name to matplotlib's settings: small print for a column of text, or large for a screen."""


def draw(
    run: Run,
    kind: str,
    file: Path,
    *,
    where: Sequence[str] = (),
    style: str = "paper",
    width: float | None = None,
    height: float | None = None,
    dpi: int | None = None,
) -> list[dict[str, Any]]:
    """Draw one figure.

    Args:
        run: The run.
        kind: One of :data:`PLOTS`.
        file: The file to write; the suffix chooses PNG, SVG or PDF. Only the run's own folder ``plots`` is made.
        where: ``column=value`` conditions on the trials.
        style: One of :data:`STYLES`.
        width: Inches; as wide as the panels need by default. Panels are folded into as many columns as can be read.
        height: Inches; as high as the panels need by default.
        dpi: Dots per inch of a PNG; 300 by default.

    Returns:
        The numbers drawn: a row per point or sample of a curve, with what its cell is.

    Raises:
        ClipsweepError: The kind, style or suffix is unknown, the folder does not exist, nothing was measured, or no
            trial satisfies the conditions.
    """
    if kind not in PLOTS:
        raise ClipsweepError(f"no plot {kind!r}; known: {', '.join(PLOTS)}")
    if file.suffix.lower() not in SUFFIXES:
        raise ClipsweepError(f"{file}: unknown picture format {file.suffix!r}; known: {', '.join(SUFFIXES)}")
    if style not in STYLES:
        raise ClipsweepError(f"no style {style!r}; known: {', '.join(STYLES)}")
    folder = file.parent
    is_default = folder.resolve() == (run.path / "plots").resolve()
    if not is_default and not folder.is_dir():
        raise ClipsweepError(f"{file}: cannot be written: there is no folder {folder}")
    chosen = select(run, where)
    # Without pyplot: it would look for a window system and keep global state.
    with mpl.rc_context(STYLES[style]):
        asked = ASKED_WIDTH.set(width)
        try:
            figure = PLOTS[kind](run, chosen)
        finally:
            ASKED_WIDTH.reset(asked)
        # Larger print needs larger panels, though not in proportion.
        inches = figure.get_size_inches() * math.sqrt(mpl.rcParams["font.size"] / STYLE["font.size"])
        figure.set_size_inches(width or inches[0], height or inches[1])
        if width is not None or height is not None:
            _refuse_what_does_not_fit(figure, file)
        # Trimming would change a size that was asked for.
        box = "tight" if width is None and height is None else None
        try:
            if is_default:
                make_folder(folder)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                figure.savefig(file, bbox_inches=box, dpi=dpi or STYLE["savefig.dpi"])
        except OSError as error:
            raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error
    # Without the line of the library's source that Python shows with a warning.
    for text in dict.fromkeys(str(warning.message) for warning in told):
        _LOG.warning("%s: %s", file, text)
    return figure.drawn


def _refuse_what_does_not_fit(figure: Picture, file: Path) -> None:
    """Before anything is written: panels without room for their numbers are a heap of text."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.draw_without_rendering()
    if any("collapsed to zero" in str(warning.message) for warning in told):
        inches = " x ".join(f"{side:g}" for side in figure.get_size_inches())
        raise ClipsweepError(f"{file}: its panels do not fit into {inches} inches: take a larger --width or --height")


PLOTS: dict[str, Callable[[Run, Any], Picture]] = {
    "smoothness": smoothness,
    "loss": loss,
    "fit": fit,
    "frontier": frontier,
    "noise": noise,
    "agreement": agreement,
    "sharpness": sharpness,
    "stability": stability,
    "phase": phase,
    "speedup": speedup,
    "floor": floor,
}
"""Kind to function: ``(run, trials) -> figure``."""
