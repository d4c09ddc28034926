"""``sweep``: which values vary, and how they combine into cells."""

from __future__ import annotations

import math
import random
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from sweeper.spec.sections.search import Search
from sweeper.spec.sections.values import AS_INTEGER, Index, Number, Positive, Section, conflict, wrong
from sweeper.spec.syntax.diagnostics import shown

__all__ = [
    "CASE_NAME",
    "MAX_CASE_NAME",
    "MAX_TRIALS",
    "Axis",
    "Linear",
    "Log",
    "Random",
    "SweepBlock",
    "Uniform",
    "generated",
    "num_values",
]

CASE_NAME = "name"
"""The key of a case that is no path: what its cells are called."""

MAX_CASE_NAME = 64

MAX_TRIALS = 100_000
# Enough that a reader recognises a number, few enough that ids do not depend on the last bits of a power.
_SIGNIFICANT_DIGITS = 12
_Points = Annotated[int, Field(ge=2, le=MAX_TRIALS), AS_INTEGER]


class Log(Section):
    """Values whose logarithms are evenly spaced."""

    log: tuple[Positive, Positive, _Points] = Field(
        description="First value, last value, how many in all; neighbours have the same ratio.",
        examples=[[0.001, 10, 9]],
    )

    @model_validator(mode="after")
    def _apart(self) -> Log:
        _two_ends(self.log[0], self.log[1], "log")
        return self


class Linear(Section):
    """Evenly spaced values."""

    linear: tuple[Number, Number, _Points] = Field(
        description="First value, last value, how many in all; neighbours have the same difference.",
        examples=[[0, 1, 5]],
    )

    @model_validator(mode="after")
    def _apart(self) -> Linear:
        _two_ends(self.linear[0], self.linear[1], "linear")
        return self


class Uniform(Section):
    """Random values from a range."""

    log_uniform: tuple[Positive, Positive] | None = Field(
        default=None, description="Range whose orders of magnitude are equally likely.", examples=[[0.001, 10]]
    )
    uniform: tuple[Number, Number] | None = Field(
        default=None, description="Range whose values are equally likely.", examples=[[0, 1]]
    )
    count: Annotated[int, Field(ge=1, le=MAX_TRIALS), AS_INTEGER] = Field(description="How many values.", examples=[8])
    seed: Index = Field(default=0, description="Other seeds give other values; a larger count only adds values.")

    @model_validator(mode="after")
    def _one_range(self) -> Uniform:
        given = [name for name in ("log_uniform", "uniform") if getattr(self, name) is not None]
        if len(given) != 1:
            raise conflict("needs one range", *given, hint="log_uniform: [a, b], or uniform: [a, b]")
        lower, upper = self.log_uniform or self.uniform or (0.0, 0.0)
        if not lower < upper:
            raise conflict(f"the range is empty, found {lower:g} to {upper:g}", *given, hint="[lower, upper]")
        return self


class Random(Section):
    """Values drawn at random, the same every time."""

    random: Uniform = Field(description="The range, how many values, and a seed.")


def _kind_of_axis(value: Any) -> str:
    """Name of an alternative; different from its key, so that the two are not confused when an error is located."""
    if isinstance(value, Section):
        return type(value).__name__
    if isinstance(value, dict):
        return next((key.capitalize() for key in ("log", "linear", "random") if key in value), "List")
    return "List"


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        raise wrong(
            f"must be a list of values, found {shown(value)}",
            "[a, b, ...], {log: [first, last, n]}, {linear: [first, last, n]} or {random: {...}}",
        )
    if not value:
        raise wrong("has no values", "at least one; without the key, nothing is swept here")
    return value


Axis: TypeAlias = Annotated[
    Annotated[tuple[Any, ...], BeforeValidator(_listed), Tag("List")]
    | Annotated[Log, Tag("Log")]
    | Annotated[Linear, Tag("Linear")]
    | Annotated[Random, Tag("Random")],
    Discriminator(_kind_of_axis),
]
"""The values of one swept path."""

_Match: TypeAlias = dict[str, Any]


class SweepBlock(Section):
    """Cells are the product of what ``grid``, ``zip`` and ``cases`` give, less ``exclude``; each with every seed."""

    grid: dict[str, Axis] = Field(default={}, description="Dotted path to values; all combinations.")
    zip: dict[str, Axis] = Field(
        default={}, description="Dotted path to values, taken in step; the same number for each."
    )
    cases: tuple[_Match, ...] | None = Field(
        default=None,
        min_length=1,
        description="Cases written out: each maps dotted paths to a value, and may have a name for its cells.",
    )
    exclude: tuple[Annotated[_Match, Field(min_length=1)], ...] = Field(
        default=(),
        max_length=1000,
        description="Cells to leave out: each entry maps dotted paths to a value or to a list of values, "
        "and removes the cells that match all of them.",
    )
    search: Search | None = Field(
        default=None, description="Finds the values to try by itself, for each of the cells that the rest describes."
    )
    seeds: tuple[Index, ...] = Field(
        default=(0,), min_length=1, description="How many (n means 0 to n - 1), or a list of seeds.", examples=[3]
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, seeds: Any) -> Any:
        if isinstance(seeds, list | tuple):
            return seeds
        if isinstance(seeds, float) and seeds.is_integer():
            seeds = int(seeds)
        if isinstance(seeds, bool) or not isinstance(seeds, int):
            raise wrong(f"must be a whole number or a list, found {shown(seeds)}", "how many, or a list of seeds")
        if not 1 <= seeds <= MAX_TRIALS:
            raise wrong(f"must be at least 1 and at most {MAX_TRIALS:,}, found {shown(seeds)}", "how many, or a list")
        return list(range(seeds))

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None) if len(set(seeds)) < len(seeds) else None
        if twice is not None:
            raise wrong(f"the seed {twice} appears twice", "each at most once")
        return seeds

    @model_validator(mode="after")
    def _in_step(self) -> SweepBlock:
        lengths = {path: num_values(axis) for path, axis in self.zip.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{path} has {length}" for path, length in lengths.items())
            raise conflict(f"lists that are taken in step must be equally long: {listed}", "zip")
        return self


def num_values(axis: Axis) -> int:
    """How many values an axis has, without generating them.

    Args:
        axis: The values of one path.

    Returns:
        Their number.
    """
    match axis:
        case Log():
            return axis.log[2]
        case Linear():
            return axis.linear[2]
        case Random():
            return axis.random.count
    return len(axis)


def generated(axis: Log | Linear | Random, path: str) -> tuple[float, ...]:
    """The values of an axis that is given by a rule.

    Args:
        axis: The rule.
        path: The swept path. Random axes with the same seed draw different values for different paths: taken in step
            with one another, as in a random search, they would otherwise lie on a line.

    Returns:
        Values to 12 significant digits, the ends exactly as given; the same on every machine.

    Example:
        >>> generated(Log(log=(0.001, 10, 5)), "update_rule.learning_rate")
        (0.001, 0.01, 0.1, 1.0, 10.0)
    """
    match axis:
        case Log(log=(first, last, count)):
            steps = (first * (last / first) ** (index / (count - 1)) for index in range(1, count - 1))
            return (first, *map(_rounded, steps), last)
        case Linear(linear=(first, last, count)):
            steps = (first + (last - first) * index / (count - 1) for index in range(1, count - 1))
            return (first, *map(_rounded, steps), last)
    draw = random.Random(f"{axis.random.seed}:{path}")  # to be the same every time, not to be secret  # nosec B311
    if axis.random.log_uniform is not None:
        lower, upper = map(math.log, axis.random.log_uniform)
        return tuple(_rounded(math.exp(lower + (upper - lower) * draw.random())) for _ in range(axis.random.count))
    assert axis.random.uniform is not None
    lower, upper = axis.random.uniform
    return tuple(_rounded(lower + (upper - lower) * draw.random()) for _ in range(axis.random.count))


def _rounded(value: float) -> float:
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def _two_ends(first: float, last: float, key: str) -> None:
    if first == last:
        raise conflict(f"first and last value are the same, {first:g}", key, hint="[first, last, how many]")
    if not math.isfinite(last - first) or not math.isfinite(last / first if first else 0.0):
        raise conflict("the ends are too far apart", key)
