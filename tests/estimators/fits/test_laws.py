"""Which law of growth fits: the true one stays, others are out where the points can tell, else nothing is said."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from estimators.fits.laws import LAWS, held_out_losses, laws_left

GROWTH = {"constant": lambda x: 2 + 0 * x, "linear": lambda x: 0.5 + x, "power": lambda x: 0.5 + x**2}


def trajectories(law: str, seeds: int, sweep: int, *, count: int = 200):
    """Independent points of a law whose noise is 30 %."""
    generator = np.random.default_rng(sweep)
    for _ in range(seeds):
        x = np.exp(generator.normal(size=count))
        y = GROWTH[law](x) * np.exp(0.3 * generator.normal(size=count))
        yield held_out_losses(x, y, 0.95, tau_int=0.5)


@cache
def left_over(law: str, seeds: int) -> Counter[tuple[str, ...]]:
    """How often which laws are left, of 20 sweeps."""
    return Counter(laws_left(list(trajectories(law, seeds, sweep))) for sweep in range(20))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seeds", [1, 5])
def test_the_true_law_is_almost_never_out(law: str, seeds: int) -> None:
    wrong = sum(count for laws, count in left_over(law, seeds).items() if law not in laws)
    assert wrong <= 2, "0.05 of 20 is 1"


@pytest.mark.parametrize("law", ["linear", "power"])
def test_growth_is_told_from_none_by_five_seeds(law: str) -> None:
    found = left_over(law, 5)
    assert sum(count for laws, count in found.items() if "constant" in laws) <= 2


def test_a_square_is_told_from_a_line_by_five_seeds() -> None:
    assert left_over("power", 5)["power",] >= 10


def test_points_that_do_not_grow_leave_it_open() -> None:
    assert left_over("constant", 5)[LAWS] >= 18


def test_equal_losses_are_no_difference_and_a_perfect_law_beats_every_other() -> None:
    x = np.random.default_rng(0).permutation(np.geomspace(0.1, 10, 100))
    found = held_out_losses(x, 1 + 2 * x, 0.95, tau_int=0.5)
    assert found.log_ratio("linear", "linear") == 0.0
    assert found.log_ratio("linear", "constant") < -5
    assert len(found.log_ratios("linear", "constant")) == 4


def test_neighbours_of_what_is_held_out_are_not_fitted_to() -> None:
    """With a gap of half the trajectory there is nothing left to fit to."""
    x = np.geomspace(0.1, 10, 40)
    with pytest.raises(ValueError, match="too few"):
        held_out_losses(x, 1 + x, 0.95, tau_int=20.0)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="3 points are too few"):
        held_out_losses([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.9, tau_int=0.5)
