"""What a spec can name: problems, models, optimisers, schedules and all the rest, each with its options.

Everything is read from the models of the sections, so that a list of it says what a spec accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from sweeper.spec.entry_points import GROUPS, installed, signature_of
from sweeper.spec.sections.analytic import Analytic
from sweeper.spec.sections.estimators import ESTIMATOR_OPTIONS
from sweeper.spec.sections.problems import PROBLEM_OPTIONS
from sweeper.spec.sections.search import SEARCHES
from sweeper.spec.sections.update_rule import OPTIONS_OF_OPTIMIZERS, TRANSFORMS, UpdateRule

__all__ = ["KINDS", "Entry", "Kind", "Option", "catalog", "type_words"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of something that a spec can name.

    Attributes:
        name: Its key; with a dot where it lies in a section of its own.
        type: What it accepts, in words.
        required: Whether it must be given.
        default: What it is if left out, as JSON has it.
        about: What it is for.
    """

    name: str
    type: str
    required: bool
    default: Any
    about: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that a spec can name.

    Attributes:
        kind: One of :data:`KINDS`.
        name: What a spec says.
        about: What it is, in a line.
        options: Its options, in the order of the section.
        package: The installed package that adds it, with its version; None for what comes with clipsweep.
        use: The import path that its name stands for; None for what comes with clipsweep.
    """

    kind: str
    name: str
    about: str
    options: tuple[Option, ...]
    package: str | None = None
    use: str | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of things that a spec can name.

    Attributes:
        where: The path at which a spec names one.
        entries: Makes the list of them.
        own: Whether a spec may name one of the user's own there, by import path.
    """

    where: str
    entries: Callable[[], Iterator[Entry]]
    own: bool = False


def catalog(kind: str | None = None) -> list[Entry]:
    """Everything that a spec can name.

    Args:
        kind: One of :data:`KINDS`; None for all of them.

    Returns:
        The entries, kind by kind, in each those that come with clipsweep first, and then what installed packages add.

    Raises:
        KeyError: There is no such kind.

    Example:
        >>> [entry.name for entry in catalog("averages")]
        ['from_step', 'non_monotone']
        >>> option = catalog("averages")[1].options[0]
        >>> option.name, option.type, option.default
        ('window', 'integer >= 1', 5)
    """
    found = []
    for name in KINDS if kind is None else [kind]:
        registered = list(KINDS[name].entries())
        found += [*registered, *_added(name, {entry.name for entry in registered})]
    return found


def _added(kind: str, registered: Collection[str]) -> Iterator[Entry]:
    """What installed packages add, read from the source; it is not imported."""
    if kind not in GROUPS:
        return
    for one in installed(kind).values():
        about, arguments = signature_of(one.use)
        if one.name in registered:
            about, arguments = "Refused: clipsweep's own has this name; say the import path.", []
        options = (
            Option(name=name, type="anything", required=default is None, default=default, about="")
            for name, default in arguments
        )
        yield Entry(kind=kind, name=one.name, about=about, options=tuple(options), package=one.package, use=one.use)


def _sections(kind: str, models: Mapping[str, type[BaseModel]], *, by_docstring: bool = False) -> Iterator[Entry]:
    """The entries of sections that are told apart by ``use``."""
    for name, model in models.items():
        about = model.model_fields["use"].description or ""
        if by_docstring:
            about = (model.__doc__ or "").partition("\n")[0]
        yield Entry(kind=kind, name=name, about=about, options=tuple(_options(model)))


def _problems() -> Iterator[Entry]:
    return _sections("problems", PROBLEM_OPTIONS)


def _models() -> Iterator[Entry]:
    found: dict[str, type[BaseModel]] = {}
    for problem in PROBLEM_OPTIONS.values():
        if "model" in problem.model_fields:
            found |= _members(problem.model_fields["model"].annotation)
    return _sections("models", found, by_docstring=True)


def _functions() -> Iterator[Entry]:
    return _sections("functions", _members(Analytic.model_fields["function"].annotation))


def _schedules() -> Iterator[Entry]:
    return _sections("schedules", _members(UpdateRule.model_fields["schedule"].annotation))


def _thresholds() -> Iterator[Entry]:
    return _sections("thresholds", _members(UpdateRule.model_fields["clip_threshold"].annotation))


def _averages() -> Iterator[Entry]:
    return _sections("averages", _members(UpdateRule.model_fields["average"].annotation))


def _estimators() -> Iterator[Entry]:
    return _sections("estimators", ESTIMATOR_OPTIONS)


def _searchers() -> Iterator[Entry]:
    return _sections("searchers", SEARCHES)


_ABOUT_OPTIMIZERS = {
    "sgd": "Gradient descent, with momentum of either kind.",
    "adam": "Adam; weight decay is an L2 penalty.",
    "adamw": "Adam with decoupled weight decay.",
    "rmsprop": "RMSprop: an average of squared gradients in the denominator.",
    "adagrad": "Adagrad: the sum of squared gradients in the denominator.",
    "asgd": "Averaged SGD, with its own decay of the rate.",
    "lion": "Lion: the sign of an average of gradients.",
    "signsgd": "The sign of the gradient, or of the momentum.",
    "muon": "Muon on hidden matrices, AdamW on the rest.",
}


def _optimizers() -> Iterator[Entry]:
    options = {option.name: option for option in _options(UpdateRule)}
    for name, taken in OPTIONS_OF_OPTIMIZERS.items():
        # Some have defaults of their own, which the section fills in.
        given: dict[str, Any] = {"optimizer": name, "learning_rate": 1.0}
        if "rest" in taken:
            given["rest"] = {"learning_rate": 1.0}
        defaults = UpdateRule.model_validate(given).model_dump(mode="json")
        own = [
            Option(
                name=option.name,
                type=option.type,
                required=option.required or key == "rest",
                default=defaults[key] if key in defaults and key != "rest" else option.default,
                about=option.about,
            )
            for key, option in options.items()
            if key.partition(".")[0] in taken
        ]
        yield Entry(kind="optimizers", name=name, about=_ABOUT_OPTIMIZERS[name], options=tuple(own))


_IF_NULL = re.compile(r"[;.] null means .*$")


def _transforms() -> Iterator[Entry]:
    options = {option.name: option for option in _options(UpdateRule)}
    for name in TRANSFORMS:
        about = _IF_NULL.sub("", options[name].about)
        about = about if about.endswith(".") else f"{about}."
        value = Option(name=name, type=options[name].type, required=False, default=None, about=about)
        per_batch = () if name in {"clip_threshold", "clip_groups"} else ("clip_each_micro_batch",)
        skips = ("when_exceeded",) if name in {"clip_norm", "clip_threshold"} else ()
        more = [options[key] for key in ("transform_of", *per_batch, *skips)]
        yield Entry(kind="transforms", name=name, about=about, options=(value, *more))


KINDS: dict[str, Kind] = {
    "problems": Kind(where="problem.use", entries=_problems, own=True),
    "functions": Kind(where="problem.function.use", entries=_functions),
    "models": Kind(where="problem.model.use", entries=_models),
    "optimizers": Kind(where="update_rule.optimizer", entries=_optimizers),
    "transforms": Kind(where="update_rule", entries=_transforms, own=True),
    "thresholds": Kind(where="update_rule.clip_threshold.use", entries=_thresholds),
    "schedules": Kind(where="update_rule.schedule.use", entries=_schedules, own=True),
    "averages": Kind(where="update_rule.average.use", entries=_averages),
    "estimators": Kind(where="measure.estimators[].use", entries=_estimators, own=True),
    "searchers": Kind(where="sweep.search.use", entries=_searchers, own=True),
}
"""What there is, by the name of the kind."""


def _members(annotation: Any) -> dict[str, type[BaseModel]]:
    """The sections of a union by the names in their ``use``; one of the user's own has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        use = annotation.model_fields["use"].annotation
        return {get_args(use)[0]: annotation} if get_origin(use) is Literal else {}
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _members(parts[0])
    found: dict[str, type[BaseModel]] = {}
    if get_origin(annotation) in {Union, UnionType}:
        for part in parts:
            found |= _members(part)
    return found


def _options(model: type[BaseModel]) -> Iterator[Option]:
    schema = model.model_json_schema()
    yield from _options_in(schema, schema.get("$defs", {}), "")


def _options_in(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    """The options of a section, with those of the sections in it that have no name of their own."""
    for name, found in schema.get("properties", {}).items():
        if name == "use":
            continue
        required = name in schema.get("required", ())
        yield Option(
            name=f"{prefix}{name}",
            type=type_words(found, definitions),
            required=required,
            default=None if required else found.get("default"),
            about=found.get("description", ""),
        )
        for part in (found, *found.get("anyOf", ())):
            inner = definitions.get(part.get("$ref", "").rpartition("/")[2], {})
            if "use" not in inner.get("properties", {}):
                yield from _options_in(inner, definitions, f"{prefix}{name}.")


def type_words(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value may be, in words.

    Args:
        schema: JSON Schema of the value.
        definitions: What it refers to by name.

    Returns:
        A few words.

    Example:
        >>> type_words({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "null"}]}, {})
        'number > 0, <= 1, or null'
        >>> type_words({"type": "array", "items": {"type": "integer", "minimum": 1}}, {})
        'list of integer >= 1'
    """
    if "$ref" in schema:
        return type_words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema or "enum" in schema:
        return "|".join(map(str, schema.get("enum", [schema.get("const")])))
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        names = [_name_of(kind, definitions) for kind in kinds]
        if all(names):
            return "section: " + "|".join(map(str, names))
        words = list(dict.fromkeys(type_words(kind, definitions) for kind in kinds))
        return words[0] + "".join(f"{', ' if ',' in words[0] else ' '}or {word}" for word in words[1:])
    match schema.get("type"):
        case "integer" | "number" as number:
            return " ".join(filter(None, (str(number), ", ".join(_bounds(schema)))))
        case "boolean":
            return "true|false"
        case "string":
            return "text"
        case "array" if "prefixItems" in schema:
            return f"[{'; '.join(type_words(part, definitions) for part in schema['prefixItems'])}]"
        case "array":
            return f"list of {type_words(schema.get('items', {}), definitions)}"
        case "object":
            inner = schema.get("additionalProperties")
            return f"section of {type_words(inner, definitions)}" if isinstance(inner, dict) and inner else "section"
        case "null":
            return "null"
    return "anything"


def _name_of(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    """The name of a section that is told apart by ``use``."""
    found = definitions.get(schema.get("$ref", "").rpartition("/")[2], {})
    name = found.get("properties", {}).get("use", {}).get("const")
    return None if name is None else str(name)


_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<=", "le": "<="}


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    for key, sign in _BOUNDS.items():
        # Beyond ten digits it guards against nonsense, and says nothing.
        if key in schema and abs(schema[key]) < 10**10:
            yield f"{sign} {schema[key]:g}"
