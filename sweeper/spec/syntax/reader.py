"""YAML text to a tree of nodes, by the rules of YAML 1.2 and within bounds.

Only the parser of PyYAML is used, its stream of events: no constructor runs, nothing recurses over user input,
and the size of aliases is counted before they are expanded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from sweeper.labels import appearance
from sweeper.spec.syntax.diagnostics import Diagnostic, raise_if_any, show
from sweeper.spec.syntax.scalars import resolve
from sweeper.spec.syntax.tree import Mark, Node, Source, rooted

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "read"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALARS_OF_YAML_1_1 = "tags are not supported; quotes make text of a value"


@dataclass
class _Frame:
    """A list or section that is still open: the reader's explicit stack replaces recursion, whatever the nesting.

    ``key`` holds a key whose value has not come yet, with its place and whether it was unquoted: only an unquoted
    ``<<`` merges. ``seen`` has every key by what it looks like. ``merged`` waits for the end of the section, since own
    entries win wherever they are written.
    ``size`` and ``height`` grow with every finished child, so that an alias can be charged for all that it stands for,
    and refused, without being walked: nested aliases are exponential in their text (the "billion laughs").
    """

    mark: Mark
    anchor: str | None
    key_mark: Mark | None
    is_list: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    merged: list[Node] = field(default_factory=list)
    key: tuple[str, Mark, bool] | None = None
    size: int = 1
    height: int = 1


@dataclass(frozen=True)
class _Anchored:
    node: Node
    size: int
    height: int


class _Reader:
    """Builds the tree from events; one use each."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._num_nodes = 0
        self._num_documents = 0
        self._top: Node | None = None
        self.problems: list[Diagnostic] = []

    def read(self) -> Node | None:
        """The top node, or None for an empty text. Problems that do not end the reading are collected."""
        for event in self._events():
            match event:
                case yaml.DocumentStartEvent():
                    self._num_documents += 1
                    if self._num_documents > 1:
                        self._stop(event, "a second document begins here", "a spec is one document")
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._open(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._close()
        return self._top

    def _events(self) -> Iterator[Any]:
        loader = _LOADER(self._source.text)
        try:
            while loader.check_event():
                yield loader.get_event()
        except yaml.MarkedYAMLError as error:
            place = error.problem_mark or error.context_mark
            mark = Mark(source=self._source, line=place.line, column=place.column) if place else None
            self._stop_at(mark, f"not valid YAML: {_reason(error)}", self._advice(mark))
        except yaml.reader.ReaderError as error:
            before = self._source.text[: error.position]
            line = len(Source(name="", text=before).lines) - 1
            code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "\0")
            mark = Mark(source=self._source, line=line, column=0)
            self._stop_at(mark, f"not valid YAML: the character U+{code:04X} is not allowed", "")
        finally:
            loader.dispose()

    def _advice(self, mark: Mark | None) -> str:
        lines = self._source.lines
        if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
            return "indent with spaces, not with tabs"
        return "a missing comma, bracket, quote or space after a colon?"

    def _scalar(self, event: Any) -> None:
        mark = self._mark(event)
        self._refuse_tag(event)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and not frame.is_list and frame.key is None:
            # A key is text, whatever it looks like.
            frame.key = (event.value, mark, not event.style)
            self._count(event, 1)
            if event.anchor is not None:
                self._register(event.anchor, Node(value=event.value, mark=mark), size=1, height=0)
            return
        value: bool | int | float | str | None = event.value
        if not event.style:
            try:
                value = resolve(event.value)
            except ValueError as error:
                self.problems.append(Diagnostic(mark=mark, path=(), message=str(error)))
        self._count(event, 1)
        node = Node(value=value, mark=mark)
        self._register(event.anchor, node, size=1, height=0)
        self._add(node, size=1, height=0)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            self._stop(event, f"alias *{show(event.anchor)} has no anchor before it")
        anchored = self._anchors[event.anchor]
        if anchored is None:
            self._stop(event, f"alias *{show(event.anchor)} is inside the value that it refers to")
        self._count(event, anchored.size)
        if len(self._stack) + anchored.height > MAX_DEPTH:
            self._stop(event, f"nested more than {MAX_DEPTH} deep")
        frame = self._stack[-1] if self._stack else None
        if frame is not None and not frame.is_list and frame.key is None:
            if not isinstance(anchored.node.value, str):
                self._stop(event, "a key must be text")
            frame.key = (str(anchored.node.value), self._mark(event), False)
            return
        self._add(anchored.node, size=anchored.size, height=anchored.height)

    def _open(self, event: Any) -> None:
        self._refuse_tag(event)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and not frame.is_list and frame.key is None:
            self._stop(event, "a key must be text", "quotes make text of it")
        if len(self._stack) >= MAX_DEPTH:
            self._stop(event, f"nested more than {MAX_DEPTH} deep")
        self._count(event, 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        is_list = isinstance(event, yaml.SequenceStartEvent)
        self._stack.append(_Frame(mark=self._mark(event), anchor=event.anchor, key_mark=None, is_list=is_list))

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.is_list:
            node = Node(value=tuple(frame.items), mark=frame.mark)
        else:
            node = Node(value=_with_merged(frame), mark=frame.mark)
        self._register(frame.anchor, node, size=frame.size, height=frame.height)
        self._add(node, size=frame.size, height=frame.height)

    def _add(self, node: Node, *, size: int, height: int) -> None:
        """Add a finished value to the innermost open list or section."""
        if not self._stack:
            self._top = node
            return
        frame = self._stack[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if frame.is_list:
            frame.items.append(node)
            return
        assert frame.key is not None
        (key, key_mark, is_plain), frame.key = frame.key, None
        if key == "<<" and is_plain:
            self._merge(frame, key_mark, node)
        elif (first := frame.seen.setdefault(appearance(key), key)) in frame.entries:
            before = frame.entries[first].key_mark
            assert before is not None
            message = f"the key {show(key)!r} appears a second time"
            if key != first:
                message = f"the key {key!a} looks like {first!a}, which is encoded differently"
            self.problems.append(
                Diagnostic(mark=key_mark, path=(), message=message, hint=f"the first is on line {before.line + 1}")
            )
        else:
            frame.entries[key] = Node(value=node.value, mark=node.mark, key_mark=key_mark)

    def _merge(self, frame: _Frame, mark: Mark, node: Node) -> None:
        parts = node.value if isinstance(node.value, tuple) else (node,)
        if all(isinstance(part.value, dict) for part in parts):
            frame.merged.extend(parts)
        else:
            message = "only sections can be merged with <<"
            self.problems.append(Diagnostic(mark=mark, path=(), message=message, hint="write <<: *anchor"))

    def _register(self, anchor: str | None, node: Node, *, size: int, height: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = _Anchored(node=node, size=size, height=height)

    def _count(self, event: Any, size: int) -> None:
        self._num_nodes += size
        if self._num_nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES:,} values, with aliases expanded")

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            message = f"the tag {show(event.tag)!r} is not accepted"
            self.problems.append(
                Diagnostic(mark=self._mark(event), path=(), message=message, hint=_SCALARS_OF_YAML_1_1)
            )

    def _mark(self, event: Any) -> Mark:
        return Mark(source=self._source, line=event.start_mark.line, column=event.start_mark.column)

    def _stop(self, event: Any, message: str, hint: str = "") -> NoReturn:
        self._stop_at(self._mark(event), message, hint)

    def _stop_at(self, mark: Mark | None, message: str, hint: str) -> NoReturn:
        """Raise this problem with those found before it: reading cannot continue."""
        raise_if_any([*self.problems, Diagnostic(mark=mark, path=(), message=message, hint=hint)])
        raise AssertionError("a problem is always raised")


def read(source: Source) -> Node | None:
    """Parse a spec or an override.

    Args:
        source: The text, of at most a megabyte.

    Returns:
        The tree with paths from its top, or None for a text without content.

    Raises:
        SpecError: The text is not YAML, has a key twice, a tag, a second document, or is deeper or larger (aliases
            expanded) than a spec may be.
    """
    try:
        source.text.encode()
    except UnicodeEncodeError as error:
        line = source.text.count("\n", 0, error.start)
        mark = Mark(source=source, line=line, column=0)
        raise_if_any([Diagnostic(mark=mark, path=(), message="not valid UTF-8")])
    reader = _Reader(source)
    top = reader.read()
    raise_if_any(reader.problems)
    return None if top is None else rooted(top, ())


def _with_merged(frame: _Frame) -> dict[str, Node]:
    """Own entries win over merged ones, and earlier merged ones over later."""
    entries = dict(frame.entries)
    for part in frame.merged:
        assert isinstance(part.value, dict)
        for key, node in part.value.items():
            entries.setdefault(key, node)
    return entries


def _reason(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return show(", ".join(parts))
