"""Estimators of the user's own: found, hashed, tried, run beside the registered ones, kept in one table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.check import check_sweep
from sweeper.errors import SpecError
from sweeper.planning.plan import expand, measurement_id
from sweeper.planning.preview import plan_document
from sweeper.spec import Sweep, load_spec

CODE = """
import torch

def cosine(*, scale=1.0):
    def measure(probe, iterates):
        (_, here), (_, there) = map(probe.value_and_gradient, iterates)
        turn = torch.dot(here, there) / (here.norm() * there.norm())
        return {"cosine": scale * turn, "norm": here.norm()}

    return measure

def fails(**options):
    def measure(probe, iterates):
        raise RuntimeError("cannot be measured so")

    return measure

def remembers():
    seen = []

    def measure(probe, iterates):
        seen.append(1)
        return {"count": len(seen)}

    return measure

def says(*, what):
    return lambda probe, iterates: what
"""
SPEC = """
name: own
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 12, checkpoint_every: 5}
measure:
  every: 4
  data_fraction: 0.5
  estimators: [{use: directional_smoothness, delta: 0.5}, OWN]
sweep: {seeds: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the module, which no test before has imported."""
    place = tmp_path / "here"
    place.mkdir()
    (place / "my_estimators.py").write_text(CODE)
    sys.modules.pop("my_estimators", None)
    return place


def text(own: str = '{use: "my_estimators:cosine", scale: 2.0}') -> str:
    return SPEC.replace("OWN", own)


def spec(folder: Path, own: str = '{use: "my_estimators:cosine", scale: 2.0}') -> Sweep:
    (folder / "own.yaml").write_text(text(own))
    return load_spec(folder / "own.yaml")


def test_what_they_say_is_in_a_table_of_their_own_beside_the_others(
    inline_run: Callable[..., Any], folder: Path
) -> None:
    run = inline_run(text())()
    own = pd.read_parquet(run.run_dir.path / "measurements" / "own.parquet")
    smoothness = pd.read_parquet(run.run_dir.path / "measurements" / "directional_smoothness.parquet")
    both = own.merge(smoothness, on=["trial_id", "step"], suffixes=("", "_other"))
    assert len(own) == len(smoothness) == len(both) == 6
    assert own["error"].isna().all()
    for row in both.itertuples():
        values = dict(zip(row.names, row.values, strict=True))
        assert values["my_estimators:cosine.norm"] == pytest.approx(row.grad_norm, rel=1e-5)
        assert 1.5 < values["my_estimators:cosine.cosine"] <= 2.0001


def test_under_random_deaths_they_say_the_same(inline_run: Callable[..., Any], folder: Path) -> None:
    quiet = inline_run(text())().run_dir.path
    other = folder.parent / "disturbed"
    other.mkdir()
    (other / "my_estimators.py").write_text(CODE)
    disturbed = inline_run(text(), name="disturbed", chaos=0.3, seed=1)()
    assert disturbed.pools.deaths
    left, right = (pd.read_parquet(path / "measurements" / "own.parquet") for path in (quiet, disturbed.run_dir.path))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_one_that_fails_does_so_alone_and_says_why(inline_run: Callable[..., Any], folder: Path) -> None:
    run = inline_run(text('{use: "my_estimators:fails"}, {use: "my_estimators:cosine"}'))()
    own = pd.read_parquet(run.run_dir.path / "measurements" / "own.parquet")
    assert own["error"].str.contains("my_estimators:fails: RuntimeError: cannot be measured so").all()
    assert (own["names"].apply(len) == 2).all()
    assert pd.read_parquet(run.run_dir.path / "measurements" / "directional_smoothness.parquet")["error"].isna().all()


@pytest.mark.parametrize(
    ("what", "message"),
    [("3", "returned int, not names with numbers"), ("{a: b}", "a = 'b', which is not a number")],
)
def test_what_is_no_number_is_said_to_be_none(
    inline_run: Callable[..., Any], folder: Path, what: str, message: str
) -> None:
    run = inline_run(text(f'{{use: "my_estimators:says", what: {what}}}'))()
    own = pd.read_parquet(run.run_dir.path / "measurements" / "own.parquet")
    assert own["error"].str.contains(message, regex=False).all()


def test_their_code_is_planned_and_counts_in_the_id_of_what_is_measured(folder: Path) -> None:
    sweep = spec(folder)
    plan = expand(sweep)
    assert [found["use"] for found in plan_document(sweep, folder / "run")["code"]] == ["my_estimators:cosine"]
    before = measurement_id(sweep.measure, plan.code)
    assert before != measurement_id(sweep.measure)
    ids = [trial.trial_id for trial in plan.trials]
    (folder / "my_estimators.py").write_text(CODE + "\n# changed\n")
    after = expand(sweep)
    assert measurement_id(sweep.measure, after.code) != before
    assert [trial.trial_id for trial in after.trials] == ids, "what is trained is the same"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ('{use: "my_estimators:cosin"}', "did you mean 'cosine'"),
        ('{use: "my_estimator:cosine"}', "no module 'my_estimator'"),
        ("{use: directional_smothness}", "did you mean 'directional_smoothness'"),
    ],
)
def test_one_that_there_is_not_is_refused_with_what_there_is(folder: Path, own: str, message: str) -> None:
    with pytest.raises(SpecError, match=r"own\.yaml") as caught:
        expand(spec(folder, own))
    assert message in str(caught.value)


def test_check_tries_them_in_a_process_apart(folder: Path) -> None:
    def found(own: str) -> dict[str, Any]:
        return {one.finding.promise: one.finding for one in check_sweep(spec(folder, own))}

    good = found('{use: "my_estimators:cosine"}')["a snapshot can be measured: my_estimators:cosine"]
    assert good.status == "ok", good
    remembering = found('{use: "my_estimators:remembers"}')["a snapshot can be measured: my_estimators:remembers"]
    assert remembering.broken is not None
    assert "when it is asked again" in remembering.broken
    failing = found('{use: "my_estimators:fails"}')["a snapshot can be measured: my_estimators:fails"]
    assert failing.broken is not None
    assert "cannot be measured so" in failing.broken


def test_a_snapshot_that_cannot_be_measured_has_a_row_there_too(inline_run: Callable[..., Any], folder: Path) -> None:
    run = inline_run(text(), chaos=0.0)
    hangs = run.pools.measure

    def lose(slot: int, snapshot: Any, header: Any, payload: Any) -> None:
        hangs(slot, snapshot, header, payload if snapshot.step else payload[:, :3])

    run.pools.measure = lose
    run(max_attempts=2)
    own = pd.read_parquet(run.run_dir.path / "measurements" / "own.parquet").set_index("step")
    assert own.loc[0, "error"].notna().all()
    assert own.loc[4, "error"].isna().all()
