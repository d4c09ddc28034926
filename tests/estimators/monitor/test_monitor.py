"""What a monitor measures and records in loops of every kind, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import RandomLossError, SmoothnessMonitor, measure_pairs
from estimators.probe.copies import UnfaithfulCopyError
from tests.estimators.monitor.conftest import Kept, mean_square, noticing_model, some_batches


def quadratic(curvature: float = 4.0, size: int = 3) -> tuple[nn.Module, Callable[[nn.Module, Any], Tensor]]:
    """f(w) = curvature / 2 ||w - b||², b the mean of a batch: its smoothness is the curvature everywhere."""

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(size))

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return curvature / 2 * (model.weight - batch).square().sum(dim=1).mean()

    return Quadratic(), loss_fn


ZEROS = [torch.zeros(2, 3)] * 2


def steps_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Callable[..., Tensor], kept: Kept, **options: Any
) -> None:
    """Six steps, clipped to a norm of 2."""
    options = {"every": 1, "budget": None, "probe": ZEROS} | options
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, **options) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            loss = loss_fn(model, ZEROS[0])
            loss.backward()
            monitor.note(loss)
            monitor.clip_grad_norm_(2.0)
            optimizer.step()


def test_the_smoothness_of_a_quadratic_is_its_curvature_and_the_metrics_are_those_of_the_loop(kept: Kept) -> None:
    model, loss_fn = quadratic()
    steps_of(model, torch.optim.SGD(model.parameters(), lr=0.1), loss_fn, kept, steps_per_epoch=2)
    assert [row["step"] for row in kept.measured()] == list(range(6))
    assert [row["smoothness"] for row in kept.measured()] == pytest.approx([4.0] * 6, rel=1e-5)
    first = kept.metrics[0]
    # f(1, 1, 1) = 4/2 · 3, its gradient is 4 (1, 1, 1); clipped to 2, a step of 0.1 · 2.
    assert first["train_loss"] == pytest.approx(6.0)
    assert first["grad_norm"] == pytest.approx(4 * math.sqrt(3))
    assert first["clipped"] is True
    assert first["step_size"] == pytest.approx(0.1 * 2 / (4 * math.sqrt(3)), rel=1e-5)
    assert first["update_norm"] == pytest.approx(0.2, rel=1e-5)
    assert first["learning_rate"] == 0.1
    assert first["threshold"] == 2.0
    assert [row["epoch"] for row in kept.metrics] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert kept.outcome == "done"
    assert sum(block.num_clipped for block in kept.blocks) == sum(row["clipped"] for row in kept.metrics) == 6


def test_values_are_those_of_measure_pairs_on_the_same_weights(kept: Kept) -> None:
    model = noticing_model()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    batches = some_batches(3)
    saved = []
    with SmoothnessMonitor(model, optimizer, mean_square, out=kept, every=1, budget=None, probe=batches) as monitor:
        for k, batch in enumerate(some_batches(4)):
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            optimizer.zero_grad()
            loss = mean_square(model, batch)
            loss.backward()
            monitor.note(loss)
            optimizer.step()
            saved.append((k, before, {name: p.detach().clone() for name, p in model.named_parameters()}))
    again = measure_pairs(
        saved,
        model,
        lambda model, batch, carry: (mean_square(model, batch), carry),
        batches,
        audit=batches[:1],
        estimators={"directional_smoothness": {"method": "adaptive"}},
    )
    for row, expected in zip(kept.measured(), again, strict=True):
        assert {key: row[key] for key in ("step", "smoothness", "grad_norm", "loss", "noise_floor")} == {
            key: expected[key] for key in ("step", "smoothness", "grad_norm", "loss", "noise_floor")
        }


def test_a_loop_that_says_nothing_but_its_batches_is_measured_too(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=ZEROS):
        for _ in range(2):
            optimizer.zero_grad()
            loss_fn(model, ZEROS[0]).backward()
            optimizer.step()
    assert [row["smoothness"] for row in kept.measured()] == pytest.approx([4.0] * 2, rel=1e-4)
    assert kept.metrics[0]["train_loss"] is None
    assert kept.metrics[0]["grad_norm"] == pytest.approx(4 * math.sqrt(3))


def test_the_first_batches_of_the_loop_become_the_probe_and_stay_what_they_were(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batch = torch.zeros(2, 3)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=2) as monitor:
        for k in range(5):
            # One buffer for all batches, as some loaders have; the last one is smaller.
            batch.fill_(k)
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.note(loss, batch[: 1 if k == 0 else 2])
            optimizer.step()
            seen = model.weight.detach().clone()
    # The second of the first's size never came: batches 0 has one row, so 1 to 4 are of another size.
    assert kept.measured() == []
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=2) as monitor:
        for k in range(4):
            batch.fill_(k)
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.note(loss, batch)
            before = model.weight.detach().clone()
            optimizer.step()
    # f is the mean over batches of 0 and of 1: its gradient is 4 (w - 1/2).
    rows = kept.measured()
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["grad_norm"] == pytest.approx(float(4 * (before - 0.5).norm()), rel=1e-5)
    assert not torch.equal(seen, before)


def test_gradient_accumulation_is_one_step_with_the_mean_loss(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=ZEROS) as monitor:
        for number in (0.0, 1.0):
            loss = loss_fn(model, torch.full((2, 3), number))
            (loss / 2).backward()
            monitor.note(loss)
        optimizer.step()
    assert [row["train_loss"] for row in kept.metrics] == [pytest.approx(3.0)]


def test_steps_that_a_gradient_scaler_skips_are_no_steps(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=ZEROS) as monitor:
        for factor in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            loss = loss_fn(model, ZEROS[0])
            scaler.scale(loss * factor).backward()
            monitor.note(loss * factor)
            scaler.step(optimizer)
            scaler.update()
    assert [row["step"] for row in kept.metrics] == [0, 1]
    # Unscaled, and without the infinite loss of the step in between.
    assert kept.metrics[0]["grad_norm"] == pytest.approx(4 * math.sqrt(3), rel=1e-5)
    assert math.isfinite(kept.metrics[1]["train_loss"])
    assert kept.outcome == "done"


def test_clipping_that_is_only_announced_leaves_the_raw_norms_unknown(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options: dict[str, Any] = {"every": 100, "budget": None, "probe": ZEROS, "clip_norm": 2.0}
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, **options):
        for factor in (1.0, 0.1):
            optimizer.zero_grad()
            (factor * loss_fn(model, ZEROS[0])).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
    clipped, free = kept.metrics
    assert (clipped["clipped"], clipped["grad_norm"], clipped["step_size"]) == (True, None, None)
    # Nor elsewhere: norms of the short gradients alone would be no sample of all.
    assert (free["clipped"], free["grad_norm"], free["step_size"]) == (False, None, None)


def test_rates_of_parameter_groups_that_differ_are_not_made_one(kept: Kept) -> None:
    model = noticing_model()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[6].parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    with SmoothnessMonitor(model, optimizer, mean_square, out=kept, probe=some_batches(2)):
        mean_square(model, some_batches(1)[0]).backward()
        optimizer.step()
    assert kept.metrics[0]["learning_rate"] is None
    assert kept.metrics[0]["step_size"] is None


def test_a_closure_is_measured_between_the_weights_before_and_after_it(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_fn(model, ZEROS[0])
        loss.backward()
        monitor.note(loss)
        return loss.item()

    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=ZEROS) as monitor:
        optimizer.step(closure)
    assert kept.measured()[0]["smoothness"] == pytest.approx(4.0, rel=1e-5)
    assert kept.metrics[0]["grad_norm"] == pytest.approx(4 * math.sqrt(3))
    assert kept.metrics[0]["update_norm"] == pytest.approx(0.4 * math.sqrt(3), rel=1e-5)


def test_shared_weights_unused_weights_and_dictionaries_of_tensors_are_fine(kept: Kept) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(4, 4, bias=False)
            self.decoder = nn.Linear(4, 4, bias=False)
            self.decoder.weight = self.encoder.weight
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(torch.tanh(self.encoder(x)))

    def loss_fn(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return (model(batch["x"][0]) - batch["y"]).square().mean()

    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = {"x": (torch.randn(8, 4), "a text"), "y": torch.randn(8, 4)}
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=1) as monitor:
        for _ in range(3):
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.note(loss, batch)
            optimizer.step()
    assert all(row["smoothness"] > 0 for row in kept.measured())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_measured_in_float32(dtype: torch.dtype, kept: Kept) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    batch = torch.randn(8, 4, dtype=dtype)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=[batch]):
        loss_fn(model, batch).backward()
        optimizer.step()
    (row,) = kept.measured()
    assert row["arithmetic"] == "float32 ieee"
    assert row["smoothness"] > 0


def test_what_f_depends_on_besides_the_trained_weights_is_that_of_the_moment(kept: Kept) -> None:
    """A frozen scale and a buffer, changed by the loop: the curvature is scale² (1 + shift)."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
            self.register_buffer("shift", torch.tensor(0.0))

    def loss_fn(model: Any, batch: Tensor) -> Tensor:
        return ((1 + model.shift) * (model.scale * model.weight).square() / 2).mean() + 0 * batch.sum()

    model = Scaled()
    optimizer = torch.optim.SGD([model.weight], lr=0.01)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=1, budget=None, probe=[torch.ones(1)]):
        for scale, shift in ((2.0, 0.0), (3.0, 0.0), (3.0, 1.0)):
            model.scale.data.fill_(scale)
            model.shift.fill_(shift)
            optimizer.zero_grad()
            loss_fn(model, torch.ones(1)).backward()
            optimizer.step()
    assert [row["smoothness"] for row in kept.measured()] == pytest.approx([4.0, 9.0, 18.0], rel=1e-4)


def test_layers_that_thaw_become_a_part_of_the_measured_step(kept: Kept) -> None:
    model = noticing_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with SmoothnessMonitor(model, optimizer, mean_square, out=kept, every=1, budget=None, probe=some_batches(2)):
        for k, batch in enumerate(some_batches(2)):
            model[4].requires_grad_(k == 1)
            optimizer.zero_grad()
            mean_square(model, batch).backward()
            optimizer.step()
            norms.append(
                0.1 * float(torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]).norm())
            )
    assert [row["update_norm"] for row in kept.measured()] == pytest.approx(norms, rel=1e-5)


def test_a_measurement_that_fails_is_a_row_that_says_why_and_training_goes_on(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    broken: list[bool] = []

    def sometimes(model: nn.Module, batch: Tensor) -> Tensor:
        if broken:
            raise RuntimeError("out of luck")
        return loss_fn(model, batch)

    with SmoothnessMonitor(model, optimizer, sometimes, out=kept, every=1, budget=None, probe=ZEROS) as monitor:
        for k in range(3):
            broken[:] = [True] if k == 1 else []
            optimizer.zero_grad()
            loss_fn(model, ZEROS[0]).backward()
            optimizer.step()
    assert [row.get("error") for row in kept.measured()] == [
        None,
        "directional_smoothness: RuntimeError: out of luck",
        None,
    ]
    assert monitor.summary().failed == 1
    assert str(monitor.summary()).startswith("3 snapshots in 3 steps, 1 of them failed; measuring took ")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "step 1 could not be measured; training goes on: out of luck"
    ]
    assert {text: count for block in kept.blocks for text, count in block.unmeasured.items()} == {
        "directional_smoothness: RuntimeError: out of luck": 1
    }


def test_a_loop_that_diverges_is_recorded_as_such(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=2, budget=None, probe=ZEROS) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_fn(model, ZEROS[0])
            loss.backward()
            monitor.note(loss)
            optimizer.step()
    assert kept.outcome == "diverged"
    assert kept.blocks[-1].diverged_step == 1
    assert kept.blocks[-1].last_finite_loss == pytest.approx(6.0)


def test_a_loop_that_diverges_before_its_first_snapshot_goes_on_and_is_recorded_as_such(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=kept, every=4, budget=None, probe=2) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            loss = loss_fn(model, ZEROS[0])
            loss.backward()
            monitor.note(loss, ZEROS[0])
            optimizer.step()
    assert kept.outcome == "diverged"
    assert [(row["step"], row["trust"]) for row in kept.measured()] == [(4, "overflow")]
    assert len(kept.metrics) == 6


def test_a_loop_that_raises_says_so_and_an_interrupt_is_no_failure(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError), SmoothnessMonitor(model, optimizer, loss_fn, out=kept, probe=ZEROS):
        raise KeyError("lost")
    assert (kept.outcome, kept.error) == ("stopped", "KeyError: 'lost'")
    with pytest.raises(KeyboardInterrupt), SmoothnessMonitor(model, optimizer, loss_fn, out=kept, probe=ZEROS):
        raise KeyboardInterrupt
    assert (kept.outcome, kept.error) == ("stopped", None)


# What is refused


def monitored(kept: Kept, **changed: Any) -> SmoothnessMonitor:
    model, loss_fn = quadratic()
    made = {"model": model, "loss_fn": loss_fn, "probe": ZEROS, "out": kept} | changed
    if "optimizer" not in made:
        made["optimizer"] = torch.optim.SGD(made["model"].parameters(), lr=0.1)
    return SmoothnessMonitor(**made)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"every": 0}, "every=0: must be a whole number of at least 1"),
        ({"every": 2.5}, "every=2.5: must be a whole number"),
        ({"every": True}, "every=True"),
        ({"log_every": 0}, "log_every=0"),
        ({"seed": -1}, "seed=-1"),
        ({"audit": 0}, "audit=0: must be a whole number of at least 1$"),
        ({"probe": 0}, "probe=0: must be a whole number of at least 1$"),
        ({"steps": 0}, "steps=0: must be a whole number of at least 1, or None"),
        ({"budget": 0}, "budget=0: must be a share of the loop's time, for example 0.03"),
        ({"budget": -0.1}, "budget=-0.1"),
        ({"clip_norm": 0.0}, "clip_norm=0.0: must be positive, or None"),
        ({"batch_norm": "none"}, "batch_norm='none': must be 'batch' or 'frozen'"),
        ({"probe": []}, "f would be the mean of nothing"),
        ({"probe": [torch.zeros(2, 3), torch.zeros(1, 3)]}, "the batches of the probe have different sizes"),
        ({"estimators": {"hessian_norm": {}}}, "unknown estimator 'hessian_norm'; known: .*did you mean"),
        ({"estimators": {"preconditioned_sharpness": {}}}, "needs what the optimiser divided its step by"),
        ({"estimators": {}}, "nothing would be measured"),
        ({"loss_fn": lambda model, batch: (model.weight - batch).square()}, r"found a tensor of shape \(2, 3\)"),
        ({"loss_fn": lambda model, batch: {"loss": model.weight.sum()}}, "found <class 'dict'>"),
        ({"loss_fn": lambda model, batch: model.weight.sum() * math.nan}, "loss_fn is nan on the probe's batches"),
        ({"loss_fn": lambda model, batch: model.weight.sum().detach()}, "the loss does not depend on the parameters"),
    ],
)
def test_wrong_arguments_are_refused_with_the_fix(changed: dict[str, Any], text: str, kept: Kept) -> None:
    with pytest.raises(ValueError, match=text):
        monitored(kept, **changed)
    assert kept.blocks == []


def test_a_loss_that_draws_or_reaches_for_the_model_is_refused_with_what_to_do(kept: Kept) -> None:
    model, loss_fn = quadratic()
    with pytest.raises(RandomLossError, match="give it one without that"):
        monitored(kept, model=model, loss_fn=lambda model, batch: loss_fn(model, batch) + torch.rand(()))
    with pytest.raises(UnfaithfulCopyError, match="use the model that the loss is given"):
        monitored(kept, model=model, loss_fn=lambda given, batch: loss_fn(model, batch) + 0 * given.weight.sum())


def test_models_and_optimisers_that_do_not_fit_are_refused(kept: Kept) -> None:
    model, _ = quadratic()
    other, _ = quadratic()
    for changed, text in [
        ({"optimizer": torch.optim.LBFGS(model.parameters())}, "LBFGS takes several steps"),
        ({"optimizer": [torch.optim.SGD(model.parameters(), lr=1)]}, "make one monitor for each"),
        ({"optimizer": torch.optim.SGD(other.parameters(), lr=1)}, r"1 of the optimiser's 1 parameters, .* \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=text):
            monitored(kept, model=model, **changed)
    with pytest.raises(ValueError, match="has no parameter that requires a gradient"):
        monitored(kept, model=nn.Flatten(), optimizer=torch.optim.SGD(model.parameters(), lr=1))


def test_a_loop_that_hands_over_no_batch_is_told(kept: Kept) -> None:
    model, loss_fn = quadratic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitored(kept, model=model, optimizer=optimizer, probe=2, every=3)

    def loop() -> None:
        for _ in range(4):
            loss_fn(model, ZEROS[0]).backward()
            optimizer.step()

    with pytest.raises(ValueError, match="there are no batches to measure on: hand some to"):
        loop()


def test_sharded_models_are_refused_and_wrapped_ones_are_unwrapped(kept: Kept) -> None:
    class FullyShardedDataParallel(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.inner = module

    model, loss_fn = quadratic()
    sharded = FullyShardedDataParallel(model)
    with pytest.raises(ValueError, match=r"sharded over processes .*use DistributedDataParallel"):
        monitored(kept, model=sharded)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = monitored(kept, model=nn.DataParallel(model), optimizer=optimizer, every=1, budget=None)
    loss_fn(model, ZEROS[0]).backward()
    optimizer.step()
    monitor.close()
    assert kept.measured()[0]["smoothness"] == pytest.approx(4.0, rel=1e-5)
