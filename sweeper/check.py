"""``clipsweep check``: does a spec's problem keep the promises that a sweep relies on?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.apart import Died, apart
from sweeper.blame import Line
from sweeper.errors import ClipsweepError
from sweeper.labels import describe_problem
from sweeper.planning.plan import Plan, expand, require_allowed
from sweeper.spec import Sweep
from sweeper.spec.user_code import copies_of, shipped, shipped_from
from sweeper.spec.variants import canonical

__all__ = ["CheckedProblem", "Finding", "check_sweep"]

_IMPORTABLE = "a worker can import and build it from what is shipped"

_CRASH = (
    "raise an error in place of os._exit; if it was ended from outside or by a crash, look at memory and native code"
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One promise of a problem.

    Attributes:
        promise: What should hold.
        status: ``ok``, ``broken``, or ``untested``, where another broken promise does not let this one be tested.
        broken: What was found instead.
        line: The line of the user's own code that raised, if one did.
        fix: How to fix it, where that is not in ``broken``.
        note: What is worth knowing although it holds.
        untested: Why it was not tested.
    """

    promise: str
    status: Literal["ok", "broken", "untested"]
    broken: str = ""
    line: Line | None = None
    fix: str = ""
    note: str = ""
    untested: str = ""

    @property
    def holds(self) -> bool:
        """Whether the promise was tested and holds."""
        return self.status == "ok"


@dataclass(frozen=True, kw_only=True)
class CheckedProblem:
    """One promise of one problem.

    Attributes:
        problem: The problem in one line.
        finding: What was found.
    """

    problem: str
    finding: Finding


def _unsaid(text: str) -> None:
    """Nobody reads it."""


def check_sweep(
    sweep: Sweep, *, allow_code: bool = False, say: Callable[[str], None] = _unsaid
) -> Iterator[CheckedProblem]:
    """Test every problem of a sweep at its first seed, in another process and as a worker would receive it.

    Args:
        sweep: The spec.
        allow_code: Import code from outside the spec's own folder.
        say: Is told what is waited for, where that takes long.

    Yields:
        One promise after another, one problem after another. What the problem's code raises, exits included, breaks the
        promise that was being tested; the others that it would break, too, are untested.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: The spec has only analytic functions, or would import code from outside its folder.
    """
    plan = expand(sweep)
    require_allowed(plan.code, sweep.folder, allow_code=allow_code)
    if not plan.trained_problems:
        raise ClipsweepError(
            f"{sweep.name}: analytic functions make no promises that could be broken: nothing to check"
        )
    measure = None if sweep.measure is None else sweep.measure.model_dump(mode="json")
    with shipped(plan.code) as folder:
        arguments = [
            {
                "problem": dict(problem),
                "shipped": shipped_from(problem["use"], plan.code, folder),
                "seed": plan.trials[0].seed,
                "threads": sweep.resources.trainers.threads,
                "rule": dict(first.update_rule),
                "clip_groups": _clip_groups(plan, problem),
                "steps": sweep.train.steps,
                "accumulate": first.train["accumulate"],
                "measure": measure,
            }
            for problem in plan.trained_problems
            for first in [next(trial for trial in plan.trials if trial.problem == problem)]
        ]
        left: list[str] = []

        def waits(at: int, seconds: float) -> None:
            problem = plan.trained_problems[at]
            what = f"still testing, after {seconds:.0f} s, that {(left or [_IMPORTABLE])[0]}"
            say(f"{describe_problem(problem)}: {what}; Ctrl-C ends it")

        copies = copies_of(plan.code, folder)
        for at, item in apart("sweeper.workers.examiner:check_problem", arguments, copies=copies, waits=waits):
            words = describe_problem(plan.trained_problems[at])
            if isinstance(item, Died):
                for finding in _died(item, left or [_IMPORTABLE]):
                    yield CheckedProblem(problem=words, finding=finding)
                left = []
            elif "promises" in item:
                left = item["promises"]
            else:
                left = left[1:]
                line = None if item["line"] is None else Line(**item["line"])
                yield CheckedProblem(problem=words, finding=Finding(**item | {"line": line}))


def _clip_groups(plan: Plan, problem: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The groups of parameters by which a problem's trials are clipped, each list of them once."""
    found = [trial.update_rule["clip_groups"] for trial in plan.trials if trial.problem == problem]
    return list({canonical(groups): groups for groups in found if groups is not None}.values())


def _died(died: Died, left: Sequence[str]) -> Iterator[Finding]:
    """The promise amid which the process ended, and those after it."""
    yield Finding(promise=left[0], status="broken", broken=died.words, fix=_CRASH)
    for promise in left[1:]:
        yield Finding(promise=promise, status="untested", untested="the process has ended")
