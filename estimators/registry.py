"""Every estimator by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from estimators.authors_compat import authors_compat_row
from estimators.curvature.directional import directional_curvature_row
from estimators.curvature.spectral_norm import hessian_spectral_norm_row
from estimators.curvature.spectrum import hessian_spectrum_row
from estimators.gradient_noise import gradient_noise_row
from estimators.smoothness.critical import critical_sharpness_row
from estimators.smoothness.layers import layer_smoothness_row
from estimators.smoothness.row import directional_smoothness_row

__all__ = ["ESTIMATORS", "NEED_HESSIAN", "NEED_STEP", "require_known"]

ESTIMATORS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "directional_smoothness": directional_smoothness_row,
    "layer_smoothness": layer_smoothness_row,
    "directional_curvature": directional_curvature_row,
    "critical_sharpness": critical_sharpness_row,
    "hessian_spectral_norm": hessian_spectral_norm_row,
    "hessian_spectrum": hessian_spectrum_row,
    "gradient_noise": gradient_noise_row,
    "authors_compat": authors_compat_row,
}
"""Name to function: ``(probe, iterates, **options) -> row``."""

NEED_HESSIAN = frozenset({"directional_curvature", "hessian_spectral_norm", "hessian_spectrum"})
"""Those that f's second derivatives must be right for."""

NEED_STEP = frozenset({"critical_sharpness"})
"""Those that take what a step was made of, as ``learning_rate`` and ``clip_norm``, besides their own options."""


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
