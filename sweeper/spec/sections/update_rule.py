"""``update_rule``: a transform of the gradient (clip, normalise), an optimiser's direction, a schedule of the rate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Tag, model_validator

from sweeper.cell_labels import TRANSFORMS
from sweeper.spec.sections.own import IMPORT_PATH, PLACES, Own, by_use, resolved
from sweeper.spec.sections.thresholds import ClipGroups, ClipThreshold
from sweeper.spec.sections.values import (
    AS_NUMBER,
    Count,
    Flag,
    Index,
    NonNegative,
    Positive,
    Section,
    Share,
    Text,
    Threshold,
    conflict,
    missing,
    wrong,
)

__all__ = [
    "ADDED_OPTIONS",
    "ADDED_SCHEDULE_OPTIONS",
    "OPTIONS_OF_OPTIMIZERS",
    "OWN_PARTS",
    "SCHEDULES",
    "TRANSFORMS",
    "Constant",
    "Cosine",
    "FromStep",
    "InverseSqrt",
    "Linear",
    "NonMonotone",
    "OneCycle",
    "OwnSchedule",
    "OwnTransform",
    "Rest",
    "StableDecay",
    "StepDecay",
    "UpdateRule",
]

OPTIONS_OF_OPTIMIZERS: dict[str, frozenset[str]] = {
    "sgd": frozenset({"momentum", "dampening", "nesterov", "weight_decay"}),
    "adam": frozenset({"betas", "eps", "weight_decay"}),
    "adamw": frozenset({"betas", "eps", "weight_decay"}),
    "rmsprop": frozenset({"momentum", "eps", "weight_decay"}),
    "adagrad": frozenset({"eps", "weight_decay"}),
    "asgd": frozenset({"lambd", "alpha", "t0", "weight_decay"}),
    "lion": frozenset({"betas", "weight_decay"}),
    "signsgd": frozenset({"momentum", "weight_decay"}),
    "muon": frozenset({"momentum", "nesterov", "weight_decay", "ns_steps", "adjust_rate", "rest"}),
}
"""The options of each optimiser. One without effect is refused: it would give the same training another id."""

SCHEDULES = ("constant", "step_decay", "cosine", "linear", "inverse_sqrt", "stable_decay", "one_cycle")
"""The registered ones."""

OWN_PARTS = ("schedule", "transform")
"""Sections of the rule in which ``use`` may be an import path."""

ADDED_OPTIONS: dict[str, Any] = {
    "lambd": 1e-4,
    "alpha": 0.75,
    "t0": 1e6,
    "clip_value": None,
    "clip_layer_norm": None,
    "clip_adaptive": None,
    "transform": None,
    "decay_on": "all",
    "no_decay": None,
    "ns_steps": 5,
    "adjust_rate": "original",
    "rest": None,
    "clip_threshold": None,
    "clip_groups": None,
    "when_exceeded": "clip",
    "transform_of": "gradient",
    "clip_each_micro_batch": False,
    "average": None,
}
"""Options added after the first ids were made, with their defaults, at which they are left out so that ids stay."""

ADDED_SCHEDULE_OPTIONS: dict[str, Any] = {"unit": "steps", "warmup": 0.0}
"""The same for schedules."""

_Patterns = Annotated[
    tuple[Text, ...], Field(min_length=1), AfterValidator(lambda patterns: tuple(sorted(set(patterns))))
]
"""Patterns of names: the same in any order."""

_Fraction = Annotated[float, Field(ge=0, le=1), AS_NUMBER]
_Unit = Annotated[float, Field(ge=0, lt=1), AS_NUMBER]


def _steps_or_share(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise wrong(f"must be a whole number of steps, or a share of them below 1, found {value:g}", "100, or 0.05")
    return value


_Warmup = Annotated[float, Field(ge=0, le=1e12), AS_NUMBER, AfterValidator(_steps_or_share)]

_WARMUP = "The rate rises over so many steps first; below 1, a share of all steps."


class Constant(Section):
    """The learning rate stays as it is."""

    use: Literal["constant"] = Field(description="The learning rate stays as it is.")
    warmup: _Warmup = Field(default=0.0, description=_WARMUP)


class StepDecay(Section):
    """The learning rate is multiplied by a factor at each milestone."""

    use: Literal["step_decay"] = Field(description="The learning rate is multiplied by `factor` at each milestone.")
    milestones: tuple[Count, ...] = Field(
        min_length=1, description="Steps or epochs, rising; from each one on, the rate is multiplied once more."
    )
    factor: Positive = Field(default=0.1, description="What the rate is multiplied by.")
    unit: Literal["steps", "epochs"] = Field(default="steps", description="What milestones count.")
    warmup: _Warmup = Field(default=0.0, description=_WARMUP)

    @model_validator(mode="after")
    def _rising(self) -> StepDecay:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise conflict("must rise from one to the next", "milestones", hint="steps in rising order")
        return self


class Cosine(Section):
    """The learning rate falls along half a cosine to a share of itself at the last step."""

    use: Literal["cosine"] = Field(description="The learning rate falls along half a cosine until the last step.")
    final_fraction: _Fraction = Field(default=0.0, description="Share of the learning rate that remains at the end.")
    warmup: _Warmup = Field(default=0.0, description=_WARMUP)


class Linear(Section):
    """The learning rate falls along a line to a share of itself at the last step."""

    use: Literal["linear"] = Field(description="The learning rate falls along a line until the last step.")
    final_fraction: _Fraction = Field(default=0.0, description="Share of the learning rate that remains at the end.")
    warmup: _Warmup = Field(default=0.0, description=_WARMUP)


class InverseSqrt(Section):
    """The learning rate falls with the square root of the step."""

    use: Literal["inverse_sqrt"] = Field(description="The rate at step k is eta / sqrt(1 + k / timescale).")
    timescale: Count = Field(description="After three times so many steps half of the rate remains.", examples=[1000])
    warmup: _Warmup = Field(default=0.0, description=_WARMUP)


class StableDecay(Section):
    """The learning rate stays as it is, and falls at the end; with a warm-up, what is called WSD."""

    use: Literal["stable_decay"] = Field(description="The rate stays as it is and falls over the last steps (WSD).")
    decay: Share = Field(default=0.2, description="Share of the steps over which it falls.")
    shape: Literal["linear", "sqrt", "cosine"] = Field(
        default="linear", description="1 - t, 1 - sqrt(t) or half a cosine, t being how far the fall has come."
    )
    final_fraction: _Fraction = Field(default=0.0, description="Share of the learning rate that remains at the end.")
    warmup: _Warmup = Field(default=0.0, description=_WARMUP)


class OneCycle(Section):
    """Smith and Topin (2018): up along half a cosine, and down along another."""

    use: Literal["one_cycle"] = Field(description="The rate rises to eta and falls, each along half a cosine.")
    rise: Share = Field(default=0.3, description="Share of the steps over which it rises.")
    initial_fraction: _Fraction = Field(default=0.04, description="Share of eta at the first step.")
    final_fraction: _Fraction = Field(default=4e-6, description="Share of eta at the last step.")


class OwnSchedule(Own):
    """A schedule of one's own: its factory returns a pure function ``(step, total_steps) -> factor``."""

    use: Annotated[str, Field(pattern=IMPORT_PATH), resolved("schedules")] = Field(
        description=PLACES, examples=["my_module:my_schedule"]
    )


class OwnTransform(Own):
    """A transform of one's own: its factory returns a function that changes a direction and returns its scale."""

    use: Annotated[str, Field(pattern=IMPORT_PATH), resolved("transforms")] = Field(
        description=PLACES, examples=["my_module:my_transform"]
    )


class FromStep(Section):
    """An average of all iterates from a step on."""

    use: Literal["from_step"] = Field(description="Metrics are those of the mean of the iterates from a step on.")
    step: Index = Field(description="The step.")


class NonMonotone(Section):
    """NT-ASGD's average, Merity et al. (2018), Algorithm 1."""

    use: Literal["non_monotone"] = Field(description="The same once the validation loss stops getting better.")
    window: Count = Field(default=5, description="How many evaluations the validation loss has to get better.")


class Rest(Section):
    """AdamW, on what ``muon`` leaves to it."""

    learning_rate: Positive = Field(description="AdamW's rate, which the schedule scales as it does eta.")
    betas: tuple[_Unit, _Unit] = Field(default=(0.9, 0.999), description="Decay of AdamW's averages.")
    eps: Positive = Field(default=1e-8, description="Added to AdamW's denominator.")
    weight_decay: NonNegative = Field(default=0.0, description="AdamW's decoupled decay.")
    matrices: _Patterns | None = Field(
        default=None,
        description="Names of the matrices that AdamW takes, * standing for anything; null: embeddings, the last one.",
        examples=[["embedding.*", "head.*"]],
    )


class UpdateRule(Section):
    """How a step is taken; eq. (5) and (6) of Zhang et al. (2020) for the first two transforms."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "asgd", "lion", "signsgd", "muon"] = Field(
        default="sgd", description="The direction, as torch.optim computes it from the transformed gradient."
    )
    learning_rate: Positive | None = Field(
        default=None, description="eta, the step size before clipping.", examples=[1.0]
    )
    momentum: _Unit = Field(default=0.0, description="Momentum of sgd, rmsprop, signsgd and muon.")
    dampening: _Unit = Field(default=0.0, description="Dampening of sgd's momentum.")
    nesterov: Flag = Field(default=False, description="Nesterov's momentum; needs momentum and no dampening.")
    weight_decay: NonNegative = Field(
        default=0.0, description="L2 penalty (adamw, lion, signsgd, muon: decoupled decay)."
    )
    decay_on: Literal["all", "matrices"] = Field(
        default="all", description="What decays: all parameters, or those of two or more dimensions."
    )
    no_decay: _Patterns | None = Field(
        default=None,
        description="Names of parameters that do not decay, * standing for anything; null means no others.",
        examples=[["embedding.*"]],
    )
    betas: tuple[_Unit, _Unit] = Field(
        default=(0.9, 0.999), description="Decay of the averages of adam, adamw and lion."
    )
    eps: Positive = Field(default=1e-8, description="Added to the denominator of adam, adamw, rmsprop and adagrad.")
    lambd: NonNegative = Field(default=1e-4, description="asgd's decay of the parameters, and of the rate.")
    alpha: NonNegative = Field(default=0.75, description="Power of asgd's decay: eta / (1 + lambd eta k)^alpha.")
    t0: NonNegative = Field(default=1e6, description="The step from which on asgd averages.")
    ns_steps: Annotated[Count, Field(le=99)] = Field(default=5, description="muon's iterations of Newton-Schulz.")
    adjust_rate: Literal["original", "match_rms_adamw"] = Field(
        default="original", description="By what the shape of a matrix changes muon's rate, torch's adjust_lr_fn."
    )
    rest: Rest | None = Field(default=None, description="AdamW, on all that is no hidden matrix; muon needs it.")
    clip_norm: Threshold | None = Field(
        default=None,
        description="gamma of eq. (5), h = eta min(1, gamma/||g||); null means no clipping.",
        examples=[0.25],
    )
    normalize: Threshold | None = Field(
        default=None, description="beta of eq. (6), h = eta/(||g|| + beta); null means no normalising."
    )
    clip_value: Threshold | None = Field(
        default=None, description="Largest absolute entry of the gradient; null means no such clipping."
    )
    clip_layer_norm: Threshold | None = Field(
        default=None, description="Largest norm of each parameter tensor's gradient; null means no such clipping."
    )
    clip_adaptive: Threshold | None = Field(
        default=None,
        description="Largest norm of a unit's gradient over that of its weights (Brock et al., 2021); null means none.",
    )
    clip_threshold: ClipThreshold | None = Field(
        default=None, description="What sets gamma of eq. (5) at every step, in place of clip_norm; null means nothing."
    )
    clip_groups: ClipGroups | None = Field(
        default=None,
        description="Eq. (5) in groups of parameters, by their names; the first pattern counts. null means no groups.",
        examples=[[{"match": "embedding.*", "clip_norm": 1.0}, {"match": "*", "clip_norm": 0.25}]],
    )
    transform: OwnTransform | None = Field(
        default=None, description="A transform of your own, package.module:factory with options; null means none."
    )
    when_exceeded: Literal["clip", "skip"] = Field(
        default="clip", description="What to do above clip_norm or clip_threshold: clip, or skip the whole step."
    )
    transform_of: Literal["gradient", "momentum"] = Field(
        default="gradient", description="What is clipped or normalised: the gradient, or sgd's momentum."
    )
    clip_each_micro_batch: Flag = Field(
        default=False,
        description="Clip or normalise the gradient of each micro-batch of train.accumulate, before their mean.",
    )
    average: Annotated[FromStep | NonMonotone, Field(discriminator="use")] | None = Field(
        default=None, description="Average of iterates at which metrics are evaluated; null means none."
    )
    schedule: Annotated[
        Annotated[Constant, Tag("constant")]
        | Annotated[StepDecay, Tag("step_decay")]
        | Annotated[Cosine, Tag("cosine")]
        | Annotated[Linear, Tag("linear")]
        | Annotated[InverseSqrt, Tag("inverse_sqrt")]
        | Annotated[StableDecay, Tag("stable_decay")]
        | Annotated[OneCycle, Tag("one_cycle")]
        | Annotated[OwnSchedule, Tag("own")],
        by_use("schedules", SCHEDULES),
    ] = Field(default=Constant(use="constant"), description="The learning rate over the steps.")

    from_theory: Literal["theorem3", "theorem6", "theorem7", "theorem8", "normalized", "vankov2024"] | None = Field(
        default=None,
        description="Rate and threshold as a theorem sets them from an analytic function's L0 and L1, in their place.",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_optimizers(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        match section.get("optimizer"):
            case "lion":
                # Those of its paper: with Adam's the average would reach ten times as far back.
                return {"betas": [0.9, 0.99], **section}
            case "muon":
                # Torch's, and its author's.
                return {"momentum": 0.95, "nesterov": section.get("momentum") != 0, **section}
        return section

    @model_validator(mode="after")
    def _consistent(self) -> UpdateRule:
        if self.from_theory is not None:
            for option in ("learning_rate", "momentum", *TRANSFORMS, "transform"):
                if getattr(self, option) != _default(option):
                    message = f"{self.from_theory} sets the whole rule, so {option} has no effect"
                    raise conflict(message, option, "from_theory", hint="give one of them")
        elif self.learning_rate is None:
            raise missing("learning_rate")
        chosen = [name for name in (*TRANSFORMS, "transform") if getattr(self, name) is not None]
        if len(chosen) > 1:
            message = f"{' and '.join(chosen)} exclude each other"
            raise conflict(message, *chosen, hint="set all but one of them to null")
        takes = OPTIONS_OF_OPTIMIZERS[self.optimizer]
        for option in sorted(frozenset[str]().union(*OPTIONS_OF_OPTIMIZERS.values()) - takes):
            if getattr(self, option) != _default(option):
                message = f"{option} has no effect with the optimizer {self.optimizer}"
                hint = f"{self.optimizer} takes {', '.join(sorted(takes))}"
                raise conflict(message, option, "optimizer", hint=hint)
        if self.optimizer == "muon" and self.rest is None:
            hint = "rest: {learning_rate: 3e-4}"
            raise conflict("muon is for hidden matrices, and the rest needs AdamW", "optimizer", hint=hint)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise conflict(
                "nesterov needs a momentum above 0 and no dampening", "nesterov", "momentum", "dampening", hint=""
            )
        if self.dampening != 0 and self.momentum == 0:
            raise conflict("dampening has no effect without momentum", "dampening", "momentum", hint="set momentum")
        for option in ("decay_on", "no_decay"):
            decays = self.weight_decay > 0 or (self.rest is not None and self.rest.weight_decay > 0)
            if getattr(self, option) != _default(option) and not decays:
                message = f"{option} has no effect without weight_decay"
                raise conflict(message, option, "weight_decay", hint="set weight_decay above 0")
        if self.transform_of == "momentum" and not (self.momentum and chosen and self.optimizer == "sgd"):
            hint = f"optimizer: sgd, a momentum, and one of {', '.join(TRANSFORMS)}, transform"
            raise conflict("there is no momentum to clip or normalise", "transform_of", "momentum", hint=hint)
        of_many = {"clip_threshold", "clip_groups"}
        numbered = [name for name in chosen if name not in of_many]
        if self.clip_each_micro_batch and not (numbered and self.transform_of == "gradient"):
            names = ", ".join(name for name in TRANSFORMS if name not in of_many)
            hint = f"one of {names}, or a transform of your own, of the gradient"
            raise conflict("there is nothing to do to each micro-batch", "clip_each_micro_batch", hint=hint)
        if self.clip_each_micro_batch and self.when_exceeded == "skip":
            message = "a step is skipped as a whole, not for one of its micro-batches"
            raise conflict(message, "when_exceeded", "clip_each_micro_batch", hint="when_exceeded: clip")
        if self.when_exceeded == "skip" and self.clip_norm is None and self.clip_threshold is None:
            hint = "set clip_norm or clip_threshold"
            raise conflict("there is no threshold on the norm above which to skip", "when_exceeded", hint=hint)
        if self.when_exceeded == "skip" and self.transform_of == "momentum":
            message = "skip decides by the gradient, before it is in the momentum"
            raise conflict(message, "when_exceeded", "transform_of", hint="transform_of: gradient")
        if self.average is not None and self.optimizer == "asgd":
            raise conflict("asgd keeps its own average", "average", "optimizer", hint="optimizer: sgd")
        return self


def _default(option: str) -> Any:
    return UpdateRule.model_fields[option].default
