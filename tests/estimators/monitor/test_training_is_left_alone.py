"""Training with a monitor is training without one, to the last bit."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from estimators import SmoothnessMonitor
from tests.estimators.monitor.conftest import Kept, mean_square, noticing_model, some_batches

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
}


def trained(
    make: Callable[[Any], torch.optim.Optimizer], kept: Kept | None, *, autocast: bool = False
) -> dict[str, Any]:
    """Everything that training leaves behind, with or without a monitor on every third step."""
    model = noticing_model()
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for seeded in (torch.manual_seed, random.seed, np.random.seed):
        seeded(3)
    monitor = None
    if kept is not None:
        estimators: dict[str, dict[str, Any]] = {
            "directional_smoothness": {"method": "adaptive"},
            "hessian_spectral_norm": {},
            "gradient_noise": {},
            "critical_sharpness": {},
        }
        monitor = SmoothnessMonitor(
            model, optimizer, mean_square, out=kept, every=3, budget=None, estimators=estimators, probe=2
        )
    losses = []
    for batch in some_batches(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", enabled=autocast):
            loss = mean_square(model, batch)
        loss.backward()
        if monitor is not None:
            monitor.note(loss, batch)
            monitor.clip_grad_norm_(0.5)
        else:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.5)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    if monitor is not None:
        monitor.close()
    return {
        "losses": losses,
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "flags": [(p.requires_grad, p.is_leaf) for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "next numbers": (torch.rand(3), random.random(), np.random.rand()),
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_weights_state_and_random_numbers_are_the_same_to_the_last_bit(
    name: str, autocast: bool, kept: Kept
) -> None:
    alone = trained(OPTIMIZERS[name], None, autocast=autocast)
    watched = trained(OPTIMIZERS[name], kept, autocast=autocast)
    assert [row["step"] for row in kept.measured()] == [3, 6, 9, 12, 15, 18]
    assert all(row.get("error") is None and row["smoothness"] > 0 for row in kept.measured())
    assert alone["losses"] == watched["losses"]
    torch.testing.assert_close(watched, alone, rtol=0, atol=0)


def test_hooks_are_gone_after_the_end(kept: Kept) -> None:
    model = noticing_model()
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    with SmoothnessMonitor(model, optimizer, mean_square, out=kept, probe=some_batches(2)) as monitor:
        assert len(optimizer._optimizer_step_pre_hooks) == 1
    monitor.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert len(kept.blocks) == 1


def test_a_loader_that_is_handed_over_draws_no_random_number_of_the_training(kept: Kept) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(64, 6), torch.randn(64, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    model = noticing_model()
    optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    SmoothnessMonitor(model, optimizer, mean_square, out=kept, probe=loader).close()
    assert torch.equal(torch.rand(4), expected)
