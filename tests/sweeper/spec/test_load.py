"""Loading: defaults, names, overrides, what is written down of a sweep, and the schema for editors."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from sweeper.errors import SpecError
from sweeper.planning.plan import expand
from sweeper.spec import STARTER, Sweep, json_schema, load_spec, loads_spec

SHORT = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 5}\n"
SPEC = """
problem: {use: deep_linear, layers: 3}
update_rule: {optimizer: sgd}
train: {steps: 5}
measure:
  every: 2
  estimators: [{use: directional_smoothness, delta: 0.5}]
sweep:
  grid:
    update_rule.learning_rate: [0.1, 0.2]
  cases:
    - {update_rule.clip_norm: null}
    - {update_rule.clip_norm: 0.25}
  exclude:
    - {update_rule.learning_rate: 0.1, update_rule.clip_norm: 0.25}
"""


def loaded(*overrides: str, text: str = SPEC) -> Sweep:
    return loads_spec(text, name="s.yaml", folder=Path(), overrides=overrides)


def complaint(*overrides: str, text: str = SPEC) -> str:
    with pytest.raises(SpecError) as caught:
        loaded(*overrides, text=text)
    return str(caught.value)


def test_defaults_are_filled_in_everywhere():
    sweep = loaded()
    assert sweep.train.checkpoint_every == 500
    assert sweep.train.log_every is None
    assert sweep.resources.trainers.count == "auto"
    assert sweep.resources.max_attempts == 3
    assert sweep.cluster.address == "local"
    assert sweep.measure is not None
    assert sweep.measure.data_fraction == 0.1
    assert sweep.name == "sweep"


def test_directions_of_metrics_can_be_declared_overridden_and_read_again():
    sweep = loaded("metrics.f1=max", text=SPEC + "metrics: {foo: max, valid_loss: min}\n")
    assert sweep.metrics == {"foo": "max", "valid_loss": "min", "f1": "max"}
    assert loaded(text=yaml.safe_dump(sweep.resolved())).metrics == sweep.metrics
    assert loaded("metrics=null").metrics == {}
    validator = jsonschema.Draft202012Validator(json_schema())
    spec = yaml.safe_load(SPEC)
    assert validator.is_valid({**spec, "metrics": {"foo": "max"}})
    assert not validator.is_valid({**spec, "metrics": {"foo": "larger"}})


def test_the_schema_knows_the_names_of_cases():
    validator = jsonschema.Draft202012Validator(json_schema())
    spec = yaml.safe_load(SPEC)
    for name, is_valid in (("as published", True), (5, False), ("", False), ("a" * 65, False)):
        sweep = {"cases": [{"name": name, "update_rule.momentum": 0.5}]}
        assert validator.is_valid({**spec, "sweep": sweep}) == is_valid


def test_whole_numbers_may_be_written_as_floats():
    assert loaded("train.steps=4e2").train.steps == 400
    assert loaded("train.steps=400.0").train.steps == 400


def test_null_sections_are_as_good_as_none():
    sweep = loaded("measure=null", "sweep=null", "resources=null", "cluster=null", "update_rule.learning_rate=1")
    assert sweep.measure is None
    assert len(sweep.cells) == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [("lstm-clipping.yaml", "lstm-clipping"), ("my sweep (2).yml", "my-sweep-2-"), ("ä.yaml", "sweep"), (".x", "x")],
)
def test_a_sweep_is_named_after_its_file_unless_it_has_a_name(tmp_path, file, name):
    (tmp_path / file).write_text(SPEC)
    assert load_spec(tmp_path / file).name == name
    assert load_spec(tmp_path / file, ["name=other"]).name == "other"


def test_a_sweep_remembers_where_it_comes_from(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(SPEC)
    sweep = load_spec(file, ["train.steps=7"])
    assert (sweep.source_path, sweep.folder, sweep.text) == (file, tmp_path, SPEC)
    assert sweep.overrides == ("train.steps=7",)


def test_overrides_replace_what_the_file_says():
    sweep = loaded(
        "train.steps=7",
        "update_rule.momentum=0.9",
        "measure.estimators[0].delta=0.25",
        "sweep.grid.update_rule.learning_rate=[0.1, 1e-2]",
        "sweep.cases[1].update_rule.clip_norm=0.5",
        "sweep.exclude=[]",
        "sweep.seeds=3",
        "train.steps=8",
    )
    assert sweep.train.steps == 8
    assert sweep.measure is not None
    assert sweep.measure.estimators[0].delta == 0.25
    assert [tuple(cell.swept.values()) for cell in sweep.cells] == [(0.1, None), (0.1, 0.5), (0.01, None), (0.01, 0.5)]
    assert sweep.sweep.seeds == (0, 1, 2)


def test_overrides_create_the_sections_that_they_need():
    sweep = loaded(
        "problem.use=language_modeling",
        "problem.model.layers=1",
        "resources.trainers.count=2",
        text="{problem: {}, update_rule: {learning_rate: 1}, train: {steps: 5}}",
    )
    assert sweep.cells[0].problem["model"]["layers"] == 1
    assert sweep.resources.trainers.count == 2


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".hidden",
        "-rf",
        "_x",
        "a/b",
        "/etc",
        "a\\\\b",
        "a b",
        "",
        "~",
        "é",
        "a\\n",
        "a\\0b",
        "$HOME",
        "x" * 65,
        "CON:",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_no_name_of_a_sweep(name):
    with pytest.raises(SpecError, match="name: cannot be the name of a run directory"):
        loads_spec(f'name: "{name}"\n{SHORT}', folder=Path())
    with pytest.raises(SpecError, match="name: cannot be the name of a run directory"):
        loads_spec(SHORT, folder=Path(), overrides=[f'name="{name}"'])


@pytest.mark.parametrize("name", ["a", "7", "lstm-clipping_2.b", "x" * 64])
def test_letters_digits_dots_dashes_and_underscores_are_a_name(name):
    assert loads_spec(f'name: "{name}"\n{SHORT}', folder=Path()).name == name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=-1", "--set train.steps=-1: train.steps: must be at least 1, found -1"),
        ("train.stps=1", "--set train.stps=1: train.stps: unknown key"),
        ("learning_rate=1", "--set learning_rate=1: learning_rate: unknown key"),
        ("train.steps", "--set train.steps: not an override"),
        ("=1", "--set =1: not an override"),
        ("train.=1", "--set train.=1: not an override"),
        ("train..steps=1", "--set train..steps=1: not an override"),
        ("train.steps=", "--set train.steps=: train.steps: no value"),
        ("train.steps=[1", "--set train.steps=[1: not valid YAML"),
        ("train.steps.x=1", "--set train.steps.x=1: train.steps.x: there is no train.steps.x to set"),
        ("measure.estimators[3].delta=1", "there is no measure.estimators[3] to set"),
        ("sweep.seeds=0", "--set sweep.seeds=0: sweep.seeds: must be at least 1"),
        (
            "update_rule.learning_rate=1",
            "has no effect, since sweep.grid sets update_rule.learning_rate in every cell\n"
            "      write --set 'sweep.grid.update_rule.learning_rate=[...]'",
        ),
        ("\udcff=1", r"--set \udcff=1: \udcff: unknown key"),
        ("name=\udcff", "not valid UTF-8"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(override, message):
    assert message in complaint(override)


def test_overrides_and_the_file_are_wrong_together():
    text = complaint("train.steps=-1", "nonsense", text=SPEC.replace("layers", "layer"))
    assert text.splitlines()[0].startswith("s.yaml:2:29: problem.layer: unknown key")
    assert "--set train.steps=-1: " in text
    assert "--set nonsense: " in text


def test_what_is_resolved_gives_the_same_trials_when_it_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def made(): ...")
    for text in (
        SPEC,
        STARTER,
        "{problem: {use: 'own:made'}, update_rule: {learning_rate: 1}, train: {steps: 1},"
        " sweep: {cases: [{problem.a.b: 1}, {}, {problem.c: 2.0}]}}",
        SPEC.replace("clip_norm: null", "schedule.use: cosine").replace("clip_norm: 0.25", "schedule.use: constant"),
        "{problem: {use: language_modeling, model: {layers: 1}}, update_rule: {learning_rate: 1}, train: {steps: 1},"
        " sweep: {cases: [{problem.model.dropout: 0.5}, {problem.model.layers: 2}]}}",
        SPEC.replace("clip_norm: null", "optimizer: adam"),
        SPEC
        .replace("update_rule.clip_norm: null", "problem.use: image_classification, problem.layers: null")
        .replace("layers: 3", "noise: 0")
        .replace("problem.use: image_classification, problem.layers: null", "problem.width: 3"),
        SPEC.replace("update_rule.clip_norm: null", "update_rule.schedule: {use: cosine}"),
        SPEC.replace("[0.1, 0.2]", "{random: {log_uniform: [0.1, 1], count: 3}}").split("  exclude")[0],
        "{problem: {use: deep_linear}, update_rule: {learning_rate: 1}, train: {steps: 1},"
        " sweep: {cases: [{problem.use: image_classification}, {problem.use: deep_linear, problem.width: 2}]}}",
    ):
        sweep = loaded(text=text)
        resolved = json.loads(json.dumps(sweep.resolved()))
        again = loaded(text=yaml.safe_dump(resolved, sort_keys=False))
        ids = [trial.trial_id for trial in expand(sweep).trials]
        assert [trial.trial_id for trial in expand(again).trials] == ids
        assert again.resolved() == resolved


def test_the_starter_loads_and_compares_clipped_with_unclipped_training():
    sweep = loaded(text=STARTER)
    assert expand(sweep).arms == ("sgd", "sgd + clip_norm")
    assert sweep.measure is not None


def test_the_schema_is_valid_and_accepts_valid_specs():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in (SPEC, STARTER):
        validator.validate(yaml.safe_load(text))
        validator.validate(loaded(text=text).resolved())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("layers: 3", "layer: 3"),
        ("optimizer: sgd", "optimizer: sdg"),
        ("every: 2", "every: 0"),
        ("update_rule.learning_rate: [", "learning_rate: ["),
        ("  cases:", "  case:"),
        ("train:", "trian:"),
    ],
)
def test_the_schema_refuses_what_is_wrong_by_itself(old, new):
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not validator.is_valid(yaml.safe_load(SPEC.replace(old, new)))


def test_the_schema_describes_every_key_and_offers_what_can_be_swept():
    schema = json_schema()
    grid = schema["properties"]["sweep"]["anyOf"][0]["properties"]["grid"]["properties"]
    assert {"update_rule.learning_rate", "problem.model.hidden", "update_rule.schedule.use"} <= set(grid)
    assert "train.checkpoint_every" not in grid
    undescribed = [
        name
        for section in [*schema["properties"].values(), *schema["$defs"].values()]
        for name, entry in section.get("properties", {}).items()
        if "description" not in entry
    ]
    assert undescribed == []


def test_specs_and_plans_are_read_without_heavy_imports():
    code = (
        "import sys; from pathlib import Path; from sweeper.spec import STARTER, loads_spec; "
        "from sweeper.planning.plan import expand; expand(loads_spec(STARTER, folder=Path())); "
        "heavy = ('torch', 'ray', 'numpy', 'pandas', 'pyarrow', 'trainers.problem', 'trainers.training.loop'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
