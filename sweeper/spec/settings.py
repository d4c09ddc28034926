"""``train``, ``measure``, ``resources`` and ``cluster``."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sweeper.spec.values import (
    AS_INTEGER,
    AutoOrCount,
    Count,
    Flag,
    Index,
    NonNegative,
    Positive,
    Section,
    Share,
    Text,
    conflict,
    wrong,
)

__all__ = ["Cluster", "DirectionalSmoothness", "Measure", "Pool", "Resources", "Train"]


class Train(Section):
    """How long a trial trains, and what is written along the way."""

    steps: Count = Field(description="Steps of each trial.", examples=[400])
    log_every: Count | None = Field(
        default=None,
        description="Metrics of every n-th step are kept; null means all, of analytic functions the first and last.",
    )
    evaluate_every: Count | None = Field(
        default=None, description="The problem's own metrics at every n-th step; at the end they always are."
    )
    checkpoint_every: Count = Field(
        default=500, description="A checkpoint at every n-th step; what a crash costs at most."
    )
    max_loss: Positive | None = Field(default=None, description="A training loss above it counts as divergence.")


class DirectionalSmoothness(Section):
    """Eq. (20) of Zhang et al. (2020)."""

    use: Literal["directional_smoothness"] = Field(description="Eq. (20): the gradient's change along the update.")
    delta: Share = Field(default=0.1, description="Spacing of the sample points along the update; 1/delta is whole.")

    @field_validator("delta")
    @classmethod
    def _one_over_an_integer(cls, delta: float) -> float:
        count = max(1, round(1 / delta))
        if count > 1000:
            raise wrong(f"is too small, found {delta!r}", "at least 0.001: 1/delta gradients are computed a snapshot")
        if not math.isclose(count * delta, 1, rel_tol=1e-6):
            raise wrong(f"1/delta must be a whole number, found {delta!r}", f"the nearest is {1 / count!r}")
        return 1 / count


class Measure(Section):
    """When snapshots are taken, and what is measured of them."""

    every: Count | None = Field(default=None, description="A snapshot at every n-th step.", examples=[10])
    first: Index = Field(default=0, description="Snapshots of the first n steps.")
    last: Index = Field(default=0, description="Snapshots of the last n steps.")
    epochs: Positive | None = Field(default=None, description="A snapshot once in so many epochs.")
    steps: tuple[Index, ...] = Field(default=(), description="Snapshots of these steps.")
    from_step: Index = Field(default=0, description="`every` and `epochs` begin here.")
    to_step: Index | None = Field(default=None, description="`every` and `epochs` end here; null means never.")
    data_fraction: Share = Field(default=0.1, description="Share of the training data on which f is evaluated.")
    keep: Flag = Field(default=False, description="Whether snapshots are kept, to be measured again later.")
    estimators: tuple[DirectionalSmoothness, ...] = Field(
        default=(DirectionalSmoothness(use="directional_smoothness"),),
        min_length=1,
        description="What is measured of every snapshot.",
    )

    @model_validator(mode="after")
    def _says_when(self) -> Measure:
        if not (self.every or self.first or self.last or self.epochs or self.steps):
            raise conflict("does not say when to measure", hint="set every, first, last, epochs or steps")
        if self.to_step is not None and self.to_step < self.from_step:
            raise conflict(f"to_step {self.to_step} comes before from_step {self.from_step}", "to_step", "from_step")
        names = [estimator.use for estimator in self.estimators]
        if len(set(names)) < len(names):
            raise conflict("an estimator is there twice", "estimators", hint="each at most once")
        return self


class Pool(Section):
    """How many workers of a kind, and what each takes."""

    count: AutoOrCount = Field(default="auto", description="Workers; auto means as many as fit.")
    cpus: NonNegative = Field(default=0.5, description="CPUs that a worker occupies.")
    gpus: NonNegative = Field(default=0.0, description="GPUs that a worker occupies; a fraction shares one.")
    threads: Count = Field(default=1, description="Threads that a worker computes with.")


class Resources(Section):
    """What the trainers and the estimators take of the cluster."""

    trainers: Pool = Field(default=Pool(), description="The workers that train.")
    estimators: Pool = Field(default=Pool(), description="The workers that measure.")
    max_attempts: Annotated[int, Field(ge=1, le=100), AS_INTEGER] = Field(
        default=3, description="How often a trial is tried in all, if its worker dies."
    )


class Cluster(Section):
    """Where the workers run."""

    address: Text = Field(
        default="local",
        pattern=r"^(local|auto|(ray://)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$",
        description="local, auto (the cluster of this machine), host:port, or ray://host:port.",
        examples=["local", "auto"],
    )
