"""The frontier's picture: which cells share a panel, where they are in it, and how it says what is stable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from sweeper.report.plots.axes import MAX_PANELS
from sweeper.report.plots.cells import THRESHOLDS
from sweeper.report.plots.frontier import frontier
from sweeper.report.select import select
from sweeper.spec.sections.update_rule import TRANSFORMS
from sweeper.tables.run import Run

RATE, NORM = "update_rule.learning_rate", "update_rule.clip_norm"


def drawn(run: Run, *where: str) -> Any:
    return frontier(run, select(run, where))


def panels_of(figure: Any) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_xlabel().replace("\n", " ")]


def points_of(axis: Any) -> set[tuple[float, float]]:
    scatters = [dots for dots in axis.collections if isinstance(dots, PathCollection)]
    return {tuple(point) for dots in scatters for point in np.asarray(dots.get_offsets()).tolist()}


def squares_of(axis: Any) -> list[list[float]]:
    """The unstable points, which are drawn second."""
    return np.asarray([dots for dots in axis.collections if isinstance(dots, PathCollection)][1].get_offsets()).tolist()


def ticks_of(axis: Any) -> dict[str, float]:
    labels = [label.get_text().replace("\n", " ") for label in axis.get_xticklabels()]
    return dict(zip(labels, axis.get_xticks(), strict=True))


def test_every_transform_of_the_spec_has_a_name_on_an_axis() -> None:
    assert set(THRESHOLDS) == set(TRANSFORMS)


def test_every_context_optimiser_and_rule_has_a_panel_of_its_own(run_of_60: Run) -> None:
    axes = panels_of(drawn(run_of_60))
    titles = [(axis.get_title(), axis.get_xlabel().replace("\n", " ")) for axis in axes]
    assert len(titles) == len(set(titles)) == 10
    assert [label for title, label in titles if "split_a" in title and "sgd" in title] == [
        "threshold on the gradient norm",
        "clip_layer_norm threshold",
        "normalize offset",
        "clip_adaptive threshold",
    ]
    assert [label for title, label in titles if "split_b" in title and "adamw" in title] == [
        "threshold on the gradient norm"
    ]
    assert sum(len(points_of(axis)) for axis in axes) == 60, "no two cells are on top of each other"


def test_other_rules_are_not_called_no_clipping(run_of_60: Run) -> None:
    for axis in panels_of(drawn(run_of_60)):
        is_by_norm = axis.get_xlabel().replace("\n", " ") == "threshold on the gradient norm"
        assert ("no clipping" in ticks_of(axis)) == is_by_norm
        assert any(line.get_gid() == "axis break" for line in axis.lines) == is_by_norm
    layer = panels_of(drawn(run_of_60))[1]
    assert points_of(layer) == {(0.1, 0.3), (0.1, 1.0), (0.1, 3.0), (0.1, 10.0)}


def test_ticks_are_at_the_thresholds_that_were_tried_and_no_clipping_is_beyond_a_break(run_of_12: Run) -> None:
    (axis,) = panels_of(drawn(run_of_12))
    ticks = ticks_of(axis)
    assert list(ticks) == ["0.25", "1", "no clipping"]
    assert (ticks["0.25"], ticks["1"]) == (0.25, 1.0)
    (broken,) = (line for line in axis.lines if line.get_gid() == "axis break")
    assert all(1.0 < x < ticks["no clipping"] for x in broken.get_xdata())


def test_a_panel_without_unclipped_cells_has_no_break(run_of_12: Run) -> None:
    figure = drawn(run_of_12, "arm=sgd + clip_norm")
    (axis,) = panels_of(figure)
    assert list(ticks_of(axis)) == ["0.25", "1"]
    assert not any(line.get_gid() == "axis break" for line in axis.lines)


def test_half_of_the_seeds_make_a_cell_unstable_as_in_the_table(run_of_12: Run) -> None:
    (axis,) = panels_of(drawn(run_of_12))
    right = ticks_of(axis)["no clipping"]
    # At rate 3 one seed of two diverged, at rate 10 both.
    assert sorted(squares_of(axis)) == [[right, 3.0], [right, 10.0]]
    brackets = [line for line in axis.lines if list(line.get_xdata()) == [right, right]]
    assert [list(line.get_ydata()) for line in brackets] == [[1.0, 3.0]]
    legend = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert "unstable: 50 % of the seeds or more" in legend


def test_colours_go_from_light_to_dark_for_every_kind_of_colour_vision(run_of_12: Run) -> None:
    (axis,) = panels_of(drawn(run_of_12))
    dots = next(dots for dots in axis.collections if isinstance(dots, PathCollection))
    grey = dots.get_cmap()(np.linspace(0, 1, 20))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) < 0).all()


def test_a_threshold_that_is_not_swept_is_read_from_the_run(run_of: Callable[..., Run]) -> None:
    run = run_of([{RATE: rate} for rate in (0.1, 1.0)])
    trials = select(run, []).assign(arm="sgd + clip_layer_norm")
    (axis,) = panels_of(frontier(run, trials))
    assert list(ticks_of(axis)) == ["not known"], "an old run without settings does not pass for one without clipping"
    (run.path / "resolved.yaml").write_text("update_rule: {clip_layer_norm: 0.5}\n")
    (axis,) = panels_of(frontier(run, trials))
    assert points_of(axis) == {(0.5, 0.1), (0.5, 1.0)}


def test_panels_that_are_left_out_are_counted(run_of: Callable[..., Run]) -> None:
    cells = [{"problem.depth": depth, RATE: rate} for depth in range(MAX_PANELS + 3) for rate in (0.1, 1.0)]
    figure = drawn(run_of(cells, seeds=1))
    assert figure.get_suptitle() == "the first 60 of 63 panels: choose with --where"
    assert len(panels_of(figure)) == MAX_PANELS


@pytest.mark.parametrize("name", ["run_of_3", "run_of_12", "run_of_60"])
def test_the_legend_is_below_the_panels(name: str, request: pytest.FixtureRequest) -> None:
    figure = drawn(request.getfixturevalue(name))
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert all(legend.y1 <= axis.get_window_extent().y0 for axis in panels_of(figure))
    assert legend.height < figure.bbox.height / 3
