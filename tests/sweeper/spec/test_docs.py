"""The manual's reference of specs: its examples load, its tables are complete."""

import re
from pathlib import Path
from typing import Any

import pytest

from sweeper.planning.plan import expand
from sweeper.spec import loads_spec
from sweeper.spec.load import SECTIONS
from sweeper.spec.sections.axes import SweepBlock
from sweeper.spec.sections.estimators import ESTIMATOR_OPTIONS
from sweeper.spec.sections.hooks import Hook, Hooks
from sweeper.spec.sections.measure import Audit, Measure, Probe
from sweeper.spec.sections.models import AwdLstm, Gpt, Lstm, Mlp, ResNet18, ResNet20
from sweeper.spec.sections.problems import PROBLEM_OPTIONS, RandomLength
from sweeper.spec.sections.search import Best, Halving, Optuna, StabilityFrontier
from sweeper.spec.sections.settings import Cluster, Pool, Resources, Train
from sweeper.spec.sections.thresholds import MovingAverage, Percentile, ThresholdSchedule, ZScore
from sweeper.spec.sections.update_rule import (
    Cosine,
    FromStep,
    InverseSqrt,
    Linear,
    NonMonotone,
    OneCycle,
    Rest,
    StableDecay,
    StepDecay,
    UpdateRule,
)
from sweeper.spec.sections.values import Section
from sweeper.spec.syntax.diagnostics import shown

MANUAL = (Path(__file__).parents[3] / "docs" / "spec.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", MANUAL, flags=re.DOTALL | re.MULTILINE)
REST = {
    "problem": "problem: {use: deep_linear}\n",
    "update_rule": "update_rule: {learning_rate: 0.1}\n",
    "train": "train: {steps: 400}\n",
}
HEADINGS: dict[str, type[Section]] = {
    "### `language_modeling`": PROBLEM_OPTIONS["language_modeling"],
    "`random_length: {}` varies": RandomLength,
    "`model: {use: lstm}`": Lstm,
    "`model: {use: awd_lstm}`": AwdLstm,
    "`model: {use: gpt}`": Gpt,
    "### `image_classification`": PROBLEM_OPTIONS["image_classification"],
    "`model: {use: resnet20}`": ResNet20,
    "`model: {use: resnet18}`": ResNet18,
    "`model: {use: mlp}`": Mlp,
    "### `deep_linear`": PROBLEM_OPTIONS["deep_linear"],
    "### `analytic`": PROBLEM_OPTIONS["analytic"],
    "## `update_rule`": UpdateRule,
    "`rest` is AdamW": Rest,
    "## `train`": Train,
    "## `measure`": Measure,
    "`measure.probe`": Probe,
    "`measure.audit`": Audit,
    **{
        f"The estimator `{name}`": section
        for name, section in ESTIMATOR_OPTIONS.items()
        if len(section.model_fields) > 1
    },
    "## `sweep`": SweepBlock,
    "#### `stability_frontier`": StabilityFrontier,
    "#### `best`": Best,
    "#### `halving`": Halving,
    "#### `optuna`": Optuna,
    "## `resources`": Resources,
    "Both kinds of workers": Pool,
    "## `cluster`": Cluster,
    "## `on`": Hooks,
    "Each of them is a section with `command`": Hook,
}


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_gives_a_plan(example, tmp_path):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "my_module.py").write_text("def char_lm(): ...\n")
    written = re.findall(r"^(\w+):", example, flags=re.MULTILINE)
    text = example + "".join(line for section, line in REST.items() if section not in written)
    assert expand(loads_spec(text, folder=tmp_path)).trials


def rows_after(heading: str) -> dict[str, str]:
    """Key to default, of the first table after a heading."""
    _, _, rest = MANUAL.partition(f"\n{heading}")
    assert rest, f"no {heading!r}"
    table = re.search(r"^\| key \|.*?(?=\n\n)", rest, flags=re.DOTALL | re.MULTILINE)
    assert table is not None
    rows = (re.split(r"(?<!\\)\|", line)[1:3] for line in table[0].splitlines()[2:])
    return {key.strip().strip("`"): default.strip().strip("`") for key, default in rows}


def documented(value: Any) -> str:
    if isinstance(value, Section):
        return f"{{use: {value.use}}}" if "use" in type(value).model_fields else "see below"
    if isinstance(value, tuple | list):
        return f"[{', '.join(documented(item) for item in value)}]"
    if isinstance(value, str | dict):
        return str(value)
    return shown(value).replace("1e-08", "1e-8")


@pytest.mark.parametrize("heading", HEADINGS)
def test_tables_list_every_key_with_its_default(heading):
    fields = {name: info for name, info in HEADINGS[heading].model_fields.items() if name != "use"}
    defaults = {name: "required" if info.is_required() else documented(info.default) for name, info in fields.items()}
    if heading == "## `sweep`":
        defaults["seeds"] = "1"
    assert rows_after(heading) == defaults


@pytest.mark.parametrize("section", [Percentile, ZScore, MovingAverage, ThresholdSchedule])
def test_the_table_of_thresholds_lists_every_option_with_its_default(section):
    (use,) = section.model_fields["use"].annotation.__args__
    row = re.search(rf"^\| `{{use: {use}}}` \|.*\| (.*) \|$", MANUAL, flags=re.MULTILINE)
    assert row is not None
    options = {entry.split("`")[1]: entry.rsplit(", ", 1)[1] for entry in row[1].split("; ")}
    assert options == {
        name: "required" if info.is_required() else documented(info.default)
        for name, info in section.model_fields.items()
        if name != "use"
    }


def test_the_top_level_and_the_schedules_are_complete():
    assert list(rows_after("## Top level")) == list(SECTIONS)
    for schedule in (StepDecay, Cosine, Linear, InverseSqrt, StableDecay, OneCycle, FromStep, NonMonotone):
        for name, info in schedule.model_fields.items():
            if name == "warmup":
                assert "`warmup`" in MANUAL
                continue
            default = "required" if info.is_required() else documented(info.default)
            assert name == "use" or re.search(rf"`{name}`: [^;|]*, {default} *[;|]", MANUAL)
