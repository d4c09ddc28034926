"""The spec as a tree of plain values that remember where they were written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

__all__ = ["Mark", "Node", "Path", "Source", "format_path", "num_nodes", "plain", "rooted", "substitute"]

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top of the spec; a dotted key of ``sweep.grid`` is one key."""

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A text from which values are read: a spec file, or one override.

    Attributes:
        name: The file as the user named it, or the override as it was typed.
        text: What is parsed.
        shows_lines: Whether messages give line and column; an override is short enough to be shown in full.
    """

    name: str
    text: str
    shows_lines: bool = True
    lines: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(_LINE_BREAK.split(self.text)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in a source; line and column count from 0."""

    source: Source = field(repr=False)
    line: int
    column: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A value and where it was written.

    Attributes:
        value: A scalar, a tuple of nodes for a list, a dict of nodes for a section.
        mark: Where the value starts.
        key_mark: Where its key starts, if it has one.
        path: Its path in the spec. A node that a cell takes from the sweep keeps its path there.
    """

    value: bool | int | float | str | tuple[Node, ...] | dict[str, Node] | None
    mark: Mark
    key_mark: Mark | None = None
    path: Path = ()

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """Keys or indices, each with its node; nothing for a scalar.

        Yields:
            Pairs in the order in which they are written.
        """
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, tuple):
            yield from enumerate(self.value)

    def child(self, step: str | int) -> Node | None:
        """The node one step further down, or None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, tuple) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None


def format_path(path: Path) -> str:
    """A path as messages show it.

    Args:
        path: Keys and indices.

    Returns:
        Keys with dots between them, indices in brackets.

    Example:
        >>> format_path(("measure", "estimators", 1, "use"))
        'measure.estimators[1].use'
    """
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def num_nodes(node: Node) -> int:
    """How many values a tree has, including its sections and lists.

    Args:
        node: Top of the tree, at most as deep and large as the reader allows.

    Returns:
        Their number, at least 1.
    """
    return 1 + sum(num_nodes(child) for _, child in node.children())


def plain(node: Node) -> Any:
    """The value alone: dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(child) for child in node.value]
    return node.value


def rooted(node: Node, path: Path) -> Node:
    """The same tree with every node's path filled in.

    Args:
        node: Top of the tree, at most as deep as the reader allows.
        path: Path of the top.

    Returns:
        New nodes; an alias becomes a copy of its value, with its own paths.
    """
    value = node.value
    if isinstance(value, dict):
        value = {key: rooted(child, (*path, key)) for key, child in value.items()}
    elif isinstance(value, tuple):
        value = tuple(rooted(child, (*path, index)) for index, child in enumerate(value))
    return Node(value=value, mark=node.mark, key_mark=node.key_mark, path=path)


def substitute(node: Node, steps: Path, new: Node) -> Node:
    """The tree with one node replaced; missing sections on the way are created.

    Args:
        node: Top of the tree.
        steps: Keys and indices below it, at least one.
        new: What to put there.

    Returns:
        A new tree that shares everything that did not change.

    Raises:
        LookupError: The path leads through a scalar, or to an item that a list does not have; the argument is the
            number of steps that could be taken.
    """
    step, rest = steps[0], steps[1:]
    child = node.child(step)
    if child is None and not (isinstance(step, str) and isinstance(node.value, dict | None)):
        raise LookupError(0)
    if not rest:
        inner = new
    else:
        bare = Node(value={}, mark=new.mark, key_mark=new.key_mark, path=(*node.path, step))
        try:
            inner = substitute(bare if child is None else child, rest, new)
        except LookupError as error:
            raise LookupError(error.args[0] + 1) from None
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(inner if index == step else item for index, item in enumerate(node.value)))
    assert isinstance(step, str)
    return replace(node, value={**(node.value if isinstance(node.value, dict) else {}), step: inner})
