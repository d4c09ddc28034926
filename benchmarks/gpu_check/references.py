"""What every case gives on a CPU, in a few kilobytes, and how far something else is from it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.cases import CASES, build, digest, probe_of, wide_of
from estimators import ESTIMATORS
from estimators.probe.hessian import ProbeHessian
from trainers.update.flat import flat_parameters

__all__ = ["all_references", "distance", "pair_of", "projections", "seen"]

_PROJECTIONS = 8
STEP = 0.02
"""Length of the measured step, as a share of that of the weights."""


def projections(vector: Tensor) -> list[float]:
    """Onto seeded vectors of independent normal numbers, in float64 on the CPU."""
    wide = vector.detach().cpu().double()
    found = []
    for seed in range(_PROJECTIONS):
        direction = torch.randn(len(wide), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found.append(float(direction @ wide))
    return found


def seen(value: float, vector: Tensor) -> dict[str, Any]:
    """How a vector is kept."""
    return {"value": value, "norm": float(vector.double().norm()), "projections": projections(vector)}


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Of two vectors, relative to the second's norm: the root mean square of the differences of their projections."""
    differences = [a - b for a, b in zip(one["projections"], other["projections"], strict=True)]
    return math.sqrt(sum(difference**2 for difference in differences) / len(differences)) / other["norm"]


def pair_of(point: Tensor, slope: Tensor) -> Tensor:
    """x_0 and a step of fixed length along the gradient, float32, shape (2, n)."""
    length = STEP * float(point.double().norm())
    return torch.stack([point, point - slope.to(point) * (length / float(slope.double().norm()))]).float()


def all_references(data: Path) -> dict[str, Any]:
    """What a CPU gives, for every case."""
    return {
        "made_on": {"torch": torch.__version__, "machine": platform.machine(), "python": platform.python_version()},
        "cases": {name: _reference(name, data) for name in CASES},
    }


def _reference(name: str, data: Path) -> dict[str, Any]:
    problem = build(name, data)
    probe = probe_of(problem)
    point = flat_parameters(problem.model)
    probe.settle(point)
    value, slope = wide_of(problem).value_and_gradient(point)
    narrow_value, narrow = probe.value_and_gradient(point)
    pair = pair_of(point, slope)
    row = ESTIMATORS["directional_smoothness"](probe, pair, delta=0.25)
    probe.settle(point)
    product = ProbeHessian(probe.gradient, point).product(slope.float() / slope.norm().float())
    return {
        "weights": digest(point),
        "batch": digest(problem.batch(0)),
        "probe": digest(probe.batches),
        "float64": seen(value, slope),
        "float32": seen(narrow_value, narrow),
        "error32": float((narrow.double() - slope).norm() / slope.norm()),
        "smoothness": row["smoothness"],
        "snr": row["snr"],
        "hessian": seen(0.0, product),
    }
