"""Lion and signSGD against their algorithms, written out."""

from __future__ import annotations

import pytest
import torch

from trainers.update.sign import Lion, SignSGD


def gradients(count: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(5, generator=draw, dtype=torch.float64) * 10.0**k for k in range(count)]


def test_lion_follows_its_algorithm() -> None:
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = Lion([parameter], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    x, average = parameter.detach().clone(), torch.zeros(5, dtype=torch.float64)
    for gradient in gradients(6):
        parameter.grad = gradient.clone()
        optimizer.step()
        x = x - 0.1 * (torch.sign(0.9 * average + 0.1 * gradient) + 0.5 * x)
        average = 0.99 * average + 0.01 * gradient
        torch.testing.assert_close(parameter.detach(), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sign_sgd_follows_its_algorithm(momentum: float) -> None:
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    optimizer = SignSGD([parameter], lr=0.1, momentum=momentum)
    x, average = parameter.detach().clone(), torch.zeros(5, dtype=torch.float64)
    for gradient in gradients(6):
        parameter.grad = gradient.clone()
        optimizer.step()
        average = momentum * average + (1 - momentum) * gradient
        x = x - 0.1 * torch.sign(average)
        torch.testing.assert_close(parameter.detach(), x, rtol=1e-12, atol=0)
        assert torch.equal(parameter.grad, gradient), "the gradient is left as it was"


def test_a_parameter_without_a_gradient_stays_and_a_closure_is_refused() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Lion([parameter], lr=0.1)
    optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="Lion takes no closure"):
        optimizer.step(lambda: 0.0)
