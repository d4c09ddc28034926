"""Measurements of local smoothness along a training run, usable without the rest of clipsweep."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimators.fit import Interval, log_log_correlation, mean_interval, rank_correlation
    from estimators.gradient import GradientFn, Params, ProbeGradient, freeze_stochastic_layers
    from estimators.rounding import RoundingProbe
    from estimators.rows import ESTIMATORS, Probe, directional_smoothness_row
    from estimators.smoothness import (
        DirectionalSmoothness,
        directional_smoothness,
        fractions_of,
        measure_directional_smoothness,
    )

__all__ = [
    "ESTIMATORS",
    "DirectionalSmoothness",
    "GradientFn",
    "Interval",
    "Params",
    "Probe",
    "ProbeGradient",
    "RoundingProbe",
    "directional_smoothness",
    "directional_smoothness_row",
    "fractions_of",
    "freeze_stochastic_layers",
    "log_log_correlation",
    "mean_interval",
    "measure_directional_smoothness",
    "rank_correlation",
]

# By name, not by import: reports need the statistics of ``estimators.fit`` but not torch, which takes a second to load.
_HOMES = {
    "estimators.fit": ("Interval", "log_log_correlation", "mean_interval", "rank_correlation"),
    "estimators.gradient": ("GradientFn", "Params", "ProbeGradient", "freeze_stochastic_layers"),
    "estimators.rounding": ("RoundingProbe",),
    "estimators.rows": ("ESTIMATORS", "Probe", "directional_smoothness_row"),
    "estimators.smoothness": (
        "DirectionalSmoothness",
        "directional_smoothness",
        "fractions_of",
        "measure_directional_smoothness",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
