"""The file that a picture is written to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.errors import ClipsweepError
from sweeper.report.plots.axes import ASKED_WIDTH, panels
from sweeper.report.plots.draw import PLOTS, STYLE, STYLES, draw
from sweeper.report.select import select
from sweeper.tables.run import Run


def test_a_folder_that_does_not_exist_is_an_error_and_is_not_made(run_of_3: Run, tmp_path: Path) -> None:
    missing = tmp_path / "typed" / "wrongly"
    with pytest.raises(ClipsweepError, match=r"a\.png: cannot be written: there is no folder .*/typed/wrongly"):
        draw(run_of_3, "loss", missing / "a.png")
    assert not missing.parent.exists()


def test_the_run_s_own_folder_of_plots_is_made(run_of_3: Run) -> None:
    done = CliRunner().invoke(app, ["plot", str(run_of_3.path), "loss"])
    assert done.exit_code == 0
    assert (run_of_3.path / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_size_that_is_asked_for_is_the_picture_s_size(run_of_3: Run, tmp_path: Path) -> None:
    options = ["--width", "3.5", "--height", "4", "--dpi", "100", "--out", str(tmp_path / "a.png")]
    assert CliRunner().invoke(app, ["plot", str(run_of_3.path), "loss", *options]).exit_code == 0
    head = (tmp_path / "a.png").read_bytes()[16:24]
    assert (int.from_bytes(head[:4]), int.from_bytes(head[4:])) == (350, 400)


def test_text_stays_text(run_of_3: Run, tmp_path: Path) -> None:
    draw(run_of_3, "loss", tmp_path / "a.svg")
    assert "learning_rate=10 clip_norm=0.25</text>" in (tmp_path / "a.svg").read_text()
    draw(run_of_3, "loss", tmp_path / "a.pdf")
    assert b"/Type3" not in (tmp_path / "a.pdf").read_bytes()
    assert STYLE["pdf.fonttype"] == 42
    assert STYLE["savefig.dpi"] == 300


def test_a_talk_has_larger_print(run_of_3: Run, tmp_path: Path) -> None:
    assert STYLES["talk"]["font.size"] > STYLES["paper"]["font.size"]
    draw(run_of_3, "loss", tmp_path / "a.svg", style="talk")
    assert "12px" in (tmp_path / "a.svg").read_text()
    with pytest.raises(ClipsweepError, match="no style 'poster'; known: paper, talk"):
        draw(run_of_3, "loss", tmp_path / "a.png", style="poster")


def test_the_numbers_of_a_picture_come_as_csv_with_their_cell(run_of_3: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    done = CliRunner().invoke(app, ["plot", str(run_of_3.path), "loss", "--data", str(file)])
    assert done.exit_code == 0
    table = pd.read_csv(file)
    curve = table[(table["cell_id"] == "cell-2") & (table["quantity"] == "valid_loss")]
    assert list(curve["step"]) == [0, 10, 20, 30, 40]
    assert set(curve["threshold"]) == {0.25}
    assert set(curve["seeds"]) == {2}
    assert (curve["low"] < curve["mean"]).all()
    missing = CliRunner().invoke(app, ["plot", str(run_of_3.path), "loss", "--data", str(tmp_path / "no" / "a.csv")])
    assert "cannot be written: No such file or directory" in str(missing.exception)


@pytest.mark.parametrize("kind", ["smoothness", "frontier"])
def test_every_point_is_a_row(run_of_12: Run, tmp_path: Path, kind: str) -> None:
    drawn = [row for row in draw(run_of_12, kind, tmp_path / "a.png") if row.get("drawn", "cell") == "cell"]
    assert len(drawn) == sum(len(dots) for dots in _dots(run_of_12, kind))
    assert len({row["cell_id"] for row in drawn}) == 12


def _dots(run: Run, kind: str) -> list[Any]:
    figure = PLOTS[kind](run, select(run, []))
    scatters = [dots for axis in figure.axes for dots in axis.collections if isinstance(dots, PathCollection)]
    return [np.asarray(dots.get_offsets()) for dots in scatters]


def test_smoothness_says_what_dots_and_r_are(run_of_12: Run) -> None:
    figure = PLOTS["smoothness"](run_of_12, select(run_of_12, []))
    note = " ".join(figure.legends[0].get_title().get_text().split())
    assert note.startswith("each dot: one snapshot of one seed; r: Pearson r of logs, of smoothness")


def test_a_panel_above_an_empty_place_keeps_its_numbers() -> None:
    figure, axes = panels(5, width=3, height=2, columns=3, sharex=True)
    for axis in axes:
        axis.plot([1, 2], [1, 2])
    figure.draw_without_rendering()
    shown = [any(label.get_visible() and label.get_text() for label in axis.get_xticklabels()) for axis in axes]
    assert shown == [False, False, True, True, True]


@pytest.mark.parametrize("kind", ["smoothness", "fit", "loss", "frontier"])
def test_the_legend_below_covers_no_label(run_of_12: Run, kind: str) -> None:
    with mpl.rc_context(STYLE):
        figure = PLOTS[kind](run_of_12, select(run_of_12, []))
        figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    labels = [axis.xaxis.label for axis in figure.axes] + [text for text in figure.texts if text.get_text()]
    assert any(label.get_text() for label in labels)
    assert not any(label.get_text() and label.get_window_extent().overlaps(legend) for label in labels)


@pytest.mark.parametrize(
    ("kind", "width", "style"),
    [("smoothness", None, "paper"), ("smoothness", 6.5, "paper"), ("loss", 6.5, "talk"), ("frontier", 5.0, "paper")],
)
def test_sixty_cells_are_folded_so_that_titles_are_apart_and_the_legend_is_whole(
    run_of_60: Run, kind: str, width: float | None, style: str
) -> None:
    with mpl.rc_context(STYLES[style]):
        asked = ASKED_WIDTH.set(width)
        try:
            figure = PLOTS[kind](run_of_60, select(run_of_60, ()))
        finally:
            ASKED_WIDTH.reset(asked)
        larger = math.sqrt(mpl.rcParams["font.size"] / STYLES["paper"]["font.size"])
        figure.set_size_inches(width or figure.get_figwidth() * larger, figure.get_figheight() * larger)
        figure.set_dpi(40)
        FigureCanvasAgg(figure).draw()
    axes = [axis for axis in figure.axes if axis.get_title()]
    assert len({(axis.get_title(), axis.get_xlabel()) for axis in axes}) >= (60 if kind == "smoothness" else 10)
    assert "not shown" not in figure.get_suptitle()
    titles = [axis.title.get_window_extent() for axis in axes]
    for at, (one, box) in enumerate(zip(axes, titles, strict=True)):
        for other, beside in zip(axes[at + 1 :], titles[at + 1 :], strict=True):
            if one.get_subplotspec().rowspan == other.get_subplotspec().rowspan:
                assert box.x1 <= beside.x0 or beside.x1 <= box.x0, (one.get_title(), other.get_title())
    for legend in figure.legends:
        whole, part = figure.bbox, legend.get_window_extent()
        assert whole.x0 <= part.x0
        assert part.x1 <= whole.x1 + 1
        assert whole.y0 <= part.y0 + 1
        assert part.y1 <= whole.y1
