"""Every estimator by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from estimators.authors_compat import authors_compat_row
from estimators.curvature.directional import directional_curvature_row
from estimators.curvature.preconditioned import preconditioned_sharpness_row
from estimators.curvature.spectral_norm import hessian_spectral_norm_row
from estimators.curvature.spectrum import hessian_spectrum_row
from estimators.gradient_noise import gradient_noise_row
from estimators.smoothness.critical import critical_sharpness_row
from estimators.smoothness.layers import layer_smoothness_row
from estimators.smoothness.others import other_directions_row
from estimators.smoothness.row import directional_smoothness_row

__all__ = ["ESTIMATORS", "NEED_HESSIAN", "NEED_STEP", "SAMPLED", "require_known"]

ESTIMATORS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "directional_smoothness": directional_smoothness_row,
    "layer_smoothness": layer_smoothness_row,
    "directional_curvature": directional_curvature_row,
    "critical_sharpness": critical_sharpness_row,
    "other_directions": other_directions_row,
    "hessian_spectral_norm": hessian_spectral_norm_row,
    "hessian_spectrum": hessian_spectrum_row,
    "preconditioned_sharpness": preconditioned_sharpness_row,
    "gradient_noise": gradient_noise_row,
    "authors_compat": authors_compat_row,
}
"""Name to function: ``(probe, iterates, **options) -> row``."""

NEED_HESSIAN = frozenset({
    "directional_curvature",
    "hessian_spectral_norm",
    "hessian_spectrum",
    "preconditioned_sharpness",
})
"""Those that f's second derivatives must be right for."""

SAMPLED: Mapping[str, tuple[str, ...]] = {
    "directional_smoothness": ("loss", "grad_norm", "next_grad_norm", "smoothness", "mechanical_bound"),
    "directional_curvature": ("loss", "grad_norm", "smoothness", "curvature", "gradient_curvature"),
    "critical_sharpness": ("loss", "grad_norm", "critical_fraction", "critical_sharpness", "critical_curvature"),
    "other_directions": (
        "loss",
        "grad_norm",
        "gradient_smoothness",
        "gradient_bound",
        "random_smoothness",
        "random_bound",
    ),
    "hessian_spectral_norm": ("loss", "grad_norm", "spectral_norm", "eigenvalue"),
    "hessian_spectrum": ("loss", "grad_norm", "trace", "mean_eigenvalue"),
    "preconditioned_sharpness": ("loss", "grad_norm", "preconditioned_sharpness", "stability_ratio"),
}
"""Estimators that are run on every probe where there are several, and the numbers that are kept of each."""

NEED_STEP: Mapping[str, tuple[str, ...]] = {
    "critical_sharpness": ("learning_rate", "clip_norm"),
    "preconditioned_sharpness": ("learning_rate", "stability_threshold", "preconditioner"),
    "gradient_noise": ("batches_per_step",),
}
"""Those that take something of what a step was made of, besides their own options, and what."""


def require_known(names: Iterable[str]) -> None:
    """Require that estimators exist.

    Args:
        names: Their names.

    Raises:
        ValueError: One does not; the text names those that do.

    Example:
        >>> require_known(["hessian_norm"])
        Traceback (most recent call last):
        ...
        ValueError: unknown estimator 'hessian_norm'; known: directional_smoothness, ...
    """
    for name in names:
        if name not in ESTIMATORS:
            close = get_close_matches(name, ESTIMATORS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown estimator {name!r}; known: {', '.join(ESTIMATORS)}{hint}")
