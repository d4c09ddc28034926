"""A loss that draws, or remembers, is found where it is measured; one that fails or overflows is not blamed for it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import Probe, ProbePolicy, RandomLossError, measure_pairs

Loss = Callable[[Any, Tensor, None], tuple[Tensor, None]]
BATCH = torch.linspace(-1, 1, 24).view(8, 3)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 1))


def squares(model: Any, batch: Tensor, carry: None) -> tuple[Tensor, None]:
    return model(batch).square().mean(), carry


class Moving(nn.Module):
    """Divides by an estimate of its input's size that moves at each call, as an average or a power iteration does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("size", torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.size = 0.9 * self.size + 0.1 * inputs.detach().square().mean()
        return inputs / self.size


def shaken(draw: Callable[[], Any]) -> Loss:
    return lambda model, batch, carry: squares(model, batch + 1e-4 * draw(), carry)


own = torch.Generator().manual_seed(0)
RANDOM: dict[str, tuple[nn.Module, Loss]] = {
    "torch": (network(), shaken(lambda: torch.randn(8, 3))),
    "own generator": (network(), shaken(lambda: torch.randn(8, 3, generator=own))),
    "numpy": (network(), shaken(lambda: float(np.random.rand()))),
    "python": (network(), shaken(random.random)),
    "dropout": (network(), lambda m, x, c: squares(m, nn.functional.dropout(x, 0.1), c)),
    "moving": (network(Moving()), squares),
}
SOUND: dict[str, tuple[nn.Module, Loss]] = {
    "dropout layers": (network(nn.Dropout(0.5)), squares),
    "batch norm": (network(nn.BatchNorm1d(4)), squares),
    "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 1)), squares),
    "nan": (network(), lambda m, x, c: (m(x).mean() * math.nan, c)),
    "infinite": (network(), lambda m, x, c: (m(x).square().mean() + math.inf, c)),
    "half": (network().bfloat16(), squares),
}


def probe_of(model: nn.Module, loss: Loss, **options: Any) -> tuple[Probe, Tensor]:
    probe = Probe(model, loss, [BATCH.to(next(model.parameters()).dtype)], **options)
    return probe, probe.gradient.point()


@pytest.mark.parametrize("name", RANDOM)
def test_whatever_changes_the_loss_from_one_call_to_the_next_is_found(name: str) -> None:
    probe, point = probe_of(*RANDOM[name])
    words = r"the same weights gave the losses \d\.\d+ and \d\.\d+; draw no random numbers .* give .* a measured_loss"
    with pytest.raises(RandomLossError, match=words), probe.require_repeats(point):
        probe.value_and_gradient(point + 1)


@pytest.mark.parametrize("batch_norm", ["batch", "frozen"])
@pytest.mark.parametrize("name", SOUND)
def test_a_function_of_the_parameters_is_left_alone(name: str, batch_norm: Any) -> None:
    probe, point = probe_of(*SOUND[name], policy=ProbePolicy(batch_norm=batch_norm))
    with probe.require_repeats(point):
        for away in (1, 0.5, 0):
            probe.value_and_gradient(point + away)


def test_what_is_raised_within_is_what_is_told() -> None:
    def fails(model: Any, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        raise RuntimeError("no loss today")

    probe, point = probe_of(network(), fails)
    with pytest.raises(RuntimeError, match="no loss today"), probe.require_repeats(point):
        probe.value_and_gradient(point)
    with probe.require_repeats(point):
        pass


def test_it_costs_two_forward_passes_of_one_batch() -> None:
    calls = []

    def counted(model: Any, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        calls.append(1)
        return squares(model, batch, carry)

    probe = Probe(network(), counted, [BATCH] * 5)
    with probe.require_repeats(probe.gradient.point()):
        pass
    assert len(calls) == 2


def test_pairs_from_anywhere_are_measured_on_functions_alone() -> None:
    model, loss = RANDOM["own generator"]
    before = model.state_dict()
    after = {name: value + 0.1 for name, value in before.items()}
    with pytest.raises(RandomLossError, match="f is no function of the parameters"):
        list(measure_pairs([(0, before, after)], model, loss, [BATCH]))
    assert len(list(measure_pairs([(0, before, after)], model, squares, [BATCH]))) == 1
