"""JSON Schema of specs, for completion and descriptions in an editor."""

from __future__ import annotations

from typing import Any

from sweeper.spec.entry_points import installed
from sweeper.spec.load import NAME_PATTERN
from sweeper.spec.paths import TRAINED
from sweeper.spec.sections.axes import CASE_NAME, MAX_CASE_NAME, Axis, SweepBlock
from sweeper.spec.sections.hooks import Hooks
from sweeper.spec.sections.measure import Measure
from sweeper.spec.sections.problems import PROBLEM_OPTIONS, OwnProblem
from sweeper.spec.sections.settings import Cluster, Resources, Train
from sweeper.spec.sections.update_rule import UpdateRule
from sweeper.spec.validation import known_paths

__all__ = ["json_schema"]

_REFERENCE = "#/$defs/{model}"
_SECTIONS = {
    "update_rule": UpdateRule,
    "train": Train,
    "measure": Measure,
    "sweep": SweepBlock,
    "resources": Resources,
    "cluster": Cluster,
    "on": Hooks,
}
_DESCRIPTIONS = {
    "name": "Name of the run directory; the file's own name if left out.",
    "overlay": "The spec below this one, which supplies what this one does not say.",
    "problem": "What is minimised: model, loss and data.",
    "update_rule": "How a step is taken: a gradient transform, then an optimiser's direction.",
    "train": "How long a trial trains, and what is written along the way.",
    "measure": "When snapshots are taken, and what is measured of them; nothing if left out.",
    "metrics": "Metric to min or max: which of its values is the best.",
    "sweep": "Which values vary.",
    "resources": "What the workers use of the cluster.",
    "cluster": "Where the workers run.",
    "on": "What is called when a trial diverges or fails, and when the sweep is done.",
}


def json_schema() -> dict[str, Any]:
    """The schema of a whole spec.

    Returns:
        JSON Schema, draft 2020-12, with descriptions, defaults, examples and every path that can be swept. It accepts
        every spec that :func:`load_spec` accepts, and some others: checks that involve several keys are left to it.
    """
    # Every command reads specs, only one of them needs the schema.
    from pydantic import TypeAdapter

    definitions: dict[str, Any] = {}
    adapters: dict[str, Any] = {**_SECTIONS, **PROBLEM_OPTIONS, "own_problem": OwnProblem, "axis": Axis}
    models: dict[str, Any] = {}
    for name, model in adapters.items():
        schema = TypeAdapter(model).json_schema(ref_template=_REFERENCE)
        definitions.update(schema.pop("$defs", {}))
        models[name] = schema
    for name in ("update_rule", "train"):
        # The sweep may give what is required here.
        models[name].pop("required", None)
    problems = [models[name] for name in PROBLEM_OPTIONS]
    for schema in problems:
        schema["required"] = ["use"]
    _let_sweep_complete(models["sweep"])
    named = {
        "OwnSchedule": "schedules",
        "OwnTransform": "transforms",
        "OwnSearch": "searchers",
        "OwnEstimator": "estimators",
    }
    for name, kind in named.items():
        _add_installed(definitions[name], kind)
    _add_installed(models["own_problem"], "problems")
    definitions["Axis"] = models["axis"]
    properties: dict[str, Any] = {
        "name": {"type": "string", "pattern": NAME_PATTERN, "examples": ["lstm-clipping"]},
        "overlay": {"type": "string", "examples": ["../paper/figure2.yaml"]},
        "problem": {},
        **{name: models[name] for name in _SECTIONS},
        "metrics": {"type": "object", "additionalProperties": {"enum": ["min", "max"]}, "examples": [{"f1": "max"}]},
    }
    for name in ("measure", "metrics", "sweep", "resources", "cluster", "on"):
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    for name, text in _DESCRIPTIONS.items():
        properties[name]["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "clipsweep spec",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        # A part of a problem is enough where another spec has the rest.
        "if": {"required": ["overlay"]},
        "else": {"properties": {"problem": {"anyOf": [*problems, models["own_problem"]]}}},
        "$defs": definitions,
    }


def _add_installed(schema: dict[str, Any], kind: str) -> None:
    """Accept the names that installed packages add, besides import paths, in place."""
    if names := installed(kind):
        use = schema["properties"]["use"]
        path = {"pattern": use.pop("pattern")}
        use["anyOf"] = [path, {"enum": list(names)}]


def _let_sweep_complete(sweep: dict[str, Any]) -> None:
    """Name the paths that can be swept, in place."""
    paths = [path for name in PROBLEM_OPTIONS for path in known_paths(PROBLEM_OPTIONS[name], "problem")]
    paths += known_paths(UpdateRule, "update_rule") + known_paths(Train, "train")
    own = f"^({'|'.join(TRAINED)})\\."
    for key in ("grid", "zip"):
        reference = {"$ref": _REFERENCE.format(model="Axis")}
        described = {name: value for name, value in sweep["properties"][key].items() if name == "description"}
        sweep["properties"][key] = {
            **described,
            "type": "object",
            "properties": {path: reference for path in dict.fromkeys(paths) if path != "train.checkpoint_every"},
            "patternProperties": {own: reference},
            "additionalProperties": False,
        }
    (cases,) = (kind for kind in sweep["properties"]["cases"]["anyOf"] if kind.get("type") == "array")
    cases["items"]["properties"] = {
        CASE_NAME: {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_CASE_NAME,
            "description": "What its cells are called; it changes nothing in what is trained.",
            "examples": ["as published"],
        }
    }
    sweep["properties"]["seeds"] = {
        **{key: value for key, value in sweep["properties"]["seeds"].items() if key in {"description", "examples"}},
        "default": 1,
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
        ],
    }
