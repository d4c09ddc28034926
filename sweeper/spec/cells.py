"""The cells of a sweep: every combination, checked, with defaults filled in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.spec.paths import TRAINED, searched_paths, swept_paths
from sweeper.spec.sections.analytic import analytic_conflicts
from sweeper.spec.sections.axes import CASE_NAME, MAX_TRIALS, Axis, SweepBlock, generated, num_values
from sweeper.spec.sections.update_rule import ADDED_SCHEDULE_OPTIONS, OWN_PARTS, Rest
from sweeper.spec.syntax.diagnostics import MAX_PROBLEMS, Diagnostic, at, raise_if_any
from sweeper.spec.syntax.tree import Node, format_path, num_nodes
from sweeper.spec.variants import Chosen, Sets, Variant, Variants, look_up

__all__ = ["Cell", "Exclude", "Template", "build_cells", "check_size", "ends_of", "excluded"]

_MAX_RESOLVED = 500_000
"""Values that may be checked to resolve the variants of a section, defaults counted as twenty: about two seconds."""

_MAX_HASHED = 10_000_000
"""Values hashed into the ids of all trials."""

_MAX_MATCHES = 500_000
"""Cells times entries of ``exclude``."""

_DEFAULTS = 20


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the sweep, seeds aside.

    Attributes:
        swept: Every swept path with the cell's value, a list or a section as it is; null where it has none.
        problem: The resolved section, every default filled in.
        update_rule: The same.
        train: The same.
        use: Where the name of the problem is written.
        own: Where the update rule names something of the user's own, by import path.
        data: Where a folder of data is named, if it is.
        case: The name that the spec gives its case; None for none. It changes nothing in what is trained.
        place: Which alternative it takes of each block of the sweep, what a search tries left out.
    """

    swept: dict[str, Any]
    problem: dict[str, Any]
    update_rule: dict[str, Any]
    train: dict[str, Any]
    use: Node
    own: tuple[Node, ...] = ()
    data: tuple[Node, ...] = ()
    case: str | None = None
    place: Chosen = ()


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One alternative of a block: what it sets, and where it is written."""

    node: Node
    sets: Sets


def check_size(base: Mapping[str, Node], block: SweepBlock, node: Node) -> list[Diagnostic]:
    """Whether the sweep is too large, found by arithmetic alone.

    Args:
        base: The sections that are trained with, as written.
        block: The sweep section.
        node: Where it was read.

    Returns:
        A problem that names the factors, or nothing.
    """
    factors = [(num_values(axis), path) for path, axis in block.grid.items()]
    if block.zip:
        factors.append((num_values(next(iter(block.zip.values()))), "zip"))
    if block.cases:
        factors.append((len(block.cases), "cases"))
    factors.append((len(block.seeds), "seeds"))
    count = math.prod(length for length, _ in factors)
    product = " x ".join(f"{length:,} {name}" for length, name in factors if length > 1)
    if count > MAX_TRIALS:
        return [at(node, f"{count:,} trials, at most {MAX_TRIALS:,}", product, key=True)]
    matches = count // len(block.seeds) * len(block.exclude)
    if matches > _MAX_MATCHES:
        entries = f"{len(block.exclude):,} entries of exclude"
        message = f"{matches:,} comparisons of cells with {entries}, at most {_MAX_MATCHES:,}"
        return [at(node, message, product, key=True)]
    hashed = 0
    for name in TRAINED:
        num_variants, num_values_each = _extent(name, base[name], block, node)
        resolved = num_variants * num_values_each
        hashed += count * num_values_each
        if resolved > _MAX_RESOLVED or hashed > _MAX_HASHED:
            message = f"{num_variants:,} variants of {name} with up to {num_values_each:,} values each"
            most = f"variants x values at most {_MAX_RESOLVED:,}, trials x values at most {_MAX_HASHED:,}"
            return [at(node, f"too large: {message}, in {count:,} trials", f"{product}; {most}", key=True)]
    return []


def _extent(name: str, section: Node, block: SweepBlock, node: Node) -> tuple[int, int]:
    """How many variants a section has, and the most values that one of them may have, defaults included."""
    prefix = f"{name}."
    num_variants, num_values_each = 1, _DEFAULTS + num_nodes(section)
    for alternatives in _blocks(block, node):
        sizes = [sum(num_nodes(value) for path, value in one.sets if path.startswith(prefix)) for one in alternatives]
        if any(sizes):
            num_variants *= len(sizes)
            num_values_each += max(sizes)
    return num_variants, num_values_each


@dataclass(frozen=True, kw_only=True)
class Template:
    """What the cells of a search are made from.

    Attributes:
        base: The sections that are trained with, as written.
        block: The sweep section.
        node: Where it was read.
    """

    base: Mapping[str, Node]
    block: SweepBlock
    node: Node

    def at(self, place: Chosen, values: Mapping[str, Any]) -> Cell:
        """The cell at a place of the sweep, with values that a search asks for.

        Args:
            place: Of a cell of the sweep.
            values: Searched path to value.

        Returns:
            The cell.

        Raises:
            SpecError: There is no such cell.
        """
        tried = [values] if values else []
        cells, problems = build_cells(self.base, self.block, self.node, tried=tried, place=place)
        raise_if_any(problems)
        return cells[0]


def ends_of(block: SweepBlock) -> list[dict[str, Any]]:
    """What a search may try at the least and at the most: the values with which its cells are checked.

    Args:
        block: The sweep section.

    Returns:
        Searched path to value, twice; nothing where nothing is searched over.
    """
    space = block.search.space if block.search is not None else {}
    return [{path: ends[side] for path, ends in space.items()} for side in (0, 1)] if space else []


def build_cells(
    base: Mapping[str, Node],
    block: SweepBlock,
    node: Node,
    *,
    tried: Sequence[Mapping[str, Any]] = (),
    place: Chosen | None = None,
) -> tuple[tuple[Cell, ...], list[Diagnostic]]:
    """Every cell that is not excluded.

    Args:
        base: The sections that are trained with, as written.
        block: The sweep section, of bounded size.
        node: Where it was read.
        tried: What a search tries: searched path to value, each together; nothing where nothing is searched over.
        place: The alternative of each block, for the cells of this place alone.

    Returns:
        The cells, the grid's first path varying slowest, then ``zip``, then the cases, then what a search tries; and
        the problems of any of them, each at the value that the sweep or the section gives. There are no cells where
        there are problems.
    """
    blocks = _blocks(block, node)
    num_swept = len(blocks)
    if tried:
        blocks.append(_tried(tried, node))
    alternatives = [[choice.sets for choice in choices] for choices in blocks]
    variants = {name: Variants(name, base[name], alternatives) for name in TRAINED}
    excludes = [Exclude(entry, where) for entry, where in zip(block.exclude, _items(node, "exclude"), strict=True)]
    paths = swept_paths(block)
    names = [case.get(CASE_NAME) for case in block.cases or ()]
    cells: list[Cell] = []
    problems: dict[Diagnostic, None] = {}
    first_with: dict[tuple[int, ...], Chosen] = {}
    identities: dict[str, dict[str, int]] = {name: {} for name in TRAINED}
    ranges: list[Sequence[int]] = [range(len(alternatives)) for alternatives in blocks]
    if place is not None:
        ranges[:num_swept] = [(index,) for index in place]
    for chosen in itertools.product(*ranges):
        if len(problems) >= MAX_PROBLEMS:
            break
        sections = {name: variants[name].at(chosen) for name in TRAINED}
        if excluded(excludes, sections):
            continue
        if not all(section.is_valid for section in sections.values()):
            problems.update(dict.fromkeys(p for section in sections.values() for p in section.problems))
            continue
        resolved = {name: section.resolved for name, section in sections.items()}
        nodes = {name: section.node for name, section in sections.items()}
        if conflicts := list(analytic_conflicts(nodes, resolved)):
            problems.update(dict.fromkeys(conflicts))
            continue
        if lacking := [*_lacks_evaluations(sections), *_lacks_micro_batches(sections)]:
            problems.update(dict.fromkeys(lacking))
            continue
        identity = tuple(
            identities[name].setdefault(variants[name].identity(chosen), len(identities[name])) for name in TRAINED
        )
        if (before := first_with.setdefault(identity, chosen)) != chosen:
            problems[_duplicate(blocks, before, chosen)] = None
            continue
        here = chosen[:num_swept]
        # The cases are the last block of the sweep itself.
        cells.append(_cell(sections, paths, names[here[-1]] if names else None, here))
    if not problems and place is None:
        problems.update(dict.fromkeys(exclude.unused() for exclude in excludes if not exclude.matched))
        if not cells and not problems:
            problems[at(node, "every cell is excluded", "exclude fewer", key=True)] = None
    return (() if problems else tuple(cells)), list(problems)


def _blocks(block: SweepBlock, node: Node) -> list[list[_Choice]]:
    """The factors of the product: a block for each path of the grid, one for ``zip``, one for the cases."""
    blocks = [
        [_Choice(node=value, sets=((path, value),)) for value in _values(axis, path, _under(node, "grid", path))]
        for path, axis in block.grid.items()
    ]
    if block.zip:
        columns = {path: _values(axis, path, _under(node, "zip", path)) for path, axis in block.zip.items()}
        rows = zip(*columns.values(), strict=True)
        blocks.append([_Choice(node=row[0], sets=tuple(zip(columns, row, strict=True))) for row in rows])
    if block.cases:
        cases = _items(node, "cases")
        blocks.append([
            _Choice(node=case, sets=tuple((str(path), value) for path, value in case.children() if path != CASE_NAME))
            for case in cases
        ])
    return blocks


def _values(axis: Axis, path: str, node: Node) -> list[Node]:
    if isinstance(axis, tuple):
        return [child for _, child in node.children()]
    return [Node(value=v, mark=node.mark, path=node.path) for v in generated(axis, path)]


def _under(node: Node, part: str, key: str) -> Node:
    section = node.child(part)
    assert section is not None
    child = section.child(key)
    assert child is not None
    return child


def _items(node: Node, part: str) -> list[Node]:
    section = node.child(part)
    return [] if section is None else [child for _, child in section.children()]


def _tried(tried: Sequence[Mapping[str, Any]], node: Node) -> list[_Choice]:
    """What a search tries, as if it were written where its range is."""
    where = searched_paths(node)
    search = node.child("search")
    assert search is not None
    found = []
    for values in tried:
        range_of = search.child("between")
        nodes = {path: range_of or where[path] for path in values}
        sets = tuple(
            (path, Node(value=value, mark=nodes[path].mark, path=nodes[path].path)) for path, value in values.items()
        )
        found.append(_Choice(node=sets[0][1], sets=sets))
    return found


def _cell(sections: Mapping[str, Variant], paths: Sequence[str], case: str | None, place: Chosen) -> Cell:
    resolved = {name: section.resolved for name, section in sections.items()}
    problem = sections["problem"].node
    use = problem.child("use")
    assert use is not None
    data = tuple(child for key in ("corpus", "dataset") if (child := problem.child(key)) is not None)
    return Cell(
        swept={path: _as_swept(path, look_up(resolved, path.split("."))) for path in paths},
        use=use,
        own=tuple(_own(sections["update_rule"])),
        data=data,
        case=case,
        place=place,
        **resolved,
    )


def _own(rule: Variant) -> Iterator[Node]:
    for name in OWN_PARTS:
        section = rule.resolved[name]
        if section is not None and ":" in section["use"]:
            written = rule.node.child(name)
            assert written is not None
            use = written.child("use")
            assert use is not None
            yield use


def _as_swept(path: str, value: Any) -> Any:
    """A swept value as trials are told apart by it: a schedule without warm-up is what it was before there were any."""
    if path == "update_rule.schedule" and isinstance(value, dict) and not value.get("warmup"):
        return {key: item for key, item in value.items() if key != "warmup"}
    if path == "update_rule.rest" and isinstance(value, dict):
        # Only what was chosen: nobody sweeps a section for its defaults.
        defaults = Rest(learning_rate=1.0).model_dump(mode="json")
        return {key: item for key, item in value.items() if key == "learning_rate" or item != defaults[key]}
    return value


def _lacks_evaluations(sections: Mapping[str, Variant]) -> Iterator[Diagnostic]:
    """An average that waits for evaluations that never happen."""
    average = sections["update_rule"].resolved["average"]
    if average is None or average["use"] != "non_monotone" or sections["train"].resolved["evaluate_every"] is not None:
        return
    node = sections["update_rule"].node.child("average")
    assert node is not None
    yield at(node, "non_monotone needs evaluations, but there are none", "set train.evaluate_every", key=True)


def _lacks_micro_batches(sections: Mapping[str, Variant]) -> Iterator[Diagnostic]:
    """A transform of each micro-batch where every step has one."""
    rule = sections["update_rule"]
    if not rule.resolved["clip_each_micro_batch"] or sections["train"].resolved["accumulate"] > 1:
        return
    node = rule.node.child("clip_each_micro_batch")
    assert node is not None
    message = "needs steps of several micro-batches, but train.accumulate is 1"
    yield at(node, message, "set train.accumulate above 1", key=True)


def _duplicate(blocks: Sequence[Sequence[_Choice]], before: Chosen, now: Chosen) -> Diagnostic:
    differing = [(b[i].node, b[j].node) for b, i, j in zip(blocks, before, now, strict=True) if i != j]
    earlier, later = differing[-1]
    return at(later, f"gives the same cell as {_where(earlier)}", "each cell once")


def _where(node: Node) -> str:
    return format_path(node.path)


class Exclude:
    """An entry of ``exclude``, and whether it has matched a cell."""

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
        """The problem with an entry that has matched no cell."""
        return at(self._node, "excludes nothing: no cell has these values", "compare with the values that are swept")


def excluded(excludes: Sequence[Exclude], sections: Mapping[str, Variant]) -> bool:
    """Whether any entry excludes a cell; every one that does is marked as matched."""
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
            # What was added to schedules later need not be written, so that earlier specs exclude what they did.
            added = ADDED_SCHEDULE_OPTIONS.items()
            kept = {key: item for key, item in value.items() if (key, item) not in added}
            return ("section", *sorted((key, repr(_comparable(item))) for key, item in kept.items()))
    return value
