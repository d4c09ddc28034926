"""Measurements of local smoothness along a training run, usable without the rest of clipsweep."""

from estimators.fit import Interval, log_log_correlation, mean_interval, rank_correlation
from estimators.gradient import GradientFn, Params, ProbeGradient, freeze_stochastic_layers
from estimators.rounding import RoundingProbe
from estimators.smoothness import (
    DirectionalSmoothness,
    directional_smoothness,
    fractions_of,
    measure_directional_smoothness,
)

__all__ = [
    "DirectionalSmoothness",
    "GradientFn",
    "Interval",
    "Params",
    "ProbeGradient",
    "RoundingProbe",
    "directional_smoothness",
    "fractions_of",
    "freeze_stochastic_layers",
    "log_log_correlation",
    "mean_interval",
    "measure_directional_smoothness",
    "rank_correlation",
]
