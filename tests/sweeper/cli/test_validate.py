"""What ``validate --json`` tells an editor: every error at its place, and of a valid spec what it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.planning.plan import expand
from sweeper.spec import load_spec

Ask = Callable[..., Any]

BASE = "update_rule: {learning_rat: 1}\n"
WRONG = """\
overlay: base_of_wrong.yaml
problem: {use: deep_linear}
train:
  steps: x
sweep:
  grid: {update_rule.clip_norm: [null, -1]}
"""


@pytest.fixture
def wrong(shown_folder: Path) -> None:
    (shown_folder / "base_of_wrong.yaml").write_text(BASE)
    (shown_folder / "wrong.yaml").write_text(WRONG)


@pytest.mark.usefixtures("wrong")
def test_every_error_that_is_told_to_people_is_told_to_programs(ask: Ask, shown_folder: Path) -> None:
    plain = ask("validate", "wrong.yaml", "--set", "train.stps=3")
    shown = ask("validate", "wrong.yaml", "--set", "train.stps=3", "--format", "json")
    assert (plain.code, shown.code, plain.out) == (2, 2, "")
    assert shown.err == plain.err
    document = shown.document
    assert (document["spec"], document["valid"]) == ("wrong.yaml", False)
    assert document.keys() == {"spec", "valid", "errors"}
    told = re.findall(r"^(\S+?):(\d+):(\d+): ([^:\s]+): (.+)$", plain.err, re.MULTILINE)
    placed = [error for error in document["errors"] if error["line"] is not None]
    assert told == [
        (error["file"], str(error["line"]), str(error["column"]), error["path"], error["message"]) for error in placed
    ]
    lines = (shown_folder / "wrong.yaml").read_text().splitlines()
    (steps,) = [error for error in placed if error["path"] == "train.steps"]
    assert lines[steps["line"] - 1][steps["column"] - 1 :] == "x"
    (unknown,) = [error for error in placed if error["path"] == "update_rule.learning_rat"]
    assert (Path(unknown["file"]).name, unknown["line"]) == ("base_of_wrong.yaml", 1)
    assert unknown["hint"].endswith("did you mean 'learning_rate'?")
    (override,) = [error for error in document["errors"] if error["line"] is None]
    assert (override["file"], override["path"]) == ("--set train.stps=3", "train.stps")


def test_a_spec_that_is_no_yaml_has_its_place_and_one_that_is_not_there_has_none(ask: Ask, shown_folder: Path) -> None:
    (shown_folder / "broken.yaml").write_text("a: 1\nb: [1, 2\n")
    (error,) = ask("validate", "broken.yaml", "--json").document["errors"]
    assert error["file"] == "broken.yaml"
    assert error["line"] in {2, 3}
    (error,) = ask("validate", "nowhere.yaml", "--json").document["errors"]
    assert (error["file"], error["line"]) == (None, None)
    assert error["message"].startswith("nowhere.yaml: no such file")


def test_more_errors_than_people_read_are_told_to_programs(ask: Ask, shown_folder: Path) -> None:
    keys = "".join(f"  learning_rate_{number}: 1\n" for number in range(250))
    (shown_folder / "many.yaml").write_text(f"problem: {{use: deep_linear}}\ntrain: {{steps: 1}}\nupdate_rule:\n{keys}")
    shown = ask("validate", "many.yaml", "--json")
    assert len(shown.document["errors"]) == 200
    assert "more problems" in shown.err


def test_of_a_valid_spec_the_trials_are_those_of_the_plan(ask: Ask, shown_folder: Path) -> None:
    document = ask("validate", "shown.yaml", "--json").document
    plan = expand(load_spec(shown_folder / "shown.yaml"))
    assert (document["valid"], document["errors"], document["name"]) == (True, [], "shown")
    assert [row["trial_id"] for row in document["trial_rows"]] == [trial.trial_id for trial in plan.trials]
    assert document["trials"] == len(plan.trials)
    assert document["trial_rows"][0]["cell"] == plan.labels[plan.trials[0].cell_id]
    assert ask("validate", "searched.yaml", "--json").document["search"] == "stability_frontier"
