"""The null test finds what makes f more than a function of the parameters, and says which kind it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import NullTest, Probe, null_test


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))


def run(loss: Callable[..., Any], batches: Callable[[], Any]) -> NullTest:
    model = network()
    point = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return null_test(lambda: Probe(network(), loss, batches()), point)


def squares(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
    return model(batch).square().mean(), carry


def fixed() -> list[Tensor]:
    return [torch.linspace(-1, 1, 24).view(8, 3)]


def test_a_deterministic_f_differs_by_exactly_nothing_although_the_model_has_dropout() -> None:
    found = run(squares, fixed)
    assert found.passed
    assert (found.again, found.rebuilt, found.hessian, found.diagnosis) == (0, 0, 0, "")
    assert found.grad_norm > 0


def test_random_numbers_in_the_loss_are_found() -> None:
    def noisy(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return squares(model, batch + 0.1 * torch.randn(8, 3), carry)

    found = run(noisy, fixed)
    assert not found.passed
    assert "draws random numbers" in found.diagnosis


def test_a_loss_that_remembers_is_found() -> None:
    calls = 0

    def remembers(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        nonlocal calls
        calls += 1
        loss, carry = squares(model, batch, carry)
        return loss * (1 + 0.01 * calls), carry

    found = run(remembers, fixed)
    assert found.again > 0
    assert "not a function of the parameters" in found.diagnosis


@pytest.mark.parametrize("size", [5, 8])
def test_a_probe_that_is_drawn_anew_is_found(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    found = run(squares, lambda: [torch.randn(size, 3, generator=generator)])
    assert found.again == 0
    assert found.rebuilt > 0
    assert "two workers would measure two different functions" in found.diagnosis
