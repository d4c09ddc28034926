"""Trajectories of real training, measured along the way, without Ray."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from estimators import ESTIMATORS
from sweeper.spec.sections.measure import Measure
from sweeper.workers.estimator import build_probe
from trainers.problem import Problem
from trainers.update.flat import flat_parameters

Measured = Callable[..., Iterator[tuple[dict[str, Any], ...]]]


@pytest.fixture
def measured_along() -> Measured:
    """Measures eq. (20) along SGD on a problem: every few steps, one row per method."""

    def measured(
        problem: Problem,
        *,
        data_fraction: float,
        rate: float,
        clip_norm: float | None,
        steps: int,
        every: int,
        methods: tuple[str, ...],
    ) -> Iterator[tuple[dict[str, Any], ...]]:
        measure = Measure(every=1, data_fraction=data_fraction).model_dump(mode="json")
        probe = build_probe(problem, measure | {"audit": measure["audit"] | {"at": "start"}})
        network = copy.deepcopy(problem.model).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        carry = problem.initial_carry()
        for step in range(steps):
            before = flat_parameters(network).clone()
            optimizer.zero_grad()
            loss, carry = problem.loss(network, problem.batch(step), carry)
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
            optimizer.step()
            if step % every == 0:
                snapshot = torch.stack([before, flat_parameters(network)])
                yield tuple(ESTIMATORS["directional_smoothness"](probe, snapshot, method=method) for method in methods)

    return measured
