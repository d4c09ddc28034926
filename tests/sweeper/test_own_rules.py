"""Schedules, transforms and searchers by import path: in a spec, in ids, in plans, in runs, and tried by ``check``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.check import check_sweep
from sweeper.errors import ClipsweepError, SpecError
from sweeper.planning.plan import arm_of, expand
from sweeper.planning.preview import plan_document
from sweeper.spec import loads_spec
from sweeper.store.journal import open_state
from sweeper.tables.run import Run

RULES = """
import torch

def stairs(*, every=2, factor=0.5):
    return lambda step, total_steps: factor ** (step // every)

def soft_clip(*, threshold):
    def transform(direction):
        scale = (1 + (direction.norm / threshold) ** 2).rsqrt()
        direction.vector.mul_(scale)
        return scale
    return transform

def nothing():
    return lambda direction: 1.0

def doubled():
    def transform(direction):
        direction.vector.mul_(2.0)
        return torch.full((), 2.0)
    return transform

def unit():
    def transform(direction):
        scale = direction.norm.reciprocal()
        direction.vector.mul_(scale)
        return scale
    return transform

def says_one():
    def transform(direction):
        direction.vector.mul_(0.5)
        return 1.0
    return transform

def adaptive():
    seen = []
    def transform(direction):
        seen.append(float(direction.norm))
        scale = min(1.0, sum(seen) / len(seen) / max(float(direction.norm), 1e-30))
        direction.vector.mul_(scale)
        return scale
    return transform

def counting():
    calls = []
    def schedule(step, total_steps):
        calls.append(step)
        return 1 / len(calls)
    return schedule

def negative():
    return lambda step, total_steps: 1 - step

def exits():
    raise SystemExit(3)

class Fixed:
    def __init__(self, *, over, step_of=0):
        self.over = over

    def extent(self, space):
        from sweeper.search.protocol import Extent
        number = len(space.bases) * len(space.seeds)
        return Extent(worst=number, expected=number, grid=number)

    def decide(self, space, history):
        from sweeper.search.protocol import Ask, Decision
        asked = {(one.base, one.seed) for one in history.seen}
        asks = tuple(
            Ask(base=base.key, seed=seed, values={path: low for path, (low, high) in self.over.items()})
            for base in space.bases for seed in space.seeds if (base.key, seed) not in asked
        )
        return Decision(asks=asks)

class Repeats(Fixed):
    def decide(self, space, history):
        from sweeper.search.protocol import Ask, Decision
        values = {path: low for path, (low, high) in self.over.items()}
        return Decision(asks=(Ask(base=space.bases[0].key, seed=0, values=values),))
"""

SPEC = """
problem: {use: deep_linear}
update_rule:
  learning_rate: 0.01
  schedule: {use: "rules:stairs", every: 3}
train: {steps: 6}
sweep:
  cases:
    - {}
    - {update_rule.transform: {use: "rules:soft_clip", threshold: 0.5}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules.py").write_text(RULES)
    return tmp_path


def ids(folder: Path, text: str = SPEC) -> list[str]:
    return [trial.trial_id for trial in expand(loads_spec(text, folder=folder)).trials]


def test_an_id_has_the_hash_of_the_code_and_of_the_options(folder: Path) -> None:
    before = ids(folder)
    assert len(set(before)) == 2
    assert ids(folder) == before
    assert ids(folder, SPEC.replace("every: 3", "every: 4"))[0] != before[0]
    (folder / "rules.py").write_text(RULES + "# changed\n")
    assert not set(ids(folder)) & set(before)


def test_an_option_of_ones_own_counts_even_if_a_registered_schedule_has_it_as_its_default(folder: Path) -> None:
    one = ids(folder, SPEC.replace("every: 3", "warmup: 0.0"))
    assert one != ids(folder, SPEC.replace(", every: 3", ""))


def test_a_rule_of_registered_parts_has_the_id_it_always_had(folder: Path) -> None:
    text = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1, clip_norm: 1}\ntrain: {steps: 3}\n"
    assert ids(folder, text) == ["dcfbc2f6f6cc0d1d"]


def test_the_arm_has_the_name_of_the_transform_and_of_the_schedule(folder: Path) -> None:
    plan = expand(loads_spec(SPEC, folder=folder))
    assert plan.arms == ("sgd + schedule(rules:stairs)", "sgd + rules:soft_clip + schedule(rules:stairs)")
    rule = {"optimizer": "sgd", "momentum": 0.9, "transform": {"use": "a:b"}, "transform_of": "momentum"}
    assert arm_of(rule) == "sgd(momentum) + a:b(momentum)"


def test_a_plan_names_the_code_and_consent_is_asked_for_what_lies_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = loads_spec(SPEC, folder=folder)
    assert [one["use"] for one in plan_document(sweep)["code"]] == ["rules:soft_clip", "rules:stairs"]
    assert plan_document(sweep)["asks_for"] == []
    (folder / "project").mkdir()
    monkeypatch.syspath_prepend(str(folder))
    elsewhere = loads_spec(SPEC, folder=folder / "project")
    assert plan_document(elsewhere)["asks_for"] == ["--allow-code"]
    with pytest.raises(ClipsweepError, match=r"rules:soft_clip from .*continue with --allow-code"):
        list(check_sweep(elsewhere))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ('{use: "rule:stairs"}', "no module 'rule'"),
        ('{use: "rules:stair"}', "has no 'stair'; did you mean 'stairs'"),
        ('{use: "rules:a:b"}', r"found 'rules:a:b'\n.*\n.*package.module:factory"),
        ("{use: stairs}", "unknown schedule 'stairs'\n.*\n.*known: .*one_cycle, package.module:factory"),
        ("stairs", "must be a section, found 'stairs'"),
    ],
)
def test_what_is_wrong_with_the_name_is_told_at_its_place(folder: Path, schedule: str, message: str) -> None:
    text = SPEC.replace('{use: "rules:stairs", every: 3}', schedule)
    with pytest.raises(SpecError, match=message) as caught:
        expand(loads_spec(text, folder=folder))
    assert ":5:" in str(caught.value)
    assert "update_rule.schedule" in str(caught.value)


def test_at_most_one_transform_and_none_for_analytic_functions(folder: Path) -> None:
    with pytest.raises(SpecError, match="clip_value and transform exclude each other"):
        loads_spec(SPEC.replace("learning_rate: 0.01", "learning_rate: 0.01\n  clip_value: 1"), folder=folder)
    text = """
problem: {use: analytic, function: {use: quadratic}, start: 1}
update_rule: {learning_rate: 0.01, transform: {use: "rules:nothing"}}
train: {steps: 6}
"""
    with pytest.raises(SpecError, match=r"update_rule\.transform: has no meaning for an analytic function"):
        loads_spec(text, folder=folder)


def test_the_options_of_ones_own_can_be_swept_and_those_of_others_are_still_checked(folder: Path) -> None:
    own = SPEC.replace(
        "cases:\n    - {}\n    - {update_rule",
        "grid: {update_rule.schedule.every: [1, 2]}\n  cases:\n    - {update_rule",
    )
    assert [cell.swept["update_rule.schedule.every"] for cell in loads_spec(own, folder=folder).cells] == [1, 2]
    other = own.replace('{use: "rules:stairs", every: 3}', "{use: cosine}")
    with pytest.raises(SpecError, match=r"update_rule\.schedule\.every: unknown path"):
        loads_spec(other, folder=folder)


def test_a_run_follows_them_and_a_resumed_one_is_the_same(
    inline_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path / "whole"))
    text = SPEC.replace("train: {steps: 6}", "train: {steps: 60, checkpoint_every: 7}")
    whole = inline_run(text, name="whole")()
    stopped = inline_run(text, name="stopped")
    stopped.stop_requested = lambda: stopped.pools.polls >= 3
    stopped()
    assert any(not trial.resolved for trial in open_state(stopped.run_dir).trials.values()), "it was stopped amid it"
    inline_run(text, name="stopped")()
    tables = [Run(run.run_dir.path).metrics for run in (whole, stopped)]
    tables = [table.sort_values(["trial_id", "step"], ignore_index=True) for table in tables]
    assert tables[0].equals(tables[1])
    rates = tables[0].groupby("trial_id")["learning_rate"].apply(list)
    assert all(rate[:7] == [0.01 * 0.5 ** (step // 3) for step in range(7)] for rate in rates)
    trials = Run(whole.run_dir.path).trials.set_index("arm")
    clipped = trials.loc["sgd + rules:soft_clip + schedule(rules:stairs)"]
    assert clipped["clipped_fraction"] > 0
    code = expand(whole.sweep).code[0].sha256[:12]
    assert list(trials["code_id"]) == [code, code]


def test_the_journal_says_which_code_a_trial_was_trained_with(
    inline_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    (tmp_path / "here" / "rules.py").write_text(RULES)
    run = inline_run(SPEC)
    plan = expand(run.sweep)
    run()
    records = [trial.record for trial in open_state(run.run_dir).trials.values()]
    assert [[code.use for code in record.rule_code] for record in records] == [
        ["rules:stairs"],
        ["rules:stairs", "rules:soft_clip"],
    ]
    assert {code.sha256 for record in records for code in record.all_code} == {plan.code[0].sha256}
    (tmp_path / "here" / "rules.py").write_text(RULES + "# changed\n")
    changed = plan_document(loads_spec(SPEC, folder=tmp_path / "here"), run.run_dir.path)
    assert "--accept-drift" in changed["asks_for"]
    assert "--accept-change" not in changed["asks_for"], "the spec is the same"
    assert "code of rules:stairs: " in changed["change"]


def findings(folder: Path, text: str) -> dict[str, Any]:
    found = {}
    for checked in check_sweep(loads_spec(text, folder=folder)):
        if checked.problem.startswith(("schedule", "transform", "searcher")):
            found[checked.finding.promise] = checked.finding
    return found


def of_transform(folder: Path, name: str) -> dict[str, Any]:
    rule = f'{{learning_rate: 0.1, transform: {{use: "rules:{name}"}}}}'
    return findings(folder, f"problem: {{use: deep_linear}}\nupdate_rule: {rule}\ntrain: {{steps: 5}}\n")


def of_schedule(folder: Path, name: str) -> dict[str, Any]:
    rule = f'{{learning_rate: 0.1, schedule: {{use: "rules:{name}"}}}}'
    return findings(folder, f"problem: {{use: deep_linear}}\nupdate_rule: {rule}\ntrain: {{steps: 5}}\n")


def broken(found: dict[str, Any]) -> dict[str, str]:
    return {promise: one.broken for promise, one in found.items() if one.status == "broken"}


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("nothing", "it commutes with scaling"),
        ("doubled", "it commutes with scaling"),
    ],
)
def test_a_sound_transform_keeps_every_promise_and_its_law_of_scale_is_told(folder: Path, name: str, law: str) -> None:
    found = of_transform(folder, name)
    assert broken(found) == {}
    assert law in found["its scale is the factor by which the norm changed"].note


def test_a_transform_that_divides_by_zero_is_found_and_that_only_the_direction_counts_is_told(folder: Path) -> None:
    found = of_transform(folder, "unit")
    assert list(broken(found)) == ["what it leaves behind is finite, also of a gradient of zeros"]
    assert (
        "a gradient of zeros becomes one of norm nan"
        in found["what it leaves behind is finite, also of a gradient of zeros"].broken
    )
    assert "gives the same step" in found["its scale is the factor by which the norm changed"].note


def test_a_transform_that_says_that_it_changes_nothing_is_held_to_it(folder: Path) -> None:
    found = broken(of_transform(folder, "says_one"))
    assert "but the scale is 1" in found["its scale is 1 exactly where it changes nothing, and nowhere else"]
    assert "the norm is multiplied by 0.5" in found["its scale is the factor by which the norm changed"]


def test_a_transform_with_a_memory_is_found_and_so_is_its_resume(folder: Path) -> None:
    found = broken(of_transform(folder, "adaptive"))
    assert "it is a pure function of the direction and the parameters" in found
    assert "after a resume gave an update" in found["a resumed trial continues bit for bit"]


def test_a_schedule_is_held_to_its_promises(folder: Path) -> None:
    assert broken(of_schedule(folder, "stairs")) == {}
    counted = broken(of_schedule(folder, "counting"))
    assert "when it is asked again" in counted["the factor is a pure function of the step and the number of steps"]
    assert "a resumed trial continues bit for bit" in counted
    below = broken(of_schedule(folder, "negative"))
    assert "the factor of step 2 of 5 is -1" in below["every factor is a number, finite and not negative"]


def test_what_cannot_be_built_is_told_once_with_its_line(folder: Path) -> None:
    found = of_schedule(folder, "exits")
    first, *others = found.values()
    assert first.broken == "SystemExit: 3"
    assert Path(first.line.file) == folder / "rules.py"
    assert all(one.untested == "it cannot be built" for one in others)
    assert others


SEARCH = """
problem: {use: analytic, function: {use: quadratic}, start: 1}
update_rule: {learning_rate: 0.1}
train: {steps: 5}
sweep:
  search: {use: "rules:NAME", over: {update_rule.learning_rate: [0.01, 1]}}
"""


def test_a_searcher_is_held_to_its_promises_in_the_space_of_the_sweep(folder: Path) -> None:
    sound = findings(folder, SEARCH.replace("NAME", "Fixed"))
    assert broken(sound) == {}
    assert [one.note for one in sound.values()][-1] == "it takes about 1 trials here, at most 1"
    repeats = findings(folder, SEARCH.replace("NAME", "Repeats"))
    assert list(broken(repeats).values()) == ["it asks twice for {'update_rule.learning_rate': 0.01} with seed 0"]
    wrong = findings(folder, SEARCH.replace('NAME"', 'Fixed", unknown: 1'))
    assert [one.status for one in wrong.values()] == ["broken", "untested"]


def test_registered_parts_make_no_promises_of_their_own(folder: Path) -> None:
    text = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 5}\n"
    assert findings(folder, text) == {}
    assert "rule_code" not in json.dumps(expand(loads_spec(text, folder=folder)).trials[0].update_rule)
