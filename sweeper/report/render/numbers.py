"""Numbers as text: values with their intervals, shares, and what of both a difference is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from estimators.fits.intervals import Interval

__all__ = [
    "UNCLIPPED",
    "boundary_text",
    "bounds_text",
    "bracket_text",
    "clipped_text",
    "correlation_text",
    "ends_text",
    "interval_text",
    "json_number",
    "number_text",
    "percent_text",
]

_ROUNDING = 1e-9
"""Relative: differences of equal losses may differ by that much."""

UNCLIPPED = "off"
"""What stands in the place of a share of clipped steps where the rule has no threshold."""


def number_text(value: float | None, *, digits: int = 3) -> str:
    """A number by itself.

    Args:
        value: The number; None and NaN for none.
        digits: Significant digits.

    Returns:
        The number, ``∞``, or a dash.

    Example:
        >>> number_text(0.031623), number_text(float("inf")), number_text(None)
        ('0.0316', '∞', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}g}" if math.isfinite(value) else "∞" if value > 0 else "-∞"


def json_number(value: float) -> float | None:
    """A number as JSON can hold it, which has no NaN and no infinity.

    Args:
        value: The number.

    Returns:
        The number; None where it is not finite.

    Example:
        >>> json_number(0.5), json_number(float("inf"))
        (0.5, None)
    """
    return value if math.isfinite(value) else None


def percent_text(fraction: float) -> str:
    """A share in percent, whole ones; 0 and 100 are shown only where they are exact.

    Args:
        fraction: The share; NaN for none.

    Returns:
        The share, or a dash.

    Example:
        >>> percent_text(0.523), percent_text(0.001), percent_text(0.999), percent_text(1.0)
        ('52 %', '< 1 %', '> 99 %', '100 %')
    """
    if math.isnan(fraction):
        return "–"
    if 0 < fraction < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= fraction < 1 else f"{100 * fraction:.0f} %"


def clipped_text(fraction: float, *, has_threshold: bool) -> str:
    """The share of clipped steps, in the same words by every command.

    Args:
        fraction: The share; NaN where nothing was trained.
        has_threshold: Whether the rule clips at all.

    Returns:
        :data:`UNCLIPPED` without a threshold, ``never`` for one that never fired, else the share.

    Example:
        >>> clipped_text(0.0, has_threshold=True), clipped_text(0.2, has_threshold=True)
        ('never', '20 %')
    """
    if not has_threshold:
        return UNCLIPPED
    return "never" if fraction == 0 else percent_text(fraction)


def interval_text(interval: Interval) -> str:
    """A mean with its interval: ``±`` where that is symmetric, else the ends in brackets.

    Args:
        interval: The interval.

    Returns:
        Value and half-width with the same decimals, two significant digits of the half-width; the value alone where
        there is no interval.

    Example:
        >>> interval_text(Interval(mean=5.09, low=5.064, high=5.116, count=2))
        '5.090 ± 0.026'
        >>> interval_text(Interval(mean=0.82, low=0.1, high=0.98, count=2))
        '0.82 [0.10, 0.98]'
        >>> interval_text(Interval(mean=4.6e-7, low=4.5e-7, high=4.7e-7, count=3))
        '(4.60 ± 0.10)e-07'
    """
    if interval.count == 0 or math.isnan(interval.mean):
        return "–"
    if not _has_width(interval):
        return f"{interval.mean:.4g}"
    return bounds_text(interval.mean, interval.low, interval.high)


def bounds_text(value: float, low: float, high: float) -> str:
    """A value between two ends, all with the same decimals, ``±`` where both are as far from it in these.

    Args:
        value: The value.
        low: Lower end.
        high: Upper end, above it.

    Returns:
        As :func:`interval_text`.

    Example:
        >>> bounds_text(5.09, 5.06414, 5.11614), bounds_text(10.0, 0.033, 3048.9)
        ('5.090 ± 0.026', '10 [0.033, 3000]')
    """
    return _between(value, low, high)


def bracket_text(interval: Interval) -> str:
    """A mean with the ends of its interval in brackets, symmetric or not.

    Args:
        interval: The interval.

    Returns:
        As :func:`interval_text`, without ``±``.

    Example:
        >>> bracket_text(Interval(mean=0.5, low=0.1, high=0.9, count=3))
        '0.50 [0.10, 0.90]'
    """
    if not _has_width(interval):
        return f"{interval.mean:.4g}"
    return _between(interval.mean, interval.low, interval.high, never_symmetric=True)


FEW_SEEDS = 4
"""Seeds below which correlations are shown one by one: an interval of two or three says less than they do."""


def correlation_text(interval: Interval, values: Sequence[float]) -> str:
    """A correlation over the seeds: below four of them the values themselves.

    Args:
        interval: The interval over the seeds.
        values: One correlation per seed.

    Returns:
        Values, or the mean with its interval.

    Example:
        >>> correlation_text(Interval(mean=0.8, low=-0.5, high=0.99, count=2), [0.9, 0.65])
        '0.90, 0.65'
        >>> correlation_text(Interval(mean=0.8, low=0.5, high=0.9, count=4), [0.7, 0.8, 0.8, 0.9])
        '0.80 [0.50, 0.90]'
    """
    values = [value for value in values if math.isfinite(value)]
    if not 0 < len(values) < FEW_SEEDS:
        return interval_text(interval)
    return ", ".join(f"{value:.2f}" for value in values)


def boundary_text(interval: Interval) -> str:
    """A quantity that cannot be below 0: an upper end alone where the interval reaches that.

    Args:
        interval: The interval.

    Returns:
        As :func:`interval_text`, or ``≤`` and the upper end.

    Example:
        >>> boundary_text(Interval(mean=0.1, low=0.0, high=0.53, count=3))
        '≤ 0.53'
        >>> boundary_text(Interval(mean=2.0, low=1.0, high=4.0, count=3))
        '2.0 [1.0, 4.0]'
    """
    if interval.low == 0 and math.isfinite(interval.high):
        return f"≤ {_short(interval.high)}"
    return interval_text(interval)


def ends_text(low: float, high: float) -> tuple[str, str]:
    """How far an interval reaches to either side of 0, with the digits that its width is worth.

    Args:
        low: Lower end, not above 0.
        high: Upper end, not below 0; different from the lower one.

    Returns:
        Both distances, with the same decimals unless one would be 0.

    Example:
        >>> ends_text(-0.5984, 0.632), ends_text(-4983.2, 5183.2), ends_text(-0.0031, 3.9)
        (('0.60', '0.63'), ('4983', '5183'), ('0.003', '3.9'))
    """
    half = (high - low) / 2
    decimals = max(0, 1 - math.floor(math.log10(half)))

    def text(value: float) -> str:
        is_plain = round(value, decimals) > 0 and decimals <= 6 and value < 1e5
        return f"{value:.{decimals}f}" if is_plain else f"{value:.1g}" if value < half / 10 else f"{value:.2g}"

    return text(abs(low)), text(abs(high))


def _short(value: float) -> str:
    """Two significant digits, without an exponent below a million."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:.0f}" if 100 <= rounded < 1e6 else f"{value:.2g}"


def _has_width(interval: Interval) -> bool:
    half = (interval.high - interval.low) / 2
    return math.isfinite(half) and half > _ROUNDING * abs(interval.mean)


_SAME = 0.05
"""Of half the width, by which the ends may differ in their distance from the value and still be shown as ``±``."""


def _between(value: float, low: float, high: float, *, never_symmetric: bool = False) -> str:
    half = (high - low) / 2
    is_symmetric = not never_symmetric and abs((high - value) - (value - low)) <= _SAME * half
    # Two digits of the nearer end's distance, where both ends are shown.
    nearer = half if is_symmetric else min(high - value, value - low) or half
    power = 0 if 1e-3 <= max(abs(value), half) < 1e5 else math.floor(math.log10(max(abs(value), half)))
    decimals = min(6, max(0, 1 - math.floor(math.log10(nearer / 10.0**power))))
    if high > 1000 * nearer or 0 < low / 10.0**power < 0.5 * 10**-decimals:
        # Ends that are orders of magnitude apart have no decimals in common.
        return f"{number_text(value)} [{_short(low)}, {_short(high)}]"
    # Not -0.00, where a value rounds to nothing.
    middle, least, most, width = (
        f"{round(number / 10.0**power, decimals) + 0.0:.{decimals}f}" for number in (value, low, high, half)
    )
    text = f"{middle} ± {width}" if is_symmetric else f"{middle} [{least}, {most}]"
    return text if power == 0 else f"({text})e{power:+03d}"
