"""The path for GPUs, on the CPU: what is replayed is what would be computed, and Python looks once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

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
from estimators.probe.graphed import GraphedGradient, GridOnDevice, record_cuda_graph


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


def grid(graphed: GraphedGradient, here: Tensor, there: Tensor, fractions: Sequence[float]) -> GridOnDevice:
    return graphed.grid(here, there, fractions, start=graphed.value_and_gradient(here)[1])


def test_the_grid_is_that_of_the_plain_measurement() -> None:
    here, there = snapshot()
    fractions = fractions_of(0.1)
    found = grid(GraphedGradient(gradient()), here, there, fractions)
    plain = measure_directional_smoothness(gradient(), {"flat": here}, {"flat": there}, fractions=fractions)
    ratios = [change / length for change, length in zip(found.changes, found.distances, strict=True)]
    assert ratios == list(plain.by_fraction)
    assert (found.update_norm, found.next_grad_norm) == (plain.update_norm, plain.next_grad_norm)
    value, slope = gradient().value_and_gradient(there)
    assert found.end[0] == value
    assert torch.equal(found.end[1], slope)


def test_one_batch_is_recorded_and_replayed_for_every_batch_at_every_point() -> None:
    tape = Tape()
    graphed = GraphedGradient(gradient(), record=tape)
    for _ in range(2):
        grid(graphed, *snapshot(), fractions_of(0.25))
    assert (tape.recorded, tape.replayed) == (1, 2 * 5 * 3)


class Batch(NamedTuple):
    x: Tensor
    scale: Any


@pytest.mark.parametrize("scales", [[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [[1.0], [3.0], [1.0]], [object()] * 3, [{}] * 3])
def test_batches_of_any_make_have_the_gradient_of_batches_launched_one_by_one(scales: list[Any]) -> None:
    batches = [Batch(batch, scale) for batch, scale in zip(gradient().batches, scales, strict=True)]

    def loss(model: nn.Module, batch: Batch, carry: Any) -> tuple[Tensor, Any]:
        scale = batch.scale[0] if isinstance(batch.scale, list) else batch.scale
        return model(batch.x).square().mean() * (scale if isinstance(scale, float) else 1), carry

    plain, replayed = (ProbeGradient(network(), loss, batches) for _ in range(2))
    tape = Tape()
    graphed = GraphedGradient(replayed, record=tape)
    for point in snapshot():
        value, slope = graphed.value_and_gradient(point)
        expected, expected_slope = plain.value_and_gradient(point)
        assert value == expected
        assert torch.equal(slope, expected_slope)
    assert tape.recorded == (3 if type(scales[0]) is object else len({repr(scale) for scale in scales}))


def test_a_recorder_that_warms_up_leaves_nothing_behind() -> None:
    def warms_up(work: Callable[[], object]) -> Callable[[], object]:
        for _ in range(3):
            work()
        return work

    here, _ = snapshot()
    value, slope = GraphedGradient(gradient(), record=warms_up).value_and_gradient(here)
    expected, expected_slope = gradient().value_and_gradient(here)
    assert value == expected
    assert torch.equal(slope, expected_slope)


def test_python_looks_at_the_device_once_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    graphed = GraphedGradient(gradient())
    here, there = snapshot()
    start = graphed.value_and_gradient(here)[1]
    looks: list[str] = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        real = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, real=real, name=name: looks.append(name) or real(self))
    graphed.grid(here, there, fractions_of(0.1), start=start)
    assert looks == ["tolist"]


def test_a_snapshot_is_looked_at_a_few_times_however_many_fractions_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = snapshot()
    counts = []
    for delta in (0.5, 0.05):
        f = gradient()
        batches, first, loss = f.batches, network(), lambda m, batch, c: (m(batch).square().mean(), c)
        probe = Probe(first, loss, batches, record=Tape(), audit_at="start", known=True)
        looks: list[str] = []
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
                real = getattr(Tensor, name)
                patch.setattr(
                    Tensor, name, lambda self, real=real, name=name, looks=looks: looks.append(name) or real(self)
                )
            ESTIMATORS["directional_smoothness"](probe, torch.stack([here, there]), method="exact", delta=delta)
        counts.append(len(looks))
    assert counts[0] == counts[1]


def test_the_last_fraction_must_be_the_whole_step() -> None:
    with pytest.raises(ValueError, match=r"the last fraction must be 1, found 0\.5"):
        grid(GraphedGradient(gradient()), *snapshot(), [0.5])


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
    assert (tape.recorded, tape.replayed) == (1, len(batches) * row["num_gradients"])


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1.0, 1e20])
@pytest.mark.parametrize("audit_at", ["snapshot", "maximum"])
def test_steps_of_any_length_give_the_same_row_from_the_device(
    scale: float, audit_at: Literal["snapshot", "maximum"]
) -> None:
    here, there = snapshot()
    iterates = torch.stack([here, here + scale * (there - here)])
    loss = lambda m, batch, c: (m(batch).square().mean(), c)  # noqa: E731
    plain, replaying = (
        Probe(network(), loss, gradient().batches, audit_at=audit_at, record=record) for record in (None, Tape())
    )
    rows = [ESTIMATORS["directional_smoothness"](probe, iterates, method="exact") for probe in (plain, replaying)]
    assert repr(rows[0]) == repr(rows[1])
    follows = torch.stack([iterates[1], there])
    rows = [ESTIMATORS["directional_smoothness"](probe, follows, method="exact") for probe in (plain, replaying)]
    assert repr(rows[0]) == repr(rows[1])


def test_what_cannot_be_recorded_is_refused_with_the_reason_and_the_mend() -> None:
    def refuse(work: Callable[[], object]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphed = GraphedGradient(gradient(), record=refuse)
    with pytest.raises(ValueError, match=r"not permitted when stream is capturing; set cuda_graphs to false"):
        graphed.value_and_gradient(snapshot()[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_recorded_graph_gives_the_same_grid_as_kernels_launched_one_by_one() -> None:
    fractions = fractions_of(0.1)
    graphed = grid(GraphedGradient(gradient("cuda"), record=record_cuda_graph), *snapshot("cuda"), fractions)
    plain = grid(GraphedGradient(gradient("cuda"), record=lambda work: work), *snapshot("cuda"), fractions)
    assert graphed.changes == pytest.approx(plain.changes, rel=1e-5)
