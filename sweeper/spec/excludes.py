"""``sweep.exclude``: cells that are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.spec.diagnostics import Diagnostic, at
from sweeper.spec.tree import Node
from sweeper.spec.variants import Variant, look_up

__all__ = ["Exclude", "excluded"]


class Exclude:
    """An entry of ``exclude``, and whether it has met a cell."""

    def __init__(self, entry: Mapping[str, Any], node: Node) -> None:
        self._node = node
        self._wanted = [
            (
                path.split("."),
                {_comparable(item) for item in (value if isinstance(value, list) else [value])}
                | ({_comparable(value)} if isinstance(value, list) else set()),
            )
            for path, value in entry.items()
        ]
        self.matched = False

    def matches(self, sections: Mapping[str, Variant]) -> bool:
        """Whether a cell has one of the values at every path."""
        return all(
            _comparable(look_up(sections[steps[0]].resolved, steps[1:])) in values for steps, values in self._wanted
        )

    def unused(self) -> Diagnostic:
        """The problem of an entry that has met no cell."""
        return at(self._node, "excludes nothing: no cell has these values", "compare with the values that are swept")


def excluded(excludes: Sequence[Exclude], sections: Mapping[str, Variant]) -> bool:
    """Whether any entry takes a cell; every one that does is marked as matched."""
    found = False
    for exclude in excludes:
        if exclude.matches(sections):
            exclude.matched = found = True
    return found


def _comparable(value: Any) -> Any:
    """A hashable form in which 1 and 1.0 are the same, but 1 and true are not."""
    match value:
        case bool():
            return ("flag", value)
        case list():
            return ("list", *map(_comparable, value))
        case dict():
            return ("section", *sorted((key, repr(_comparable(item))) for key, item in value.items()))
    return value
