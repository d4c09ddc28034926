"""What a spec can name is listed as it is accepted: every name, every option, every default."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from estimators import ESTIMATORS
from sweeper.search.registry import SEARCHERS
from sweeper.spec.catalog import KINDS, Entry, catalog, type_words
from sweeper.spec.sections.estimators import ESTIMATOR_OPTIONS
from sweeper.spec.sections.problems import PROBLEM_OPTIONS
from sweeper.spec.sections.search import SEARCHES
from sweeper.spec.sections.update_rule import TRANSFORMS, UpdateRule
from trainers.problems.registry import PROBLEMS
from trainers.update.rule import AVERAGES, OPTIMIZERS
from trainers.update.schedules import SCHEDULES
from trainers.update.thresholds import THRESHOLDS


def names(kind: str) -> set[str]:
    return {entry.name for entry in catalog(kind)}


def entry_of(kind: str, name: str) -> Entry:
    return next(entry for entry in catalog(kind) if entry.name == name)


def test_the_lists_are_the_registries() -> None:
    assert names("problems") == PROBLEMS.keys() | {"analytic"}
    assert names("optimizers") == OPTIMIZERS.keys() | {"muon"}
    assert names("transforms") == set(TRANSFORMS)
    assert names("thresholds") == THRESHOLDS.keys()
    assert names("schedules") == SCHEDULES.keys()
    assert names("averages") == AVERAGES.keys()
    assert names("estimators") == ESTIMATORS.keys()
    assert names("searchers") == SEARCHERS.keys()
    assert {"lstm", "gpt", "resnet20", "mlp"} < names("models")
    assert "theorem4_flat" in names("functions")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_says_what_it_is_and_every_option_what_it_takes(kind: str) -> None:
    entries = catalog(kind)
    assert entries
    for entry in entries:
        assert entry.about.endswith(".") or ";" in entry.about
        for option in entry.options:
            assert option.about
            assert option.type != "anything", (entry.name, option.name)
            assert not (option.required and option.default is not None)


@pytest.mark.parametrize(
    ("kind", "models"),
    [("problems", PROBLEM_OPTIONS), ("estimators", ESTIMATOR_OPTIONS), ("searchers", SEARCHES)],
)
def test_what_is_left_out_has_the_default_that_is_listed(kind: str, models: dict[str, Any]) -> None:
    for name, model in models.items():
        entry = entry_of(kind, name)
        own = [option for option in entry.options if "." not in option.name]
        assert {option.name for option in own} == model.model_fields.keys() - {"use"}
        for option in own:
            field = model.model_fields[option.name]
            assert field.is_required() == option.required
            if not option.required and not hasattr(field.default, "model_dump"):
                assert option.default == (list(field.default) if isinstance(field.default, tuple) else field.default)


def test_an_optimizer_is_listed_with_its_own_options_and_its_own_defaults() -> None:
    assert {option.name for option in entry_of("optimizers", "adam").options} == {"betas", "eps", "weight_decay"}
    for name in names("optimizers"):
        rest = {"rest": {"learning_rate": 1.0}} if name == "muon" else {}
        rule = UpdateRule.model_validate({"optimizer": name, "learning_rate": 1.0, **rest}).model_dump(mode="json")
        for option in entry_of("optimizers", name).options:
            if option.name.partition(".")[0] != "rest":
                assert option.default == rule[option.name], (name, option.name)
    lion = {option.name: option.default for option in entry_of("optimizers", "lion").options}
    assert lion["betas"] == [0.9, 0.99], "which are not Adam's"


def test_options_of_a_section_without_a_name_are_listed_by_their_paths() -> None:
    options = {option.name: option for option in entry_of("problems", "language_modeling").options}
    assert options["random_length.halved"].default == 0.05
    assert options["model"].type == "section: lstm|awd_lstm|gpt"
    assert "model.layers" not in options, "models are a kind of their own"
    rest = {option.name: option for option in entry_of("optimizers", "muon").options}
    assert rest["rest"].required
    assert rest["rest.learning_rate"].required


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"const": "auto"}, "auto"),
        ({"anyOf": [{"const": "auto"}, {"type": "integer"}]}, "auto or integer"),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2}, "[number; number]"),
        ({"type": "object", "additionalProperties": {"type": "text"}}, "section of anything"),
        ({"type": "number", "minimum": 0, "maximum": 1e12}, "number >= 0"),
    ],
)
def test_types_are_said_in_words(schema: dict[str, Any], words: str) -> None:
    assert type_words(schema, {}) == words


def test_a_list_needs_neither_torch_nor_ray() -> None:
    told = "import sys; from sweeper.spec.catalog import catalog; catalog(); print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
