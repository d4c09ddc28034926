"""Logarithmic axes whose labels do not run into one another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["log_axes"]

_FEW_DECADES = 1.9
"""Below it, powers of ten alone would leave an axis without labels: 2 and 5 are labelled as well."""


def log_axes(axis: Axes) -> None:
    """Make both axes logarithmic, with labels that suit what is drawn; to be called after drawing.

    Args:
        axis: Of a panel, with positive data.
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
