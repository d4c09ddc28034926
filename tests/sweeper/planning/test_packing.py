"""A plan says which trials would train together, and of the others why not."""

from __future__ import annotations

from pathlib import Path

from sweeper.planning.preview import plan_document, plan_text
from sweeper.spec import loads_spec

SPEC = """
name: together
problem: {use: image_classification, dataset: digits, batch_size: 32}
update_rule: {learning_rate: 0.1}
train: {steps: 5}
sweep:
  grid: {problem.model: [{use: mlp, hidden: 32}, {use: mlp, hidden: 4096}, {use: resnet20}]}
  seeds: 4
"""


def test_a_plan_tells_who_trains_in_packs_and_why_the_others_do_not(tmp_path: Path) -> None:
    document = plan_document(loads_spec(SPEC + "resources: {trainers: {pack: auto}}\n", folder=tmp_path))
    assert document["packs"] == {
        "most": 64,
        "trials": 4,
        "alone": [
            {"reason": "its layers are so wide that a pack would gain nothing", "trials": 4},
            {"reason": "the model resnet20 gains nothing in a pack", "trials": 4},
        ],
    }
    text = plan_text(document)
    assert "  packs: 4 trials in packs of up to 64\n    4 by themselves: its layers are so wide" in text


def test_a_plan_without_packs_says_nothing_of_them(tmp_path: Path) -> None:
    document = plan_document(loads_spec(SPEC, folder=tmp_path))
    assert document["packs"] is None
    assert "packs:" not in plan_text(document)


def test_a_number_packs_what_auto_would_not(tmp_path: Path) -> None:
    document = plan_document(loads_spec(SPEC + "resources: {trainers: {pack: 3, gpus: 0.5}}\n", folder=tmp_path))
    assert (document["packs"]["most"], document["packs"]["trials"]) == (3, 8)
    on_gpu = plan_document(loads_spec(SPEC + "resources: {trainers: {pack: auto, gpus: 0.5}}\n", folder=tmp_path))
    assert on_gpu["packs"]["trials"] == 0
