"""One section in all the variants that the cells use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sweeper.spec.entry_points import installed, is_own
from sweeper.spec.sections.problems import PROBLEM_OPTIONS, OwnProblem
from sweeper.spec.sections.settings import Train
from sweeper.spec.sections.update_rule import UpdateRule
from sweeper.spec.sections.values import Section
from sweeper.spec.syntax.diagnostics import Diagnostic, at, shown
from sweeper.spec.syntax.tree import Node, num_nodes, plain, substitute
from sweeper.spec.validation import validated

__all__ = ["Chosen", "Sets", "Variant", "Variants", "canonical", "check_alone", "look_up", "resolve_section"]

Sets: TypeAlias = tuple[tuple[str, Node], ...]
"""Dotted paths and the values that are set together."""

Chosen: TypeAlias = tuple[int, ...]
"""One combination: for each block, the index of one of its alternatives."""

_MAX_ALONE = 1000
_MAX_CHECKED = 200_000
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One section as one or more cells use it."""

    node: Node
    resolved: dict[str, Any]
    is_valid: bool
    problems: list[Diagnostic] = field(default_factory=list)


def canonical(value: Any) -> str:
    """JSON that is the same for the same value, whatever the order of its keys.

    Args:
        value: A JSON-able value.

    Returns:
        Compact ASCII with sorted keys, floats in their shortest form.

    Example:
        >>> canonical({"b": 1.0, "a": [None, True]})
        '{"a":[null,true],"b":1.0}'
    """
    return _ENCODER.encode(value)


def resolve_section(name: str, node: Node, problems: list[Diagnostic]) -> Section | None:
    """The model of one of the sections that are trained with.

    Args:
        name: ``problem``, ``update_rule`` or ``train``.
        node: The section, with the cell's values in it.
        problems: Where problems are added.

    Returns:
        The model, or None where there was a problem.
    """
    if name != "problem":
        return validated(UpdateRule if name == "update_rule" else Train, node, problems)
    use = node.child("use")
    if not isinstance(node.value, dict):
        return validated(OwnProblem, node, problems)
    if use is None:
        hint = f"known: {', '.join(PROBLEM_OPTIONS)}, or package.module:factory"
        mark = node.key_mark if node.key_mark is not None else node.mark
        problems.append(Diagnostic(mark=mark, path=(*node.path, "use"), message="is required", hint=hint))
        return None
    if isinstance(use.value, str) and use.value in PROBLEM_OPTIONS:
        return validated(PROBLEM_OPTIONS[use.value], node, problems)
    if is_own("problems", use.value):
        return validated(OwnProblem, node, problems)
    known = (*PROBLEM_OPTIONS, *installed("problems"), "package.module:factory")
    problems.append(at(use, f"unknown problem {shown(plain(use))}", found=plain(use), known=known))
    return None


class Variants:
    """One section in all its variants, each resolved once.

    In a grid over learning rates and models there is one cell per pair, but each update rule belongs to many cells,
    and so does each model. If every cell resolved its own three sections, a plan of the largest sweeps would take many
    seconds, and every bad value would be found once per cell. The cache is keyed by the choices that concern this
    section, and by nothing else.
    """

    def __init__(self, name: str, base: Node, blocks: Sequence[Sequence[Sets]]) -> None:
        self._name = name
        self._base = base
        self._blocks = blocks
        prefix = f"{name}."
        # The part of each alternative that concerns this section. A block that never does is left out of the key:
        # otherwise every combination would be a variant of its own, and nothing would be shared.
        self._sets = [[[p for p in sets if p[0].startswith(prefix)] for sets in b] for b in blocks]
        self._relevant = [index for index, sets in enumerate(self._sets) if any(sets)]
        self._known: dict[Chosen, Variant] = {}
        self._identities: dict[Chosen, str] = {}

    def at(self, chosen: Chosen) -> Variant:
        """The variant of a combination."""
        key = tuple(chosen[index] for index in self._relevant)
        if key not in self._known:
            self._known[key] = self._resolve(chosen)
        return self._known[key]

    def identity(self, chosen: Chosen) -> str:
        """A text that is equal for two variants that train in the same way; checkpoints do not change training."""
        key = tuple(chosen[index] for index in self._relevant)
        if key not in self._identities:
            resolved = self.at(chosen).resolved
            self._identities[key] = canonical({k: v for k, v in resolved.items() if k != "checkpoint_every"})
        return self._identities[key]

    def _resolve(self, chosen: Chosen) -> Variant:
        node, problems = self._base, list[Diagnostic]()
        for index in self._relevant:
            for path, value in self._sets[index][chosen[index]]:
                try:
                    node = substitute(node, tuple(path.split(".")[1:]), value)
                except LookupError as error:
                    taken = ".".join(path.split(".")[: error.args[0] + 1])
                    problems.append(at(value, f"{taken} is not a section, so {path} cannot be set"))
        model = resolve_section(self._name, node, problems) if not problems else None
        if model is None:
            return Variant(node=node, resolved=plain(node), is_valid=False, problems=problems)
        return Variant(node=node, resolved=model.model_dump(mode="json"), is_valid=True)


def look_up(value: Any, steps: Sequence[str]) -> Any:
    """The value at a path of plain values, or None if there is none."""
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def check_alone(base: Mapping[str, Node], swept: Mapping[str, Sequence[Node]]) -> list[Diagnostic]:
    """Problems of sections and of swept values one by one, for a sweep that has no cells.

    Args:
        base: The sections that are trained with, as written.
        swept: Swept paths and the values written for them.

    Returns:
        The problems that no combination could fix.
    """
    found: list[Diagnostic] = []
    for name, node in base.items():
        problems: list[Diagnostic] = []
        # A section that is not written has no key; that it is missing is reported elsewhere.
        if node.value or node.key_mark is not None:
            resolve_section(name, node, problems)
        found += [p for p in problems if ".".join(map(str, p.path)) not in swept]
    values = [(path, value) for path, nodes in swept.items() for value in nodes if path.partition(".")[0] in base]
    # Each value is checked together with its whole section, so large sections allow fewer values.
    largest = max(num_nodes(node) for node in base.values())
    for path, value in values[: min(_MAX_ALONE, 1 + _MAX_CHECKED // largest)]:
        name, *steps = path.split(".")
        problems = []
        try:
            resolve_section(name, substitute(base[name], tuple(steps), value), problems)
        except (LookupError, IndexError):
            continue
        found += [p for p in problems if p.path[:1] == ("sweep",) and p.message not in {"is required", "unknown key"}]
    return found
