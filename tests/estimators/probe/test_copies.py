"""The copy that estimators measure has the model's own loss and gradient, or what reaches for the model is named."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from estimators import ESTIMATORS, Probe, measure_pairs, null_test
from estimators.probe.copies import UnfaithfulCopyError, copy_of, left_as_it_was
from estimators.probe.copy_test import compare_copy

BATCH = torch.linspace(-1, 1, 24).view(8, 3)


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Linear(4, 1))


def squares(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
    return model(batch).square().mean(), carry


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


# Losses that reach for the model

HELD = network()


def closure(model: nn.Module) -> Callable[..., Any]:
    return lambda given, batch, carry: squares(model, batch, carry)


def nested(model: nn.Module) -> Callable[..., Any]:
    def run(batch: Tensor) -> Any:
        return model(batch)

    return lambda given, batch, carry: (run(batch).square().mean(), carry)


def default(model: nn.Module) -> Callable[..., Any]:
    def loss(given: nn.Module, batch: Tensor, carry: None, used: nn.Module = model) -> Any:
        return squares(used, batch, carry)

    return loss


def partial(model: nn.Module) -> Callable[..., Any]:
    def loss(used: nn.Module, given: nn.Module, batch: Tensor, carry: None) -> Any:
        return squares(used, batch, carry)

    return functools.partial(loss, model)


def in_a_dict(model: nn.Module) -> Callable[..., Any]:
    held = {"model": model}
    return lambda given, batch, carry: squares(held["model"], batch, carry)


def of_an_object(model: nn.Module) -> Callable[..., Any]:
    class Loss:
        def __init__(self) -> None:
            self.network = model

        def __call__(self, given: nn.Module, batch: Tensor, carry: None) -> Any:
            return squares(self.network, batch, carry)

    return Loss()


def penalty(model: nn.Module) -> Callable[..., Any]:
    weight = next(model.parameters())
    return lambda given, batch, carry: (squares(given, batch, carry)[0] + 1e-3 * weight.square().sum(), carry)


def detached_penalty(model: nn.Module) -> Callable[..., Any]:
    def loss(given: nn.Module, batch: Tensor, carry: None) -> Any:
        return squares(given, batch, carry)[0] + next(model.parameters()).detach().square().sum(), carry

    return loss


@pytest.mark.parametrize(
    ("offender", "named"),
    [
        (closure, r"<lambda> \(test_copies.py:\d+\) uses 'model' from outside of it"),
        (nested, r"run \(test_copies.py:\d+\) uses 'model' from outside of it"),
        (default, r"loss \(test_copies.py:\d+\) uses 'used' from outside of it"),
        (partial, "the loss is a functools.partial that holds the model"),
        (in_a_dict, "uses 'held' from outside of it"),
        (of_an_object, "Loss uses the model in self.network"),
        (penalty, "is off by .* uses 'weight' from outside of it"),
        (detached_penalty, "has another loss than the model itself: loss .* uses 'model' from outside of it"),
    ],
)
def test_a_loss_that_reaches_for_the_model_is_found_and_named(offender: Callable[..., Any], named: str) -> None:
    model = network()
    loss = offender(model)
    assert compare_copy(model, loss, BATCH).differs
    with pytest.raises(UnfaithfulCopyError, match=f"(?s){named}.*; use the model that the loss is given"):
        Probe(model, loss, [BATCH]).require_faithful_copy()
    found = null_test(lambda: Probe(model, loss, [BATCH]), flat(model))
    assert not found.passed
    assert found.diagnosis.startswith(found.copy_test.words)


def test_a_gradient_that_never_reaches_the_copy_is_said_to_be_exactly_zero() -> None:
    model = network()
    found = compare_copy(model, closure(model), BATCH)
    assert found.copied_grad_norm == 0
    assert found.distance == found.grad_norm > 0
    assert "is exactly 0, that of the model itself has the norm" in found.words


class Global(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.registered = HELD

    def forward(self, inputs: Tensor) -> Any:
        return HELD(inputs)


class Tied(nn.Module):
    """Its second layer is its first one, and its loss is its own method."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.linspace(0, 1, 3)))

    def forward(self, inputs: Tensor) -> Any:
        return (self.second(self.first(inputs).tanh()) * self.turn).abs()

    def loss(self, given: nn.Module, batch: Tensor, carry: None) -> Any:
        return squares(self, batch, carry)


def test_a_forward_pass_that_uses_a_global_module_is_found_and_named() -> None:
    words = compare_copy(Global(), squares, BATCH).words
    assert "Global.forward (test_copies.py:" in words
    assert "uses 'HELD' from outside of it" in words


def test_a_loss_that_is_a_method_of_the_model_is_found_and_named() -> None:
    model = Tied()
    assert "the loss is a method of the model itself" in compare_copy(model, model.loss, BATCH).words


def test_in_a_notebook_pairs_are_refused_before_any_is_measured() -> None:
    model = network()
    with pytest.raises(UnfaithfulCopyError, match="uses 'model' from outside of it"):
        next(measure_pairs([(0, model.state_dict(), model.state_dict())], model, closure(model), [BATCH]))


# Models that have faithful copies


def older_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 1))


def pruned() -> nn.Module:
    model = network(nn.Tanh())
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


SOUND: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: network(nn.Dropout(0.5)),
    "batch norm": lambda: network(nn.BatchNorm1d(4)),
    "tied, with a complex buffer": Tied,
    "older weight norm": older_weight_norm,
    "spectral norm": lambda: nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)).eval()),
    "pruned": pruned,
    "bfloat16": lambda: network(nn.Tanh()).bfloat16(),
    "float64": lambda: network(nn.Tanh()).double(),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_model_s_copy_has_its_gradient_bit_for_bit_and_the_model_is_left_as_it_was(name: str) -> None:
    model = SOUND[name]()
    batch = BATCH.to(next(model.parameters()).dtype)
    # As after a step of training: some layers keep what they computed.
    squares(model, batch, None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    parameters = list(model.parameters())
    found = Probe(model, squares, [batch]).compare_copy()
    assert (found.distance, found.losses_differ, found.repeats) == (0, False, True)
    assert found.grad_norm > 0
    assert {key: value.dtype for key, value in model.state_dict().items()} == {k: v.dtype for k, v in before.items()}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(one is other and one.grad is None for one, other in zip(model.parameters(), parameters, strict=True))


def test_random_numbers_are_not_taken_for_a_model_that_is_reached_for() -> None:
    def drawn(model: nn.Module, batch: Tensor, carry: None) -> Any:
        return squares(model, batch + torch.rand(8, 3), carry)

    generator = torch.Generator()

    def drawn_elsewhere(model: nn.Module, batch: Tensor, carry: None) -> Any:
        return squares(model, batch + torch.rand(8, 3, generator=generator), carry)

    before = torch.get_rng_state()
    assert compare_copy(network(), drawn, BATCH).distance == 0
    assert torch.equal(torch.get_rng_state(), before)
    found = compare_copy(network(), drawn_elsewhere, BATCH)
    assert not found.repeats
    assert not found.differs


def test_what_was_moved_in_place_is_put_back_even_where_the_model_replaces_its_parameters() -> None:
    class Replacing(nn.Linear):
        def forward(self, inputs: Tensor) -> Any:
            self.weight = nn.Parameter(self.weight * 2)
            return super().forward(inputs)

    model = Replacing(3, 1)
    weight, value = model.weight, model.weight.clone()
    with left_as_it_was(model):
        model(BATCH)
        assert model.weight is not weight
    assert model.weight is weight
    assert torch.equal(model.weight, value)


def test_a_model_whose_deepcopy_is_itself_is_refused_since_measuring_would_move_it() -> None:
    class Single(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Single:
            return self

    with pytest.raises(UnfaithfulCopyError, match=r"shares its parameter '0.weight' with it.*leave __deepcopy__"):
        copy_of(nn.Sequential(Single(3, 1)))


def test_a_model_that_cannot_be_copied_is_said_to_be_one() -> None:
    model = network()
    model.lock = threading.Lock()
    with pytest.raises(
        UnfaithfulCopyError, match=r"raises TypeError: cannot pickle .* object: estimators measure a copy"
    ):
        Probe(model, squares, [BATCH])


@pytest.mark.parametrize("name", ["directional_smoothness", "hessian_spectral_norm", "layer_smoothness"])
def test_the_older_weight_norm_is_measured_as_the_newer_one(name: str) -> None:
    """Both have the same function of magnitudes and directions, in another order of parameters."""
    old = older_weight_norm()
    new = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 1))
    named = dict(old.named_parameters())
    with torch.no_grad():
        for theirs, mine in zip(
            new.parameters(), ("0.bias", "0.weight_g", "0.weight_v", "2.weight", "2.bias"), strict=True
        ):
            theirs.copy_(named[mine])
    squares(old, BATCH, None)
    rows = []
    for model in (old, new):
        here = flat(model)
        row = ESTIMATORS[name](Probe(model, squares, [BATCH]), torch.stack([here, here * 1.01]))
        rows.append(row)
    for column in {"smoothness", "spectral_norm", "grad_norm"} & rows[0].keys():
        assert rows[0][column] == pytest.approx(rows[1][column], rel=1e-4)


# What has no gradient, or none of the usual kind


def test_a_loss_without_a_graph_is_said_to_be_one() -> None:
    probe = Probe(network(), lambda model, batch, carry: (model(batch).detach().mean(), carry), [BATCH])
    here = flat(network())
    for measure in (probe.gradient.value_and_gradient, lambda x: probe.hessian(x).product(x)):
        with pytest.raises(
            ValueError, match="the loss does not depend on the parameters of the model that it is given"
        ):
            measure(here)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "gradient_noise"])
def test_embeddings_with_sparse_gradients_are_measured_as_with_dense_ones(name: str) -> None:
    rows = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 3, sparse=sparse), nn.Flatten(), nn.Linear(6, 1))
        batch = torch.tensor([[0, 1], [1, 1], [3, 4]])
        here = flat(model)
        rows.append(ESTIMATORS[name](Probe(model, squares, [batch]), torch.stack([here, here + 0.1])))
    for column, value in rows[1].items():
        if isinstance(value, float):
            assert rows[0][column] == pytest.approx(value, rel=1e-5), column


def test_complex_buffers_keep_their_imaginary_parts_in_the_audit() -> None:
    model = Tied()
    row = ESTIMATORS["directional_smoothness"](
        Probe(model, squares, [BATCH]), torch.stack([flat(model), flat(model) + 0.1])
    )
    assert row["trust"] == "trusted"
    assert 0 < row["noise_floor"] < 1e-4 * row["smoothness"]


@pytest.mark.parametrize(
    "parameter", [torch.ones(3, dtype=torch.complex64), torch.ones(3, device="meta"), torch.eye(3).to_sparse()]
)
def test_parameters_that_are_no_part_of_a_real_vector_are_refused_by_name(parameter: Tensor) -> None:
    model = nn.Module()
    model.odd = nn.Parameter(parameter)
    with pytest.raises(ValueError, match=r"the parameter 'odd' .* cannot be a part of a vector of real numbers"):
        Probe(model, squares, [BATCH])
