"""A plan says what it cannot know of this spec, and nothing that it does know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.planning.preview import plan_document, plan_text
from sweeper.spec import loads_spec

LINEAR = "problem: {use: deep_linear}\ntrain: {steps: 50}\n"
RULE = "update_rule: {learning_rate: 0.01}\n"
GPT = "problem: {use: language_modeling, corpus: python-docs, model: {use: gpt, width: 512, layers: 6}}\n"
OWN = "problem: {use: 'own:make'}\ntrain: {steps: 50}\n"


def unknown(text: str, folder: Path) -> list[dict[str, str]]:
    (folder / "own.py").write_text("def make(): ...\ndef measure(): ...\n")
    return list(plan_document(loads_spec(text, folder=folder), folder / "run")["unknown"])


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (LINEAR + RULE, ["time"]),
        (LINEAR + "sweep: {grid: {update_rule.learning_rate: [0.1, 1]}}\n", ["time", "size"]),
        (LINEAR.replace("50", "50, max_loss: 4") + RULE, ["time", "size"]),
        (LINEAR + RULE + "resources: {trainers: {gpus: 1}}\n", ["time"]),
        (LINEAR + RULE + "cluster: {address: auto}\n", ["time", "workers"]),
        (GPT + "train: {steps: 50}\n" + RULE, ["time", "memory"]),
        (OWN + RULE, ["time", "disk", "memory"]),
        (OWN + RULE + "measure: {every: 5, keep: true}\n", ["time", "disk", "memory"]),
        (
            LINEAR + "update_rule: {}\nsweep: {search: {use: best, over: {update_rule.learning_rate: [0.01, 1]}, "
            "metric: train_loss, budget: 20}, seeds: 2}\n",
            ["time", "size", "size"],
        ),
        (
            "problem: {use: analytic, function: {use: extremal}, epsilon: 0.1, start_gap: 2}\ntrain: {steps: 9}\n"
            + RULE,
            ["time", "size"],
        ),
    ],
    ids=["plain", "rates", "max_loss", "gpu", "cluster", "large", "own", "own kept", "search", "analytic"],
)
def test_what_is_unknown_follows_from_the_spec(text: str, about: list[str], tmp_path: Path) -> None:
    assert [found["about"] for found in unknown(text, tmp_path)] == about


def test_the_sentences_name_what_they_are_about(tmp_path: Path) -> None:
    time, disk, memory = [
        found["text"] for found in unknown(OWN + RULE + "measure: {every: 5, keep: true}\n", tmp_path)
    ]
    assert "a step of own:make" in time
    assert "kept snapshots" in disk
    assert "own:make" in memory
    (_, size) = unknown(LINEAR.replace("50", "50, max_loss: 4") + RULE, tmp_path)
    assert "a loss of 4" in size["text"]
    (_, workers) = unknown(LINEAR + RULE + "cluster: {address: 'head:6379'}\n", tmp_path)
    assert "the cluster at head:6379" in workers["text"]


def test_a_run_that_has_begun_knows_its_speed_and_one_that_is_done_everything(
    tmp_path: Path, module_hostile_run: Callable[..., Any]
) -> None:
    text = LINEAR + RULE
    made = module_hostile_run(text, tmp_path).run_dir.path
    assert plan_document(loads_spec(text, folder=tmp_path), made)["unknown"] == []
    more = plan_document(loads_spec(text + "sweep: {seeds: 3}\n", folder=tmp_path), made)
    assert (more["new"], more["unknown"]) == (2, [])
    assert "not known" not in plan_text(more)


def test_people_are_told_the_same(tmp_path: Path) -> None:
    document = plan_document(loads_spec(LINEAR + RULE, folder=tmp_path), tmp_path / "run")
    (found,) = document["unknown"]
    assert f"  not known before it runs:\n    - {found['text']}\n" in plan_text(document)
