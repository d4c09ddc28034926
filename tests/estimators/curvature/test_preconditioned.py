"""The top eigenvalue of the preconditioned Hessian, against dense algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from estimators import Probe
from estimators.curvature.preconditioned import preconditioned_sharpness_row


class Point(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 1, size, dtype=torch.float64))


def matrix(size: int, *, shift: float = 0.0) -> Tensor:
    made = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return made + made.T + shift * torch.eye(size, dtype=torch.float64)


def probe_of(hessian: Tensor) -> Probe:
    def loss(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return model.x @ hessian.to(model.x.dtype) @ model.x / 2, carry

    return Probe(Point(len(hessian)), loss, [torch.zeros(1)])


def measured(hessian: Tensor, diagonal: Tensor | None, **options: float | None) -> dict[str, float]:
    pair = torch.linspace(-1, 1, len(hessian), dtype=torch.float64).repeat(2, 1)
    return preconditioned_sharpness_row(probe_of(hessian), pair, preconditioner=diagonal, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [6, 90], ids=["dense", "Lanczos"])
def test_it_is_the_largest_eigenvalue_whatever_the_sizes_of_the_entries(size: int) -> None:
    hessian, diagonal = matrix(size), torch.logspace(-4, 2, size, dtype=torch.float64)
    row = measured(hessian, diagonal, learning_rate=0.01, stability_threshold=38.0)
    eigenvalues = torch.linalg.eigvals(hessian / diagonal[:, None]).real
    assert row["preconditioned_sharpness"] == pytest.approx(float(eigenvalues.max()), rel=2e-3)
    assert row["stability_ratio"] == pytest.approx(0.01 * row["preconditioned_sharpness"] / 38)
    assert row["residual"] < 0.05 * row["preconditioned_sharpness"]
    assert row["num_products"] >= 2


@pytest.mark.parametrize("size", [6, 90], ids=["dense", "Lanczos"])
def test_a_larger_negative_eigenvalue_does_not_hide_the_top_one(size: int) -> None:
    hessian = matrix(size, shift=-1.0)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert -eigenvalues[0] > eigenvalues[-1] > 0
    assert measured(hessian, None)["preconditioned_sharpness"] == pytest.approx(float(eigenvalues[-1]), rel=2e-3)


def test_in_a_concave_place_it_is_negative_and_so_is_the_ratio() -> None:
    row = measured(matrix(6, shift=-20.0), torch.full((6,), 2.0), learning_rate=1.0, stability_threshold=2.0)
    assert row["preconditioned_sharpness"] < 0
    assert row["stability_ratio"] < 0


def test_without_a_rate_or_a_threshold_there_is_no_ratio() -> None:
    for options in ({"learning_rate": 0.1}, {"stability_threshold": 2.0}):
        row = measured(matrix(6), None, **options)
        assert row["stability_ratio"] is None
        assert math.isfinite(row["preconditioned_sharpness"])


@pytest.mark.parametrize(
    ("diagonal", "words"),
    [
        (torch.ones(5), r"the shape \(5,\), but f 6 parameters"),
        (torch.tensor([1.0, 1, 1, 1, 1, 0]), "not positive and finite"),
        (torch.tensor([1.0, 1, 1, 1, 1, math.inf]), "not positive and finite"),
        (torch.tensor([1.0, 1, 1, 1, 1, math.nan]), "not positive and finite"),
    ],
)
def test_a_preconditioner_that_is_none_is_refused(diagonal: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measured(matrix(6), diagonal)
