"""The audit at the maximum finds a rounding error that is not there at x_k."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from estimators import Probe
from estimators.smoothness.along import METHODS
from estimators.smoothness.directional import DirectionalSmoothness, fractions_of
from estimators.smoothness.row import directional_smoothness_row
from estimators.smoothness.trust import larger_floor, raise_floors

BEHIND = 1.5
"""Where the error begins."""

COARSE = 2.0**20
"""In float32, adding this number rounds another to an eighth."""


class Point(nn.Module):
    """One parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0]))


def rounded_behind(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
    """x^4 / 4, and behind the kink at 1.5 a term whose gradient float32 rounds coarsely."""
    x = model.x.sum()
    coarse = (x + COARSE) - COARSE
    return (x**4 / 4 + batch.mean() * torch.relu(x - BEHIND) * coarse**2), carry


def probe(at: Literal["snapshot", "maximum", "start"], strength: float) -> Probe:
    return Probe(Point(), rounded_behind, [torch.tensor([strength])], audit_at=at)


def floor_behind(x: float, strength: float, length: float) -> float:
    """Twice the error of the gradient, which is c(x - 1.5) v^2 differentiated with v rounded, over the distance."""
    rounded = round(x * 8) / 8

    def slope(v: float) -> float:
        return strength * (v * v + (x - BEHIND) * 2 * v)

    return 2 * abs(slope(rounded) - slope(x)) / length


END = torch.tensor([[1.0], [2.0625 - 2**-10]])


@pytest.mark.parametrize("method", METHODS)
def test_the_floor_at_the_maximum_is_the_error_of_its_own_gradient(method: str) -> None:
    strength = 2.0
    here = directional_smoothness_row(probe("snapshot", strength), END, delta=0.25, method=method)
    both = directional_smoothness_row(probe("maximum", strength), END, delta=0.25, method=method)
    assert here["argmax_fraction"] == both["argmax_fraction"] == 1
    assert here["floor_at_maximum"] is None
    assert here["noise_floor"] < 1e-5, "at x_k the coarse term is off, and rounds nothing"
    length = float(END[1, 0]) - 1
    assert both["floor_at_maximum"] == pytest.approx(floor_behind(float(END[1, 0]), strength, length), rel=1e-3)
    assert both["noise_floor"] == both["floor_at_maximum"]
    assert both["snr"] == both["smoothness"] / both["noise_floor"]
    assert both["smoothness"] == here["smoothness"], "it stands clear of the floor all the same"
    assert here["trust"] == both["trust"] == "trusted"


def measured(method: str, behind: float | None) -> DirectionalSmoothness:
    """x^4 / 4 from 1 to 2, whose gradient is off by 1e-9, and beyond x = 1.8 by as much as is given."""
    return METHODS[method](
        lambda p: {"x": p["x"] ** 3},
        {"x": torch.tensor([1.0], dtype=torch.float64)},
        {"x": torch.tensor([2.0], dtype=torch.float64)},
        fractions=fractions_of(0.25),
        gradient_error=1e-9,
        error_at=lambda p: behind if float(p["x"]) > 1.8 else 1e-9,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_maximum_that_is_not_clear_of_its_own_floor_gives_way_to_the_largest_that_is(method: str) -> None:
    found = measured(method, 0.5)
    assert (found.trust, found.argmax_fraction) == ("trusted", 0.75)
    assert found.smoothness == pytest.approx((1.75**3 - 1) / 0.75), "7 at the end has a floor of 1, so it is flagged"
    assert found.floor_at_maximum == found.noise_floor
    assert found.noise_floor == pytest.approx(2e-9 / 0.75, rel=0.7), "that of three quarters, which was audited in turn"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("behind", [1e-3, None])
def test_a_maximum_that_is_clear_stays_with_the_larger_floor_if_it_is_known(method: str, behind: float | None) -> None:
    found = measured(method, behind)
    assert (found.trust, found.argmax_fraction, found.smoothness) == ("trusted", 1.0, pytest.approx(7.0))
    assert found.floor_at_maximum == (None if behind is None else pytest.approx(2e-3))
    assert found.noise_floor == pytest.approx(2e-9 if behind is None else 2e-3)


def test_a_smaller_floor_at_the_maximum_does_not_lower_the_first_and_nan_trusts_nothing() -> None:
    assert raise_floors([5.0], [1.0], lambda index: 0.1) == {0: 0.1}
    assert larger_floor(1.0, 0.1) == 1.0
    assert math.isnan(larger_floor(math.nan, 0.1))
    found = DirectionalSmoothness.judged(
        [5.0, 4.0],
        [0.1, 0.1],
        fractions=[0.5, 1.0],
        floor_at={0: math.nan, 1: 0.01}.get,
        grad_norm=1.0,
        next_grad_norm=1.0,
        update_norm=1.0,
        num_gradients=3,
    )
    assert (found.smoothness, found.noise_floor, found.floor_at_maximum) == (4.0, 0.1, 0.01)


def test_nothing_is_audited_where_no_ratio_stands_clear_of_the_floor_at_the_start() -> None:
    assert raise_floors([1.0, 2.0], [3.0, 3.0], lambda index: pytest.fail("audited")) == {}
