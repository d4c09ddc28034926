"""A spec, or code of the user's own, that changes between two calls of ``clipsweep run`` in one directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.errors import RunDirectoryError
from sweeper.monitor.status import retry, run_status
from sweeper.planning.preview import plan_document, plan_text
from sweeper.protocol.consent import Consent
from sweeper.report.summary import build_report
from sweeper.run import run_sweep
from sweeper.spec import loads_spec
from sweeper.store.journal import Journal, open_state
from sweeper.store.records import Failed
from sweeper.store.run_dir import RunDir
from sweeper.tables.readable import trials_table
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 20, checkpoint_every: 4}
sweep: {grid: {update_rule.learning_rate: [0.01, 0.02]}, seeds: 2}
"""

OWN = """
import torch
from torch import nn
from trainers.problem import Problem

def line(*, seed, device):
    def loss(model, batch, carry):
        return (model.weight - 1.0).square().mean(), carry
    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""

OWN_SPEC = """
problem: {use: 'changing_lines:line'}
update_rule: {learning_rate: 0.1}
train: {steps: 80, checkpoint_every: 4}
"""

InlineRun = Callable[..., Any]
RunAgain = Callable[..., list[str]]


@pytest.fixture
def begun(inline_run: InlineRun, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RunDir]:
    """``begun(text)``: a run with rows of some of its trials and none at its end; no worker is started after it."""
    monkeypatch.setattr("sweeper.driver.commit._GROUP_S", 0.0)

    def make(text: str) -> RunDir:
        run = inline_run(text)
        run.stop_requested = lambda: run.pools.polls >= 6
        run()
        assert any(trial.segments and not trial.resolved for trial in open_state(run.run_dir).trials.values())
        monkeypatch.setattr("sweeper.run._drive", lambda *arguments, **options: False)
        return run.run_dir

    return make


@pytest.fixture
def run_again(new_listener: Callable[[], Any]) -> RunAgain:
    """``clipsweep run`` with another text, up to the point at which workers would start; returns what it says."""

    def again(run_dir: RunDir, text: str, **options: Any) -> list[str]:
        listener = new_listener()
        sweep = loads_spec(text, folder=run_dir.path.parent)
        run_sweep(sweep, out=run_dir.path, listener=listener, consent=Consent(new_measurement=True, **options))
        lines: list[str] = listener.lines
        return lines

    return again


@pytest.mark.parametrize(
    ("old", "new", "added"),
    [
        ("[0.01, 0.02]", "[0.01, 0.02, 0.04]", 2),
        ("seeds: 2", "seeds: 3", 2),
        ("[0.01, 0.02]}", "[0.01, 0.02], update_rule.clip_norm: [null, 0.5]}", 4),
        # A value that is left out leaves its trials behind, but no other stands in their place.
        ("[0.01, 0.02]", "[0.01, 0.04]", 2),
        ("grid: {update_rule.learning_rate: [0.01, 0.02]}, seeds: 2", "seeds: [0, 1, 2]", 1),
        # What no result hangs on is no change at all.
        ("checkpoint_every: 4", "checkpoint_every: 7", 0),
    ],
)
def test_what_adds_cells_or_seeds_runs_without_a_question(
    begun: Callable[[str], RunDir], old: str, new: str, added: int, run_again: RunAgain
) -> None:
    run_dir = begun(SPEC)
    before = set(open_state(run_dir).trials)
    changed = SPEC.replace(old, new)
    assert changed != SPEC
    run_again(run_dir, changed)
    state = open_state(run_dir)
    assert len(set(state.trials) - before) == added
    assert state.superseded == set()


@pytest.mark.parametrize(
    ("edits", "diff"),
    [
        ({"batch_size: 4": "batch_size: 8"}, ["-problem.batch_size: 4", "+problem.batch_size: 8"]),
        ({"steps: 20": "steps: 40"}, ["-train.steps: 20", "+train.steps: 40"]),
        ({"{learning_rate: 0.01}": "{learning_rate: 0.01, momentum: 0.9}"}, ["+update_rule.momentum: 0.9"]),
        # Together with another grid, so that no trial has the place of an earlier one.
        (
            {"batch_size: 4": "batch_size: 8", "0.02]}": "0.02], update_rule.clip_norm: [null, 0.5]}"},
            ["-problem.batch_size: 4", "+problem.batch_size: 8"],
        ),
    ],
)
def test_what_changes_the_meaning_of_every_cell_is_refused_with_a_diff(
    begun: Callable[[str], RunDir], edits: dict[str, str], diff: list[str], run_again: RunAgain
) -> None:
    run_dir = begun(SPEC)
    journal, resolved = run_dir.journal.read_bytes(), run_dir.resolved.read_bytes()
    changed = SPEC
    for old, new in edits.items():
        changed = changed.replace(old, new)
    with pytest.raises(RunDirectoryError, match="the spec changed, so other trials") as caught:
        run_again(run_dir, changed)
    text = str(caught.value)
    for line in diff:
        assert f"  {line}\n" in text
    assert "width" not in text, "what did not change is not shown"
    assert "Continue with --accept-change, restore what changed, or choose another directory with --out" in text
    assert (run_dir.journal.read_bytes(), run_dir.resolved.read_bytes()) == (journal, resolved), "nothing was touched"


def test_an_accepted_change_leaves_the_earlier_trials_out_of_reports_and_is_asked_once(
    begun: Callable[[str], RunDir], inline_run: InlineRun, run_again: RunAgain
) -> None:
    run_dir = begun(SPEC)
    before = set(open_state(run_dir).trials)
    changed = SPEC.replace("batch_size: 4", "batch_size: 8")
    lines = run_again(run_dir, changed, change=True)
    assert any("4 new trials in place of 4 of an earlier spec" in line for line in lines)
    assert open_state(run_dir).superseded == before
    # From here on more seeds are only more seeds.
    grown = changed.replace("seeds: 2", "seeds: 3")
    run_again(run_dir, grown)
    inline_run(grown)()
    trials = pd.read_parquet(run_dir.path / "trials.parquet").set_index("trial_id")
    assert set(trials.index[trials["superseded"]]) == before
    assert (trials.loc[~trials["superseded"], "status"] == "done").all()
    report = build_report(Run(run_dir.path))
    assert [cell.seeds for cell in report.cells] == [3, 3], "two cells, not mixed with those of the earlier spec"
    assert any("4 trials of an earlier spec or earlier code are left out" in note for note in report.notes)
    assert run_status(run_dir.path)["counts"] == {"done": 6}
    assert run_status(run_dir.path)["superseded"] == 4


def test_going_back_to_the_earlier_spec_is_a_change_too_and_takes_its_trials_up_again(
    begun: Callable[[str], RunDir],
    run_again: RunAgain,
) -> None:
    run_dir = begun(SPEC)
    before = set(open_state(run_dir).trials)
    changed = SPEC.replace("batch_size: 4", "batch_size: 8")
    run_again(run_dir, changed, change=True)
    after = set(open_state(run_dir).trials) - before
    # Nothing of the changed spec was trained yet, so that going back costs nothing and asks nothing.
    run_again(run_dir, SPEC)
    assert open_state(run_dir).superseded == after


def test_a_change_before_anything_was_trained_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_again: RunAgain
) -> None:
    monkeypatch.setattr("sweeper.run._drive", lambda *arguments, **options: False)
    run_dir = RunDir(tmp_path / "run")
    run_again(run_dir, SPEC)
    lines = run_again(run_dir, SPEC.replace("batch_size: 4", "batch_size: 8"))
    assert any("-problem.batch_size: 4" in line for line in lines), "it is told all the same"


def test_changed_code_of_the_users_own_is_named_file_by_file_and_wants_accept_drift(
    begun: Callable[[str], RunDir], tmp_path: Path, run_again: RunAgain
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "changing_lines.py").write_text(OWN)
    run_dir = begun(OWN_SPEC)
    (earlier,) = open_state(run_dir).trials.values()
    (folder / "changing_lines.py").write_text(OWN.replace("1.0).square", "2.0).square"))
    with pytest.raises(RunDirectoryError, match=r"your own code changed") as caught:
        run_again(run_dir, OWN_SPEC)
    text = str(caught.value)
    assert f"code of changing_lines:line: {earlier.record.code.sha256[:12]} -> " in text
    assert "\n    changing_lines.py: " in text
    assert "Continue with --accept-drift, restore" in text
    both = OWN_SPEC.replace("0.1", "0.2")
    with pytest.raises(RunDirectoryError, match=r"Continue with --accept-change --accept-drift"):
        run_again(run_dir, both)
    with pytest.raises(RunDirectoryError, match=r"Continue with --accept-change,"):
        run_again(run_dir, both, drift=True)
    run_again(run_dir, OWN_SPEC, drift=True)
    trials = trials_table(open_state(run_dir), None).to_pandas()
    assert trials["code_id"].nunique() == 2, "rows of the two are marked"
    assert sorted(trials["superseded"]) == [False, True]


def test_plan_shows_the_change_and_what_a_run_will_ask_for(begun: Callable[[str], RunDir]) -> None:
    run_dir = begun(SPEC)
    changed = loads_spec(SPEC.replace("batch_size: 4", "batch_size: 8"), folder=run_dir.path.parent)
    document = plan_document(changed, run_dir.path)
    # Runs of these tests have another id for their measure section than the command line would give it.
    assert document["asks_for"] == ["--accept-change", "--new-measurement"]
    assert "+problem.batch_size: 8" in plan_text(document)
    same = plan_document(loads_spec(SPEC, folder=run_dir.path.parent), run_dir.path)
    assert (same["asks_for"], same["change"]) == (["--new-measurement"], None)


def test_a_change_is_seen_though_the_resolved_spec_is_gone(begun: Callable[[str], RunDir], run_again: RunAgain) -> None:
    run_dir = begun(SPEC)
    run_dir.resolved.write_text("- [")
    with pytest.raises(RunDirectoryError, match="--accept-change"):
        run_again(run_dir, SPEC.replace("batch_size: 4", "batch_size: 8"))
    run_again(run_dir, SPEC.replace("seeds: 2", "seeds: 3"))


def give_up(run_dir: RunDir, trial: str) -> None:
    """Note a trial's last failure, as a driver does."""
    failed = Failed(trial=trial, driver_epoch=1, attempt=3, kind="raised", error="no", final=True)
    Journal(run_dir.journal, open_state(run_dir).next_number).append(failed)


def test_a_retry_of_all_leaves_out_failed_trials_that_a_changed_spec_has_superseded(
    begun: Callable[[str], RunDir],
    run_again: RunAgain,
) -> None:
    run_dir = begun(SPEC)
    old = next(name for name, trial in open_state(run_dir).trials.items() if trial.segments)
    give_up(run_dir, old)
    run_again(run_dir, SPEC.replace("width: 4", "width: 5"), change=True)
    state = open_state(run_dir)
    assert old in state.superseded
    new = next(name for name in state.trials if name not in state.superseded)
    give_up(run_dir, new)

    retried = retry(run_dir.path, [])
    assert (len(retried.queued), retried.left_out) == (1, 1)
    state = open_state(run_dir)
    assert (state.trials[old].status(), state.trials[new].status()) == ("failed", "queued")
    with pytest.raises(RunDirectoryError, match=f"trial {old} is superseded: .*run the earlier spec with"):
        retry(run_dir.path, [old])
    assert retry(run_dir.path, []).queued == {}, "the other waits already"

    # Of the earlier spec, it may be tried again.
    run_again(run_dir, SPEC, change=True)
    assert len(retry(run_dir.path, [old]).queued) == 1
