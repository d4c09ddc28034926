"""From a node to a model, and from pydantic's errors to problems that a user can fix."""

from __future__ import annotations

import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sweeper.spec.entry_points import installed
from sweeper.spec.sections.values import Section
from sweeper.spec.syntax.diagnostics import Diagnostic, at, nearest, shown
from sweeper.spec.syntax.tree import Node, Path, plain

__all__ = ["known_paths", "sections_in", "validated"]

_S = TypeVar("_S", bound=Section)
_MAX_ERRORS = 200
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def validated(model: type[_S], node: Node, problems: list[Diagnostic]) -> _S | None:
    """The model of a node.

    Args:
        model: What the section must be.
        node: The section.
        problems: Where problems are added.

    Returns:
        The model, or None where there was a problem.
    """
    try:
        return model.model_validate(plain(node))
    except ValidationError as error:
        problems.extend(
            _translate(model, node, detail)
            for detail in error.errors(include_url=False)[:_MAX_ERRORS]
            # A list whose items all have problems of their own should not be reported as missing as well.
            if not (detail["type"] == "too_short" and detail["input"])
        )
        return None


def known_paths(model: type[Section], prefix: str) -> list[str]:
    """Every dotted path of a section, including those of sections inside it.

    Args:
        model: The section's model.
        prefix: Its own path.

    Returns:
        Paths in the order of the fields; those of alternatives one after the other.

    Example:
        >>> from sweeper.spec.sections.settings import Train
        >>> known_paths(Train, "train")[:2]
        ['train.steps', 'train.log_every']
    """
    paths: dict[str, None] = {}
    for name, info in model.model_fields.items():
        path = f"{prefix}.{name}"
        paths[path] = None
        for section in sections_in(info.annotation):
            paths.update(dict.fromkeys(known_paths(section, path)))
    return list(paths)


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a field may hold: alternatives, items of a list, or the one it is."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in {Annotated, Union, types.UnionType, tuple, dict}:
        return [section for argument in get_args(annotation) for section in sections_in(argument)]
    return []


def _translate(model: type[Section], top: Node, error: Any) -> Diagnostic:
    """One of pydantic's errors as a problem at the right place."""
    kind, context = error["type"], error.get("ctx", {})
    node = _walk(top, error["loc"])
    hint = context.get("hint", "")
    match kind:
        case "extra_forbidden":
            siblings = [name for section in _models_at(model, error["loc"][:-1]) for name in section.model_fields]
            return at(node, "unknown key", key=True, found=error["loc"][-1], known=siblings)
        case "missing" if isinstance(error["loc"][-1], int):
            return at(node, f"has too few values, found {len(error['input'])}")
        case "missing":
            return _missing(node, error["loc"][-1], _field(model, error["loc"]))
        case "required":
            return _missing(node, context["key"], _field(model, (*error["loc"], context["key"])))
        case "union_tag_not_found" if not isinstance(plain(node), dict):
            return at(node, f"must be a section, found {shown(error['input'])}", _as_section(model, error))
        case "union_tag_not_found":
            names = [name for section in _models_at(model, error["loc"]) for name in _names(section) or (_OWN,)]
            return _missing(node, "use", None, f"known: {', '.join(names)}")
        case "union_tag_invalid":
            use = node.child("use")
            known = [tag for tag in context["expected_tags"].replace("'", "").split(", ") if tag != "own"]
            if len(known) < len(context["expected_tags"].split(", ")):
                known += [*installed(_KINDS_OF_OWN[_section_of(node)]), _OWN]
            return _unknown(use or node, context["tag"] if use is None else plain(use), known)
        case "literal_error":
            field = _field(model, error["loc"])
            return _unknown(node, error["input"], [] if field is None else list(get_args(field.annotation)))
        case "conflict":
            culprit, key = _culprit(node, context["keys"])
            return at(culprit, context["message"], hint, key=key)
        case "wrong":
            return at(node, context["message"], hint)
        case "too_short":
            return at(node, "is empty", "at least one")
        case "too_long":
            return at(node, f"has too many values, found {len(error['input'])}", f"{context['max_length']} are needed")
        case "string_pattern_mismatch":
            field = _field(model, error["loc"])
            return at(node, f"found {shown(error['input'])}", (field.description or "") if field else "")
        case "model_type" | "dict_type" | "model_attributes_type":
            return at(node, f"must be a section, found {shown(error['input'])}", _as_section(model, error))
        case "tuple_type" | "list_type":
            return at(node, f"must be a list, found {shown(error['input'])}", "[a, b, ...]")
        case _ if kind in _BOUNDS:
            name, words = _BOUNDS[kind]
            bound = shown(context[name])
            return at(node, f"must be {words} {bound}, found {shown(error['input'])}", _accepted(model, error["loc"]))
    return at(node, f"{error['msg']}, found {shown(error['input'])}")


_OWN = "package.module:factory"

_KINDS_OF_OWN = {"schedule": "schedules", "search": "searchers", "estimators": "estimators"}
"""Key to what installed packages may add there."""


def _as_section(model: type[Section], error: Any) -> str:
    """How to write what stands in the place of a section, where its meaning is clear."""
    found = error["input"]
    sections = _models_at(model, error["loc"])
    names = [name for section in sections for name in _names(section)]
    if isinstance(found, str) and names:
        name = nearest(found, names)
        return f"write {{use: {name}}}" if name is not None else f"write {{use: NAME}}; known: {', '.join(names)}"
    if isinstance(found, int) and not isinstance(found, bool) and any("count" in s.model_fields for s in sections):
        return f"write {{count: {found}}}"
    return f"keys: {', '.join(dict.fromkeys(name for section in sections for name in section.model_fields))}"


def _missing(node: Node, key: str, field: FieldInfo | None, hint: str = "") -> Diagnostic:
    described = hint or ((field.description or "") if field is not None else "")
    mark = node.key_mark if node.key_mark is not None else node.mark
    return Diagnostic(mark=mark, path=(*node.path, key), message="is required", hint=described)


def _section_of(node: Node) -> str:
    """The key that a section stands under; that of the list for an item of one."""
    return next(step for step in reversed(node.path) if isinstance(step, str))


def _unknown(node: Node, found: Any, known: list[str]) -> Diagnostic:
    keys = [part for step in node.path if isinstance(step, str) for part in step.split(".")]
    noun = keys[-1] if keys[-1] != "use" else {"estimators": "estimator"}.get(keys[-2], keys[-2])
    return at(node, f"unknown {noun} {shown(found)}", found=found, known=known)


def _accepted(model: type[Section], loc: Path) -> str:
    field = _field(model, loc)
    return (field.description or "") if field is not None else ""


def _walk(top: Node, loc: Path) -> Node:
    """The deepest node on the way; pydantic's names for alternatives are skipped."""
    node = top
    for step in loc:
        node = node.child(step) or node
    return node


def _models_at(model: type[Section], loc: Path) -> list[type[Section]]:
    """The models that are possible at a place; the name of an alternative narrows them down."""
    models = [model]
    for step in loc:
        if isinstance(step, int):
            continue
        inner = [s for m in models if step in m.model_fields for s in sections_in(m.model_fields[step].annotation)]
        named = [m for m in models if step == m.__name__ or step in _names(m) or (step == "own" and _is_own(m))]
        models = inner or named or models
    return models


def _is_own(section: type[Section]) -> bool:
    """Whether it is for something of the user's own, which is named by import path."""
    return "use" in section.model_fields and not _names(section)


def _names(section: type[Section]) -> tuple[str, ...]:
    """The names under which an alternative is chosen with ``use``."""
    use: Any = section.model_fields.get("use")
    return get_args(use.annotation) if use is not None else ()


def _field(model: type[Section], loc: Path) -> FieldInfo | None:
    """The field at a place, or the one whose list it is in."""
    for length in range(len(loc), 0, -1):
        step = loc[length - 1]
        for section in _models_at(model, loc[: length - 1]):
            if isinstance(step, str) and step in section.model_fields:
                return section.model_fields[step]
    return None


def _culprit(node: Node, keys: list[str]) -> tuple[Node, bool]:
    """Where to show a problem of several keys: at one that the sweep sets, otherwise at the first that is written."""
    written = [child for key in keys if (child := node.child(key)) is not None]
    swept = [child for child in written if child.path[:1] == ("sweep",)]
    chosen = next(iter(swept + written), None)
    return (node, True) if chosen is None else (chosen, False)
