"""The output layer's loss against the two functions of PyTorch that it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.models.linear_cross_entropy import linear_cross_entropy

COUNTS = [1, 2, 255, 256, 257, 700]


def layer(count: int, *, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(count)
    shapes = [(count, 5), (11, 5), (11,)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return tensors, torch.randint(11, (count,), generator=generator)


def reference(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(features, weight, bias), targets)


@pytest.mark.parametrize("count", COUNTS)
def test_loss_and_gradients_are_those_of_pytorch(count):
    tensors, targets = layer(count)
    ours, theirs = (loss(*tensors, targets) for loss in (linear_cross_entropy, reference))
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(3 * ours, tensors), torch.autograd.grad(3 * theirs, tensors), rtol=1e-12, atol=1e-16
    )


def test_it_can_be_differentiated_twice():
    tensors, targets = layer(7)
    assert torch.autograd.gradgradcheck(lambda *given: linear_cross_entropy(*given, targets), tensors)
    vectors = [torch.ones_like(tensor) for tensor in tensors]
    products = []
    for loss in (linear_cross_entropy, reference):
        slopes = torch.autograd.grad(loss(*tensors, targets), tensors, create_graph=True)
        inner = sum((slope * vector).sum() for slope, vector in zip(slopes, vectors, strict=True))
        products.append(torch.autograd.grad(inner, tensors))
    torch.testing.assert_close(*products, rtol=1e-12, atol=1e-14)


def test_a_graph_that_is_kept_gives_the_same_gradient_again():
    tensors, targets = layer(300)
    loss = linear_cross_entropy(*tensors, targets)
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    second = torch.autograd.grad(loss, tensors)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_weights_that_are_shared_with_an_earlier_layer_gather_both_gradients():
    (_, weight, bias), targets = layer(300)
    both = []
    for loss in (linear_cross_entropy, reference):
        (slope,) = torch.autograd.grad(
            loss(F.embedding(targets.roll(1), weight).tanh(), weight, bias, targets), [weight]
        )
        both.append(slope)
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-16)


def test_logits_too_large_for_an_exponential_do_no_harm():
    features, weight, bias = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
    assert linear_cross_entropy(features, weight, bias, torch.tensor([0, 1])).item() == 1e4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(value):
    (features, weight, bias), targets = layer(4)
    with torch.no_grad():
        weight[0, 0] = value
    assert not torch.isfinite(linear_cross_entropy(features, weight, bias, targets))


def test_without_gradients_none_are_made(monkeypatch):
    tensors, targets = layer(300)
    monkeypatch.setattr(Tensor, "scatter_add_", None)
    with torch.no_grad():
        without = linear_cross_entropy(*tensors, targets)
    torch.testing.assert_close(without, reference(*tensors, targets).detach(), rtol=1e-14, atol=0)
    assert not without.requires_grad


def test_only_what_requires_a_gradient_gets_one():
    (features, weight, bias), targets = layer(300)
    features = features.detach()
    assert torch.autograd.grad(linear_cross_entropy(features, weight, bias, targets), [weight])[0].shape == weight.shape
