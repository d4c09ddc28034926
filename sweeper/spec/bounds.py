"""Which numbers an option of a spec can have: what a search or an extended grid must not leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.spec.sections.problems import PROBLEM_OPTIONS
from sweeper.spec.sections.settings import Train
from sweeper.spec.sections.update_rule import UpdateRule

__all__ = ["Bounds", "bounds_of"]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The numbers that an option can have.

    Attributes:
        low: The lower bound; minus infinity for none.
        high: The upper bound; infinity for none.
        has_low: Whether the lower bound itself is allowed.
        has_high: Whether the upper bound itself is.
        is_whole: Whether only whole numbers are.
    """

    low: float = -math.inf
    high: float = math.inf
    has_low: bool = True
    has_high: bool = True
    is_whole: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether an option can have a value."""
        above = value >= self.low if self.has_low else value > self.low
        below = value <= self.high if self.has_high else value < self.high
        return above and below and (not self.is_whole or float(value).is_integer())


def bounds_of(path: str) -> Bounds:
    """The numbers that a swept path can have, by what the spec says of the option.

    Args:
        path: A dotted path into ``problem``, ``update_rule`` or ``train``.

    Returns:
        Its bounds; none for an option of the user's own problem, of which the spec says nothing.

    Example:
        >>> momentum = bounds_of("update_rule.momentum")
        >>> 0.0 in momentum, 0.99 in momentum, 1.0 in momentum
        (True, True, False)
        >>> 2.5 in bounds_of("train.steps"), 0.0 in bounds_of("update_rule.learning_rate")
        (False, False)
    """
    section, _, name = path.partition(".")
    models: Any = {"update_rule": [UpdateRule], "train": [Train], "problem": [*PROBLEM_OPTIONS.values()]}.get(
        section, []
    )
    found = [bounds for model in models for bounds in _bounds_in(model, name)]
    if not found:
        return Bounds()
    # A path may be an option of several problems: what all of them allow.
    return Bounds(
        low=max(bounds.low for bounds in found),
        high=min(bounds.high for bounds in found),
        has_low=all(bounds.has_low for bounds in found if bounds.low == max(each.low for each in found)),
        has_high=all(bounds.has_high for bounds in found if bounds.high == min(each.high for each in found)),
        is_whole=any(bounds.is_whole for bounds in found),
    )


def _bounds_in(model: Any, name: str) -> list[Bounds]:
    """What the schema of a section says of an option, in each variant of it that is a number."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    schemas = [schema]
    for part in name.split("."):
        inner = [found for one in schemas for found in [one.get("properties", {}).get(part)] if found is not None]
        schemas = [variant for one in inner for variant in _variants(one, definitions)]
    return [_bounds(one) for one in schemas if one.get("type") in {"number", "integer"}]


def _variants(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A schema, or those of which it is a choice."""
    if "$ref" in schema:
        return _variants(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    choices = schema.get("anyOf") or schema.get("oneOf")
    return [schema] if choices is None else [one for choice in choices for one in _variants(choice, definitions)]


def _bounds(schema: Mapping[str, Any]) -> Bounds:
    has_low, has_high = "exclusiveMinimum" not in schema, "exclusiveMaximum" not in schema
    return Bounds(
        low=schema.get("minimum", schema.get("exclusiveMinimum", -math.inf)),
        high=schema.get("maximum", schema.get("exclusiveMaximum", math.inf)),
        has_low=has_low,
        has_high=has_high,
        is_whole=schema["type"] == "integer",
    )
