"""The estimators that a spec may ask for, with their options; the defaults are those of :mod:`estimators`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from sweeper.spec.sections.own import IMPORT_PATH, PLACES, Own, by_use, resolved
from sweeper.spec.sections.values import AS_INTEGER, AS_NUMBER, Count, Flag, FreeValue, Section, Share, conflict, wrong

__all__ = [
    "ESTIMATOR_OPTIONS",
    "AuthorsCompat",
    "CriticalSharpness",
    "DirectionalCurvature",
    "DirectionalSmoothness",
    "Estimator",
    "GradientNoise",
    "HessianSpectralNorm",
    "HessianSpectrum",
    "LayerSmoothness",
    "OtherDirections",
    "OwnEstimator",
    "PreconditionedSharpness",
]

Several = Annotated[int, Field(ge=2, le=10_000), AS_INTEGER]
Draws = Annotated[int, Field(ge=1, le=100), AS_INTEGER]
Passes = Annotated[int, Field(ge=2, le=100), AS_INTEGER]
Tolerance = Annotated[float, Field(gt=0, lt=1), AS_NUMBER]

_PRODUCT = 2.5
"""Cost of a Hessian-vector product in gradients; measured between two and three."""

_SEARCH = 4
"""Gradients of an adaptive measurement, measured as about three plus the one at x_k; for the plan's guess."""

_FORWARD = 1 / 3
"""Cost of a forward pass in gradients; measured between a quarter and a half."""

_LINE_SEARCH = 6
"""Forward passes that a line search typically takes, f(x_k) included; for the plan's guess."""

_LANCZOS = 40
"""Products that an eigenvalue typically takes; for the plan's guess."""


def _whole_reciprocal(delta: float) -> float:
    count = max(1, round(1 / delta))
    if count > 1000:
        raise wrong(f"is too small, found {delta!r}", "at least 0.001: 1/delta gradients are computed per snapshot")
    if not math.isclose(count * delta, 1, rel_tol=1e-6):
        raise wrong(f"1/delta must be a whole number, found {delta!r}", f"the nearest is {1 / count!r}")
    return 1 / count


class _Estimator(Section):
    """What all share: how many gradients of the probe a snapshot takes, for the plan's estimate."""

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot, Hessian-vector products converted."""
        raise NotImplementedError


class DirectionalSmoothness(_Estimator):
    """Eq. (20) of Zhang et al. (2020)."""

    use: Literal["directional_smoothness"] = Field(description="Eq. (20): the gradient's change along the update.")
    delta: Share = Field(default=0.1, description="Spacing of the sample points along the update; 1/delta is whole.")
    method: Literal["exact", "chebyshev", "adaptive"] = Field(
        default="exact",
        description="A gradient at every sample point, a curve through five, or gradients where the maximum may lie.",
    )
    tolerance: Tolerance = Field(
        default=0.01,
        description="For adaptive: by how much, as a share of the value, a point that was not measured may exceed it.",
    )

    _check_delta = field_validator("delta")(_whole_reciprocal)

    @model_validator(mode="after")
    def _only_a_search_has_a_tolerance(self) -> DirectionalSmoothness:
        if self.method != "adaptive" and "tolerance" in self.model_fields_set:
            raise conflict(
                f"method {self.method} has no tolerance", "tolerance", hint="leave it out, or set method to adaptive"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_does_not_count(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What does not change a measurement is not part of its id.
        section: dict[str, Any] = serialize(self)
        if self.method != "adaptive":
            section.pop("tolerance", None)
        return section

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        exact = round(1 / self.delta) + 1
        if self.method == "adaptive":
            return min(_SEARCH, exact)
        return 5 if self.method == "chebyshev" else exact


class LayerSmoothness(_Estimator):
    """Eq. (20) of one parameter tensor at a time."""

    use: Literal["layer_smoothness"] = Field(description="Eq. (20) of one parameter tensor at a time.")
    delta: Share = Field(default=0.1, description="Spacing of the sample points along the update; 1/delta is whole.")

    _check_delta = field_validator("delta")(_whole_reciprocal)

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot; fewer where another estimator has taken them."""
        return round(1 / self.delta) + 1


class DirectionalCurvature(_Estimator):
    """Curvature along the update, by Hessian-vector products."""

    use: Literal["directional_curvature"] = Field(description="Curvature along the update at its start, exactly.")

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        return 1 + 2 * _PRODUCT


class CriticalSharpness(_Estimator):
    """Critical sharpness of Kalra et al. (2026), by forward passes."""

    use: Literal["critical_sharpness"] = Field(
        description="2 / eta_c: how far along the update the loss stays below its value at the start."
    )
    tolerance: Tolerance = Field(
        default=0.02, description="Relative width of the bracket of eta_c at which the search stops, in (0, 1)."
    )
    max_forward_passes: Passes = Field(
        default=9, description="Evaluations of f along the update, f(x_k) included, after which it stops; 2 to 100."
    )

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot, forward passes converted."""
        return 1 + min(_LINE_SEARCH, self.max_forward_passes) * _FORWARD


class OtherDirections(_Estimator):
    """Eq. (20) along the gradient and along random directions."""

    use: Literal["other_directions"] = Field(
        description="Eq. (20) as far away as the step went, along the gradient and along random directions."
    )
    draws: Draws = Field(default=3, description="Random directions of every snapshot, 1 to 100.")
    delta: Share = Field(default=0.1, description="Spacing of the sample points along each; 1/delta is whole.")
    tolerance: Tolerance = Field(
        default=0.01, description="By how much, as a share of the value, a point that was not measured may exceed it."
    )

    _check_delta = field_validator("delta")(_whole_reciprocal)

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        return 1 + (1 + self.draws) * min(_SEARCH - 1, round(1 / self.delta))


class HessianSpectralNorm(_Estimator):
    """The Hessian's largest eigenvalue in modulus."""

    use: Literal["hessian_spectral_norm"] = Field(description="The Hessian's largest eigenvalue in modulus.")
    tolerance: Tolerance = Field(default=1e-3, description="Relative accuracy of the eigenvalue, in (0, 1).")
    max_restarts: Count = Field(default=50, description="Restarts of Lanczos before it is given up.")

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        return 1 + _LANCZOS * _PRODUCT


class HessianSpectrum(_Estimator):
    """The Hessian's largest eigenvalues and its trace."""

    use: Literal["hessian_spectrum"] = Field(description="The Hessian's largest eigenvalues and its trace.")
    count: Count = Field(default=5, description="Eigenvalues, largest in modulus first.")
    tolerance: Tolerance = Field(default=1e-2, description="Relative accuracy of the eigenvalues, in (0, 1).")
    trace_products: Count = Field(
        default=30, description="Hessian-vector products for the trace (Hutch++), a multiple of 3."
    )

    @field_validator("trace_products")
    @classmethod
    def _thirds(cls, count: int) -> int:
        if count % 3:
            raise wrong(f"must be a multiple of 3, found {count}", f"the nearest is {max(3, 3 * round(count / 3))}")
        return count

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        looked_for_more = _LANCZOS // 2 if self.count > 1 else 0
        return 1 + (2 * _LANCZOS + looked_for_more + self.trace_products) * _PRODUCT


class PreconditionedSharpness(_Estimator):
    """The top eigenvalue of the preconditioned Hessian."""

    use: Literal["preconditioned_sharpness"] = Field(
        description="The top eigenvalue of the Hessian, preconditioned as the optimiser's step was."
    )
    tolerance: Tolerance = Field(default=1e-3, description="Relative accuracy of the eigenvalue, in (0, 1).")
    max_restarts: Count = Field(default=50, description="Restarts of Lanczos before it is given up.")

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        return 1 + _LANCZOS * _PRODUCT


class GradientNoise(_Estimator):
    """The noise of training batches."""

    use: Literal["gradient_noise"] = Field(description="The noise of training batches: tau of Assumption 5.")
    num_batches: Several = Field(default=16, description="Training batches whose gradients are compared, at least 2.")

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot; the training batches are assumed to be small compared with the probe."""
        return 1


class AuthorsCompat(_Estimator):
    """The published script's arithmetic, flaws included."""

    use: Literal["authors_compat"] = Field(description="The published script's arithmetic, flaws included; to compare.")
    redraw_lengths: Flag = Field(default=True, description="Cut batches to random lengths, drawn again at each point.")

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot."""
        return 3


class OwnEstimator(Own, _Estimator):
    """An estimator of the user's own; its options are passed to the factory unchanged."""

    # The other base forbids more than what is known.
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FreeValue]

    use: Annotated[str, resolved("estimators")] = Field(
        pattern=IMPORT_PATH, description=PLACES, examples=["my_package.my_module:my_estimator"]
    )

    @property
    def num_gradients(self) -> float:
        """Gradients of f per snapshot: nobody knows; two, as for a difference of gradients."""
        return 2


ESTIMATOR_OPTIONS: dict[str, type[_Estimator]] = {
    "directional_smoothness": DirectionalSmoothness,
    "layer_smoothness": LayerSmoothness,
    "directional_curvature": DirectionalCurvature,
    "critical_sharpness": CriticalSharpness,
    "other_directions": OtherDirections,
    "hessian_spectral_norm": HessianSpectralNorm,
    "hessian_spectrum": HessianSpectrum,
    "preconditioned_sharpness": PreconditionedSharpness,
    "gradient_noise": GradientNoise,
    "authors_compat": AuthorsCompat,
}
"""Name to options."""

Estimator = Annotated[
    Annotated[DirectionalSmoothness, Tag("directional_smoothness")]
    | Annotated[LayerSmoothness, Tag("layer_smoothness")]
    | Annotated[DirectionalCurvature, Tag("directional_curvature")]
    | Annotated[CriticalSharpness, Tag("critical_sharpness")]
    | Annotated[OtherDirections, Tag("other_directions")]
    | Annotated[HessianSpectralNorm, Tag("hessian_spectral_norm")]
    | Annotated[HessianSpectrum, Tag("hessian_spectrum")]
    | Annotated[PreconditionedSharpness, Tag("preconditioned_sharpness")]
    | Annotated[GradientNoise, Tag("gradient_noise")]
    | Annotated[AuthorsCompat, Tag("authors_compat")]
    | Annotated[OwnEstimator, Tag("own")],
    by_use("estimators", ESTIMATOR_OPTIONS),
]
"""One of these, with its options."""
