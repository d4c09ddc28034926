"""How far one can go along a descent direction before a function exceeds its value at the start.

A line search that asks for values alone. What is sought is a zero of the mean slope q(s) = (phi(s) - phi(0)) / s, which
is linear where phi is a parabola; q(0) is the slope at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Crossing", "Found", "find_crossing"]

Found = Literal["trusted", "flagged", "noise", "unfinished", "beyond"]
"""How a search ended.

``trusted``: both ends of the bracket stand clear of rounding, and it is as narrow as was asked for. ``flagged``: it is
wider, but no wider than a third of the value. ``noise``: it is wider still, or there is none, since rounding hides
the sign of what lies within. ``unfinished``: it is wider still, since the evaluations ran out. ``beyond``: phi lies
below phi(0) up to the last point.
"""

_STRIDE = 4.0
"""The largest factor from the first point to the second without a bracket; twice that to the next, and so on, where a
parabola comes back further out, and no more than that where none does."""

_FAR, _AGREE, _MARGIN = 1.5, 0.1, 0.3
"""In a bracket whose ends differ by more than the first, as a factor, a zero counts for as much as its place only if it
lies within the second of where it was expected; otherwise it is kept away from the ends by the third of the width."""

_OFFSET = 0.4
"""How far from the estimate a point is placed, in tolerances: two such points, one on each side, are a bracket."""

_CLEAR = 2.0
"""The same in units of what rounding hides, as far as the slope at the start tells."""

_PROGRESS = 1.5
"""By how much a point narrows the bracket, as a factor of its logarithmic width, where interpolation is going well."""

_WIDE = 1 / 3
"""The widest bracket, as a share of the value, whose value is worth something."""


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where phi first exceeds phi(0).

    Attributes:
        at: The crossing, interpolated within the bracket; None where ``found`` is noise, unfinished or beyond.
        low: The largest s before the crossing at which phi is known to lie below phi(0); 0 if there is none.
        high: The smallest s at which it is known to lie above, or not to be finite; None if there is none.
        found: The verdict.
        floor: What rounding alone can make of phi(s) - phi(0), at the evaluated point that is nearest to the crossing,
            or to the last one where there is none.
        num_evaluations: Of phi, not counting phi(0).
    """

    at: float | None
    low: float
    high: float | None
    found: Found
    floor: float
    num_evaluations: int


def find_crossing(
    change: Callable[[float], tuple[float, float]],
    *,
    descent: float,
    tolerance: float = 0.02,
    max_factor: float = 1e4,
    max_evaluations: int = 8,
) -> Crossing:
    """The smallest s > 0 at which phi(s) > phi(0), from s = 1, by values of phi alone.

    While phi lies below phi(0), s grows to where a parabola through what is known comes back to phi(0), by a factor of
    at least 2 and first of at most 4; while it lies above, s shrinks in the same way. Within the bracket, points are
    placed on either side of the zero of a parabola through q, and in its geometric middle where that gains little. A
    hump of phi that is narrower than the distance of two points may be passed over.

    Args:
        change: s to phi(s) - phi(0), which may be NaN or infinite, and to what rounding alone can make of it.
        descent: -phi'(0), positive.
        tolerance: Relative width of the bracket at which to stop, in (0, 1).
        max_factor: Where to stop if phi has not risen.
        max_evaluations: Of ``change``, at least 1.

    Returns:
        The crossing.

    Raises:
        ValueError: ``descent`` is not positive.

    Example:
        phi = s (s - 3), a parabola, is known after one point; two more enclose its zero:

        >>> found = find_crossing(lambda s: (s * (s - 3), 0.0), descent=3.0)
        >>> round(found.at, 12), found.found, found.num_evaluations
        (3.0, 'trusted', 3)
        >>> find_crossing(lambda s: (-s, 0.0), descent=1.0, max_factor=100).found
        'beyond'
    """
    if not descent > 0:
        raise ValueError(f"phi must fall from the start on, but its descent there is {descent!r}")
    search = _Search(descent, tolerance, max_factor)
    while search.num_evaluations < max_evaluations:
        at = search.following()
        if at is None:
            break
        search.add(at, *change(at))
    return search.outcome()


class _Search:
    """What is known of phi, and where to look next."""

    def __init__(self, descent: float, tolerance: float, max_factor: float) -> None:
        self._descent, self._tolerance, self._max_factor = descent, tolerance, max_factor
        self._slopes = {0.0: -descent}
        self._floors: dict[float, float] = {}
        self._undecided: list[float] = []
        self._low, self._high = 0.0, math.inf
        self._widths: list[float] = []
        self._expected: float | None = None

    @property
    def num_evaluations(self) -> int:
        return len(self._floors)

    @property
    def _stride(self) -> float:
        """The largest factor to the next point without a bracket."""
        return float(_STRIDE * 2 ** (self.num_evaluations - 1))

    def add(self, at: float, change: float, floor: float) -> None:
        """Note a value."""
        self._floors[at] = floor
        if math.isfinite(change):
            self._slopes[at] = change / at
        if not math.isfinite(change) or change > floor:
            self._high = min(self._high, at)
        elif change < -floor:
            self._low = max(self._low, at)
        else:
            self._undecided.append(at)
        if self._low >= self._high:
            # The first crossing lies before the hump just found.
            self._low = max((s for s in self._floors if s < self._high and self._is_below(s)), default=0.0)
        self._widths.append(math.log(self._high / self._low) if self._low else math.inf)

    def _is_below(self, at: float) -> bool:
        return self._slopes.get(at, math.inf) * at < -self._floors[at]

    def following(self) -> float | None:
        """The next point; None where there is nothing more to learn."""
        if not self._floors:
            return 1.0
        if math.isinf(self._high):
            return self._outward()
        if self._low and self._high - self._low <= self._tolerance * self._high:
            return None
        within = self._within()
        return within if self._low < within < self._high and within not in self._floors else None

    def _outward(self) -> float | None:
        last = max(self._floors)
        if last >= self._max_factor:
            return None
        # Where the parabola with the slope at the start and the last value comes back.
        bend = (self._descent + self._slopes[last]) / last
        if not bend > 0:
            self._expected = None
            return min(_STRIDE * last, self._max_factor)
        self._expected = self._descent / bend
        back = self._expected * (1 + self._offset(last))
        return min(max(back, 2 * last), self._stride * last, self._max_factor)

    def _within(self) -> float:
        """A point of the bracket, whose lower end is 0 until phi was seen to fall."""
        low, high = self._low, self._high
        least = low or high / self._stride
        if high not in self._slopes:
            return math.sqrt(least * high)
        is_slow = len(self._widths) > 1 and self._widths[-1] > self._widths[-2] / _PROGRESS
        if low and is_slow and not self._undecided:
            return math.sqrt(low * high)
        root, expected = self._root(), self._expected
        self._expected = root
        offset = self._offset(root)
        if low and high / low > _FAR and not (expected and abs(root / expected - 1) < _AGREE):
            # Of a curve through points so far apart, a zero close to an end is no more than a guess.
            margin = math.pow(high / low, _MARGIN)
            return min(max(root, low * margin), high / margin)
        hidden = [s for s in self._undecided if low < s < high]
        below = min([root, *hidden]) * (1 - offset)
        above = max([root, *hidden]) * (1 + offset)
        if below <= least:
            return above if low else least
        return below if above >= high or root / least > high / root else above

    def _offset(self, at: float) -> float:
        """How far from an estimate the sign of phi(s) - phi(0) can be told, relatively."""
        nearest = min(self._floors, key=lambda s: abs(s - at))
        return min(max(_OFFSET * self._tolerance, _CLEAR * self._floors[nearest] / (self._descent * at)), 0.5)

    def _root(self) -> float:
        """The zero of q between the ends of the bracket, of the parabola through these and the nearest third point."""
        low, high = self._low, self._high
        others = [s for s in self._slopes if s not in (low, high)]
        middle = math.sqrt(low * high) if low else high / 2
        q_low, q_high = self._slopes[low], self._slopes[high]
        line = low - q_low * (high - low) / (q_high - q_low)
        if not others:
            return line
        third = min(others, key=lambda s: abs(s - middle))
        rise = (q_high - q_low) / (high - low)
        bend = ((self._slopes[third] - q_low) / (third - low) - rise) / (third - high)
        # q = q_low + rise (s - low) + bend (s - low)(s - high), and with s = low + t: bend t^2 + b t + q_low.
        b = rise - bend * (high - low)
        discriminant = b * b - 4 * bend * q_low
        if not (math.isfinite(discriminant) and discriminant >= 0):
            return line
        root = -q_low if b == 0 else -2 * q_low / (b + math.copysign(math.sqrt(discriminant), b))
        other = q_low / (bend * root) if bend and root else root
        inside = [low + t for t in (root, other) if 0 < t < high - low]
        return inside[0] if inside else line

    def outcome(self) -> Crossing:
        """What was found."""
        low, high = self._low, self._high
        at: float | None = None
        found: Found
        if math.isinf(high):
            found = "beyond" if low else "noise"
        else:
            at = self._root() if high in self._slopes else math.sqrt(low * high)
            if low and high - low <= self._tolerance * high:
                found = "trusted"
            elif low and high - low <= _WIDE * at:
                found = "flagged"
            else:
                found = "noise" if any(low < s < high for s in self._undecided) else "unfinished"
                at = None
        near = at or (low if math.isinf(high) else high)
        return Crossing(
            at=at,
            low=low,
            high=None if math.isinf(high) else high,
            found=found,
            floor=self._floors[min(self._floors, key=lambda s: abs(s - near))],
            num_evaluations=self.num_evaluations,
        )
