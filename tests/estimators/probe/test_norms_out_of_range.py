"""Gradients whose squares fit into no float32, or into no float at all, measured against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, measure_gradient_noise, null_test
from estimators.probe.vectors import distance, length, norm


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1.0, 1e170, 1e300])
def test_a_length_in_float64_is_right_whatever_its_scale(scale: float) -> None:
    vector = scale * torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    assert length(vector) == pytest.approx(5 * scale, rel=1e-14)
    assert norm({"a": vector[:1], "b": vector[1:]}) == pytest.approx(5 * scale, rel=1e-14)
    assert distance({"a": vector}, {"a": 0 * vector}) == pytest.approx(5 * scale, rel=1e-14)


def test_zero_infinite_and_empty_vectors_have_the_length_of_their_entries() -> None:
    assert length(torch.zeros(3, dtype=torch.float64)) == length(torch.zeros(0, dtype=torch.float64)) == 0
    assert length(torch.tensor([math.inf, 1.0], dtype=torch.float64)) == math.inf
    assert math.isnan(length(torch.tensor([math.nan, 1.0], dtype=torch.float64)))


def bowl(scale: float, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """f(w) = scale ||w||^2 / 2 in four dimensions, at (1, 1, 1, 1): gradient scale w, of norm 2 scale; H = scale I."""
    model = nn.Module()
    model.first, model.second = (nn.Parameter(torch.ones(2, dtype=dtype)) for _ in range(2))

    def loss(model: Any, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        # The sum of squares of the weights stays in range; its scale is applied last.
        return scale * (0.5 * (model.first.square().sum() + model.second.square().sum())), carry

    return model, loss


SCALES = [(torch.float32, 2e19), (torch.float32, 1e30), (torch.float32, 1e-25), (torch.float64, 1e160)]


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in {"gradient_noise", "hessian_spectrum"}])
def test_estimators_agree_with_the_closed_form_at_every_scale(name: str, dtype: torch.dtype, scale: float) -> None:
    model, loss = bowl(scale, dtype)
    here = torch.ones(4, dtype=dtype)
    probe = Probe(model, loss, [torch.zeros(2)] * 2)
    options = {"redraw_lengths": False} if name == "authors_compat" else {}
    row = ESTIMATORS[name](probe, torch.stack([here, here * 1.5]), **options)
    assert row["grad_norm"] == pytest.approx(2 * scale, rel=1e-6)
    if "update_norm" in row:
        assert row["update_norm"] == pytest.approx(1.0, rel=1e-6)
    # That script adds up its two batches.
    expected = 2 * scale if name == "authors_compat" else scale
    for column in ("smoothness", "spectral_norm", "curvature", "gradient_curvature"):
        if column in row:
            assert row[column] == pytest.approx(expected, rel=1e-5), column
    if "smoothness_by_layer" in row:
        assert row["smoothness_by_layer"] == pytest.approx([scale] * 2, rel=1e-5)
        assert row["grad_norm_by_layer"] == pytest.approx([scale * math.sqrt(2)] * 2, rel=1e-5)


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
def test_the_null_test_takes_its_direction_along_the_gradient_at_every_scale(dtype: torch.dtype, scale: float) -> None:
    model, loss = bowl(scale, dtype)
    found = null_test(lambda: Probe(model, loss, [torch.zeros(2)]), torch.ones(4, dtype=dtype))
    assert found.passed
    assert found.grad_norm == pytest.approx(2 * scale, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 2e19, 1e37])
def test_noise_of_gradients_in_float32_is_right_at_every_scale(scale: float) -> None:
    noise = measure_gradient_noise(lambda: iter([torch.tensor([3.0]) * scale, torch.tensor([5.0]) * scale]))
    assert noise.squared_norm == pytest.approx(15 * scale**2, rel=1e-6)
    assert noise.variance == pytest.approx(2 * scale**2, rel=1e-6)
    assert noise.tau == pytest.approx(scale, rel=1e-6)


def test_noise_beyond_every_float_is_infinite_and_no_error() -> None:
    wide = [torch.tensor([value], dtype=torch.float64) for value in (3e200, 5e200)]
    noise = measure_gradient_noise(lambda: iter(wide))
    assert noise.tau == pytest.approx(1e200)
    assert noise.variance == math.inf
