"""The flat buffer: gradients put together, distances, and where it lies in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.update.flat import FlatParameters
from trainers.update.norms import distance


def odd_model() -> nn.Module:
    """A small piece of odd size in front of a large one."""
    model = nn.Module()
    model.first = nn.Parameter(torch.arange(5.0))
    model.large = nn.Parameter(torch.ones(32, 16))
    model.unused = nn.Parameter(torch.ones(3))
    return model


def test_gradients_land_in_one_vector_and_an_unused_parameter_gets_zeros() -> None:
    model = odd_model()
    flat = FlatParameters(model)
    flat.gradient.fill_(7.0)
    for _ in range(2):  # nothing is left of the time before
        flat.differentiate(model.first.square().sum() + 3 * model.large.sum())
        expected = torch.cat([2 * torch.arange(5.0), torch.full((512,), 3.0), torch.zeros(3)])
        assert torch.equal(flat.gradient, expected)
    assert torch.equal(flat.vector.grad, expected)


def test_the_largest_pieces_start_at_a_cache_line_and_values_are_kept() -> None:
    model = odd_model()
    flat = FlatParameters(model)
    assert model.large.data_ptr() % 64 == 0
    assert flat.vector.is_contiguous()
    assert torch.equal(flat.vector.data[:5], torch.arange(5.0))
    assert model.first.data_ptr() == flat.vector.data_ptr()


@pytest.mark.parametrize("count", [1, 2**17, 2**17 + 1, 400_000])
def test_the_distance_in_blocks_is_that_of_the_whole(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    one, other = (torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(2))
    assert distance(one, other).item() == pytest.approx((one - other).norm().item(), rel=1e-13)


def test_a_distance_that_is_not_finite_stays_so() -> None:
    one = torch.zeros(300_000)
    one[-1] = float("nan")
    assert distance(one, torch.zeros(300_000)).isnan()


def test_sparse_gradients_of_embeddings_are_those_of_dense_ones() -> None:
    gradients = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Embedding(5, 3, sparse=sparse)
        flat = FlatParameters(model)
        flat.differentiate(model(torch.tensor([1, 1, 4])).square().sum())
        gradients.append(flat.gradient.clone())
    assert torch.equal(*gradients)
    assert gradients[0].count_nonzero() == 6


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda model: model.first.detach().sum(), "the loss does not depend on the model's parameters"),
        (lambda model: torch.ones((), requires_grad=True) * 2, "the loss depends on none of the parameters"),
    ],
)
def test_a_loss_that_no_parameter_enters_is_said_to_be_one(loss: Callable[[nn.Module], Tensor], found: str) -> None:
    model = odd_model()
    flat = FlatParameters(model)
    with pytest.raises(TrainerError, match=f"{found}.*compute it .* model that it is given"):
        flat.differentiate(loss(model))
