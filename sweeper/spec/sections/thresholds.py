"""``update_rule.clip_threshold`` and ``clip_groups``: thresholds that change from step to step, or by parameter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sweeper.spec.sections.values import AS_NUMBER, Count, Index, Positive, Section, Text, Threshold, conflict, wrong

__all__ = ["ClipGroup", "ClipGroups", "ClipThreshold", "MovingAverage", "Percentile", "ThresholdSchedule", "ZScore"]

_Decay = Annotated[float, Field(ge=0, lt=1), AS_NUMBER]
_WARMUP = "Number of first steps that are not clipped, whose norms begin the averages."


class Percentile(Section):
    """AutoClip, Seetharaman et al. (2020)."""

    use: Literal["percentile"] = Field(description="AutoClip: a percentile of the gradient norms so far.")
    percentile: Annotated[float, Field(gt=0, le=100), AS_NUMBER] = Field(
        default=10.0, description="The percentile of the gradient norms up to this step that is the threshold."
    )
    window: Count | None = Field(default=10_000, description="How many of the last norms count; null means all.")


class ZScore(Section):
    """ZClip, Kumar et al. (2025)."""

    use: Literal["z_score"] = Field(description="ZClip: norms far above their running mean are clipped.")
    z: Positive = Field(default=2.5, description="How many standard deviations above the mean are too many.")
    decay: _Decay = Field(default=0.97, description="Share of mean and variance that stays at each step.")
    warmup: Count = Field(default=25, description=_WARMUP)
    clip_to: Literal["reciprocal", "boundary", "mean"] = Field(
        default="reciprocal", description="To what a norm beyond is clipped: the further out the shorter, z, or mean."
    )


class MovingAverage(Section):
    """A multiple of the running mean of the norm."""

    use: Literal["moving_average"] = Field(description="A multiple of the running mean of the gradient norm.")
    factor: Positive = Field(default=2.0, description="What the mean is multiplied by; above 1 for clipped norms.")
    decay: _Decay = Field(default=0.99, description="Share of the mean that stays at each step.")
    warmup: Count = Field(default=25, description=_WARMUP)
    average_of: Literal["clipped", "raw"] = Field(
        default="clipped", description="Which norms are averaged: those after clipping, or before."
    )

    @model_validator(mode="after")
    def _can_rise(self) -> MovingAverage:
        if self.factor <= 1 and self.average_of == "clipped":
            message = "must be above 1: an average of norms clipped to it could only fall"
            raise conflict(message, "factor", "average_of", hint="a larger factor, or average_of: raw")
        return self


def _pair(value: tuple[int, float]) -> tuple[int, float]:
    if value[1] <= 0:
        raise wrong(f"a threshold must be greater than 0, found {value[1]:g}", "[step, threshold]")
    return value


class ThresholdSchedule(Section):
    """A threshold as a function of the step."""

    use: Literal["schedule"] = Field(description="A threshold for each step, given at some of them.")
    points: tuple[Annotated[tuple[Index, Annotated[float, AS_NUMBER]], AfterValidator(_pair)], ...] = Field(
        min_length=1, description="Pairs [step, threshold], with rising steps.", examples=[[[0, 1.0], [1000, 0.25]]]
    )
    between: Literal["linear", "geometric", "hold"] = Field(
        default="linear", description="How to get from one point to the next; hold: a jump at the next."
    )

    @model_validator(mode="after")
    def _rising(self) -> ThresholdSchedule:
        steps = [step for step, _ in self.points]
        if steps != sorted(set(steps)):
            raise conflict("steps must rise from one point to the next", "points", hint="[[0, 1.0], [1000, 0.25]]")
        return self


ClipThreshold = Annotated[Percentile | ZScore | MovingAverage | ThresholdSchedule, Field(discriminator="use")]


class ClipGroup(Section):
    """Parameters that are clipped together."""

    match: Text = Field(description="Pattern of their names: * any characters, ? one, [ab] one of these.")
    clip_norm: Threshold = Field(description="Largest norm of their gradient.")


ClipGroups = Annotated[tuple[ClipGroup, ...], Field(min_length=1)]
