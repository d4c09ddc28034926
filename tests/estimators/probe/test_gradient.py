"""f is a deterministic function of the parameters, and its gradient is what autograd says of the mean loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import Probe, ProbeGradient, RoundingProbe, directional_smoothness_row

Loss = Any


def regression(model: nn.Module, batch: tuple[Tensor, Tensor], carry: None) -> tuple[Tensor, None]:
    return (model(batch[0]) - batch[1]).square().mean(), carry


def batches(count: int = 4, *, seed: int = 0, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 3, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_it_is_the_gradient_of_the_mean_over_all_batches() -> None:
    model, probe = small_model(), batches()
    value, slope = ProbeGradient(model, regression, probe, dtype=torch.float64).value_and_gradient(flat(model))
    model.double()
    whole = (torch.cat([x for x, _ in probe]).double(), torch.cat([y for _, y in probe]).double())
    loss, _ = regression(model, whole, None)
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    assert value == pytest.approx(loss.item(), rel=1e-12)
    assert torch.allclose(slope, expected, rtol=1e-12, atol=1e-14)


def test_measuring_leaves_model_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    probe = Probe(model, regression, batches())
    directional_smoothness_row(probe, torch.stack([flat(model), flat(model) + 0.1]), delta=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_same_point_gives_the_same_gradient_bit_for_bit_with_dropout_and_batch_norm_in_the_model() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 1))
    gradient = ProbeGradient(model, regression, batches())
    here, there = flat(model), flat(model) + 0.1
    first = gradient.value_and_gradient(here)
    gradient.value_and_gradient(there)
    again = gradient.value_and_gradient(here)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])


def test_batch_norm_normalises_by_the_probe_batch_and_not_by_running_averages() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    (batch,) = batches(1)
    gradient = ProbeGradient(model, regression, [batch])
    normalised = (batch[0] - batch[0].mean(0)) / (batch[0].var(0, unbiased=False) + 1e-5).sqrt()
    expected = (model[1](normalised) - batch[1]).square().mean()
    assert gradient.value_and_gradient(flat(model))[0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_recurrent_network_starts_every_batch_from_its_initial_state() -> None:
    model = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True)

    def loss(lstm: nn.Module, batch: Tensor, carry: Any) -> tuple[Tensor, Any]:
        output, state = lstm(batch, carry)
        return output.square().mean(), state

    sequence = torch.randn(2, 6, 3)
    once = ProbeGradient(model, loss, [sequence])
    twice = ProbeGradient(model, loss, [sequence, sequence])
    point = flat(model)
    assert once.value_and_gradient(point)[0] == twice.value_and_gradient(point)[0]
    assert torch.allclose(once.value_and_gradient(point)[1], twice.value_and_gradient(point)[1])


def test_frozen_parameters_are_no_part_of_the_point() -> None:
    model = small_model()
    next(model.parameters()).requires_grad_(False)
    assert ProbeGradient(model, regression, batches()).num_parameters == 5 + 5 + 1


def test_a_parameter_that_the_loss_does_not_use_has_a_zero_gradient() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "idle": nn.Linear(3, 1)})
    gradient = ProbeGradient(model, lambda m, b, c: regression(m["used"], b, c), batches())
    _, slope = gradient.value_and_gradient(flat(model))
    assert slope[:4].abs().min() > 0
    assert torch.equal(slope[4:], torch.zeros(4))


def test_an_empty_probe_and_a_model_without_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="the probe holds no batch"):
        ProbeGradient(small_model(), regression, [])
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        ProbeGradient(nn.Identity(), regression, batches())


def test_the_rounding_error_of_float32_is_small_but_not_zero_and_of_float64_is_zero() -> None:
    model, probe = small_model(), batches()
    eta = RoundingProbe(model, regression, probe)(flat(model))
    norm = float(ProbeGradient(model, regression, probe[:1]).value_and_gradient(flat(model))[1].norm())
    assert 0 < eta < 1e-5 * norm
    doubled = [(x.double(), y.double()) for x, y in probe]
    assert RoundingProbe(small_model().double(), regression, doubled)(flat(model).double()) == 0


def test_a_row_holds_f_its_gradient_and_the_smoothness_of_one_and_the_same_function() -> None:
    model, probe = small_model(), batches()
    here = flat(model)
    row = directional_smoothness_row(Probe(model, regression, probe), torch.stack([here, here + 0.1]), delta=0.25)
    value, slope = ProbeGradient(model, regression, probe).value_and_gradient(here)
    assert row["loss"] == value
    assert row["grad_norm"] == pytest.approx(float(slope.double().norm()), rel=1e-12)
    assert row["smoothness"] == max(row["smoothness_by_fraction"])
    assert len(row["smoothness_by_fraction"]) == 4
    assert row["snr"] == row["smoothness"] / row["noise_floor"]
