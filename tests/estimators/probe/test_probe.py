"""One function f for every estimator: remembered gradients, full precision, and what batch-norm is to f."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, ProbePolicy, arithmetic_of, full_float32
from estimators.probe.memory import GradientMemory


def regression(model: nn.Module, batch: tuple[Tensor, Tensor], carry: None) -> tuple[Tensor, None]:
    return (model(batch[0]) - batch[1]).square().mean(), carry


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(count)]


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), *middle, nn.Tanh(), nn.Linear(5, 1))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def trajectory(model: nn.Module, steps: int) -> list[Tensor]:
    """Consecutive snapshots, shape (2, n) each."""
    here = flat(model)
    generator = torch.Generator().manual_seed(1)
    points = [here]
    for _ in range(steps):
        points.append(points[-1] + 0.05 * torch.randn(here.shape, generator=generator))
    return [torch.stack([points[k], points[k + 1]]) for k in range(steps)]


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


@pytest.mark.parametrize("policy", [ProbePolicy(), ProbePolicy(batch_norm="frozen")], ids=["batch", "frozen"])
@pytest.mark.parametrize("audit_at", ["snapshot", "maximum", "start"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_do_not_tell_what_the_worker_measured_before(name: str, audit_at: Any, policy: ProbePolicy) -> None:
    model = network(nn.BatchNorm1d(5))
    snapshots = trajectory(model, 3)

    def probe() -> Probe:
        return Probe(model, regression, batches(), audit=batches(1), audit_at=audit_at, policy=policy)

    one_after_the_other = probe()
    together = [ESTIMATORS[name](one_after_the_other, snapshot) for snapshot in snapshots]
    alone = [ESTIMATORS[name](probe(), snapshot) for snapshot in reversed(snapshots)]
    assert all(same(one, other) for one, other in zip(together, reversed(alone), strict=True))


def test_the_gradient_at_the_next_iterate_is_taken_over_where_snapshots_follow_each_other() -> None:
    model = network()
    probe = Probe(model, regression, batches(), audit=batches(1))
    calls: list[Tensor] = []
    evaluate = probe.gradient.value_and_gradient
    probe.value_and_gradient = GradientMemory(lambda x: calls.append(x) or evaluate(x), max_bytes=0)  # type: ignore[func-returns-value]
    counts = []
    for snapshot in trajectory(model, 3):
        before = len(calls)
        ESTIMATORS["directional_smoothness"](probe, snapshot, delta=0.25)
        counts.append(len(calls) - before)
    assert counts == [5, 4, 4]


def test_estimators_of_one_snapshot_share_their_gradients() -> None:
    model = network()
    probe = Probe(model, regression, batches(), audit=batches(1))
    calls: list[Tensor] = []
    evaluate = probe.gradient.value_and_gradient
    probe.value_and_gradient = GradientMemory(lambda x: calls.append(x) or evaluate(x))  # type: ignore[func-returns-value]
    (snapshot,) = trajectory(model, 1)
    ESTIMATORS["directional_smoothness"](probe, snapshot, delta=0.1)
    ESTIMATORS["layer_smoothness"](probe, snapshot, delta=0.1)
    ESTIMATORS["directional_curvature"](probe, snapshot)
    assert len(calls) == 11


def test_a_memory_is_bounded_and_tells_zero_from_minus_zero() -> None:
    calls: list[Tensor] = []
    memory = GradientMemory(lambda x: calls.append(x) or (0.0, x.clone()), max_bytes=0)  # type: ignore[func-returns-value]
    a, b, c = (torch.tensor([value]) for value in (1.0, 2.0, 3.0))
    for point in (a, b, a, c, a, b):
        memory(point)
    assert [x.item() for x in calls] == [1.0, 2.0, 3.0, 2.0], "the two seen last are held"
    memory(torch.tensor([0.0]))
    memory(torch.tensor([-0.0]))
    assert len(calls) == 6
    memory.clear()
    memory(torch.tensor([-0.0]))
    assert len(calls) == 7


def test_the_probe_computes_in_full_float32_whatever_is_in_force_around_it() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        assert arithmetic_of(torch.float32) != "float32 ieee"
        seen: list[str] = []

        def loss(model: nn.Module, batch: Any, carry: None) -> tuple[Tensor, None]:
            seen.append(arithmetic_of(torch.float32))
            assert not torch.is_autocast_enabled("cpu")
            return regression(model, batch, carry)

        with torch.autocast("cpu", dtype=torch.bfloat16):
            probe = Probe(network(), loss, batches())
            (snapshot,) = trajectory(network(), 1)
            for name in ESTIMATORS:
                ESTIMATORS[name](probe, snapshot)
            assert torch.is_autocast_enabled("cpu")
        assert set(seen) == {"float32 ieee"}
        assert probe.arithmetic == "float32 ieee"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_switches_are_put_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), full_float32():
            raise KeyError("x")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_arithmetic_is_told_by_its_type() -> None:
    wide = [(x.double(), y.double()) for x, y in batches()]
    assert Probe(network().double(), regression, wide).arithmetic == "float64"


def test_frozen_batch_norm_holds_the_statistics_of_the_whole_probe_at_the_first_iterate() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    (snapshot,) = trajectory(model, 1)
    probe = Probe(model, regression, batches(), policy=ProbePolicy(batch_norm="frozen"))
    probe.settle(snapshot[0])
    found, _ = probe.value_and_gradient(snapshot[1])

    def hidden(point: Tensor) -> list[Tensor]:
        weight, bias = point[:12].view(4, 3), point[12:16]
        return [x @ weight.T + bias for x, _ in batches()]

    mean = torch.stack([h.mean(0) for h in hidden(snapshot[0])]).mean(0)
    variance = torch.stack([h.var(0) for h in hidden(snapshot[0])]).mean(0)
    scale, shift, weight, bias = snapshot[1][16:20], snapshot[1][20:24], snapshot[1][24:28], snapshot[1][28:]
    losses = [
        (((h - mean) / (variance + 1e-5).sqrt() * scale + shift) @ weight + bias - y[:, 0]).square().mean()
        for h, (_, y) in zip(hidden(snapshot[1]), batches(), strict=True)
    ]
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_frozen_and_batch_statistics_give_different_functions_and_rows_say_which() -> None:
    model = network(nn.BatchNorm1d(5))
    (snapshot,) = trajectory(model, 1)
    values = {
        kind: ESTIMATORS["directional_smoothness"](
            Probe(model, regression, batches(), policy=ProbePolicy(batch_norm=kind)), snapshot
        )["smoothness"]
        for kind in ("batch", "frozen")
    }
    assert values["batch"] != values["frozen"]
    assert ProbePolicy(batch_norm="frozen").words.startswith("batch_norm=frozen")


def test_an_audit_of_the_whole_probe_is_the_error_of_the_gradient_that_is_measured_with() -> None:
    model = network()
    probe = Probe(model, regression, batches())
    here = flat(model)
    _, slope = probe.value_and_gradient(here)
    wide = Probe(network().double(), regression, [(x.double(), y.double()) for x, y in batches()])
    _, exact = wide.value_and_gradient(here.double())
    assert probe.gradient_error(here) == pytest.approx(float((slope.double() - exact).norm()), rel=1e-12)


def test_an_audit_at_the_start_never_shrinks_and_grows_with_the_gradient() -> None:
    model = network()
    probe = Probe(model, regression, batches(), audit_at="start")
    start = flat(model)
    at_start = probe.gradient_error(start)
    assert at_start == Probe(model, regression, batches()).gradient_error(start)
    far = 20 * start
    growth = float(probe.value_and_gradient(far)[1].norm() / probe.value_and_gradient(start)[1].norm())
    assert growth > 1
    assert probe.gradient_error(far) == pytest.approx(growth * at_start, rel=1e-5)


# A loss that cannot be evaluated in float64

INPUTS = torch.linspace(-1, 1, 8)[:, None]


def closed_over(model: nn.Module, rows: Tensor, carry: None) -> tuple[Tensor, None]:
    """Takes its data from outside of the batch, so that it stays float32 whatever the model is."""
    return (model(INPUTS[rows]) - INPUTS[rows]).square().mean(), carry


@pytest.mark.parametrize("audit_at", ["snapshot", "maximum", "start"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_loss_that_closes_over_its_data_is_measured_without_an_audit_and_the_row_says_so(
    name: str, audit_at: Literal["snapshot", "maximum", "start"]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    batches = [torch.arange(4), torch.arange(4, 8)]
    probe = Probe(model, closed_over, batches, audit_at=audit_at)
    (snapshot,) = trajectory_of(model, closed_over, batches[0])
    row = ESTIMATORS[name](probe, snapshot)
    if name == "directional_smoothness":
        through_the_batch = Probe(model, in_batch, [INPUTS[rows] for rows in batches])
        expected = ESTIMATORS[name](through_the_batch, snapshot)
        assert row["smoothness"] == expected["smoothness"] > 0
        assert (row["trust"], row["snr"], row["noise_floor"]) == ("unaudited", None, None)
        assert expected["trust"] == "trusted"
        assert "dtype" in str(probe.unaudited)
        assert through_the_batch.unaudited is None
    if name == "layer_smoothness":
        assert set(row["trust_by_layer"]) == {"unaudited"}
        assert all(value > 0 for value in row["smoothness_by_layer"])


def test_a_loss_that_raises_in_working_precision_too_is_an_error_and_not_merely_unaudited() -> None:
    def broken(model: nn.Module, rows: Tensor, carry: None) -> tuple[Tensor, None]:
        raise ValueError("no such row")

    model = nn.Linear(1, 1)
    probe = Probe(model, broken, [torch.arange(4)])
    with pytest.raises(ValueError, match="no such row"):
        ESTIMATORS["directional_smoothness"](probe, torch.zeros(2, 2))


def in_batch(model: nn.Module, inputs: Tensor, carry: None) -> tuple[Tensor, None]:
    return (model(inputs) - inputs).square().mean(), carry


def trajectory_of(model: nn.Module, loss: Any, batch: Any) -> list[Tensor]:
    """One step of gradient descent, as a snapshot."""
    value, _ = loss(model, batch, None)
    slopes = torch.autograd.grad(value, list(model.parameters()))
    here = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return [torch.stack([here, here - 0.1 * torch.cat([slope.reshape(-1) for slope in slopes])])]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_model_in_half_precision_is_measured_in_float32(name: str, half: torch.dtype) -> None:
    trained = network(nn.BatchNorm1d(5)).to(half)
    (snapshot,) = trajectory(network(nn.BatchNorm1d(5)), 1)
    snapshot = snapshot.to(half).float()
    of_half = Probe(trained, regression, [(x.to(half), y.to(half)) for x, y in batches()])
    rounded = [(x.to(half).float(), y.to(half).float()) for x, y in batches()]
    of_float = Probe(network(nn.BatchNorm1d(5)).to(half).float(), regression, rounded)
    assert of_half.arithmetic == "float32 ieee"
    assert same(ESTIMATORS[name](of_half, snapshot), ESTIMATORS[name](of_float, snapshot))
    assert next(trained.parameters()).dtype == half, "the caller's model stays as it is"


def test_one_layer_in_half_precision_is_enough_for_float32_throughout() -> None:
    model = network()
    model[2].to(torch.bfloat16)
    mixed = nn.Sequential(model[0], model[1], Rounded(model[2]))
    assert Probe(mixed, regression, batches()).arithmetic == "float32 ieee"


class Rounded(nn.Module):
    """A layer whose input has its own weights' type."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(next(self.layer.parameters()).dtype)).float()


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, x[:, :1]), lambda x: {"inputs": [x]}])
def test_batches_of_different_sizes_are_refused_since_their_mean_would_be_another_function(wrap: Any) -> None:
    equal, smaller = torch.ones(4, 3), torch.ones(3, 3)
    Probe(network(), regression, [wrap(equal), wrap(equal)])
    with pytest.raises(ValueError, match=r"different sizes, \(4, 3\) and \(3, 3\).*leave out the last, smaller one"):
        Probe(network(), regression, [wrap(equal), wrap(equal), wrap(smaller)])
