"""``problem: {use: analytic}``: functions with known (L0, L1), and what the rest of a spec must look like with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sweeper.spec.sections.values import Count, NonNegative, Number, Positive, Section, conflict
from sweeper.spec.syntax.diagnostics import Diagnostic, at, shown
from sweeper.spec.syntax.tree import Node

__all__ = ["Analytic", "analytic_conflicts"]

_SLOPE = "L1 for which the smallest L0 is taken; the function does not change with it."


class Quadratic(Section):
    """f = 1/2 sum lambda_i x_i^2."""

    use: Literal["quadratic"] = Field(description="f = 1/2 sum lambda_i x_i^2; L0 = max lambda, L1 = 0.")
    eigenvalues: tuple[Positive, ...] = Field(default=(1.0,), min_length=1, description="lambda, one per coordinate.")


class Power(Section):
    """f = |x|^p."""

    use: Literal["power"] = Field(description="f = |x|^p; L0 = p ((p-2)/L1)^(p-2).")
    exponent: Annotated[Number, Field(ge=2, le=64)] = Field(default=4.0, description="p, at least 2.")
    L1: Positive = Field(default=1.0, description=_SLOPE)


class Extremal(Section):
    """f' = (L0/L1)(e^{L1 |x|} - 1) sign x."""

    use: Literal["extremal"] = Field(description="f' = (L0/L1)(e^(L1 |x|) - 1) sign x: equality in Definition 1.")
    L0: Positive = Field(default=1.0, description="Curvature at the minimum.")
    L1: Positive = Field(default=1.0, description="Growth of the curvature with the gradient.")


class Logistic(Section):
    """f = log(1 + e^{-a x})."""

    use: Literal["logistic"] = Field(description="f = log(1 + e^(-a x)); L0 = ((a - L1)_+)^2 / 4.")
    slope: Positive = Field(default=1.0, description="a; the gradient stays below it.")
    L1: NonNegative = Field(default=0.0, description=_SLOPE)


class ScalarNetwork(Section):
    """f = (w^k - 1)^2."""

    use: Literal["scalar_network"] = Field(description="f = (w^k - 1)^2: k layers of one shared weight; not convex.")
    depth: Annotated[Count, Field(le=32)] = Field(default=2, description="k.")
    L1: Positive = Field(default=1.0, description=_SLOPE)


class Theorem4Steep(Section):
    """The instance of Theorem 4 on which large fixed steps diverge."""

    use: Literal["theorem4_steep"] = Field(description="Theorem 4's first instance: a parabola with exponential walls.")
    L1: Positive = Field(default=1.0, description="Growth of the walls; L0 is the same number.")


class Theorem4Flat(Section):
    """The instance of Theorem 4 on which small fixed steps crawl."""

    use: Literal["theorem4_flat"] = Field(
        description="Theorem 4's second instance: sides of slope 2 epsilon; L0 = 3 epsilon, L1 = 0."
    )


class Constants(Section):
    """Constants of a class of functions."""

    L0: Positive = Field(description="Of Definition 1.")
    L1: NonNegative = Field(description="Of Definition 1.")


_Function = Annotated[
    Quadratic | Power | Extremal | Logistic | ScalarNetwork | Theorem4Steep | Theorem4Flat, Field(discriminator="use")
]
_STARTS = ("start", "start_gradient_norm", "start_gap")


class Analytic(Section):
    """A function whose gradient and (L0, L1) are known exactly; thousands of trials run side by side."""

    use: Literal["analytic"] = Field(description="A function with exact gradient and known (L0, L1), for theory.")
    function: _Function = Field(description="Which function.")
    start: Number | None = Field(default=None, description="x_0, every coordinate of it.")
    start_gradient_norm: Positive | None = Field(default=None, description="x_0 where the gradient has this norm.")
    start_gap: Positive | None = Field(default=None, description="x_0 where f lies this far above its infimum.")
    epsilon: Positive = Field(default=0.01, description="The gradient norm to reach, as in eq. (7) and (8).")
    assume: Constants | None = Field(
        default=None,
        description="L0 and L1 of the class, as given to theorems; null means the function's own, the smallest.",
    )
    noise: NonNegative = Field(default=0.0, description="tau of Assumption 5: a bound on the noise of the gradient.")
    noise_kind: Literal["sphere", "ball"] = Field(
        default="sphere", description="Noise of norm tau always (a fair coin in one dimension), or uniform below it."
    )
    after_hit: Literal["stop", "go_on"] = Field(
        default="stop",
        description="Whether a trial ends once it has hit, or continues, to show the floor of the noise.",
    )

    @model_validator(mode="after")
    def _fit(self) -> Analytic:
        given = [name for name in _STARTS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise conflict(
                f"one of {', '.join(_STARTS)} says where to start, found {found}", *given, hint="give exactly one"
            )
        norm = self.start_gradient_norm
        match self.function:
            case Logistic(slope=slope) if norm is not None and norm >= slope:
                raise conflict(
                    f"no point has the gradient norm {shown(norm)}: it stays below the slope {shown(slope)}",
                    "start_gradient_norm",
                    hint="a smaller norm, or start_gap",
                )
            case Theorem4Flat() if norm is not None and norm >= 2 * self.epsilon:
                raise conflict(
                    f"no point has the gradient norm {shown(norm)}: the sides have the slope 2 epsilon",
                    "start_gradient_norm",
                    hint="use start_gap",
                )
        return self


def analytic_conflicts(sections: Mapping[str, Node], resolved: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """What in one cell does not fit together with ``use: analytic``, or only fits with it.

    Args:
        sections: ``problem``, ``update_rule`` and ``train`` with the cell's values in them.
        resolved: The same with every default filled in.

    Yields:
        The problems, each at its place in the spec.
    """
    problem, rule = resolved["problem"], resolved["update_rule"]
    theory = rule["from_theory"]
    if problem["use"] != "analytic":
        if theory is not None:
            node = _where(sections["update_rule"], "from_theory")
            yield at(
                node, f"{theory} needs L0 and L1, which are known only for analytic functions", "give a learning_rate"
            )
        return
    for section, key, accepted in _FIXED:
        if resolved[section][key] != accepted:
            node = _where(sections[section], key)
            yield at(
                node, f"has no meaning for an analytic function, found {shown(resolved[section][key])}", "leave it out"
            )
    if theory is not None and (why := _inapplicable(theory, problem)) is not None:
        yield at(_where(sections["update_rule"], "from_theory"), f"{theory} {why}", "another theorem or function")


_FIXED: tuple[tuple[str, str, Any], ...] = (
    ("update_rule", "optimizer", "sgd"),
    ("update_rule", "weight_decay", 0.0),
    ("update_rule", "clip_value", None),
    ("update_rule", "clip_layer_norm", None),
    ("update_rule", "clip_adaptive", None),
    ("update_rule", "clip_threshold", None),
    ("update_rule", "clip_groups", None),
    ("update_rule", "when_exceeded", "clip"),
    ("update_rule", "transform", None),
    ("update_rule", "transform_of", "gradient"),
    ("update_rule", "clip_each_micro_batch", False),
    ("update_rule", "average", None),
    ("update_rule", "schedule", {"use": "constant", "warmup": 0.0}),
    ("train", "evaluate_every", None),
    ("train", "max_loss", None),
    ("train", "accumulate", 1),
    ("train", "arithmetic", "ieee"),
)


def _inapplicable(theory: str, problem: Mapping[str, Any]) -> str | None:
    """Why a theorem does not apply to a function, if so."""
    function, use = problem["function"], problem["function"]["use"]
    if theory == "theorem8" and use not in {"logistic", "theorem4_flat"}:
        return "needs a gradient that is bounded on the whole space, since noise leaves every sublevel set"
    if problem["assume"] is not None:
        return "needs L1 > 0" if theory == "theorem7" and problem["assume"]["L1"] == 0 else None
    if theory == "theorem7" and (use in {"quadratic", "theorem4_flat"} or function.get("L1") == 0):
        return "needs L1 > 0"
    if theory in {"theorem3", "normalized", "vankov2024"} and use == "logistic" and function["L1"] >= function["slope"]:
        return "needs L0 > 0, and with L1 >= slope this function needs none"
    return None


def _where(section: Node, key: str) -> Node:
    return section.child(key) or section
