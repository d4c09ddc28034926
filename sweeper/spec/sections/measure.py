"""``measure``: when snapshots are taken, what f is, and what is measured of it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sweeper.spec.sections.estimators import DirectionalSmoothness, Estimator
from sweeper.spec.sections.values import AS_INTEGER, Count, Flag, Index, Positive, Section, Share, conflict

__all__ = ["Audit", "Measure", "Probe"]

Probes = Annotated[int, Field(ge=1, le=100), AS_INTEGER]


class Probe(Section):
    """What makes f, the function that is measured, a function of the parameters alone."""

    batch_norm: Literal["batch", "frozen"] = Field(
        default="batch",
        description="Statistics by which batch-norm normalises: each probe batch's own, or the whole probe's at x_k.",
    )
    regulariser: Literal["out", "in"] = Field(
        default="out", description="Whether penalties of the training loss are left out of f or stay in it."
    )
    dropout: Literal["off"] = Field(default="off", description="Off: with it, f would be random.")
    rnn_state: Literal["zero"] = Field(
        default="zero", description="Zero at the start of every sequence, so that the gradient is exact."
    )
    sequences: Literal["random"] = Field(
        default="random", description="A seeded random subset of the training data; its beginning would be biased."
    )


class Audit(Section):
    """How the rounding error of a gradient is known: by the same gradient in float64."""

    at: Literal["snapshot", "maximum", "start"] = Field(
        default="snapshot",
        description="At every x_k; there and where the maximum lies; or once per trial, at its initial weights.",
    )
    share: Share = Field(default=0.1, description="Share of the probe that is computed in float64 too.")


class Measure(Section):
    """When snapshots are taken, and what is measured of them."""

    every: Count | None = Field(default=None, description="A snapshot at every n-th step.", examples=[10])
    first: Index = Field(default=0, description="Snapshots of the first n steps.")
    last: Index = Field(default=0, description="Snapshots of the last n steps.")
    epochs: Positive | None = Field(default=None, description="A snapshot once every so many epochs.")
    steps: tuple[Index, ...] = Field(default=(), description="Snapshots of these steps.")
    from_step: Index = Field(default=0, description="`every` and `epochs` begin here.")
    to_step: Index | None = Field(default=None, description="`every` and `epochs` end here; null means never.")
    data_fraction: Share = Field(default=0.1, description="Share of the training data on which f is evaluated.")
    probes: Probes = Field(
        default=1,
        description="How many such shares, without a sample in common, every snapshot is measured on: their spread is "
        "the error of sampling.",
    )
    probe: Probe = Field(default=Probe(), description="What f does about batch-norm, dropout, state and penalties.")
    audit: Audit = Field(default=Audit(), description="How the rounding error of gradients is known.")
    keep: Flag = Field(default=False, description="Whether snapshots are kept, to be measured again later.")
    estimators: tuple[Estimator, ...] = Field(
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
        most = math.floor(1 / self.data_fraction + 1e-9)
        if self.probes > most:
            raise conflict(
                f"{self.probes} probes of {self.data_fraction:g} of the training data each need more than there is",
                "probes",
                "data_fraction",
                hint=f"at most {most} of this share have no sample in common",
            )
        names = [estimator.use for estimator in self.estimators]
        if len(set(names)) < len(names):
            raise conflict("an estimator appears twice", "estimators", hint="each at most once")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_single(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Of one probe, as there always was, sections and their ids stay what they were.
        section: dict[str, Any] = serialize(self)
        if self.probes == 1:
            section.pop("probes", None)
        return section
