"""The noise of batch gradients against what it was made with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, measure_gradient_noise


def drawn(seed: int, *, count: int = 8, size: int = 50, signal: float = 1.0, noise: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.full((size,), signal / size**0.5)
    return [mean + noise * torch.randn(size, generator=generator) / size**0.5 for _ in range(count)]


def test_the_squared_norm_is_without_bias_where_that_of_the_mean_is_not() -> None:
    runs = [measure_gradient_noise(lambda seed=seed: iter(drawn(seed))) for seed in range(400)]  # type: ignore[misc]
    values = np.array([run.squared_norm for run in runs])
    halves = np.array([run.split_half for run in runs])
    naive = np.array([float(torch.stack(drawn(seed)).mean(0).norm() ** 2) for seed in range(400)])
    error = values.std() / 20
    assert abs(values.mean() - 1.0) < 4 * error
    assert abs(halves.mean() - 1.0) < 4 * halves.std() / 20
    assert naive.mean() - 1.0 > 5 * error
    assert values.std() < halves.std(), "the mean over all splits is steadier than one of them"
    assert np.mean([run.variance for run in runs]) == pytest.approx(1.0, rel=0.02)
    assert np.median([run.noise_scale for run in runs]) == pytest.approx(1.0, rel=0.1)


def test_batches_drawn_without_replacement_give_the_gradient_of_all_of_them_without_bias() -> None:
    """Of 20 batches 16: without the correction the squared norm is low by variance / 20."""
    generator = torch.Generator().manual_seed(1)
    every = 1.0 + torch.randn(20, 50, generator=generator)
    truth = float(every.mean(0).double().norm() ** 2)
    corrected, plain, halves = [], [], []
    for _ in range(400):
        chosen = every[torch.randperm(20, generator=generator)[:16]]
        noise = measure_gradient_noise(lambda chosen=chosen: iter(chosen), population=20)  # type: ignore[misc]
        corrected.append(noise.squared_norm)
        halves.append(noise.split_half)
        plain.append(measure_gradient_noise(lambda chosen=chosen: iter(chosen)).squared_norm)  # type: ignore[misc]
    for values in (corrected, halves):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / 20
    assert truth - np.mean(plain) > 10 * np.std(plain) / 20
    whole = measure_gradient_noise(lambda: iter(every), population=20)
    assert whole.squared_norm == pytest.approx(truth)


def test_without_noise_there_is_none() -> None:
    noise = measure_gradient_noise(lambda: iter([torch.tensor([3.0, 4.0])] * 5))
    assert (noise.squared_norm, noise.split_half, noise.variance, noise.tau, noise.noise_scale) == (25, 25, 0, 0, 0)


def test_a_drowned_gradient_has_no_noise_scale() -> None:
    noise = measure_gradient_noise(lambda: iter([torch.tensor([1.0]), torch.tensor([-1.0])]))
    assert noise.squared_norm < 0
    assert noise.noise_scale is None


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100))
def test_noise_scales_with_the_loss_and_its_scale_does_not(seed: int, scale: float) -> None:
    def scaled(by: float) -> Iterator[Tensor]:
        return (by * gradient.double() for gradient in drawn(seed))

    one, other = measure_gradient_noise(lambda: scaled(1.0)), measure_gradient_noise(lambda: scaled(scale))
    assert other.tau == pytest.approx(scale * one.tau, rel=1e-9)
    assert other.variance == pytest.approx(scale**2 * one.variance, rel=1e-9)
    assert other.squared_norm == pytest.approx(scale**2 * one.squared_norm, rel=1e-6)


def test_the_row_is_about_training_batches_and_not_about_the_probe() -> None:
    model = nn.Linear(2, 1, bias=False)
    generator = torch.Generator().manual_seed(0)
    probe_batches = [torch.randn(16, 2, generator=generator) for _ in range(2)]
    training = [torch.randn(4, 2, generator=generator) for _ in range(6)]
    asked: list[int] = []

    def training_batches(count: int, per_step: int) -> list[Tensor]:
        asked.append(count)
        return training[: count * per_step]

    def loss(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return model(batch).square().mean(), carry

    probe = Probe(model, loss, probe_batches, training_batches=training_batches)
    here = next(model.parameters()).detach().reshape(-1)
    row = ESTIMATORS["gradient_noise"](probe, torch.stack([here, here]), num_batches=5)
    gradients = torch.stack([2 * x.T @ (x @ here) / len(x) for x in training[:5]]).double()
    deviations = (gradients - gradients.mean(0)).norm(dim=1)
    assert asked == [5]
    assert row["num_batches"] == 5
    assert row["tau"] == pytest.approx(float(deviations.max()), rel=1e-5)
    assert row["noise_variance"] == pytest.approx(float((deviations**2).sum() / 4), rel=1e-5)
    lonely = Probe(model, loss, probe_batches[:1])
    with pytest.raises(ValueError, match="at least 2 batches"):
        ESTIMATORS["gradient_noise"](lonely, torch.stack([here, here]))


def test_the_batches_of_a_step_that_accumulates_count_as_one() -> None:
    model = nn.Linear(2, 1, bias=False)
    generator = torch.Generator().manual_seed(0)
    training = [torch.randn(4, 2, generator=generator) for _ in range(12)]

    def loss(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return model(batch).square().mean(), carry

    def row_of(batches: list[Tensor], **options: int) -> dict[str, object]:
        def drawn(count: int, per_step: int) -> list[Tensor]:
            return batches[: count * per_step]

        probe = Probe(model, loss, training, training_batches=drawn, steps_per_epoch=len(batches))
        here = next(model.parameters()).detach().reshape(-1)
        return ESTIMATORS["gradient_noise"](probe, torch.stack([here, here]), num_batches=4, **options)

    accumulated = row_of(training, batches_per_step=3)
    large = row_of([torch.cat(training[k : k + 3]) for k in range(0, 12, 3)])
    assert accumulated["num_batches"] == large["num_batches"] == 4
    for name in ("grad_norm_squared", "noise_variance", "tau", "noise_scale", "split_half"):
        assert accumulated[name] == pytest.approx(large[name], rel=1e-5), name
    with pytest.raises(ValueError, match="needs at least 2 batches, found 1 of 7 micro-batches each"):
        row_of(training, batches_per_step=7)
