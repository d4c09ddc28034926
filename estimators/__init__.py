"""Measurements of local smoothness along a training run, usable without the rest of clipsweep."""

from estimators.fit import Interval, log_log_correlation, mean_interval, rank_correlation
from estimators.gradient import GradientFn, Params, ProbeGradient, freeze_stochastic_layers
from estimators.rounding import RoundingProbe
from estimators.rows import Probe, directional_smoothness_row
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

ESTIMATORS = {
    "directional_smoothness": directional_smoothness_row,
}
"""Name to function: ``(probe, iterates, **options) -> row``."""
