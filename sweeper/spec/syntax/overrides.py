"""``--set path=value``: values from the command line, put into the tree before it is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from sweeper.errors import SpecError
from sweeper.spec.syntax.diagnostics import Diagnostic, at
from sweeper.spec.syntax.reader import MAX_DEPTH, read
from sweeper.spec.syntax.tree import Mark, Node, Path, Source, format_path, rooted, substitute

__all__ = ["apply_overrides"]

_STEP = re.compile(r"([^.\[\]=\s]+)((?:\[[0-9]{1,6}\])*)(?:\.|$)")
_FORM = "write --set path=value, as in --set update_rule.clip_norm=0.25"


def apply_overrides(
    top: Node,
    overrides: Sequence[str],
    sections: Sequence[str],
    problems: list[Diagnostic],
    *,
    paths: Callable[[], Sequence[str]] = tuple,
) -> Node:
    """The tree with values from the command line.

    Args:
        top: The spec.
        overrides: Each ``path=value``, the value in YAML. Later ones win.
        sections: Keys of the top level.
        problems: Where problems are added, each with the override's text.
        paths: The dotted paths that an unknown key may mean; asked only where there is one.

    Returns:
        The new tree. Whether a path below the top level exists is left to later checks, which know the
        override because its nodes remember where they come from.
    """
    for override in overrides:
        source = Source(name=f"--set {override}", text=override.partition("=")[2], shows_lines=False)
        mark = Mark(source=source, line=0, column=0)
        path = _parse(override.partition("=")[0].strip())
        if "=" not in override or not path:
            problems.append(Diagnostic(mark=mark, path=(), message="not an override", hint=_FORM))
            continue
        if path[0] not in sections:
            problems.append(
                Diagnostic(
                    mark=mark,
                    path=path,
                    message="unknown key",
                    found=str(path[0]),
                    known=tuple(sections),
                    elsewhere=tuple(paths()),
                )
            )
            continue
        try:
            value = read(source)
        except SpecError as error:
            problems.append(Diagnostic(mark=None, path=(), message=str(error)))
            continue
        if value is None:
            problems.append(Diagnostic(mark=mark, path=path, message="no value", hint="null means none"))
            continue
        top = _put(top, path, replace(rooted(value, path), key_mark=mark), problems)
    return top


def _put(top: Node, path: Path, value: Node, problems: list[Diagnostic]) -> Node:
    try:
        return substitute(top, path, value)
    except LookupError as error:
        taken = int(error.args[0])
        message = f"there is no {format_path(path[: taken + 1])} to set"
        problems.append(at(value, message, "a list item must exist, and a section must not be a single value"))
        return top


def _parse(text: str) -> Path:
    """Steps of a path, () if it is not a path; below ``sweep``, the rest is one dotted key."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        if _holds_dotted_keys(steps):
            match = re.fullmatch(r"([^\[\]=\s]+?)((?:\[[0-9]{1,6}\])*)", text[position:])
            position = len(text)
        else:
            match = _STEP.match(text, position)
            position = match.end() if match else position
        if match is None:
            return ()
        steps += [match[1], *(int(index) for index in re.findall(r"\[([0-9]+)\]", match[2]))]
    return () if text.endswith(".") or len(steps) > MAX_DEPTH else tuple(steps)


def _holds_dotted_keys(steps: list[str | int]) -> bool:
    if steps in (["sweep", "grid"], ["sweep", "zip"]):
        return True
    return steps[:2] in (["sweep", "cases"], ["sweep", "exclude"]) and len(steps) == 3
