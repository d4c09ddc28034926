"""How far the curve through five gradients is off the exact grid on real data, and what it says of itself."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from estimators import ESTIMATORS
from sweeper.actors import build_probe
from sweeper.spec.measure import Measure
from trainers.problems import build_problem
from trainers.snapshot import flat_parameters

TEXT = {"corpus": "python-docs", "model": {"use": "lstm", "layers": 1, "hidden": 64, "embedding": 64}}
IMAGES = {"dataset": "digits", "model": {"use": "resnet20", "width": 8}}


def both_ways(
    use: str, options: dict[str, Any], data_fraction: float, rate: float, clip_norm: float | None
) -> list[tuple[float, float, float]]:
    """Largest error over the fractions, error of the value, and the curve's own estimate, as shares of the value."""
    problem = build_problem(use, options, seed=0)
    measure = Measure(every=1, data_fraction=data_fraction).model_dump(mode="json")
    probe = build_probe(problem, measure | {"audit": measure["audit"] | {"at": "start"}})
    network = copy.deepcopy(problem.model).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    carry, found = problem.initial_carry(), []
    for step in range(41):
        before = flat_parameters(network).clone()
        optimizer.zero_grad()
        loss, carry = problem.loss(network, problem.batch(step), carry)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        if step % 8 == 0:
            snapshot = torch.stack([before, flat_parameters(network)])
            exact, curve = (
                ESTIMATORS["directional_smoothness"](probe, snapshot, method=method)
                for method in ("exact", "chebyshev")
            )
            value = exact["smoothness"]
            apart = np.subtract(exact["smoothness_by_fraction"], curve["smoothness_by_fraction"])
            off = abs(value - curve["smoothness"])
            found.append((np.abs(apart).max() / value, off / value, curve["interpolation_error"] / value))
    return found


@pytest.mark.parametrize(("rate", "clip_norm"), [(30.0, 0.25), (2.0, None)])
def test_along_an_lstm_the_curves_own_error_is_a_bound_but_for_rounding(rate: float, clip_norm: float | None):
    for worst, off, estimate in both_ways("language_modeling", TEXT, 0.004, rate, clip_norm):
        assert worst <= 1.2 * estimate + 1e-4
        assert off < 0.03


def test_along_a_resnet_the_curves_own_error_tells_the_size_of_the_error_and_no_more():
    found = both_ways("image_classification", IMAGES, 0.1, 0.5, None)
    for _, off, estimate in found:
        assert off <= 4 * estimate
        assert off < 0.25
    # Gradients of a network with ReLUs turn along a step: the estimate says that the curve is a rough one.
    assert all(estimate > 0.01 for _, _, estimate in found)
