"""The paper's figures from a run: smoothness against gradient norm (Figures 2 and 3), losses (Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from sweeper.errors import ClipsweepError
from sweeper.report.plots.agreement import agreement
from sweeper.report.plots.fit import fit
from sweeper.report.plots.frontier import frontier
from sweeper.report.plots.loss import loss
from sweeper.report.plots.theory import floor, phase, speedup
from sweeper.report.plots.trajectories import smoothness
from sweeper.report.select import select
from sweeper.store.guarded_paths import make_folder
from sweeper.tables.run import Run

__all__ = ["PLOTS", "STYLE", "SUFFIXES", "draw"]

SUFFIXES = (".png", ".svg", ".pdf")


STYLE: Any = {
    "figure.dpi": 150,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "clipsweep",
}


def draw(run: Run, kind: str, file: Path, *, where: Sequence[str] = ()) -> None:
    """Draw one figure.

    Args:
        run: The run.
        kind: One of :data:`PLOTS`.
        file: The file to write; the suffix chooses PNG, SVG or PDF. Only the run's own folder ``plots`` is made.
        where: ``column=value`` conditions on the trials.

    Raises:
        ClipsweepError: The kind or suffix is unknown, the folder does not exist, nothing was measured, or no trial
            satisfies the conditions.
    """
    if kind not in PLOTS:
        raise ClipsweepError(f"no plot {kind!r}; known: {', '.join(PLOTS)}")
    if file.suffix.lower() not in SUFFIXES:
        raise ClipsweepError(f"{file}: unknown picture format {file.suffix!r}; known: {', '.join(SUFFIXES)}")
    folder = file.parent
    is_default = folder.resolve() == (run.path / "plots").resolve()
    if not is_default and not folder.is_dir():
        raise ClipsweepError(f"{file}: cannot be written: there is no folder {folder}")
    # Without pyplot: it would look for a window system and keep global state.
    with mpl.rc_context(STYLE):
        figure = PLOTS[kind](run, select(run, where))
        try:
            if is_default:
                make_folder(folder)
            figure.savefig(file, bbox_inches="tight")
        except OSError as error:
            raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error


PLOTS = {
    "smoothness": smoothness,
    "loss": loss,
    "fit": fit,
    "frontier": frontier,
    "agreement": agreement,
    "phase": phase,
    "speedup": speedup,
    "floor": floor,
}
"""Kind to function: ``(run, trials) -> figure``."""
