"""``clipsweep null-test``: does a spec's f give the same gradient at the same weights, to the last bit?"""

from __future__ import annotations

from typing import Any

import torch

from estimators import NullTest, Probe, null_test
from sweeper.actors import build_probe
from sweeper.errors import ClipsweepError
from sweeper.labels import describe_problem
from sweeper.plan import expand, require_allowed
from sweeper.recovery import shipped
from sweeper.spec import Sweep
from sweeper.spec.measure import Measure
from trainers.problems import build_problem
from trainers.snapshot import flat_parameters

__all__ = ["null_test_document"]


def null_test_document(sweep: Sweep, *, allow_code: bool = False) -> dict[str, Any]:
    """The null test of every problem of a sweep, at the first seed's initial weights, in this process.

    Args:
        sweep: The spec; without a measure section the defaults are tested.
        allow_code: Import code that does not lie in the spec's own folder.

    Returns:
        ``passed``, and ``problems``: for each its ``problem`` section, ``passed``, a ``verdict`` in words, and the
        differences ``again``, ``rebuilt`` and ``hessian``.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: The spec has analytic functions alone, or would import code from elsewhere than its folder.
        TrainerError: A problem cannot be built.
    """
    measure = (sweep.measure or Measure(every=1)).model_dump(mode="json")
    plan = expand(sweep)
    require_allowed(plan.code, sweep.folder, allow_code=allow_code)
    seed = plan.trials[0].seed
    torch.set_num_threads(sweep.resources.estimators.threads)
    if not plan.trained_problems:
        raise ClipsweepError(
            f"{sweep.name}: analytic functions are written down with their gradients; no probe is measured on them"
        )
    rows = []
    # Elsewhere the folder of a module may hold others that go by the names of installed ones.
    with shipped(plan.code) as (folder, _):
        search = () if folder is None else (str(folder),)
        for problem in plan.trained_problems:
            options = {key: value for key, value in problem.items() if key != "use"}

            def build(use: str = problem["use"], options: dict[str, Any] = options) -> Probe:
                return build_probe(build_problem(use, options, seed=seed, search=search), measure)

            model = build_problem(problem["use"], options, seed=seed, search=search).model
            found = null_test(build, flat_parameters(model))
            rows.append({
                "problem": describe_problem(problem),
                "passed": found.passed,
                "verdict": _verdict(found),
                "again": found.again,
                "rebuilt": found.rebuilt,
                "hessian": found.hessian,
                "grad_norm": found.grad_norm,
            })
    return {"passed": all(row["passed"] for row in rows), "problems": rows}


def _verdict(found: NullTest) -> str:
    if found.passed:
        return f"the same weights twice differ by 0, of a gradient of {found.grad_norm:.4g}"
    worst = max(found.again, found.rebuilt)
    return f"{found.diagnosis} (off by {worst:.3g}, of a gradient of {found.grad_norm:.4g})"
