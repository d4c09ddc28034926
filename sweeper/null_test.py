"""``clipsweep null-test``: does a spec's f give the same gradient at the same weights, to the last bit?"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from estimators import NullTest, null_test
from sweeper.errors import ClipsweepError
from sweeper.labels import describe_problem
from sweeper.own_packages import BESIDE
from sweeper.planning.plan import expand, require_allowed
from sweeper.spec import Sweep
from sweeper.spec.sections.measure import Measure
from sweeper.spec.user_code import UserCode, shipped
from sweeper.workers.estimator import build_probe
from sweeper.workers.worker import one_line
from trainers.errors import TrainerError
from trainers.problems import build_problem
from trainers.update.flat import flat_parameters

__all__ = ["null_test_document"]

_NUMBERS = ("again", "rebuilt", "hessian", "grad_norm")


def null_test_document(sweep: Sweep, *, allow_code: bool = False) -> dict[str, Any]:
    """The null test of every problem of a sweep, at the first seed's initial weights, in this process.

    Args:
        sweep: The spec; without a measure section the defaults are tested.
        allow_code: Import code from outside the spec's own folder.

    Returns:
        ``passed``, and ``problems``: for each, its ``problem`` section, ``passed``, a ``verdict`` in words, and the
        differences ``again``, ``rebuilt`` and ``hessian``, null for a problem that raised.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: The spec has only analytic functions, or would import code from outside its folder.
    """
    measure = (sweep.measure or Measure(every=1)).model_dump(mode="json")
    plan = expand(sweep)
    require_allowed(plan.code, sweep.folder, allow_code=allow_code)
    seed = plan.trials[0].seed
    torch.set_num_threads(sweep.resources.estimators.threads)
    if not plan.trained_problems:
        raise ClipsweepError(
            f"{sweep.name}: analytic functions come with exact gradients; no probe is measured on them"
        )
    rows = []
    # Import from a copy: a module's original folder may hold others with the names of installed ones.
    with shipped(plan.code) as folder:
        search = () if folder is None else (str(folder),)
        for problem in plan.trained_problems:
            try:
                found = _test(problem, measure, seed=seed, search=search)
            except Exception as error:
                own = next((code for code in plan.code if code.use == problem["use"]), None)
                if own is None and not isinstance(error, TrainerError):
                    raise
                verdict = f"raised {one_line(error)}{_where(error, own, folder)}"
                row = {"passed": False, "verdict": verdict, **dict.fromkeys(_NUMBERS)}
            else:
                row = {"passed": found.passed, "verdict": _verdict(found)}
                row |= {name: getattr(found, name) for name in _NUMBERS}
            rows.append({"problem": describe_problem(problem), **row})
    return {"passed": all(row["passed"] for row in rows), "problems": rows}


def _test(problem: Mapping[str, Any], measure: Mapping[str, Any], *, seed: int, search: Sequence[str]) -> NullTest:
    options = {key: value for key, value in problem.items() if key != "use"}
    build = partial(build_problem, problem["use"], options, seed=seed, search=search)
    return null_test(lambda: build_probe(build(), measure), flat_parameters(build().model))


def _where(error: Exception, own: UserCode | None, folder: Path | None) -> str:
    """The last line of the user's own code that an exception passed through; empty if there is none."""
    if own is None or folder is None:
        return ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(folder):
            parts = file.relative_to(folder).parts
            shown = own.root.parent.joinpath(*parts[parts[0] == BESIDE :])
            return f" ({shown}:{frame.lineno}, in {frame.name})"
    return ""


def _verdict(found: NullTest) -> str:
    if found.passed:
        return f"the same weights twice differ by 0, of a gradient of {found.grad_norm:.4g}"
    worst = max(found.again, found.rebuilt)
    return f"{found.diagnosis} (off by {worst:.3g}, of a gradient of {found.grad_norm:.4g})"
