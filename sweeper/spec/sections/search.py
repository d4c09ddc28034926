"""``sweep.search``: what finds the next values to try, in place of a grid of them."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, Tag, field_validator, model_validator

from sweeper.spec.sections.own import IMPORT_PATH, PLACES, by_use, resolved
from sweeper.spec.sections.values import (
    AS_INTEGER,
    AS_NUMBER,
    AutoOrCount,
    Count,
    Flag,
    FreeValue,
    Index,
    Number,
    Positive,
    Section,
    Text,
    conflict,
    wrong,
)

__all__ = ["SEARCHES", "Best", "Halving", "Optuna", "OwnSearch", "Search", "StabilityFrontier"]

_Range: TypeAlias = tuple[Number, Number]
_Ratio = Annotated[float, Field(gt=1, le=100), AS_NUMBER]


class StabilityFrontier(Section):
    """The largest stable value of one path, for every other cell and every seed, by bisection of its logarithm."""

    use: Literal["stability_frontier"] = Field(description="The largest stable value, by bisection of its logarithm.")
    over: Text = Field(
        description="Dotted path whose largest stable value is sought.", examples=["update_rule.learning_rate"]
    )
    between: tuple[Positive, Positive] = Field(
        description="Smallest and largest value that may be tried.", examples=[[0.01, 1000]]
    )
    within: _Ratio = Field(default=1.1, description="A bracket is narrow enough if its ends differ by this factor.")
    verify: Annotated[int, Field(ge=0, le=100), AS_INTEGER] = Field(
        default=2, description="Values outside the bracket that are tried, too, in case stability is not monotone."
    )
    points: AutoOrCount = Field(
        default="auto",
        description="Values that are tried at a time for a cell and seed; auto: as many as trainers would be idle.",
    )
    loss_above: Positive | None = Field(
        default=None, description="A training loss above it is unstable; sets train.max_loss; null means no such limit."
    )
    worse_than_start: Flag = Field(
        default=True, description="A trial whose last training loss is above its first is unstable."
    )
    decide_after: Count | None = Field(
        default=None, description="A trial that is stable after so many steps is held there; null means all steps."
    )

    @model_validator(mode="after")
    def _range(self) -> StabilityFrontier:
        _check_range(self.between, "between")
        if self.between[1] / self.between[0] <= self.within:
            low, high = self.between
            raise conflict(
                f"{low:g} and {high:g} are within a factor of {self.within:g} already",
                "between",
                "within",
                hint="values further apart",
            )
        return self

    @property
    def space(self) -> dict[str, _Range]:
        """The paths that are searched over, each with its smallest and largest value."""
        return {self.over: self.between}


class _OverRanges(Section):
    """What searches share whose ``over`` maps paths to ranges; each says for itself which ranges those are."""

    @field_validator("over", check_fields=False)
    @classmethod
    def _ranges(cls, over: dict[str, _Range]) -> dict[str, _Range]:
        for path, (low, high) in over.items():
            if not low < high:
                raise wrong(f"{path}: the range is empty, found {low:g} to {high:g}", "[smallest, largest]")
        return over

    @property
    def space(self) -> dict[str, _Range]:
        """The paths that are searched over, each with its smallest and largest value."""
        over: dict[str, _Range] = getattr(self, "over")  # noqa: B009 - a field of each of them
        return dict(over)


class Best(_OverRanges):
    """The best value of one or two paths for every cell, by a race over paired seeds, at equal budgets per arm."""

    use: Literal["best"] = Field(description="The best value for every cell: a race over paired seeds.")
    over: dict[str, tuple[Positive, Positive]] = Field(
        min_length=1,
        max_length=2,
        description="One or two dotted paths, each to its smallest and largest value.",
        examples=[{"update_rule.learning_rate": [0.001, 10]}],
    )
    metric: Text = Field(
        default="train_loss",
        description="What is compared: train_loss, or a metric of the problem.",
        examples=["valid_loss"],
    )
    budget: Annotated[int, Field(ge=10, le=100_000), AS_INTEGER] = Field(
        default=40, description="Trials of each arm; an arm of several cells shares it among them."
    )
    within: _Ratio = Field(default=1.25, description="The factor within which the best value is sought.")
    confirm_seeds: Annotated[int, Field(ge=0, le=1000), AS_INTEGER] = Field(
        default=5, description="Fresh seeds that the best value is trained with at last, for its result and interval."
    )
    confidence: Annotated[float, Field(ge=0.5, lt=1), AS_NUMBER] = Field(
        default=0.95, description="Of the test by which a value is out of the race."
    )


class Halving(Section):
    """Every cell is trained a little, the better ones longer: asynchronous successive halving (ASHA) over the steps."""

    use: Literal["halving"] = Field(description="Trains every cell a little, and the better ones longer (ASHA).")
    metric: Text = Field(
        default="train_loss",
        description="What is compared: train_loss, or a metric of the problem.",
        examples=["valid_loss"],
    )
    first: Count = Field(description="Steps after which cells are compared for the first time.", examples=[100])
    factor: Annotated[float, Field(gt=1, le=100), AS_NUMBER] = Field(
        default=3.0, description="One cell in so many goes on, for so many times the steps."
    )
    across_arms: Flag = Field(default=False, description="Whether cells of different arms compete with one another.")

    @property
    def space(self) -> dict[str, _Range]:
        """Nothing: its cells are those of the sweep."""
        return {}


class Optuna(_OverRanges):
    """Any sampler of Optuna, each value with all its seeds one of its trials."""

    use: Literal["optuna"] = Field(description="Any sampler of Optuna (the extra search).")
    over: dict[str, _Range] = Field(
        min_length=1,
        description="Dotted path to its smallest and largest value; orders of magnitude are alike above 0.",
        examples=[{"update_rule.learning_rate": [0.001, 10]}],
    )
    sampler: Text = Field(default="TPESampler", description="Name of a class of optuna.samplers.")
    options: dict[str, FreeValue] = Field(default={}, description="Its arguments.")
    metric: Text = Field(
        default="train_loss",
        description="What is compared: train_loss, or a metric of the problem.",
        examples=["valid_loss"],
    )
    budget: Count = Field(default=40, description="Trials of each arm, a trial for each value and seed.")
    seed: Index = Field(default=0, description="The sampler's.")


class OwnSearch(_OverRanges):
    """A searcher of one's own; its options are passed to the factory unchanged, ``over`` among them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, FreeValue]

    use: Annotated[str, Field(pattern=IMPORT_PATH), resolved("searchers")] = Field(description=PLACES)
    over: dict[str, _Range] = Field(
        min_length=1,
        description="Dotted path to its smallest and largest value.",
        examples=[{"update_rule.learning_rate": [0.01, 10]}],
    )


def _check_range(ends: _Range, key: str) -> None:
    if not ends[0] < ends[1]:
        raise conflict(f"the range is empty, found {ends[0]:g} to {ends[1]:g}", key, hint="[smallest, largest]")
    if not math.isfinite(ends[1] - ends[0]) or (ends[0] > 0 and not math.isfinite(ends[1] / ends[0])):
        raise conflict("the ends are too far apart", key)


SEARCHES: dict[str, type[Section]] = {
    "best": Best,
    "halving": Halving,
    "optuna": Optuna,
    "stability_frontier": StabilityFrontier,
}
"""Searchers by name, with their options."""


Search: TypeAlias = Annotated[
    Annotated[StabilityFrontier, Tag("stability_frontier")]
    | Annotated[Best, Tag("best")]
    | Annotated[Halving, Tag("halving")]
    | Annotated[Optuna, Tag("optuna")]
    | Annotated[OwnSearch, Tag("own")],
    by_use("searchers", SEARCHES),
]
"""A searcher and its options."""
