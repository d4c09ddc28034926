"""Panels of one figure, and logarithmic axes whose labels do not overlap."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = [
    "ASKED_WIDTH",
    "MAX_PANELS",
    "UNORDERED",
    "Picture",
    "explain",
    "in_order",
    "log_axes",
    "log_labels",
    "panels",
]

MAX_PANELS = 60
"""The most panels in one figure."""

ASKED_WIDTH: ContextVar[float | None] = ContextVar("asked_width", default=None)
"""Inches that the figure is to be wide: its panels are folded into as many columns as can be read there."""

_MOST_COLUMNS = 6
_LEAST_WIDTH = 1.7
"""Inches that a panel needs for the numbers on its axes, in print of 8 points."""

_CHARACTERS = 11.5
"""Characters of a title for an inch of a panel, in print of 8 points."""

UNORDERED = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Okabe and Ito's colours, for values that have no order; they differ for every kind of colour vision."""

_PRINT = 8.0
"""Points of the print that sizes of panels are given for."""

_FEW_DECADES = 1.9
"""Below this, powers of ten alone could leave an axis without labels, so 2 and 5 are labelled as well."""


class Picture(Figure):
    """A figure that knows the numbers drawn in it.

    Attributes:
        drawn: A row per drawn point or sample of a curve.
        columns: Panels per row.
        characters: How many characters of a title a panel has room for.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.drawn: list[dict[str, Any]] = []
        self.columns = 1
        self.characters = 80


def in_order(values: Sequence[Any]) -> dict[Any, Any]:
    """Colours of numbers, dark to light.

    Args:
        values: The numbers, in their order.

    Returns:
        Number to colour, by rank, so that neighbours on a geometric grid are as far apart as any.
    """
    # The yellow end is too light for a line on white.
    places = np.linspace(0, 0.88, len(values))
    return {value: mpl.colormaps["viridis"](at) for value, at in zip(values, places, strict=True)}


def panels(
    count: int, *, width: float, height: float, columns: int | None = None, abreast: int = 1, **options: Any
) -> tuple[Picture, list[Axes]]:
    """A figure of equal panels on a grid, row by row.

    Args:
        count: How many panels, at least one.
        width: Width of a panel, in inches.
        height: Height of a panel, in inches.
        columns: Panels per row; by default about as many as there are rows, up to six. Fewer where
            :data:`ASKED_WIDTH` has no room for them.
        abreast: How many panels belong beside each other: the panels per row are a multiple of it.
        options: Options of matplotlib's ``subplots``, for example ``sharex=True``.

    Returns:
        The figure, without any window system, and the axes of the panels; the rest of the grid is blank.

    Example:
        >>> figure, axes = panels(5, width=3, height=2)
        >>> len(axes), len(figure.axes), figure.get_size_inches().tolist()
        (5, 6, [9.0, 4.0])
        >>> panels(60, width=3, height=2)[0].columns
        6
    """
    columns = min(_MOST_COLUMNS, math.ceil(math.sqrt(count))) if columns is None else columns
    # Larger print needs larger panels, though not in proportion: `draw` makes them so.
    larger = math.sqrt(mpl.rcParams["font.size"] / _PRINT)
    if (asked := ASKED_WIDTH.get()) is not None:
        columns = min(columns, int(asked / (_LEAST_WIDTH * larger)))
    columns = max(abreast, columns // abreast * abreast)
    rows = math.ceil(count / columns)
    figure = Picture(figsize=(asked or columns * width, rows * height), layout="constrained")
    figure.columns = columns
    each = width * larger if asked is None else asked / columns
    figure.characters = int(each * _CHARACTERS * _PRINT / mpl.rcParams["font.size"])
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))
    for unused in axes[count:]:
        unused.set_axis_off()
    if count > columns:
        # Shared axes have their numbers in the last row only, where these panels have nothing below them.
        for above in axes[count - columns : (rows - 1) * columns]:
            above.tick_params(axis="x", which="both", labelbottom=True)
    return figure, axes[:count]


def colour_bar(figure: Figure, marks: Any, axes: Sequence[Axes], label: str, *, shrink: float = 0.85) -> None:
    """What the colours of all panels mean, beside them: as thick beside many rows as beside one.

    Args:
        figure: The figure.
        marks: What has the colours.
        axes: The panels.
        label: What the colours stand for.
        shrink: Its length as a share of the panels'.
    """
    figure.colorbar(
        marks, ax=list(axes), label=label, shrink=shrink, aspect=max(15.0, figure.get_figheight() * shrink / 0.14)
    )


def log_axes(axis: Axes) -> None:
    """Make both axes logarithmic, with labels that suit the data; call it after drawing.

    Args:
        axis: Axes of a panel with positive data.
    """
    axis.set(xscale="log", yscale="log")
    log_labels(axis.xaxis, axis.get_xlim())
    log_labels(axis.yaxis, axis.get_ylim())


def log_labels(one: Axis, limits: tuple[float, float]) -> None:
    """Label a logarithmic axis: powers of ten, or 2 and 5 as well where there are few of them.

    Args:
        one: The x or the y axis of a panel.
        limits: Where it begins and ends.
    """
    low, high = limits
    if not 0 < low < high or math.log10(high / low) > _FEW_DECADES:
        one.set_minor_formatter(NullFormatter())
        return
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    one.set_major_formatter(plain)
    one.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    one.set_minor_formatter(plain)


def explain(figure: Figure, notes: Sequence[str] = (), handles: Sequence[Any] = ()) -> None:
    """One legend below all panels, with sentences on how to read the figure; the figure grows by its height.

    Args:
        figure: The figure.
        notes: The sentences, one per line.
        handles: Artists whose labels are shown, in as many columns as fit.
    """
    if not notes and not handles:
        return
    characters = max((len(str(handle.get_label())) for handle in handles), default=0)
    size = mpl.rcParams["font.size"] / 72
    each = (0.6 * characters + 4) * size
    ncols = max(1, min(len(handles), int(figure.get_figwidth() / each))) if handles else 1
    lines = [textwrap.fill(note, max(40, int(figure.get_figwidth() / (0.52 * size)))) for note in notes]
    legend = figure.legend(
        handles=list(handles), loc="outside lower center", ncols=ncols, title="\n".join(lines), alignment="left"
    )
    legend.get_title().set_fontsize(mpl.rcParams["font.size"])
    rows = sum(line.count("\n") + 1 for line in lines) + math.ceil(len(handles) / ncols)
    figure.set_figheight(figure.get_figheight() + 1.5 * size * rows)
