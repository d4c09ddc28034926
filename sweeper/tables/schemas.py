"""The columns of every table: the only place where Arrow types are defined."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

__all__ = ["MEASUREMENTS", "METRICS", "TELEMETRY", "TRIAL_TYPES"]

_NUMBER, _NUMBERS, _WORD = pa.float64(), pa.list_(pa.float64()), pa.string()

_SNAPSHOT = [("trial_id", _WORD), ("step", pa.int64()), ("epoch", _NUMBER)]
"""Which snapshot a row is about."""

_CONDITIONS = [
    ("data_fraction", _NUMBER),
    ("probe", _WORD),
    ("arithmetic", _WORD),
    ("measurement_id", _WORD),
    ("error", _WORD),
]
"""What f was, how it was computed, and under which settings; and, if a value is missing, why."""


def _table(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*_SNAPSHOT, *columns, *_CONDITIONS])


MEASUREMENTS = {
    "directional_smoothness": _table(
        ("loss", _NUMBER),
        ("grad_norm", _NUMBER),
        ("next_grad_norm", _NUMBER),
        ("update_norm", _NUMBER),
        ("smoothness", _NUMBER),
        ("argmax_fraction", _NUMBER),
        ("smoothness_by_fraction", _NUMBERS),
        ("at_zero", _NUMBER),
        ("interpolation_error", _NUMBER),
        ("mechanical_bound", _NUMBER),
        ("noise_floor", _NUMBER),
        ("snr", _NUMBER),
        ("trust", _WORD),
        ("trusted_fractions", pa.int64()),
        ("num_gradients", pa.int64()),
        ("method", _WORD),
    ),
    "layer_smoothness": _table(
        ("loss", _NUMBER),
        ("grad_norm", _NUMBER),
        ("layers", pa.list_(_WORD)),
        ("smoothness_by_layer", _NUMBERS),
        ("trust_by_layer", pa.list_(_WORD)),
        ("snr_by_layer", _NUMBERS),
        ("grad_norm_by_layer", _NUMBERS),
        ("update_norm_by_layer", _NUMBERS),
    ),
    "directional_curvature": _table(
        ("loss", _NUMBER),
        ("grad_norm", _NUMBER),
        ("update_norm", _NUMBER),
        ("smoothness", _NUMBER),
        ("curvature", _NUMBER),
        ("gradient_curvature", _NUMBER),
    ),
    "hessian_spectral_norm": _table(
        ("loss", _NUMBER),
        ("grad_norm", _NUMBER),
        ("spectral_norm", _NUMBER),
        ("eigenvalue", _NUMBER),
        ("residual", _NUMBER),
        ("num_products", pa.int64()),
    ),
    "hessian_spectrum": _table(
        ("loss", _NUMBER),
        ("grad_norm", _NUMBER),
        ("eigenvalues", _NUMBERS),
        ("residuals", _NUMBERS),
        ("trace", _NUMBER),
        ("trace_error", _NUMBER),
        ("mean_eigenvalue", _NUMBER),
        ("num_products", pa.int64()),
    ),
    "gradient_noise": _table(
        ("loss", _NUMBER),
        ("grad_norm", _NUMBER),
        ("grad_norm_squared", _NUMBER),
        ("split_half", _NUMBER),
        ("noise_variance", _NUMBER),
        ("tau", _NUMBER),
        ("noise_scale", _NUMBER),
        ("num_batches", pa.int64()),
    ),
    "authors_compat": _table(
        ("grad_norm", _NUMBER),
        ("smoothness", _NUMBER),
        ("null_smoothness", _NUMBER),
        ("update_norm", _NUMBER),
        ("num_batches", pa.int64()),
    ),
}
"""Estimator to columns, one row per snapshot; ``docs/estimators.md`` says what every column means."""

METRICS = pa.schema([
    ("trial_id", pa.string()),
    ("step", pa.int64()),
    ("epoch", pa.float64()),
    ("train_loss", pa.float64()),
    ("grad_norm", pa.float64()),
    ("step_size", pa.float64()),
    ("clipped", pa.bool_()),
    ("update_norm", pa.float64()),
    ("learning_rate", pa.float64()),
])
"""One row per logged step: loss and gradient of batch k at x_k. The problem's own metrics follow as further columns."""


TRIAL_TYPES: Mapping[str, pa.DataType] = {
    "case": pa.string(),
    "seed": pa.int64(),
    "steps": pa.int64(),
    "committed_step": pa.int64(),
    "diverged_step": pa.int64(),
    "attempts": pa.int32(),
    "learning_rate": pa.float64(),
    "clip_norm": pa.float64(),
    "train_s": pa.float64(),
    "estimate_s": pa.float64(),
    "last_finite_loss": pa.float64(),
    "clipped_fraction": pa.float64(),
    "error": pa.string(),
    "superseded": pa.bool_(),
    "code_id": pa.string(),
    "environment_id": pa.string(),
    "drift": pa.bool_(),
    "hitting_time": pa.int64(),
    "hitting_status": pa.string(),
    "function_name": pa.string(),
    **dict.fromkeys(
        ("epsilon", "L0", "L1", "M", "initial_gap", "noise", "iteration_bound", "min_grad_norm", "tail_grad_norm"),
        pa.float64(),
    ),
    "started_at": pa.timestamp("ms", tz="UTC"),
    "ended_at": pa.timestamp("ms", tz="UTC"),
}
"""Types of the columns of ``trials`` that do not depend on what is swept."""


TELEMETRY = pa.schema([
    ("trial_id", pa.string()),
    ("driver_epoch", pa.int32()),
    ("attempt", pa.int32()),
    ("start", pa.int64()),
    ("stop", pa.int64()),
    ("started_at", pa.timestamp("ms", tz="UTC")),
    ("ended_at", pa.timestamp("ms", tz="UTC")),
    ("train_s", pa.float64()),
    ("evaluate_s", pa.float64()),
    ("waited_s", pa.float64()),
    ("estimate_s", pa.float64()),
    ("num_snapshots", pa.int64()),
    ("host", pa.string()),
    ("node", pa.string()),
    ("pid", pa.int64()),
    ("data", pa.string()),
    ("environment_id", pa.string()),
])
"""One row per segment: where it ran and what it cost. ``driver_epoch`` was called ``epoch`` before version 0.2."""
