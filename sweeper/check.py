"""``clipsweep check``: does a spec's problem keep the promises that a sweep relies on?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from estimators import ESTIMATORS
from sweeper.errors import ClipsweepError
from sweeper.labels import describe_problem
from sweeper.planning.plan import expand, require_allowed
from sweeper.spec import Sweep
from sweeper.spec.user_code import shipped
from sweeper.workers.estimator import build_probe
from sweeper.workers.trainer import update_rule_of
from sweeper.workers.worker import one_line
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.selftest import Finding, examine
from trainers.training.stepper import Stepper
from trainers.update.rule import UpdateRule

__all__ = ["CheckedProblem", "check_sweep"]

_TIMEOUT_S = 120

_WORKER = """
import json, sys
problem, seed, search = json.loads(sys.argv[1])
from trainers.problems import build_problem
build_problem(problem.pop("use"), problem, seed=seed, search=search).batch(0)
"""


@dataclass(frozen=True, kw_only=True)
class CheckedProblem:
    """One promise of one problem.

    Attributes:
        problem: The problem in one line.
        finding: What was found.
    """

    problem: str
    finding: Finding


def check_sweep(sweep: Sweep, *, allow_code: bool = False) -> Iterator[CheckedProblem]:
    """Test every problem of a sweep at its first seed, in this process and, as a worker would receive it, in another.

    Args:
        sweep: The spec.
        allow_code: Import code from outside the spec's own folder.

    Yields:
        One promise after another, one problem after another.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: The spec has only analytic functions, or would import code from outside its folder.
    """
    plan = expand(sweep)
    require_allowed(plan.code, sweep.folder, allow_code=allow_code)
    seed = plan.trials[0].seed
    torch.set_num_threads(sweep.resources.trainers.threads)
    fraction = sweep.measure.data_fraction if sweep.measure is not None else 0.1
    if not plan.trained_problems:
        raise ClipsweepError(
            f"{sweep.name}: analytic functions make no promises that could be broken: nothing to check"
        )
    with shipped(plan.code) as folder:
        search = [] if folder is None else [str(folder)]
        for problem in plan.trained_problems:
            words = describe_problem(problem)
            yield CheckedProblem(problem=words, finding=_importable(problem, seed, search))
            build = partial(_build, problem, search)
            for finding in examine(build, seed=seed, fraction=fraction):
                yield CheckedProblem(problem=words, finding=finding)
            rule = next(trial.update_rule for trial in plan.trials if trial.problem == problem)
            for finding in _measured(build, update_rule_of(rule), sweep, seed):
                yield CheckedProblem(problem=words, finding=finding)


def _build(problem: Mapping[str, Any], search: list[str], seed: int) -> Problem:
    options = {key: value for key, value in problem.items() if key != "use"}
    return build_problem(problem["use"], options, seed=seed, search=search)


_PROBE_BATCHES = 2
"""Of the probe, for a check in seconds: an estimator that cannot measure these cannot measure all."""

_UNAUDITED = (
    "without a float64 audit, so that rows say `unaudited`: the loss uses data that does not come through its batch"
)


def _measured(build: Callable[[int], Problem], rule: UpdateRule, sweep: Sweep, seed: int) -> Iterator[Finding]:
    """Whether a snapshot of the sweep's first step can be measured by each of its estimators."""
    if sweep.measure is None:
        return
    measure = sweep.measure.model_dump(mode="json")
    for entry in measure["estimators"]:
        options = {key: value for key, value in entry.items() if key != "use"}
        promise = f"a snapshot can be measured: {entry['use']}"
        try:
            stepper = Stepper(build(seed), rule, total_steps=sweep.train.steps, seed=seed)
            _, scalars = stepper.take(0, keep_iterates=True)
            assert stepper.iterates is not None
            probe = build_probe(_with_small_probe(build(seed)), measure)
            row = ESTIMATORS[entry["use"]](probe, torch.from_numpy(stepper.iterates), **options)
        except Exception as error:
            fix = "try it with the estimator's other options, or leave it out; `clipsweep null-test` says more"
            yield Finding(promise=promise, broken=f"raised {one_line(error)}", fix=fix)
            continue
        if row["grad_norm"] == 0 and float(scalars[1]) > 0:
            yield Finding(
                promise=promise,
                broken=f"its gradient is exactly 0, where that of training is {float(scalars[1]):.3g}",
                fix="the loss must use the model that it is given: estimators measure a copy",
            )
        else:
            audited = "smoothness" not in entry["use"] or not probe.unaudited
            yield Finding(promise=promise, note="" if audited else _UNAUDITED)


def _with_small_probe(problem: Problem) -> Problem:
    return replace(problem, probe=lambda share: list(islice(problem.probe(share), _PROBE_BATCHES)))


def _importable(problem: Mapping[str, Any], seed: int, search: list[str]) -> Finding:
    """Whether a process that has only what is shipped can build the problem."""
    promise = "a worker can import and build it from what is shipped"
    argument = json.dumps([dict(problem), seed, search])
    try:
        # Not in this folder, where modules would be found that no worker has.
        with tempfile.TemporaryDirectory() as elsewhere:
            done = subprocess.run(
                [sys.executable, "-c", _WORKER, argument],
                cwd=elsewhere,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return Finding(
            promise=promise, broken=f"building took more than {_TIMEOUT_S} s", fix="load less in the factory"
        )
    if done.returncode == 0:
        return Finding(promise=promise)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1].removeprefix("trainers.errors.").strip() if lines else f"exit code {done.returncode}"
    return Finding(
        promise=promise,
        broken=last,
        fix="keep the module and what it imports in one package next to the spec, and give data by absolute path",
    )
