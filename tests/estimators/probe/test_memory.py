"""Gradients that are known are found without looking at those that are held."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe


def test_the_work_of_a_look_up_does_not_grow_with_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    batches = list(torch.randn(2, 8, 3))
    probe = Probe(
        nn.Linear(3, 1), lambda m, batch, c: (m(batch).pow(4).mean(), c), batches, audit_at="start", known=True
    )
    compared: list[Tensor] = []
    real = torch.equal
    monkeypatch.setattr(torch, "equal", lambda one, other: compared.append(one) or real(one, other))
    point = torch.ones(4)
    counts = []
    for _ in range(40):
        before = len(compared)
        following = point - 0.01 * probe.value_and_gradient(point)[1]
        row = ESTIMATORS["directional_smoothness"](probe, torch.stack([point, following]), method="exact")
        assert row["num_gradients"] == 11
        counts.append(len(compared) - before)
        point = following
    # The two ends, and whatever asks again for them; never a point that is another.
    assert counts[1:] == [counts[1]] * 39
    assert counts[1] <= 8
