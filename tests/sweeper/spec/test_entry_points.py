"""What an installed package adds by entry points can be named, and is an import path from then on."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from sweeper.check import check_sweep
from sweeper.errors import ClipsweepError, SpecError
from sweeper.planning.plan import expand
from sweeper.planning.searching import search_code
from sweeper.spec import json_schema, load_spec, loads_spec
from sweeper.spec.catalog import catalog
from sweeper.spec.entry_points import installed

RULES = '''
def restarts(*, cycles=2, final=0.0):
    """Up again and again."""
    return lambda step, total_steps: 1.0

def soft_clip(*, threshold):
    """Smooth clipping.

    More of it.
    """
    return lambda direction: 1.0

class Spread:
    """Values far from one another."""

    def __init__(self, *, over, number=4):
        self.over = over

def problem(*, width=3, seed, device):
    """Sines."""
'''
POINTS = """
[clipsweep.problems]
sines = extra_sines:problem

[clipsweep.schedules]
restarts = extra_sines:restarts
cosine = extra_sines:restarts

[clipsweep.update_rules]
soft_clip = extra_sines:soft_clip

[clipsweep.searchers]
spread = extra_sines:Spread
"""
SPEC = """
problem: {use: deep_linear}
update_rule:
  learning_rate: 0.1
  schedule: {use: restarts, cycles: 3}
  transform: {use: soft_clip, threshold: 1}
train: {steps: 5}
"""


def install(site: Path, name: str = "extra-sines", points: str = POINTS) -> None:
    """A package as an installer leaves it."""
    info = site / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of specs; a package is installed elsewhere."""
    site, folder = tmp_path / "site-packages", tmp_path / "project"
    folder.mkdir()
    install(site)
    (site / "extra_sines.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(site))
    return folder


def test_a_name_stands_for_its_import_path(project: Path) -> None:
    plan = expand(loads_spec(SPEC, folder=project))
    by_path = SPEC.replace("restarts,", '"extra_sines:restarts",').replace("soft_clip,", '"extra_sines:soft_clip",')
    assert [t.trial_id for t in plan.trials] == [t.trial_id for t in expand(loads_spec(by_path, folder=project)).trials]
    assert plan.arms == ("sgd + extra_sines:soft_clip + schedule(extra_sines:restarts)",)
    assert {code.use for code in plan.code} == {"extra_sines:restarts", "extra_sines:soft_clip"}


def test_a_problem_and_a_searcher_have_names_too(project: Path) -> None:
    text = """
problem: {use: sines, width: 5}
update_rule: {learning_rate: 0.1}
train: {steps: 5}
sweep:
  search: {use: spread, number: 3, over: {update_rule.learning_rate: [0.1, 1]}}
"""
    sweep = loads_spec(text, folder=project)
    assert expand(sweep).trials[0].problem == {"use": "extra_sines:problem", "width": 5}
    assert [code.use for code in search_code(sweep)] == ["extra_sines:Spread"]


def test_installed_code_is_asked_for_as_an_import_path_is(project: Path) -> None:
    with pytest.raises(ClipsweepError, match=r"extra_sines:restarts from .*continue with --allow-code"):
        list(check_sweep(loads_spec(SPEC, folder=project)))


def test_options_of_a_name_can_be_swept(project: Path) -> None:
    text = SPEC + "sweep: {grid: {update_rule.transform.threshold: [1, 2], update_rule.schedule.cycles: [1, 2]}}\n"
    assert len(loads_spec(text, folder=project).cells) == 4


def test_a_registered_name_is_refused_to_a_package(project: Path) -> None:
    rule = loads_spec(SPEC.replace("{use: restarts, cycles: 3}", "{use: cosine}"), folder=project).update_rule
    assert rule.schedule.use == "cosine"
    refused = next(entry for entry in catalog("schedules") if entry.name == "cosine" and entry.package)
    assert refused.about == "Refused: clipsweep's own has this name; say the import path."


def test_a_name_of_two_packages_with_two_meanings_is_none(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    install(other, "other", "[clipsweep.schedules]\nrestarts = elsewhere:restarts\n")
    monkeypatch.syspath_prepend(str(other))
    assert "restarts" not in installed("schedules")
    with pytest.raises(SpecError, match="unknown schedule 'restarts'"):
        loads_spec(SPEC, folder=project)


def test_an_unknown_name_is_told_those_that_are_installed(project: Path) -> None:
    with pytest.raises(SpecError, match=r"unknown schedule 'restart'\n.*\n.*did you mean 'restarts'"):
        loads_spec(SPEC.replace("restarts", "restart"), folder=project)
    with pytest.raises(SpecError, match=r"unknown problem 'sine'\n.*\n.*known: .*, sines, .*did you mean 'sines'"):
        loads_spec(SPEC.replace("deep_linear", "sine"), folder=project)


def test_they_are_listed_below_the_registered_ones_with_what_their_source_says(project: Path) -> None:
    *_, last = catalog("transforms")
    assert (last.name, last.about, last.package, last.use) == (
        "soft_clip",
        "Smooth clipping.",
        "extra-sines 1.2",
        "extra_sines:soft_clip",
    )
    assert [(option.name, option.required) for option in last.options] == [("threshold", True)]
    *_, spread = catalog("searchers")
    assert [(option.name, option.default) for option in spread.options] == [("over", None), ("number", "4")]
    *_, sines = catalog("problems")
    assert [option.name for option in sines.options] == ["width"], "clipsweep passes seed and device"
    assert not [entry for entry in catalog("models") if entry.package]


def test_an_editor_accepts_the_names(project: Path) -> None:
    path = project / "named.yaml"
    path.write_text(SPEC)
    load_spec(path)
    document = {
        "problem": {"use": "sines"},
        "update_rule": {
            "learning_rate": 0.1,
            "schedule": {"use": "restarts"},
            "transform": {"use": "soft_clip", "threshold": 1},
        },
        "train": {"steps": 5},
    }
    jsonschema.validate(document, json_schema())
    document["problem"] = {"use": "sine"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())
