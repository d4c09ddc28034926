"""Measurements of local smoothness along a training run, usable without the rest of clipsweep."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimators.adaptive import measure_adaptive_smoothness
    from estimators.arithmetic import arithmetic_of, full_float32
    from estimators.chebyshev import lobatto_nodes, measure_chebyshev_smoothness
    from estimators.fit import Interval, log_log_correlation, mean_interval, rank_correlation
    from estimators.gradient import GradientFn, Params, ProbeGradient
    from estimators.gradient_noise import GradientNoise, measure_gradient_noise
    from estimators.hessian import ProbeHessian
    from estimators.pairs import find_pairs, load_weights, measure_pairs
    from estimators.policy import ProbePolicy, freeze_stochastic_layers
    from estimators.probe import Probe
    from estimators.registry import ESTIMATORS
    from estimators.repeat import NullTest, null_test
    from estimators.rounding import RoundingProbe
    from estimators.rows import directional_smoothness_row
    from estimators.smoothness import (
        DirectionalSmoothness,
        directional_smoothness,
        fractions_of,
        measure_directional_smoothness,
    )
    from estimators.spectral_norm import largest_eigenpairs
    from estimators.spectrum import Trace, hutch_plus_plus
    from estimators.trust import Judgement, judge

__all__ = [
    "ESTIMATORS",
    "DirectionalSmoothness",
    "GradientFn",
    "GradientNoise",
    "Interval",
    "Judgement",
    "NullTest",
    "Params",
    "Probe",
    "ProbeGradient",
    "ProbeHessian",
    "ProbePolicy",
    "RoundingProbe",
    "Trace",
    "arithmetic_of",
    "directional_smoothness",
    "directional_smoothness_row",
    "find_pairs",
    "fractions_of",
    "freeze_stochastic_layers",
    "full_float32",
    "hutch_plus_plus",
    "judge",
    "largest_eigenpairs",
    "load_weights",
    "lobatto_nodes",
    "log_log_correlation",
    "mean_interval",
    "measure_adaptive_smoothness",
    "measure_chebyshev_smoothness",
    "measure_directional_smoothness",
    "measure_gradient_noise",
    "measure_pairs",
    "null_test",
    "rank_correlation",
]

# By name, not by import: reports need the statistics of ``estimators.fit`` but not torch, which takes a second to load.
_HOMES = {
    "estimators.adaptive": ("measure_adaptive_smoothness",),
    "estimators.arithmetic": ("arithmetic_of", "full_float32"),
    "estimators.chebyshev": ("lobatto_nodes", "measure_chebyshev_smoothness"),
    "estimators.fit": ("Interval", "log_log_correlation", "mean_interval", "rank_correlation"),
    "estimators.gradient": ("GradientFn", "Params", "ProbeGradient"),
    "estimators.gradient_noise": ("GradientNoise", "measure_gradient_noise"),
    "estimators.hessian": ("ProbeHessian",),
    "estimators.repeat": ("NullTest", "null_test"),
    "estimators.pairs": ("find_pairs", "load_weights", "measure_pairs"),
    "estimators.policy": ("ProbePolicy", "freeze_stochastic_layers"),
    "estimators.probe": ("Probe",),
    "estimators.registry": ("ESTIMATORS",),
    "estimators.rounding": ("RoundingProbe",),
    "estimators.rows": ("directional_smoothness_row",),
    "estimators.smoothness": (
        "DirectionalSmoothness",
        "directional_smoothness",
        "fractions_of",
        "measure_directional_smoothness",
    ),
    "estimators.spectral_norm": ("largest_eigenpairs",),
    "estimators.spectrum": ("Trace", "hutch_plus_plus"),
    "estimators.trust": ("Judgement", "judge"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
