"""Which value of a metric is its best: from spec and problem through the journal to the tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.planning.plan import expand
from sweeper.spec import loads_spec
from sweeper.store.journal import open_state
from sweeper.store.records import parse_record
from sweeper.store.run_dir import RunDir
from sweeper.tables.directions import LARGER, SMALLER
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 20, evaluate_every: 5}
"""

MANUAL = (Path(__file__).parents[3] / "docs" / "spec.md").read_text(encoding="utf-8")


def test_directions_are_part_of_no_id() -> None:
    def ids(text: str) -> list[str]:
        return [trial.trial_id for trial in expand(loads_spec(text, folder=Path())).trials]

    assert ids(SPEC) == ids(SPEC + "metrics: {valid_loss: max}\n")


def test_a_changed_spec_turns_the_best_round_and_trains_nothing(inline_run: Callable[..., Any]) -> None:
    first = inline_run(SPEC)()
    run_dir = first.run_dir.path
    losses = Run(run_dir).metrics["valid_loss"].dropna()
    assert losses.min() < losses.max()
    assert Run(run_dir).trials["best_valid_loss"].item() == losses.min()
    (trial,) = open_state(RunDir(run_dir)).trials.values()
    assert [segment.facts.metrics for segment in trial.segments] == [{"valid_loss": "min"}], "the problem's own word"
    parts = len(open_state(RunDir(run_dir)).parts)

    for spec, best in ((SPEC + "metrics: {valid_loss: max}\n", losses.max()), (SPEC, losses.min())):
        again = inline_run(spec)()
        assert again.pools.assignments == []
        assert Run(run_dir).trials["best_valid_loss"].item() == best
        assert len(open_state(RunDir(run_dir)).parts) == parts
    lines = (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    planned = [line for line in map(json.loads, lines) if line["type"] == "planned"]
    assert [line.get("metrics") for line in planned] == [None, {"valid_loss": "max"}, {}]


def test_the_manual_lists_every_word() -> None:
    _, _, section = MANUAL.partition("3. else by the words")
    section = section.partition("\n\n")[0]
    larger, _, smaller = section.partition("are maximised")
    assert all(f"`{word}`" in larger for word in LARGER)
    assert all(f"`{word}`" in smaller for word in SMALLER)


@pytest.mark.parametrize("way", ["maximum", 1, None, ["max"]])
def test_a_journal_with_another_direction_is_refused(way: Any) -> None:
    with pytest.raises(ValueError, match="'metrics': 'foo': must be min or max"):
        parse_record({"type": "planned", "measurement": "m", "measure": None, "trials": [], "metrics": {"foo": way}})
