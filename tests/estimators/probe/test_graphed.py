"""The path for GPUs, on the CPU: what is replayed is what would be computed, and Python looks once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import (
    ESTIMATORS,
    Probe,
    ProbeGradient,
    ProbePolicy,
    fractions_of,
    measure_directional_smoothness,
)
from estimators.probe.graphed import GraphedGradient, record_cuda_graph


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def gradient(device: str = "cpu") -> ProbeGradient:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 3, generator=generator).to(device) for _ in range(3)]
    return ProbeGradient(network().to(device), lambda m, batch, c: (m(batch).square().mean(), c), batches)


def snapshot(device: str = "cpu") -> tuple[Tensor, Tensor]:
    here = torch.cat([p.detach().reshape(-1) for p in network().parameters()]).to(device)
    return here, here + 0.1 * torch.randn(here.shape, generator=torch.Generator().manual_seed(1)).to(device)


class Tape:
    """A recorder that counts, and that runs nothing while it records."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, work: Callable[[], object]) -> Callable[[], object]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


def test_the_grid_is_that_of_the_plain_measurement() -> None:
    here, there = snapshot()
    fractions = fractions_of(0.1)
    found = GraphedGradient(gradient()).grid(here, there, fractions)
    plain = measure_directional_smoothness(gradient(), {"flat": here}, {"flat": there}, fractions=fractions)
    assert found.ratios == pytest.approx(plain.by_fraction, rel=1e-6)
    assert found.grad_norm == pytest.approx(plain.grad_norm, rel=1e-6)
    assert found.loss == pytest.approx(gradient().value_and_gradient(here)[0], rel=1e-6)


def test_the_gradient_is_recorded_once_and_replayed_at_every_point() -> None:
    tape = Tape()
    graphed = GraphedGradient(gradient(), record=tape)
    here, there = snapshot()
    for _ in range(2):
        graphed.grid(here, there, fractions_of(0.25))
    assert (tape.recorded, tape.replayed) == (1, 10)


def test_python_looks_at_the_device_once_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        real = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, real=real, name=name: looks.append(name) or real(self))
    graphed = GraphedGradient(gradient())
    graphed.grid(*snapshot(), fractions_of(0.1), gram=True)
    assert looks == ["tolist"]


def test_the_gram_matrix_is_that_of_the_changes() -> None:
    here, there = snapshot()
    f = gradient()
    found = GraphedGradient(gradient()).grid(here, there, [0.5, 1.0], gram=True)
    start = f.value_and_gradient(here)[1]
    changes = [
        (f.value_and_gradient(point)[1] - start).double().numpy() for point in (torch.lerp(here, there, 0.5), there)
    ]
    expected = np.array([[one @ other for other in changes] for one in changes])
    assert found.gram is not None
    assert np.array(found.gram) == pytest.approx(expected, rel=1e-5)


def test_without_a_step_there_is_no_ratio() -> None:
    here, _ = snapshot()
    assert GraphedGradient(gradient()).grid(here, here, [0.5, 1.0]).ratios == (None, None)


def test_a_replayed_gradient_has_the_bits_of_a_plain_one() -> None:
    graphed, plain = GraphedGradient(gradient()), gradient()
    for point in snapshot():
        value, slope = graphed.value_and_gradient(point)
        expected, expected_slope = plain.value_and_gradient(point)
        assert value == expected
        assert torch.equal(slope, expected_slope)
    kept = graphed.value_and_gradient(snapshot()[0])[1]
    graphed.value_and_gradient(snapshot()[1])
    assert torch.equal(kept, plain.value_and_gradient(snapshot()[0])[1]), "a fresh tensor, which no replay overwrites"


@pytest.mark.parametrize("batch_norm", ["batch", "frozen"])
@pytest.mark.parametrize("method", ["exact", "chebyshev", "adaptive"])
def test_rows_of_a_probe_that_replays_are_those_of_one_that_does_not(
    method: str, batch_norm: Literal["batch", "frozen"]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))
    batches = list(torch.randn(4, 16, 3, generator=torch.Generator().manual_seed(1)))
    here = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    iterates = torch.stack([here, here + 0.1])
    tape = Tape()
    plain, replaying = (
        Probe(
            model,
            lambda m, batch, carry: (m(batch).square().mean(), carry),
            batches,
            policy=ProbePolicy(batch_norm=batch_norm),
            record=record,
        )
        for record in (None, tape)
    )
    row = ESTIMATORS["directional_smoothness"](replaying, iterates, method=method)
    assert repr(row) == repr(ESTIMATORS["directional_smoothness"](plain, iterates, method=method))
    assert (tape.recorded, tape.replayed) == (1, row["num_gradients"])


def test_what_cannot_be_recorded_is_refused_with_the_reason_and_the_mend() -> None:
    def refuse(work: Callable[[], object]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphed = GraphedGradient(gradient(), record=refuse)
    with pytest.raises(ValueError, match=r"not permitted when stream is capturing; set cuda_graphs to false"):
        graphed.value_and_gradient(snapshot()[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_recorded_graph_gives_the_same_grid_as_kernels_launched_one_by_one() -> None:
    fractions = fractions_of(0.1)
    graphed = GraphedGradient(gradient("cuda"), record=record_cuda_graph).grid(*snapshot("cuda"), fractions)
    plain = GraphedGradient(gradient("cuda"), record=lambda work: work).grid(*snapshot("cuda"), fractions)
    assert graphed.ratios == pytest.approx(plain.ratios, rel=1e-5)
