"""Which of the measured ratios stand clear of rounding, and which is the largest that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FLAGGED_SNR", "TRUSTED_SNR", "Judgement", "Trust", "judge", "larger_floor", "raise_floors"]

TRUSTED_SNR = 10.0
"""At ten times its noise floor or more, rounding changes a ratio by at most a tenth."""

FLAGGED_SNR = 3.0
"""Below three times its noise floor a ratio may be nothing but rounding, and is not a measurement."""

Trust = Literal["trusted", "flagged", "noise", "no step", "overflow", "unaudited"]
"""What a row says about its value.

``trusted``: at least ten times its floor. ``flagged``: between three and ten times, so good to a third at worst.
``noise``: no ratio reaches three times its floor; the value is null. ``no step``: x_{k+1} equals x_k, or is so close
that points between them round to x_k; null. ``overflow``: a gradient is not finite; NaN or infinite. ``unaudited``: the
gradient's error is not known.
"""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The largest ratio that can be trusted.

    Attributes:
        value: The ratio; None for ``noise`` and ``no step``, NaN or infinite for ``overflow``.
        index: Its index among the ratios; None if there is no value.
        trust: The verdict in one word.
        noise_floor: What rounding alone could give at that ratio; for ``noise``, at the one that stands out most.
        snr: Ratio over floor at the same place; infinite over a zero floor.
        num_trusted: How many of the ratios reach ten times their floor.
    """

    value: float | None
    index: int | None
    trust: Trust
    noise_floor: float | None
    snr: float | None
    num_trusted: int


def judge(ratios: Sequence[float | None], floors: Sequence[float | None] | None) -> Judgement:
    """The maximum over the trusted ratios; over the flagged ones only where none is trusted.

    A maximum over all of them would favour noise: the floor is highest where the step is shortest. Where flagged ratios
    are all there is, the largest of them is returned and called flagged; a trusted one is never displaced by a larger
    flagged one.

    Args:
        ratios: One ratio per fraction; None where the rounded step is zero.
        floors: The noise floor of each; None where the gradient's error is not known.

    Returns:
        The judgement.

    Example:
        The first ratio is the largest, but only the second stands clear of its floor:

        >>> judge([8.0, 5.0], [2.0, 0.1]).value, judge([8.0, 5.0], [2.0, 0.1]).trust
        (5.0, 'trusted')
        >>> judge([8.0, 5.0], [2.0, 2.0]).trust, judge([8.0, 5.0], [9.0, 9.0]).value
        ('flagged', None)
    """
    present = [index for index, ratio in enumerate(ratios) if ratio is not None]
    if not present:
        return Judgement(value=None, index=None, trust="no step", noise_floor=None, snr=None, num_trusted=0)
    values = {index: float(ratios[index]) for index in present}  # type: ignore[arg-type]
    broken = next((index for index, value in values.items() if not math.isfinite(value)), None)
    if broken is not None:
        # Not left out of the maximum, which would hide that f overflows along the way.
        return Judgement(
            value=values[broken], index=broken, trust="overflow", noise_floor=None, snr=None, num_trusted=0
        )
    if floors is None:
        index = max(present, key=values.__getitem__)
        return Judgement(value=values[index], index=index, trust="unaudited", noise_floor=None, snr=None, num_trusted=0)
    floor_of = {index: floors[index] or 0.0 for index in present}
    snrs = {index: _ratio(values[index], floor_of[index]) for index in present}
    trusted = [index for index in present if snrs[index] >= TRUSTED_SNR]
    flagged = [index for index in present if snrs[index] >= FLAGGED_SNR]
    chosen = trusted or flagged
    if not chosen:
        clearest = max(present, key=snrs.__getitem__)
        return Judgement(
            value=None,
            index=None,
            trust="noise",
            noise_floor=floor_of[clearest],
            snr=snrs[clearest],
            num_trusted=0,
        )
    index = max(chosen, key=values.__getitem__)
    return Judgement(
        value=values[index],
        index=index,
        trust="trusted" if trusted else "flagged",
        noise_floor=floor_of[index],
        snr=snrs[index],
        num_trusted=len(trusted),
    )


def raise_floors(
    ratios: Sequence[float | None], floors: Sequence[float | None], floor_at: Callable[[int], float | None]
) -> dict[int, float]:
    """Audit where the maximum is, until the maximum that is left has been audited.

    The error of a gradient differs from point to point: by a factor of hundreds where rounding moves a ReLU across its
    kink. A ratio that the floor found at its own point puts below what can be trusted gives way to the next one, which
    is then audited in turn.

    Args:
        ratios: As for :func:`judge`.
        floors: As for :func:`judge`.
        floor_at: The floor of the ratio of an index by the gradient's error at that ratio's own point; None if it
            cannot be known.

    Returns:
        The floors that were found, by index: usually one. Nothing where no ratio stands clear of its first floor.

    Example:
        The largest ratio has a floor of 4 at its own point, and gives way to the second:

        >>> raise_floors([8.0, 5.0], [0.1, 0.1], lambda index: [4.0, 0.2][index])
        {0: 4.0, 1: 0.2}
    """
    raised = list(floors)
    found: dict[int, float] = {}
    asked: set[int] = set()
    while (judgement := judge(ratios, raised)).trust in ("trusted", "flagged"):
        assert judgement.index is not None
        if judgement.index in asked:
            break
        asked.add(judgement.index)
        there = floor_at(judgement.index)
        if there is not None:
            found[judgement.index] = there
            raised[judgement.index] = larger_floor(raised[judgement.index], there)
    return found


def larger_floor(first: float | None, second: float) -> float:
    """The larger of two floors.

    Args:
        first: One; None for none.
        second: The other.

    Returns:
        The larger one; NaN, of which nothing is trusted, if either is.

    Example:
        >>> larger_floor(1.0, 2.0), larger_floor(None, 2.0), larger_floor(1.0, math.nan)
        (2.0, 2.0, nan)
    """
    first = first or 0.0
    return first if first >= second or math.isnan(first) else second


def _ratio(value: float, floor: float) -> float:
    """value / floor; infinite over a zero floor, NaN where the floor is: then nothing is trusted."""
    if floor == 0:
        return math.inf
    return value / floor
