"""Curvature of models with attention, whose fused kernels have no second derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import ESTIMATORS
from estimators.probe.gradient import ProbeGradient
from estimators.probe.hessian import ProbeHessian
from estimators.probe.probe import Probe

WIDTH = 4


class Fused(nn.Module):
    """Scaled dot-product attention, called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, words: Tensor) -> Tensor:
        query, key, value = self.project(words).unsqueeze(1).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).squeeze(1)


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        return self.attend(words, words, words, need_weights=False)[0]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "scaled_dot_product_attention": Fused,
    "MultiheadAttention": MultiHead,
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 6, batch_first=True),
}


def square(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
    return model(batch).square().mean(), carry


def made(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = MODELS[name]()
    return model.to(dtype), torch.randn(2, 5, WIDTH, dtype=dtype)


@pytest.mark.parametrize("name", MODELS)
def test_a_hessian_vector_product_is_the_slope_of_the_gradient(name: str) -> None:
    model, words = made(name, torch.float64)
    gradient = ProbeGradient(model, square, [words])
    point = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    direction = torch.randn(len(point), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    product = ProbeHessian(gradient, point).product(direction)
    h = 1e-5
    after, before = (gradient({"flat": point + sign * h * direction})["flat"] for sign in (1, -1))
    assert product == pytest.approx((after - before) / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_measures_attention(name: str, estimator: str) -> None:
    model, words = made(name, torch.float32)
    probe = Probe(model, square, [words, words.flip(0) + 0.5])
    point = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    _, slope = probe.value_and_gradient(point)
    row = ESTIMATORS[estimator](probe, torch.stack([point, point - 0.1 * slope]))
    assert {name for name, value in row.items() if isinstance(value, float) and value != value} == set()
