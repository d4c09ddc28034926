"""``clipsweep null-test``: does a spec's f give the same gradient at the same weights, to the last bit?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sweeper.apart import Died, apart
from sweeper.errors import ClipsweepError
from sweeper.labels import describe_problem
from sweeper.planning.devices import require_device
from sweeper.planning.plan import expand, require_allowed
from sweeper.requirements import require_installed
from sweeper.spec import Sweep
from sweeper.spec.sections.measure import Measure
from sweeper.spec.user_code import copies_of, shipped, shipped_from

__all__ = ["null_test_document"]

_NUMBERS = ("again", "rebuilt", "hessian", "copied", "grad_norm")


def _unsaid(text: str) -> None:
    """Nobody reads it."""


def null_test_document(
    sweep: Sweep, *, allow_code: bool = False, device: str = "cpu", say: Callable[[str], None] = _unsaid
) -> dict[str, Any]:
    """The null test of every problem of a sweep, at the first seed's initial weights, in another process.

    Args:
        sweep: The spec; without a measure section the defaults are tested.
        allow_code: Import code from outside the spec's own folder.
        device: Where it is done: ``cpu``, ``cuda`` or ``cuda:N``.
        say: Is told what is waited for, where that takes long.

    Returns:
        ``passed``, and ``problems``: for each, its ``problem`` section, ``passed``, a ``verdict`` in words, and the
        differences ``again``, ``rebuilt``, ``hessian`` and ``copied``, and ``grad_norm``, null for one that raised.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: PyTorch is not installed, there is no such device, the spec has only analytic functions, or
            would import code from outside its folder.
    """
    require_installed("the null test", "torch")
    measure = (sweep.measure or Measure(every=1)).model_dump(mode="json")
    plan = expand(sweep)
    require_allowed(plan.code, sweep.folder, allow_code=allow_code)
    require_device(device)
    if not plan.trained_problems:
        raise ClipsweepError(
            f"{sweep.name}: analytic functions come with exact gradients; no probe is measured on them"
        )
    rows = []
    # Import from a copy: a module's original folder may hold others with the names of installed ones.
    with shipped(plan.code) as folder:
        arguments = [
            {
                "problem": dict(problem),
                "shipped": shipped_from(problem["use"], plan.code, folder),
                "seed": plan.trials[0].seed,
                "threads": sweep.resources.estimators.threads,
                "measure": measure,
                "device": device,
            }
            for problem in plan.trained_problems
        ]

        def waits(at: int, seconds: float) -> None:
            problem = describe_problem(plan.trained_problems[at])
            say(f"{problem}: still building and measuring it, after {seconds:.0f} s; Ctrl-C ends it")

        copies = copies_of(plan.code, folder)
        for at, item in apart("sweeper.workers.examiner:null_test_problem", arguments, copies=copies, waits=waits):
            words = {"problem": describe_problem(plan.trained_problems[at])}
            rows.append(words | (_died(item) if isinstance(item, Died) else item))
    return {"passed": all(row["passed"] for row in rows), "problems": rows}


def _died(died: Died) -> dict[str, Any]:
    return {"passed": False, "verdict": died.words, **dict.fromkeys(_NUMBERS)}
