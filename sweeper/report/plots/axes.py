"""Panels of one figure, and logarithmic axes whose labels do not overlap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["log_axes", "panels"]

_FEW_DECADES = 1.9
"""Below this, powers of ten alone could leave an axis without labels, so 2 and 5 are labelled as well."""


def panels(
    count: int, *, width: float, height: float, columns: int | None = None, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels on a grid, row by row.

    Args:
        count: How many panels, at least one.
        width: Width of a panel, in inches.
        height: Height of a panel, in inches.
        columns: Panels per row; by default about as many as there are rows.
        options: Options of matplotlib's ``subplots``, for example ``sharex=True``.

    Returns:
        The figure, without any window system, and the axes of the panels; the rest of the grid is blank.

    Example:
        >>> figure, axes = panels(5, width=3, height=2)
        >>> len(axes), len(figure.axes), figure.get_size_inches().tolist()
        (5, 6, [9.0, 4.0])
    """
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def log_axes(axis: Axes) -> None:
    """Make both axes logarithmic, with labels that suit the data; call it after drawing.

    Args:
        axis: Axes of a panel with positive data.
    """
    axis.set(xscale="log", yscale="log")
    for one, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        if not 0 < low < high or math.log10(high / low) > _FEW_DECADES:
            one.set_minor_formatter(NullFormatter())
            continue
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        one.set_major_formatter(plain)
        one.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        one.set_minor_formatter(plain)
