"""Smoothness along the gradient and along random directions, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe
from estimators.smoothness.others import other_directions_row

SIZE = 8


class Point(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 2, SIZE, dtype=dtype))


def hessian() -> Tensor:
    made = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return made + made.T


def quadratic(dtype: torch.dtype = torch.float64) -> Probe:
    matrix = hessian()
    # An indefinite Hessian, so that a sign that is lost shows.
    return Probe(
        Point(dtype),
        lambda model, batch, carry: (model.x @ matrix.to(model.x.dtype) @ model.x / 2, carry),
        [torch.zeros(1)],
    )


def snapshot(step: float = 0.1, dtype: torch.dtype = torch.float64) -> Tensor:
    start = torch.linspace(-1, 2, SIZE, dtype=dtype)
    return torch.stack((start, start + step))


def test_on_a_quadratic_it_is_the_hessian_along_each_direction() -> None:
    matrix, pair = hessian(), snapshot()
    row = other_directions_row(quadratic(), pair, draws=1000)
    slope = matrix @ pair[0]
    assert row["gradient_smoothness"] == pytest.approx(float((matrix @ slope).norm() / slope.norm()), rel=1e-9)
    frobenius = float(matrix.norm()) / math.sqrt(SIZE)
    assert row["random_smoothness"] == pytest.approx(frobenius, rel=0.03), "E ||H u||^2 = ||H||_F^2 / n"
    largest = float(torch.linalg.eigvalsh(matrix).abs().max())
    assert max(row["random_smoothness_by_draw"]) <= largest * (1 + 1e-9)
    assert row["update_norm"] == pytest.approx(0.1 * math.sqrt(SIZE))
    assert (row["gradient_trust"], row["random_trust"]) == ("trusted", "trusted")


def test_the_points_are_as_far_away_as_the_step_went_and_downhill() -> None:
    seen = []
    probe = quadratic()
    evaluate = probe.value_and_gradient

    def noting(point: Tensor) -> tuple[float, Tensor]:
        seen.append(point.clone())
        return evaluate(point)

    noting.hold = evaluate.hold
    probe.value_and_gradient = noting
    pair = snapshot()
    row = other_directions_row(probe, pair, draws=2)
    distances = [float((point - pair[0]).norm()) for point in seen]
    assert max(distances) == pytest.approx(row["update_norm"], rel=1e-12)
    ends = [point for point, distance in zip(seen, distances, strict=True) if distance > 0.99 * row["update_norm"]]
    assert len({tuple(end.tolist()) for end in ends}) == 3, "the gradient's and two random ones"
    slope = hessian() @ pair[0]
    assert float((ends[0] - pair[0]) @ slope) == pytest.approx(-row["update_norm"] * float(slope.norm()))
    bound = float(slope.norm() + (hessian() @ ends[0]).norm()) / row["update_norm"]
    assert row["gradient_bound"] == pytest.approx(bound)


def test_the_directions_are_those_of_the_snapshot() -> None:
    rows = [other_directions_row(quadratic(), snapshot()) for _ in range(2)]
    assert rows[0] == rows[1]
    elsewhere = snapshot() + 1e-12
    assert other_directions_row(quadratic(), elsewhere)["random_smoothness_by_draw"] != pytest.approx(
        rows[0]["random_smoothness_by_draw"]
    ), "on a quadratic only other directions can make them differ"
    # Three draws are the first of five.
    five = other_directions_row(quadratic(), snapshot(), draws=5)
    assert five["random_smoothness_by_draw"][:3] == rows[0]["random_smoothness_by_draw"]


def test_without_a_step_there_is_no_distance() -> None:
    row = other_directions_row(quadratic(), snapshot(0.0))
    assert row["gradient_smoothness"] is row["random_smoothness"] is row["gradient_bound"] is None
    assert (row["gradient_trust"], row["random_trust"], row["num_gradients"]) == ("no step", "no step", 1)


def test_without_a_gradient_only_the_random_directions_are_left() -> None:
    flat = torch.zeros(2, SIZE, dtype=torch.float64)
    flat[1] = 0.1
    row = other_directions_row(quadratic(), flat)
    assert (row["gradient_smoothness"], row["gradient_trust"]) == (None, "no step")
    assert row["random_smoothness"] > 0


def test_what_cannot_be_told_from_rounding_has_no_value() -> None:
    probe = quadratic(torch.float32)
    row = other_directions_row(probe, snapshot(3e-8, torch.float32))
    assert row["gradient_trust"] in {"noise", "no step"}
    assert row["random_smoothness"] is None
    assert row["random_trust"] in {"noise", "no step"}


def test_one_draw_at_least() -> None:
    with pytest.raises(ValueError, match="at least one random direction"):
        ESTIMATORS["other_directions"](quadratic(), snapshot(), draws=0)
