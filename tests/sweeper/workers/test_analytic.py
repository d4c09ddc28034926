"""Analytic trials from spec to rows: one call, many trials, the same tables."""

import threading
from pathlib import Path

import numpy as np
import pytest

from sweeper.planning.plan import expand
from sweeper.protocol.messages import Assignment, RaisedItem, SegmentItem
from sweeper.spec import loads_spec
from sweeper.tables.parts import metric_rows
from sweeper.workers.trainer import TrainerWorker

SPEC = """
problem:
  use: analytic
  function: {use: extremal}
  start_gradient_norm: 50
  epsilon: 1e-3
update_rule: {optimizer: sgd, learning_rate: 0.01}
train: {steps: 3000}
"""


def assignments_of(text, overrides=()):
    plan = expand(loads_spec(text, folder=Path(), overrides=list(overrides)))
    return [
        Assignment(
            trial=trial.trial_id,
            driver_epoch=1,
            attempt=1,
            seed=trial.seed,
            problem=trial.problem,
            update_rule=trial.update_rule,
            train=trial.train,
            measure=None,
        )
        for trial in plan.trials
    ]


@pytest.fixture
def worker(tmp_path):
    return TrainerWorker(run_dir=str(tmp_path), threads=1, device="cpu")


def endings(worker, assignments):
    return [item for item in worker.train(assignments) if isinstance(item, SegmentItem | RaisedItem)]


def test_a_batch_gives_an_ending_a_trial_in_the_order_of_the_batch(worker):
    rates = [0.5, 0.01, 10.0, 0.02]
    assignments = assignments_of(SPEC, [f"sweep.grid.update_rule.learning_rate={rates}", "sweep.seeds=2"])
    items = endings(worker, assignments)
    assert len(items) == 8
    for assignment, item in zip(assignments, items, strict=True):
        assert np.nanmax(item.rows["learning_rate"]) == assignment.update_rule["learning_rate"]
    assert [item.outcome for item in items] == [*["diverged"] * 2, *["done"] * 2, *["diverged"] * 2, *["done"] * 2]
    columns = [item.facts.columns for item in items]
    assert [c["hitting_status"] for c in columns[::2]] == ["diverged", "hit", "diverged", "hit"]
    # Without noise a seed changes nothing.
    assert columns[2]["hitting_time"] == columns[3]["hitting_time"] == items[2].stop


def test_only_the_first_and_the_last_iterate_are_rows_unless_more_are_asked_for(worker):
    (short,) = endings(worker, assignments_of(SPEC))
    (long,) = endings(worker, assignments_of(SPEC, ["train.log_every=100"]))
    assert short.rows["step"].tolist() == [0, short.stop]
    assert long.rows["step"].tolist() == [*range(0, long.stop, 100), long.stop]
    assert short.rows["full_grad_norm"][0] == pytest.approx(50)
    assert short.rows["full_grad_norm"][-1] <= 1e-3


def test_the_last_iterate_s_row_has_no_step_where_the_trial_ended_before_its_cap(worker):
    (item,) = endings(worker, assignments_of(SPEC))
    table = metric_rows([("a", item.rows, item.stop)])
    assert table["train_loss"].null_count == 1
    assert table["gap"].null_count == 0


@pytest.mark.parametrize("theory", ["theorem3", "theorem6", "theorem7", "normalized", "vankov2024"])
def test_a_theorem_s_rule_tells_what_it_set_and_what_it_promises(worker, theory):
    text = SPEC.replace("learning_rate: 0.01", f"from_theory: {theory}")
    (item,) = endings(worker, assignments_of(text, ["train.steps=20000"]))
    columns = item.facts.columns
    assert columns["L0"] == columns["L1"] == 1
    assert columns["M"] == pytest.approx(50)
    assert columns["learning_rate"] > 0
    assert (columns["iteration_bound"] is None) == (theory == "normalized")
    if theory != "normalized":
        assert columns["hitting_time"] <= columns["iteration_bound"]


def test_a_start_that_does_not_exist_fails_its_trial_alone(worker):
    good, bad = assignments_of(SPEC), assignments_of(SPEC)
    problem = {**bad[0].problem, "function": {"use": "logistic", "slope": 1.0, "L1": 0.0}}
    broken = Assignment(**{**vars(bad[0]), "problem": problem})
    items = endings(worker, [broken, *good])
    assert isinstance(items[0], RaisedItem)
    assert "no point of gradient norm" in items[0].error
    assert items[1].outcome == "done"


def test_stopping_keeps_what_has_ended_and_gives_back_the_rest(worker):
    endless = assignments_of(SPEC, ["update_rule.learning_rate=1e-15", "train.steps=9007199254740992"])
    quick = assignments_of(SPEC)
    timer = threading.Timer(0.5, worker.stop)
    timer.start()
    try:
        items = endings(worker, [*quick, *endless, *quick])
    finally:
        timer.cancel()
    assert [item.outcome for item in items] == ["done", "stopped"]
    assert items[1].stop == 0
    assert len(items[1].rows["step"]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("update_rule.optimizer=adam", "update_rule.optimizer: has no meaning for an analytic function, found 'adam'"),
        ("train.accumulate=2", "train.accumulate: has no meaning for an analytic function, found 2"),
        ("train.max_loss=3", "train.max_loss: has no meaning for an analytic function, found 3"),
        ("problem.start=1", "one of start, start_gradient_norm, start_gap says where to start"),
        ("measure.every=1", "measure: has no meaning for analytic functions"),
        ("update_rule.from_theory=theorem3", "theorem3 sets the whole rule, so learning_rate has no effect"),
        ("problem.function.use=quadratric", "unknown function 'quadratric'"),
    ],
)
def test_what_has_no_meaning_is_an_error_with_its_place(override, message):
    with pytest.raises(ValueError, match=r"(?s)" + message.replace("(", r"\(")):
        assignments_of(SPEC, [override])


@pytest.mark.parametrize(
    ("function", "theory", "message"),
    [
        ("extremal", "theorem8", "theorem8 needs a gradient that is bounded on the whole space"),
        ("quadratic", "theorem7", "theorem7 needs L1 > 0"),
        ("logistic, L1: 2", "theorem3", "theorem3 needs L0 > 0"),
    ],
)
def test_a_theorem_that_says_nothing_of_a_function_is_refused(function, theory, message):
    text = SPEC.replace("{use: extremal}", f"{{use: {function}}}").replace("start_gradient_norm: 50", "start_gap: 1")
    with pytest.raises(ValueError, match=message):
        assignments_of(text.replace("learning_rate: 0.01", f"from_theory: {theory}"))


def test_a_theorem_needs_a_function_whose_constants_are_known():
    text = "problem: {use: deep_linear}\nupdate_rule: {from_theory: theorem3}\ntrain: {steps: 5}\n"
    with pytest.raises(ValueError, match="theorem3 needs L0 and L1, which are known only for analytic functions"):
        assignments_of(text)


def test_theorems_are_told_the_constants_of_the_class_where_they_are_given(worker):
    text = SPEC.replace("learning_rate: 0.01", "from_theory: theorem3")
    (item,) = endings(worker, assignments_of(text, ["problem.assume={L0: 2, L1: 4}"]))
    assert item.facts.columns["learning_rate"] == pytest.approx(1 / 20)
    assert item.facts.columns["clip_norm"] == pytest.approx(0.5)
    (refused,) = endings(worker, assignments_of(text, ["problem.assume={L0: 0.5, L1: 4}"]))
    assert isinstance(refused, RaisedItem)
    assert "is not (0.5, 4.0)-smooth" in refused.error
