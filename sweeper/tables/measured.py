"""The columns of ``measurements/*``: one row per snapshot and estimator."""

from __future__ import annotations

from collections.abc import Mapping

from sweeper.tables.columns import FLAG, NUMBER, NUMBERS, TEXT, TEXTS, WHOLE, Column

__all__ = ["MEASURED"]

_LOSS, _GRADIENT, _WEIGHTS = "loss", "loss / weight", "weight"
_SMOOTHNESS = "loss / weight²"

_FAILED = "not measured"
"""In a row that could not be measured, as its ``error`` says."""

_SNAPSHOT = (
    Column(name="trial_id", type=TEXT, meaning="The trial.", kind="id", shown="status"),
    Column(name="step", type=WHOLE, meaning="k: the snapshot is the pair x_k, x_{k+1}.", unit="steps"),
    Column(
        name="epoch",
        type=NUMBER,
        meaning="Passes over the training data before step k.",
        unit="passes",
        null="failed in `estimate`, or not told to a monitor",
    ),
)

_CONDITIONS = (
    Column(
        name="data_fraction",
        type=NUMBER,
        meaning="Share of the training data that the probe, which defines f, was to hold.",
        null="measured by a monitor, which knows its batches alone",
        shown="plot agreement",
    ),
    Column(
        name="probe_share",
        type=NUMBER,
        meaning="The share that it holds, in whole batches.",
        null="not measured, or a problem or a loop of your own that does not tell",
    ),
    Column(name="probe", type=TEXT, meaning="The policy that makes f a function.", null=_FAILED, kind="words"),
    Column(name="arithmetic", type=TEXT, meaning="The arithmetic of f: `float32 ieee`.", null=_FAILED, kind="words"),
    Column(
        name="measurement_id",
        type=TEXT,
        meaning="The settings of the measure section; a hash of it.",
        kind="id",
        shown="plot agreement",
    ),
    Column(
        name="error",
        type=TEXT,
        meaning="Why the snapshot could not be measured.",
        null="measured",
        kind="words",
        shown="status, report",
    ),
)

_F = Column(name="loss", type=NUMBER, meaning="f(x_k).", unit=_LOSS, null=_FAILED)
_NORM = Column(
    name="grad_norm",
    type=NUMBER,
    meaning="‖∇f(x_k)‖.",
    unit=_GRADIENT,
    null=_FAILED,
    shown="report, fit, advise, plot smoothness, plot fit",
)
_UPDATE = Column(name="update_norm", type=NUMBER, meaning="‖d‖, d = x_{k+1} − x_k.", unit=_WEIGHTS, null=_FAILED)
_PRODUCTS = Column(name="num_products", type=WHOLE, meaning="Hessian-vector products.", unit="products", null=_FAILED)


_OWN_NAMES = Column(
    name="names",
    type=TEXTS,
    meaning="What the estimators of your own measured: `module:factory.number`, of all of them in one row.",
    null=_FAILED,
)
_OWN_VALUES = Column(name="values", type=NUMBERS, meaning="The numbers, in the order of `names`.", null=_FAILED)


def _of(*columns: Column, sampled: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """The columns of an estimator; of ``sampled`` ones there is a list, too, with their value on every probe."""
    single = {column.name: column for column in columns}
    lists = (_by_probe(single[name]) for name in sampled)
    return (*_SNAPSHOT, *columns, *lists, *_CONDITIONS)


def _by_probe(column: Column) -> Column:
    return Column(
        name=f"{column.name}_by_probe",
        type=NUMBERS,
        meaning=f"`{column.name}` on each of `measure.probes`; the first is the column itself.",
        unit=column.unit,
        null=f"{_FAILED}, or there is one probe",
        shown="fit" if column.name in {"grad_norm", "smoothness"} else "",
    )


def _column(name: str, meaning: str, unit: str = "", *, null: str = _FAILED, shown: str = "") -> Column:
    return Column(name=name, type=NUMBER, meaning=meaning, unit=unit, null=null, shown=shown)


def _list(name: str, meaning: str, unit: str = "", *, shown: str = "") -> Column:
    return Column(name=name, type=NUMBERS, meaning=meaning, unit=unit, null=_FAILED, shown=shown)


_NO_STEP = "not measured, or x_{k+1} = x_k"
_NO_SEARCH = "not measured, or no search: see `trust`"
_NO_CROSSING = "not measured, or not found: see `trust`"
_NO_BEND = "where `critical_fraction` is, or that is 0"

MEASURED: Mapping[str, tuple[Column, ...]] = {
    "directional_smoothness": _of(
        _F,
        _NORM,
        _column("next_grad_norm", "‖∇f(x_{k+1})‖.", _GRADIENT, null=_NO_STEP),
        _UPDATE,
        _column(
            "smoothness",
            "The largest r(γ) = ‖∇f(x_k + γd) − ∇f(x_k)‖ / ‖γd‖ that can be trusted, eq. (20).",
            _SMOOTHNESS,
            null="not measured, no step, or all is rounding: see `trust`",
            shown="report, fit, plot smoothness, plot fit, plot agreement, plot sharpness",
        ),
        _column("argmax_fraction", "The γ of the maximum.", null="where `smoothness` is"),
        _list(
            "smoothness_by_fraction", "r(γ) at every γ, trusted or not; null where x_k + γd rounds to x_k.", _SMOOTHNESS
        ),
        _column(
            "at_zero",
            "The limit of r(γ) for γ → 0, which is ‖Hd‖ / ‖d‖.",
            _SMOOTHNESS,
            null="other methods than `chebyshev`",
        ),
        _column(
            "interpolation_error",
            "By how much a ratio that was not measured may exceed `smoothness`.",
            _SMOOTHNESS,
            null="every γ was measured",
        ),
        _column(
            "mechanical_bound",
            "(‖∇f(x_k)‖ + ‖∇f(x_{k+1})‖) / ‖d‖, which r(1) cannot exceed, whatever f is.",
            _SMOOTHNESS,
            null=_NO_STEP,
            shown="report, fit, plot smoothness",
        ),
        Column(
            name="cycle",
            type=FLAG,
            meaning="Whether ∇f(x_{k+1}) points against ∇f(x_k), cosine at most −0.95: two iterates alternate.",
            null=_NO_STEP,
        ),
        _column(
            "noise_floor",
            "The r(γ) that rounding alone can give, at the γ of the maximum.",
            _SMOOTHNESS,
            null="not audited, or no step",
        ),
        _column(
            "floor_at_maximum",
            "The same by the error of the gradient at the point of the maximum; `noise_floor` is no smaller.",
            _SMOOTHNESS,
            null="other audits than `maximum`, or `smoothness` is null",
        ),
        _column("snr", "`smoothness` over `noise_floor`.", null="not audited, or no step", shown="report, fit"),
        Column(
            name="trust",
            type=TEXT,
            meaning="`trusted`, `flagged`, `noise`, `no step`, `overflow` or `unaudited`.",
            null=_FAILED,
        ),
        Column(
            name="trusted_fractions",
            type=WHOLE,
            meaning="At how many γ the ratio is at least ten times its noise floor.",
            null=_FAILED,
        ),
        Column(
            name="num_gradients",
            type=WHOLE,
            meaning="Gradients that the row uses, cached ones included.",
            unit="gradients",
            null=_FAILED,
        ),
        Column(
            name="method",
            type=TEXT,
            meaning="How the maximum was found: `exact`, `chebyshev` or `adaptive`.",
            null=_FAILED,
        ),
        sampled=("loss", "grad_norm", "next_grad_norm", "smoothness", "mechanical_bound"),
    ),
    "layer_smoothness": _of(
        _F,
        _NORM,
        Column(
            name="layers",
            type=TEXTS,
            meaning="Names of the parameter tensors, in the order of the other lists.",
            null=_FAILED,
        ),
        _list(
            "smoothness_by_layer",
            "As `smoothness`, eq. (20), of each tensor's own part of gradient and step.",
            _SMOOTHNESS,
            shown="fit",
        ),
        Column(name="trust_by_layer", type=TEXTS, meaning="As `trust`, of each tensor.", null=_FAILED),
        _list("snr_by_layer", "As `snr`, of each tensor.", shown="fit"),
        _list("grad_norm_by_layer", "Norm of each tensor's part of ∇f(x_k).", _GRADIENT, shown="fit"),
        _list("update_norm_by_layer", "Norm of each tensor's part of d.", _WEIGHTS),
    ),
    "directional_curvature": _of(
        _F,
        _NORM,
        _UPDATE,
        _column(
            "smoothness", "‖Hd‖ / ‖d‖, the limit of r(γ) for γ → 0.", _SMOOTHNESS, null=_NO_STEP, shown="plot agreement"
        ),
        _column(
            "curvature",
            "dᵀHd / ‖d‖², with its sign.",
            _SMOOTHNESS,
            null=_NO_STEP,
            shown="report, fit, plot smoothness",
        ),
        _column("gradient_curvature", "gᵀHg / ‖g‖² along the gradient.", _SMOOTHNESS, null="not measured, or g = 0"),
        sampled=("loss", "grad_norm", "smoothness", "curvature", "gradient_curvature"),
    ),
    "critical_sharpness": _of(
        _F,
        _NORM,
        _UPDATE,
        _column("learning_rate", "η_k of the step.", null="not measured, or not known"),
        _column("descent_cosine", "Cosine of the angle between d and −∇f(x_k).", null=_NO_STEP),
        _column(
            "critical_fraction",
            "s_c: the smallest s at which f(x_k + s·d) exceeds f(x_k); 0 where f does not fall along d.",
            null=_NO_CROSSING,
        ),
        _column("fraction_low", "Up to this s f lies below f(x_k), as far as it was looked at.", null=_NO_SEARCH),
        _column(
            "fraction_high",
            "Here f lies above f(x_k), or is not finite.",
            null="no search, or f rose nowhere up to low",
        ),
        _column("critical_sharpness", "λ_c = 2 / (s_c η_k).", "1 / learning rate", null=f"{_NO_CROSSING}, or no rate"),
        _column(
            "critical_curvature",
            "2σ / (s_c ‖d‖), σ the slope of −f along d at x_k.",
            _SMOOTHNESS,
            null=_NO_BEND,
            shown="plot sharpness",
        ),
        _column(
            "stability_edge",
            "2σ / ‖d‖, which `critical_curvature` exceeds where s_c < 1.",
            _SMOOTHNESS,
            null=_NO_STEP,
            shown="plot sharpness",
        ),
        _column(
            "critical_clip_norm",
            "s_c ‖d‖ / η_k: the threshold of clipping at which the step would have reached s_c.",
            _GRADIENT,
            null=f"{_NO_CROSSING}, or the step is more than η_k times a clipped vector",
        ),
        _column(
            "noise_floor", "What rounding alone can make of f(x_k + s·d) − f(x_k), near s_c.", _LOSS, null=_NO_SEARCH
        ),
        Column(
            name="trust",
            type=TEXT,
            meaning="The verdict: `trusted`, `flagged`, `beyond`, `ascent`, `unfinished`, `noise` and others.",
            null=_FAILED,
        ),
        Column(
            name="num_forward_passes",
            type=WHOLE,
            meaning="Evaluations of f along d, known ones and f(x_k) included.",
            unit="evaluations",
            null=_FAILED,
        ),
        sampled=("loss", "grad_norm", "critical_fraction", "critical_sharpness", "critical_curvature"),
    ),
    "other_directions": _of(
        _F,
        _NORM,
        _UPDATE,
        _column(
            "gradient_smoothness",
            "Eq. (20) from x_k to x_k − ‖d‖ ∇f / ‖∇f‖.",
            _SMOOTHNESS,
            null="not measured, no step, no gradient, or all is rounding: see `gradient_trust`",
            shown="fit",
        ),
        _column("gradient_bound", "The sum of ‖∇f‖ at both ends over ‖d‖.", _SMOOTHNESS, null=_NO_STEP, shown="fit"),
        _column("gradient_snr", "As `snr` of `directional_smoothness`.", null="not audited, or no step", shown="fit"),
        Column(name="gradient_trust", type=TEXT, meaning="As `trust` there.", null=_FAILED),
        _column(
            "random_smoothness",
            "The same along random directions: root mean square over the draws, ‖H‖_F / √n for short steps.",
            _SMOOTHNESS,
            null="not measured, no step, or a draw is rounding: see `random_trust`",
            shown="fit",
        ),
        _column("random_bound", "The root mean square of their bounds.", _SMOOTHNESS, null=_NO_STEP, shown="fit"),
        _column("random_snr", "The smallest of their `snr`.", null="not audited, or no step", shown="fit"),
        Column(name="random_trust", type=TEXT, meaning="The worst of their `trust`.", null=_FAILED),
        _list("random_smoothness_by_draw", "Each draw's; null where it is rounding.", _SMOOTHNESS),
        Column(
            name="num_gradients",
            type=WHOLE,
            meaning="Gradients that the row uses, cached ones included.",
            unit="gradients",
            null=_FAILED,
        ),
        sampled=("loss", "grad_norm", "gradient_smoothness", "gradient_bound", "random_smoothness", "random_bound"),
    ),
    "hessian_spectral_norm": _of(
        _F,
        _NORM,
        _column(
            "spectral_norm",
            "‖∇²f(x_k)‖, the left side of Definition 1.",
            _SMOOTHNESS,
            null="not measured, or Lanczos did not converge",
            shown="advise, plot frontier, plot sharpness",
        ),
        _column(
            "eigenvalue",
            "The eigenvalue largest in modulus, with its sign.",
            _SMOOTHNESS,
            null="where `spectral_norm` is",
        ),
        _column(
            "residual", "‖Hv − λv‖: H has an eigenvalue this close to λ.", _SMOOTHNESS, null="where `spectral_norm` is"
        ),
        _PRODUCTS,
        sampled=("loss", "grad_norm", "spectral_norm", "eigenvalue"),
    ),
    "hessian_spectrum": _of(
        _F,
        _NORM,
        _list("eigenvalues", "Largest in modulus first; those that converged.", _SMOOTHNESS),
        _list("residuals", "‖Hv − λv‖ of each.", _SMOOTHNESS),
        _column("trace", "Trace of H, by Hutch++.", _SMOOTHNESS),
        _column("trace_error", "Standard error of its sampled part.", _SMOOTHNESS),
        _column("mean_eigenvalue", "`trace` over the number of weights.", _SMOOTHNESS),
        _PRODUCTS,
        sampled=("loss", "grad_norm", "trace", "mean_eigenvalue"),
    ),
    "preconditioned_sharpness": _of(
        _F,
        _NORM,
        _column("learning_rate", "η_k of the step.", null="not measured, or not known"),
        _column(
            "preconditioned_sharpness",
            "λ_max of P⁻¹H, P being the diagonal that the step was divided by; of H itself for SGD.",
            "1 / learning rate",
            null="not measured, or Lanczos did not converge",
        ),
        _column(
            "stability_threshold",
            "c: a step is unstable where η_k λ_max exceeds it; 2 without momentum.",
            null="not measured, or a step is no multiple of η_k",
        ),
        _column(
            "stability_ratio",
            "η_k λ_max / c, above 1 where the step is unstable.",
            null="where one of these is",
            shown="plot stability",
        ),
        _column(
            "residual",
            "‖P^−½HP^−½v − λv‖: P⁻¹H has an eigenvalue this close to λ.",
            "1 / learning rate",
            null="where `preconditioned_sharpness` is",
        ),
        _PRODUCTS,
        sampled=("loss", "grad_norm", "preconditioned_sharpness", "stability_ratio"),
    ),
    "gradient_noise": _of(
        _F,
        _NORM,
        _column("grad_norm_squared", "‖∇f‖² without the bias from noise; may be negative.", "(loss / weight)²"),
        _column("split_half", "⟨g_A, g_B⟩ of the means over two halves of the batches.", "(loss / weight)²"),
        _column("noise_variance", "Trace of the covariance of one batch's gradient.", "(loss / weight)²"),
        _column("tau", "The largest ‖g_i − mean‖, a lower bound on τ of Assumption 5.", _GRADIENT, shown="advise"),
        _list("deviations", "‖g_i − mean‖ of every batch.", _GRADIENT, shown="plot noise"),
        _column(
            "noise_scale",
            "`noise_variance` / `grad_norm_squared`.",
            "batches",
            null="not measured, or noise drowns the gradient",
        ),
        Column(name="num_batches", type=WHOLE, meaning="Batches that were used.", unit="batches", null=_FAILED),
    ),
    "authors_compat": _of(
        _NORM,
        _column(
            "smoothness",
            "As the authors' own script computes it, `num_batches` times too large.",
            _SMOOTHNESS,
            null=_NO_STEP,
            shown="plot agreement",
        ),
        _column("null_smoothness", "The same of x_k against itself, where 0 is right.", _SMOOTHNESS, null=_NO_STEP),
        _UPDATE,
        Column(name="num_batches", type=WHOLE, meaning="Batches that were used.", unit="batches", null=_FAILED),
    ),
    "own": _of(_OWN_NAMES, _OWN_VALUES),
}
"""Estimator to columns; ``docs/estimators.md`` says more of each. All estimators of the user's own share ``own``."""
