"""The picture of the losses: every cell can be found in it, and no two look alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex

from sweeper.errors import ClipsweepError
from sweeper.report.plots.axes import MAX_PANELS
from sweeper.report.plots.cells import tell_apart
from sweeper.report.plots.draw import STYLE
from sweeper.report.plots.loss import MAX_CURVES, loss
from sweeper.report.select import select
from sweeper.tables.run import Run

RATE, NORM, LAYER = "update_rule.learning_rate", "update_rule.clip_norm", "update_rule.clip_layer_norm"


def drawn(run: Run, *where: str) -> Any:
    return loss(run, select(run, where))


def panels_of(figure: Any, quantity: str = "training loss") -> list[Any]:
    return [axis for axis in figure.axes if axis.get_ylabel() == quantity]


def curves_of(axis: Any) -> list[Any]:
    return [line for line in axis.lines if line.get_marker() == "None"]


def look(line: Any) -> tuple[str, str]:
    return to_hex(line.get_color()), line.get_linestyle()


def legend_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def notes_of(figure: Any) -> str:
    return " ".join(figure.legends[0].get_title().get_text().split())


@pytest.mark.parametrize(("name", "cells"), [("run_of_3", 3), ("run_of_12", 12), ("run_of_60", 60)])
def test_every_cell_has_a_curve_and_a_look_of_its_own(name: str, cells: int, request: pytest.FixtureRequest) -> None:
    figure = drawn(request.getfixturevalue(name))
    for quantity in ("training loss", "validation loss"):
        axes = panels_of(figure, quantity)
        looks = [(axis.get_title(), *look(line)) for axis in axes for line in curves_of(axis)]
        assert len(looks) == len(set(looks)) == cells
        assert max(len(curves_of(axis)) for axis in axes) <= MAX_CURVES
        labels = [line.get_label() for axis in axes for line in curves_of(axis)]
        assert len(set(labels)) == cells


def test_a_few_cells_share_a_panel_and_have_a_legend_entry_each(run_of_3: Run) -> None:
    figure = drawn(run_of_3)
    assert len(panels_of(figure)) == 1
    assert legend_of(figure) == [
        "learning_rate=1 no clipping",
        "learning_rate=10 no clipping",
        "learning_rate=10 clip_norm=0.25",
        "solid: no clipping",
        "dashed: clip_norm",
        "a seed diverged",
    ]


def test_many_cells_have_a_panel_for_each_threshold(run_of_12: Run) -> None:
    figure = drawn(run_of_12)
    assert [axis.get_title() for axis in panels_of(figure)] == ["no clipping", "clip_norm=0.25", "clip_norm=1"]
    assert len({axis.get_ylim() for axis in figure.axes}) == 1, "panels can be compared"
    assert [label for label in legend_of(figure) if "learning_rate" in label] == [
        "learning_rate=0.3",
        "learning_rate=1",
        "learning_rate=3",
        "learning_rate=10",
    ]


def test_colours_keep_the_order_of_the_learning_rate(run_of_12: Run) -> None:
    for axis in panels_of(drawn(run_of_12)):
        red_green_blue = [tuple(line.get_color())[:3] for line in curves_of(axis)]
        brightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in red_green_blue]
        assert brightness == sorted(brightness)
        assert len(set(brightness)) == 4


def test_a_line_style_means_the_same_in_every_run(run_of_60: Run, run_of: Callable[..., Run]) -> None:
    for axis in panels_of(drawn(run_of_60)):
        (style,) = {line.get_linestyle() for line in curves_of(axis)}
        title = axis.get_title()
        assert style == ("-" if "no clipping" in title else "--" if "clip_norm=" in title else ":")
    only = drawn(run_of([{RATE: rate, LAYER: 0.1} for rate in (0.1, 1.0)]))
    assert {line.get_linestyle() for line in curves_of(panels_of(only)[0])} == {":"}
    assert "dotted: other rules" in legend_of(only)


def test_without_learning_rates_colours_follow_another_number(run_of: Callable[..., Run]) -> None:
    figure = drawn(run_of([{RATE: 1.0, NORM: norm} for norm in (None, 0.1, 1.0)]))
    assert next(to_hex(line.get_color()) for line in curves_of(panels_of(figure)[0])) == "#000000"
    assert len(panels_of(figure)) == 1


def test_names_without_numbers_have_a_colour_each(run_of: Callable[..., Run]) -> None:
    figure = drawn(run_of([{RATE: 1.0, "problem.corpus": corpus} for corpus in "abc"]))
    assert len({look(line) for line in curves_of(panels_of(figure)[0])}) == 3
    assert legend_of(figure)[:3] == ["corpus=a", "corpus=b", "corpus=c"]


def test_more_rates_than_one_panel_can_show_continue_in_the_next(run_of: Callable[..., Run]) -> None:
    figure = drawn(run_of([{RATE: 1.0 + number} for number in range(11)]))
    assert [axis.get_title() for axis in panels_of(figure)] == ["part 1 of 2", "part 2 of 2"]
    assert [len(curves_of(axis)) for axis in panels_of(figure)] == [8, 3]


def test_panels_that_are_left_out_are_counted(run_of: Callable[..., Run]) -> None:
    cells = [{"problem.corpus": f"c{at}", RATE: rate} for at in range(MAX_PANELS // 2 + 2) for rate in (0.1, 1.0)]
    figure = drawn(run_of(cells, seeds=1))
    assert figure.get_suptitle() == "the first 30 of 32 panels: choose with --where"


def test_bands_and_a_cut_axis_are_explained(run_of_12: Run, run_of: Callable[..., Run]) -> None:
    assert "band: lowest to highest of 2 seeds" in notes_of(drawn(run_of_12))
    figure = drawn(run_of_12)
    assert f"axis cut at {figure.axes[0].get_ylim()[1]:.3g}" in notes_of(figure)
    alone = drawn(run_of([{RATE: 0.1}], seeds=1))
    assert "band" not in notes_of(alone)
    assert "cut" not in notes_of(alone)


@pytest.mark.parametrize("name", ["run_of_3", "run_of_12", "run_of_60"])
def test_the_legend_is_outside_and_takes_less_than_a_third(name: str, request: pytest.FixtureRequest) -> None:
    figure = drawn(request.getfixturevalue(name))
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert all(legend.y1 <= axis.get_window_extent().y0 for axis in panels_of(figure))
    assert legend.height < figure.bbox.height / 3
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_neighbouring_titles_do_not_overlap(run_of_60: Run) -> None:
    with mpl.rc_context(STYLE):
        figure = drawn(run_of_60)
        figure.draw_without_rendering()
    titles = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
    for at, one in enumerate(titles):
        assert not any(one.overlaps(other) for other in titles[at + 1 :])


def test_trials_without_losses_are_an_error(run_of_3: Run) -> None:
    with pytest.raises(ClipsweepError, match="none of the chosen trials has a loss yet"):
        loss(run_of_3, select(run_of_3, []).assign(trial_id="another"))


def test_labels_stay_different_however_alike_the_names_are() -> None:
    middle = "x" * 200
    names = [f"begin{middle}{at}{middle}end" for at in range(3)]
    labels = tell_apart([{"corpus": name, "depth": 2} for name in names])
    assert len(set(labels)) == 3
    assert not any("depth" in label for label in labels)
    twins = tell_apart([{"corpus": "a"}, {"corpus": "a"}])
    assert twins == ["corpus=a (1)", "corpus=a (2)"]


ANALYTIC = """
problem: {use: analytic, function: {use: quadratic, eigenvalues: [1]}, start: 20}
update_rule: {learning_rate: 0.5}
train: {steps: 100, log_every: LOG}
sweep: {grid: {update_rule.learning_rate: [0.5, 1.5], update_rule.clip_norm: [null, 0.1]}}
"""


@pytest.mark.parametrize(("log_every", "marker"), [("null", ["o", "s"]), ("1", ["None", "None"])])
def test_what_lies_between_two_logged_losses_is_not_drawn(
    log_every: str, marker: list[str], inline_run: Callable[..., Any]
) -> None:
    run = Run(inline_run(ANALYTIC.replace("LOG", log_every))().run_dir.path)
    figure = drawn(run)
    lines = [line for axis in panels_of(figure) for line in axis.lines]
    assert sorted({line.get_marker() for line in lines}) == sorted(set(marker))
    assert ("train.log_every logs those between" in notes_of(figure)) == (log_every == "null")
    ends = {line.get_label(): line.get_ydata()[-1] for line in lines}
    expected = run.trials["final_train_loss"].to_numpy(float)
    assert sorted(ends.values()) == pytest.approx(sorted(expected), rel=1e-6)
    assert {axis.get_yscale() for axis in panels_of(figure)} == {"log"}, "from 200 to 1e-9 and less"
    assert not [axis for axis in figure.axes if axis.axison and not axis.lines], "no empty frames"
