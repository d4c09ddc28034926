"""``clipsweep check`` on problems that break one promise each, and the tutorial as it is written."""

import difflib
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from sweeper.check import check_sweep
from sweeper.errors import ClipsweepError
from sweeper.report.summary import build_report
from sweeper.spec import load_spec, loads_spec
from sweeper.tables.run import Run
from trainers.problem import Problem
from trainers.training.selftest import examine

DOCS = Path(__file__).resolve().parents[2] / "docs"
INPUTS = torch.linspace(-1, 1, 40)[:, None]


def sound(seed):
    torch.manual_seed(seed)
    return Problem(
        model=nn.Linear(1, 1),
        loss=lambda model, rows, carry: ((model(INPUTS[rows]) - INPUTS[rows] ** 2).square().mean(), carry),
        batch=lambda step: (torch.arange(8) + 8 * step) % 40,
        probe=lambda fraction: [torch.arange(8), torch.arange(8, 16)],
        evaluate=lambda model: {"loss": float(model(INPUTS).mean())},
        steps_per_epoch=5,
        fingerprint="line",
    )


def broken(build):
    return {finding.promise: finding for finding in examine(build) if not finding.holds}


def test_patterns_of_groups_are_tried_on_the_parameters_of_the_problem():
    groups = """
problem: {use: deep_linear, layers: 2, width: 3, samples: 8}
update_rule: {learning_rate: 0.1}
train: {steps: 5}
sweep:
  cases:
    - {update_rule.clip_groups: [{match: "*", clip_norm: 1}]}
    - {update_rule.clip_groups: [{match: "weights.*", clip_norm: 1}]}
"""
    promise = "every pattern of clip_groups matches a parameter"
    (fine,) = [one.finding for one in check_sweep(loads_spec(groups, folder=Path())) if one.finding.promise == promise]
    assert fine.holds
    wrong = groups.replace("weights.*", "weigth*")
    (found,) = [one.finding for one in check_sweep(loads_spec(wrong, folder=Path())) if one.finding.promise == promise]
    assert (found.status, found.broken) == (
        "broken",
        "clip_groups: no parameter's name matches 'weigth*'; did you mean weights.1, weights.0?",
    )
    assert "update_rule.clip_groups" in found.fix
    plain = groups[: groups.index("sweep")]
    assert promise not in [one.finding.promise for one in check_sweep(loads_spec(plain, folder=Path()))]


def unseeded(seed):
    problem = sound(seed)
    nn.init.normal_(problem.model.weight, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
    return problem


def one_seed(seed):
    return sound(7)


def stateful_batches(seed):
    stream = iter(range(10**6))
    return replace(sound(seed), batch=lambda step: (torch.arange(8) + next(stream)) % 40)


def exploding(seed):
    return replace(sound(seed), loss=lambda model, rows, carry: (model(INPUTS[rows]).mean() / 0.0, carry))


def unused(seed):
    problem = sound(seed)
    problem.model.spare = nn.Linear(1, 1)
    return problem


def noisy_loss(seed):
    generator = torch.Generator()
    generator.seed()
    problem = sound(seed)

    def loss(model, rows, carry):
        return problem.loss(model, rows, carry)[0] + torch.rand((), generator=generator), carry

    return replace(problem, loss=loss)


def hidden_state(seed):
    problem, held = sound(seed), [0.0]

    def loss(model, rows, carry):
        held[0] += 1.0
        return problem.loss(model, rows, carry)[0] * held[0], carry

    return replace(problem, loss=loss)


def seeded_probe(seed):
    return replace(sound(seed), probe=lambda fraction: [torch.arange(8) + seed])


def ragged_probe(seed):
    return replace(sound(seed), probe=lambda fraction: [torch.arange(8), torch.arange(3)])


def training_evaluation(seed):
    def evaluate(model):
        model.weight.data += 1
        return {}

    return replace(sound(seed), evaluate=evaluate)


def test_an_evaluation_that_is_not_finite_is_noted_and_breaks_nothing():
    def build(seed):
        return replace(sound(seed), evaluate=lambda model: {"corr": float("nan"), "acc": 0.5, "ppl": float("inf")})

    (finding,) = (found for found in examine(build) if found.promise == "evaluating gives numbers and changes nothing")
    assert finding.holds
    assert finding.note == (
        "corr is nan, ppl is inf at the initial weights; a report counts such values and ranks them last"
    )


def test_probe_batches_of_another_size_than_trainings_are_noted_under_batch_normalisation():
    def build(seed, rows=8, norm=nn.BatchNorm1d):
        problem = sound(seed)
        model = nn.Sequential(nn.Linear(1, 1), norm(1))
        return replace(
            problem,
            model=model,
            loss=lambda model, rows, carry: (
                model(rows[:, None].float()).square().mean() + model[0].weight.sum(),
                carry,
            ),
            batch=lambda step: torch.arange(8) + step % 2,
            probe=lambda share: [torch.arange(rows)],
        )

    def note(build):
        return next(found.note for found in examine(build) if found.promise.startswith("the probe is frozen"))

    assert note(partial(build, rows=5)).startswith("a batch of probe(0.1) is (5,), one of training (8,): batch norm")
    assert note(build) == ""
    assert note(partial(build, rows=5, norm=nn.LayerNorm)) == ""


def test_a_sound_problem_keeps_all_its_promises():
    assert broken(sound) == {}


@pytest.mark.parametrize(
    ("build", "promise", "found"),
    [
        (unseeded, "the same seed gives the same initial weights", "weights differ by up to"),
        (one_seed, "another seed gives other weights", "start from the same weights"),
        (
            stateful_batches,
            "batch(step) is a pure function of the step",
            "returns a different batch when it is called again",
        ),
        (exploding, "loss and gradient are finite at the initial weights", "the loss at the initial weights is"),
        (
            unused,
            "loss and gradient are finite at the initial weights",
            "the loss does not depend on spare.weight and 1",
        ),
        (noisy_loss, "the same weights and batch give the same loss and gradient", "gave the losses"),
        (hidden_state, "a resumed trial continues bit for bit", "after a resume gave loss"),
        (seeded_probe, "the probe is frozen, and its batches all have the same size", "depends on the seed"),
        (ragged_probe, "the probe is frozen, and its batches all have the same size", "of different sizes"),
        (
            lambda seed: replace(sound(seed), metrics={"valid_f1": "max"}),
            "evaluating gives numbers and changes nothing",
            "metrics declares 'valid_f1', which evaluate does not return",
        ),
        (
            lambda seed: replace(
                sound(seed), evaluate=lambda model: {"test_loss": 1.0}, test=lambda model: {"test_loss": 1.0}
            ),
            "evaluating gives numbers and changes nothing",
            "evaluate and test both return 'test_loss'",
        ),
        (training_evaluation, "evaluating gives numbers and changes nothing", "evaluating changed the weights"),
    ],
)
def test_a_broken_promise_is_found_and_says_how_to_fix_it(build, promise, found):
    finding = broken(build)[promise]
    assert found in finding.broken
    assert finding.fix


def test_a_promise_that_raises_is_broken_and_the_others_are_tried():
    findings = list(examine(lambda seed: replace(sound(seed), probe=lambda fraction: 1 / 0)))
    (raised,) = [finding.raised for finding in findings if not finding.holds]
    assert isinstance(raised, ZeroDivisionError)
    assert len(findings) == 8


def test_a_batch_with_missing_values_is_pure_and_only_its_loss_is_broken():
    """NaN differs from NaN, but a batch that holds it is the same batch."""

    def build(seed):
        return replace(sound(seed), batch=lambda step: torch.full((8, 1), float("nan")), loss=of_values)

    def of_values(model, values, carry):
        return (model(values) - values).square().mean(), carry

    assert {promise: finding.broken for promise, finding in broken(build).items()} == {
        "loss and gradient are finite at the initial weights": "the loss at the initial weights is nan"
    }


@pytest.mark.parametrize("step", [0, 5, 16])
def test_an_empty_batch_is_one_broken_promise_that_says_how_to_take_rows(step):
    def build(seed):
        problem = sound(seed)
        return replace(problem, batch=lambda k: problem.batch(k)[: 0 if k >= step else 8])

    findings = [finding for finding in examine(build) if not finding.holds]
    assert findings[0].promise == "batch(step) is a pure function of the step"
    assert findings[0].broken == f"batch({step}) holds no example"
    assert "step % steps_per_epoch" in findings[0].fix
    assert {finding.untested for finding in findings[1:]} <= {"batch(0) holds no example"}
    assert len(findings) == (4 if step == 0 else 1)


@pytest.mark.parametrize(
    ("probe", "found"),
    [
        (lambda share: [], r"probe\(0.1\) holds no batch"),
        (lambda share: [torch.arange(8), torch.arange(0)], r"batch 1 of probe\(0.1\) holds no example"),
        (lambda share: [torch.arange(int(80 * share))] if share > 0.05 else [], r"probe\(0.01\) holds no batch"),
    ],
)
def test_an_empty_probe_is_broken_for_the_share_that_is_measured_and_for_the_one_that_is_audited(probe, found):
    (finding,) = (f for f in examine(lambda seed: replace(sound(seed), probe=probe), shares=(0.1, 0.01)) if not f.holds)
    assert re.match(found, finding.broken)
    assert "max(1, int(share * number of examples))" in finding.fix


def test_code_that_is_not_shipped_is_found_before_a_cluster_finds_it(tmp_path, monkeypatch):
    """A module beside the spec that imports a neighbour: only the module itself is shipped."""
    (tmp_path / "lonely_problem.py").write_text("from lonely_neighbour import make as problem\n__all__ = ['problem']\n")
    (tmp_path / "lonely_neighbour.py").write_text("def make(*, seed): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "problem: {use: 'lonely_problem:problem'}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 1}\n"
    first = next(iter(check_sweep(loads_spec(text, folder=tmp_path)))).finding
    assert not first.holds
    assert "lonely_neighbour" in first.broken
    assert "one package" in first.fix


def test_analytic_functions_have_nothing_to_check():
    text = "problem: {use: analytic, function: {use: extremal}, start: 1}\nupdate_rule: {learning_rate: 1}\n"
    with pytest.raises(ClipsweepError, match="nothing to check"):
        list(check_sweep(loads_spec(text + "train: {steps: 1}\n", folder=Path())))


# What would be measured

LINES = """
import torch
from torch import nn
from trainers.problem import Problem

INPUTS = torch.linspace(-1, 1, 40)[:, None]


def line(*, seed, how="batch"):
    model = nn.Linear(1, 1, dtype=torch.complex64 if how == "complex" else None)
    other, generator = nn.Linear(1, 1), torch.Generator()

    def loss(given, batch, carry):
        if how == "closure":
            return ((given(INPUTS[:8]) - INPUTS[:8] ** 2).square().mean(), carry)
        if how == "own model":
            return ((model(batch) - batch**2).square().mean(), carry)
        if how == "random":
            batch = batch + torch.rand(1)
        if how == "own generator":
            batch = batch + torch.rand(1, generator=generator)
        if how == "detached" and not given.training or how == "detached in training":
            given = nn.Linear(1, 1).requires_grad_(False)
        if how == "other model":
            given = other
        if how == "replaced":
            given.weight = nn.Parameter(given.weight * 1)
        if how == "deep copy":
            if batch.dtype == torch.float32 and given is not model:
                raise RuntimeError("no copies, please")
        return ((given(batch) - batch**2).square().mean(), carry)

    batch = INPUTS[:8]
    probe = {"nan probe": batch * float("nan"), "empty probe": batch[:0]}.get(how, batch)
    return Problem(model=model, loss=loss,
                   batch=lambda step: None if how == "no batch" else batch, probe=lambda fraction: [probe],
                   evaluate=lambda model: {"loss": 0.0}, steps_per_epoch=5, fingerprint=how)
"""

MEASURED = """
problem: {use: "checked_lines:line", how: HOW}
update_rule: {learning_rate: 0.1}
train: {steps: 4}
measure: {every: 1, estimators: [{use: directional_smoothness}, {use: hessian_spectral_norm}]}
"""


@pytest.mark.parametrize(
    ("how", "broken", "note"),
    [
        ("batch", "", ""),
        ("closure", "", "rows say `unaudited`"),
        ("own model", None, "what would be measured is not a function of the parameters"),
        ("deep copy", None, "checked_lines.py:30 raises RuntimeError"),
        ("nan probe", "the norm of its gradient is nan at the initial weights, that of training 1", ""),
        ("empty probe", None, "the probe holds no example"),
    ],
)
def test_one_snapshot_is_measured_by_every_estimator_of_the_spec(tmp_path, how, broken, note):
    (tmp_path / "checked_lines.py").write_text(LINES)
    sweep = loads_spec(MEASURED.replace("HOW", how), folder=tmp_path)
    found = [c.finding for c in check_sweep(sweep) if "can be measured" in c.finding.promise]
    smoothness, spectral_norm = found
    assert smoothness.promise.endswith(": directional_smoothness")
    assert spectral_norm.promise.endswith(": hessian_spectral_norm")
    if broken is None:
        assert (smoothness.status, smoothness.untested) == (spectral_norm.status, spectral_norm.untested)
        assert (smoothness.status, smoothness.untested) == ("untested", note)
        return
    assert broken in smoothness.broken
    assert smoothness.holds == spectral_norm.holds == (not broken)
    assert note in smoothness.note
    assert not spectral_norm.note


@pytest.mark.parametrize(
    ("how", "found", "fix"),
    [
        ("batch", "", ""),
        ("nan probe", "", ""),
        (
            "own model",
            r"the gradient of the copy .* is exactly 0, that of the model itself has the norm 1.*: loss "
            r"\(checked_lines.py:13\) uses 'model' from outside of it, which holds the model",
            "use the model that the loss is given",
        ),
        ("deep copy", "RuntimeError: no copies, please", ""),
        ("random", r"the same parameters gave the losses \d\.\d+ and \d\.\d+", "draw no random numbers"),
        ("own generator", r"the same parameters gave the losses \d\.\d+ and \d\.\d+", "draw no random numbers"),
        ("detached", "ValueError: the loss does not depend on the parameters of the model that it is given", ""),
    ],
)
def test_what_is_measured_must_be_a_function_of_the_parameters_of_a_copy(tmp_path, how, found, fix):
    (tmp_path / "checked_lines.py").write_text(LINES)
    sweep = loads_spec(MEASURED.replace("HOW", how), folder=tmp_path)
    (of_f,) = [c.finding for c in check_sweep(sweep) if c.finding.promise.startswith("what is measured is a function")]
    assert re.match(found or "$", of_f.broken)
    assert (of_f.status == "ok") is not bool(found)
    assert of_f.fix.startswith(fix)


def test_sparse_gradients_are_as_finite_as_dense_ones():
    def build(seed):
        torch.manual_seed(seed)
        return replace(
            sound(seed),
            model=nn.Embedding(40, 1, sparse=True),
            loss=lambda model, rows, carry: (model(rows).square().mean(), carry),
            evaluate=lambda model: {},
        )

    assert broken(build) == {}


def test_what_reaches_no_parameter_is_told_once(tmp_path):
    (tmp_path / "checked_lines.py").write_text(LINES)
    found = [c.finding for c in check_sweep(loads_spec(MEASURED.replace("HOW", "other model"), folder=tmp_path))]
    assert [finding.promise for finding in found if "depends on none" in finding.broken] == [
        "loss and gradient are finite at the initial weights"
    ]


def test_without_a_measure_section_nothing_is_tested_of_f(tmp_path):
    (tmp_path / "checked_lines.py").write_text(LINES)
    text = re.sub(r"measure:.*\n", "", MEASURED).replace("HOW", "own model")
    found = [c.finding for c in check_sweep(loads_spec(text, folder=tmp_path))]
    assert all(finding.holds for finding in found)


@pytest.mark.parametrize(
    ("how", "promise", "broken"),
    [
        ("no batch", "loss and gradient are finite", "the batch is None, and loss (checked_lines.py:13) cannot use"),
        ("detached in training", "loss and gradient are finite", "the loss does not depend on the model's parameters"),
        ("other model", "loss and gradient are finite", "the loss depends on none of the parameters that are trained"),
        ("replaced", "loss and gradient are finite", "computing the loss replaces the parameter weight"),
        ("complex", "a worker can import and build it", "the model's parameter 'weight' is complex (torch.complex64)"),
    ],
)
def test_what_cannot_be_trained_is_said_in_the_problem_s_own_terms(tmp_path, how, promise, broken):
    (tmp_path / "checked_lines.py").write_text(LINES)
    found = [c.finding for c in check_sweep(loads_spec(MEASURED.replace("HOW", how), folder=tmp_path))]
    first = next(finding for finding in found if not finding.holds)
    assert first.promise.startswith(promise)
    assert broken in first.broken


# The tutorial


def test_the_tutorial_changes_thirty_lines():
    before, after = ((DOCS / "tutorial" / name).read_text().splitlines() for name in ("before.py", "spirals.py"))
    changed = [
        line
        for line in difflib.unified_diff(before, after, n=0, lineterm="")
        if re.match(r"[-+](?![-+])", line) and line[1:].strip()
    ]
    assert len(changed) == 30
    assert "30 lines differ" in (DOCS / "tutorial.md").read_text()


def test_the_tutorial_shows_its_own_code():
    source = (DOCS / "tutorial" / "spirals.py").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(), flags=re.DOTALL)
    assert source.endswith(shown)


def test_the_tutorial_s_problem_keeps_its_promises():
    checked = list(check_sweep(load_spec(DOCS / "tutorial" / "sweep.yaml")))
    assert [c.finding.broken for c in checked if not c.finding.holds] == []
    shown = (DOCS / "tutorial.md").read_text()
    assert all(f"  ok      {c.finding.promise}\n" in shown for c in checked)


ON_GPU = "a step and its metrics find all tensors on the trainer's device"


@pytest.mark.parametrize("spec", ["docs/tutorial/sweep.yaml", "init"])
def test_documented_problems_would_run_on_a_gpu(spec: str, tmp_path: Path):
    if spec == "init":
        command = [sys.executable, "-m", "sweeper", "init", "own.yaml", "--template", "own"]
        subprocess.run(command, cwd=tmp_path, check=True)
    path = tmp_path / "own.yaml" if spec == "init" else DOCS.parent / spec
    checked = list(check_sweep(load_spec(path, overrides=["resources.trainers.gpus=1"])))
    (found,) = (c.finding for c in checked if c.finding.promise.startswith(ON_GPU))
    assert (found.status, found.note) == ("ok", "")


def test_a_metric_s_data_that_stays_on_the_cpu_is_named_with_its_line(tmp_path: Path):
    source = (DOCS / "tutorial" / "spirals.py").read_text()
    (tmp_path / "spirals.py").write_text(source.replace("valid_x.to(device)", "valid_x"))
    (tmp_path / "sweep.yaml").write_text((DOCS / "tutorial" / "sweep.yaml").read_text())
    checked = list(check_sweep(load_spec(tmp_path / "sweep.yaml", overrides=["resources.trainers.gpus=1"])))
    (found,) = (c.finding for c in checked if c.finding.status == "broken")
    assert found.promise.startswith(ON_GPU)
    assert "addmm takes tensors of two devices: one of shape (200, 2) is on the CPU" in found.broken
    assert "spirals.py:32" in found.broken
    assert "data.to(device)" in found.fix


def test_the_tutorial_s_sweep_trains_and_is_measured(inline_run, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "tutorial"))
    text = (
        (DOCS / "tutorial" / "sweep.yaml")
        .read_text()
        .replace("seeds: 3", "seeds: 1")
        .replace("steps: 400", "steps: 100")
    )
    run = Run(inline_run(text)(max_attempts=1).run_dir.path)
    trials = run.trials
    assert (trials["status"].isin(["done", "diverged"])).all()
    clipped = trials[(trials["clip_norm"] == 0.25) & (trials["learning_rate"] == 2.5)]
    assert (clipped["best_valid_loss"] < 1.05).all()
    rows = run.measurements()
    assert rows["error"].isna().all()
    assert (rows["smoothness"] > 0).sum() > 70
    assert (rows["trust"] == "trusted").sum() > 70
    assert build_report(run).cells[0].points > 9


def test_the_tutorial_s_bare_script_runs(monkeypatch, capsys):
    exec(compile((DOCS / "tutorial" / "before.py").read_text(), "before.py", "exec"), {})
    assert "epoch 19" in capsys.readouterr().out
