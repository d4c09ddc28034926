"""Steps that are trained again: the same rows, or an integrity error and both copies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweeper.driver.commit import Committer
from sweeper.driver.open_segments import OpenSegment
from sweeper.errors import IntegrityError
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import RepeatedItem, SegmentFacts, SegmentItem
from sweeper.store.journal import Journal, RunState, read_journal, replay
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.records import Opened, Planned
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

OWN = """
import os
import torch
from torch import nn
from trainers.problem import Problem

def line(*, seed, device, random):
    # Another target in every attempt.
    target = int.from_bytes(os.urandom(2), "big") / 2**16 if random else 0.5
    def loss(model, batch, carry):
        return (model.weight - target).square().mean(), carry
    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""

SPEC = """
problem: {use: 'repeated_lines:line', random: false}
update_rule: {learning_rate: 0.01}
train: {steps: 60, checkpoint_every: 4}
sweep: {grid: {problem.random: [false, true]}}
"""

FACTS = SegmentFacts(
    num_steps=4,
    num_clipped=0,
    last_finite_loss=1.0,
    started_at=0.0,
    ended_at=1.0,
    train_s=1.0,
    evaluate_s=0.0,
    host="here",
    data="one",
)
FIRST, SECOND = SegmentId("a", 1, 0), SegmentId("a", 2, 0)

InlineRun = Callable[..., Any]


def test_a_trial_that_gives_other_rows_when_it_is_trained_again_fails_alone_and_both_copies_are_kept(
    inline_run: InlineRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "repeated_lines.py").write_text(OWN)
    stopped = inline_run(SPEC)
    stopped.stop_requested = lambda: stopped.pools.polls >= 12
    stopped()
    before = pd.read_parquet(stopped.run_dir.path / "metrics.parquet")
    state = Run(stopped.run_dir.path).state
    by_random = {trial.record.swept["problem.random"]: name for name, trial in state.trials.items()}
    steps = {name: trial.step for name, trial in state.trials.items()}
    assert min(steps.values()) >= 4, "both are under way"
    # Nothing to resume from: both are trained from the start, up to where they are committed.
    for checkpoint in stopped.run_dir.checkpoints.glob("*/*"):
        checkpoint.write_bytes(b"damaged")

    resumed = inline_run(SPEC)(max_attempts=3)
    trials = pd.read_parquet(resumed.run_dir.path / "trials.parquet").set_index("trial_id")
    moody, steady = by_random[True], by_random[False]
    assert trials["status"].to_dict() == {moody: "failed", steady: "done"}
    assert len([a for a in resumed.pools.assignments if a.trial == moody]) == 1, "a third version helps nobody"
    error = trials.loc[moody, "error"]
    assert error.startswith(f"IntegrityError: trial {moody} does not give the same rows twice: metrics, step 0, ")
    found = re.search(r"kept: (\S+) and (\S+);", error)
    assert found is not None
    first, second = (pd.read_parquet(resumed.run_dir.quarantine / Path(name).name) for name in found.groups())
    assert first["step"].tolist() == second["step"].tolist() == list(range(steps[moody]))
    assert not (first["train_loss"] == second["train_loss"]).any()
    # What was committed is what people still read.
    metrics = pd.read_parquet(resumed.run_dir.path / "metrics.parquet")
    left, right = (rows[rows["trial_id"] == moody].reset_index(drop=True) for rows in (before, metrics))
    pd.testing.assert_frame_equal(left, right, check_exact=True, check_dtype=False)
    pd.testing.assert_frame_equal(first, left[first.columns], check_exact=True, check_dtype=False)
    (line,) = [line for line in resumed.listener.lines if "does not give" in line]
    assert "clipsweep logs" in line


@pytest.fixture
def committer(tmp_path: Path) -> Committer:
    """One trial, of which steps 0 to 3 are committed."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    committer = Committer(run_dir, Journal(run_dir.journal, 0), RunState(), measurement="m")
    committer.record(Opened(driver_epoch=1, environment={}))
    planned = TrialRecord(
        trial_id="a", cell_id="c", arm="sgd", seed=0, swept={}, learning_rate=0.1, clip_norm=None, steps=10
    )
    committer.record(Planned(measurement="m", measure=None, trials=(planned,)))
    committer.add(FIRST, segment(FIRST, rows()))
    committer.commit(force=True, running=frozenset())
    return committer


def rows(**changed: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Metric columns of four steps."""
    names = ("epoch", "grad_norm", "step_size", "update_norm")
    found: dict[str, np.ndarray[Any, Any]] = {name: np.arange(4) / 4 for name in names}
    found |= {
        "learning_rate": np.full(4, 0.1),
        "threshold": np.full(4, 0.25),
        "clipped": np.zeros(4, bool),
        "step": np.arange(4),
    }
    found |= {"train_loss": np.array([1.0, 0.5, np.nan, 0.25]), "valid_loss": np.array([np.nan, 2.0, np.nan, np.nan])}
    return found | changed


def segment(name: SegmentId, columns: Mapping[str, np.ndarray[Any, Any]], **measurements: Any) -> OpenSegment:
    """Steps 0 to 3 of a trial of ten."""
    item = SegmentItem(segment=name, start=0, stop=4, rows=columns, checkpoint=None, outcome=None, facts=FACTS)
    return OpenSegment(item=item, measurements=measurements)


def test_the_same_rows_again_are_no_error(committer: Committer) -> None:
    committer.compare("a", RepeatedItem(segment=SECOND, start=0, stop=4, rows=rows()))
    half = {name: column[:2] for name, column in rows().items()}
    committer.compare("a", RepeatedItem(segment=SECOND, start=0, stop=2, rows=half))


@pytest.mark.parametrize(
    ("column", "value", "step"),
    [("train_loss", np.nextafter(0.25, 1), 3), ("valid_loss", 1.0, 2), ("clipped", True, 0), ("train_loss", np.nan, 1)],
)
def test_one_bit_of_one_row_is_found_and_named(committer: Committer, column: str, value: Any, step: int) -> None:
    changed = rows()[column].copy()
    changed[step] = value
    with pytest.raises(IntegrityError, match=rf"trial a does not .*: metrics, step {step}, {column} was .* and is"):
        committer.compare("a", RepeatedItem(segment=SECOND, start=0, stop=4, rows=rows(**{column: changed})))


def test_a_row_that_is_missing_the_second_time_is_found(committer: Committer) -> None:
    short = {name: column[:3] for name, column in rows().items()}
    with pytest.raises(IntegrityError, match="step 3 has a row only the first time"):
        committer.compare("a", RepeatedItem(segment=SECOND, start=0, stop=4, rows=short))


def test_rows_made_under_other_conditions_are_not_compared(committer: Committer) -> None:
    committer.record(Opened(driver_epoch=2, environment={"torch": "another"}))
    committer.compare("a", RepeatedItem(segment=SECOND, start=0, stop=4, rows=rows(train_loss=np.zeros(4))))
    assert not committer._run_dir.quarantine.exists()


def test_rows_of_another_gpu_are_not_compared_and_those_of_the_same_are(committer: Committer) -> None:
    gpu = {"device": "NVIDIA H100 80GB HBM3", "driver": "580.65.06"}
    third = SegmentId("a", 1, 1)
    item = SegmentItem(
        segment=third, start=4, stop=8, rows=rows(step=np.arange(4, 8)), checkpoint=None, outcome=None,
        facts=replace(FACTS, hardware=gpu),
    )  # fmt: skip
    committer.add(third, OpenSegment(item=item))
    committer.commit(force=True, running=frozenset())
    again = rows(step=np.arange(4, 8), train_loss=np.zeros(4))
    for other in ({}, gpu | {"driver": "570.1"}, gpu | {"device": "NVIDIA A100"}):
        committer.compare("a", RepeatedItem(segment=SECOND, start=4, stop=8, rows=again, hardware=other))
    with pytest.raises(IntegrityError, match="train_loss was"):
        committer.compare("a", RepeatedItem(segment=SECOND, start=4, stop=8, rows=again, hardware=gpu))
    state = replay(read_journal(committer._run_dir.journal)[0])
    assert state.trials["a"].segments[-1].facts.hardware == gpu


def test_a_committed_key_is_never_committed_again(committer: Committer) -> None:
    journal = committer._run_dir.journal.read_bytes()
    parts = sorted(path.name for path in committer._run_dir.parts.iterdir())
    committer.add(SECOND, segment(SECOND, rows(grad_norm=np.ones(4))))
    with pytest.raises(IntegrityError, match=r"trial a does not .*: metrics, step 0, grad_norm was 0\.0 and is"):
        committer.commit(force=True, running=frozenset())
    assert len(list(committer._run_dir.quarantine.iterdir())) == 2
    assert committer._run_dir.journal.read_bytes() == journal
    assert sorted(path.name for path in committer._run_dir.parts.iterdir()) == parts


def test_a_measurement_that_comes_back_another_is_refused_by_its_table(committer: Committer) -> None:
    # The rows that training gives are the same.
    measured = {"trial_id": "a", "step": 2, "epoch": 0.5, "smoothness": 3.0}
    committer.add(SECOND, segment(SECOND, rows(), directional_smoothness=[measured]))
    with pytest.raises(IntegrityError, match="measurements/directional_smoothness, step 2 has a row only this time"):
        committer.commit(force=True, running=frozenset())


def test_equal_rows_are_not_committed_twice_either(committer: Committer) -> None:
    committer.add(SECOND, segment(SECOND, rows()))
    with pytest.raises(IntegrityError, match="trial a: steps 0 to 4 would be committed twice"):
        committer.commit(force=True, running=frozenset())
