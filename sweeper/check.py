"""``clipsweep check``: do a spec's problem, and what else of one's own it names, keep their promises?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from sweeper.apart import Died, apart
from sweeper.blame import Line
from sweeper.errors import ClipsweepError
from sweeper.labels import describe_problem
from sweeper.planning.devices import require_device
from sweeper.planning.plan import Plan, UserCode, expand, own_uses, require_allowed
from sweeper.planning.searching import search_code, searching_of
from sweeper.requirements import require_installed
from sweeper.search.protocol import Space
from sweeper.spec import Sweep
from sweeper.spec.sections.update_rule import OWN_PARTS
from sweeper.spec.user_code import copies_of, shipped, shipped_from
from sweeper.spec.variants import canonical
from sweeper.store.journal import RunState

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


@dataclass(frozen=True, kw_only=True)
class _Examination:
    """Something to be tested in another process: by which function there, and with which arguments."""

    words: str
    task: str
    arguments: Mapping[str, Any]


def check_sweep(
    sweep: Sweep, *, allow_code: bool = False, device: str = "cpu", say: Callable[[str], None] = _unsaid
) -> Iterator[CheckedProblem]:
    """Test a sweep's problems, and what else of the user's own it names, in another process and as a worker has them.

    Args:
        sweep: The spec.
        allow_code: Import code from outside the spec's own folder.
        device: Where it is done: ``cpu``, ``cuda`` or ``cuda:N``.
        say: Is told what is waited for, where that takes long.

    Yields:
        One promise after another: of every problem at its first seed, then of every schedule, transform and searcher of
        the user's own. What their code raises, exits included, breaks the promise that was being tested; the others
        that it would break, too, are untested.

    Raises:
        SpecError: The sweep cannot be expanded.
        ClipsweepError: PyTorch is not installed, there is no such device, there is nothing that could break a
            promise, or the spec would import code from outside its folder.
    """
    require_installed("checking a sweep", "torch")
    plan = expand(sweep)
    code = (*plan.code, *search_code(sweep))
    require_allowed(code, sweep.folder, allow_code=allow_code)
    require_device(device)
    with shipped(code) as folder:
        found = [*_problems(sweep, plan, folder, device), *_rules(sweep, plan, folder), *_searcher(sweep, code, folder)]
        if not found:
            raise ClipsweepError(
                f"{sweep.name}: analytic functions make no promises that could be broken: nothing to check"
            )
        copies = copies_of(code, folder)
        for task, group in groupby(found, key=lambda one: one.task):
            yield from _examined(task, list(group), copies, say)


def _examined(
    task: str, group: Sequence[_Examination], copies: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[CheckedProblem]:
    """What one function of another process finds."""
    left: list[str] = []

    def waits(at: int, seconds: float) -> None:
        what = f"still testing, after {seconds:.0f} s, that {(left or [_IMPORTABLE])[0]}"
        say(f"{group[at].words}: {what}; Ctrl-C ends it")

    for at, item in apart(task, [one.arguments for one in group], copies=copies, waits=waits):
        words = group[at].words
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


def _problems(sweep: Sweep, plan: Plan, folder: Path | None, device: str) -> Iterator[_Examination]:
    measure = None if sweep.measure is None else sweep.measure.model_dump(mode="json")
    for problem in plan.trained_problems:
        first = next(trial for trial in plan.trials if trial.problem == problem)
        estimators = () if measure is None else (entry["use"] for entry in measure["estimators"])
        uses = (problem["use"], *own_uses(first.update_rule), *estimators)
        places = (shipped_from(use, plan.code, folder) for use in uses)
        arguments = {
            "problem": dict(problem),
            "shipped": next((place for place in places if place is not None), None),
            "seed": plan.trials[0].seed,
            "threads": sweep.resources.trainers.threads,
            "rule": dict(first.update_rule),
            "clip_groups": _clip_groups(plan, problem),
            "folder": None if folder is None else str(folder),
            "steps": sweep.train.steps,
            "accumulate": first.train["accumulate"],
            "arithmetic": first.train["arithmetic"],
            "measure": measure,
            "device": device,
            "gpu": sweep.resources.trainers.gpus > 0,
        }
        words = describe_problem(problem)
        yield _Examination(words=words, task="sweeper.workers.examiner:check_problem", arguments=arguments)


def _rules(sweep: Sweep, plan: Plan, folder: Path | None) -> Iterator[_Examination]:
    """The schedules and transforms of the user's own, each with its options once."""
    for part in OWN_PARTS:
        found: dict[str, tuple[Mapping[str, Any], int]] = {}
        for trial in plan.trials:
            section = trial.update_rule[part]
            if section is not None and ":" in section["use"]:
                found.setdefault(canonical(section), (section, trial.train["steps"]))
        for section, steps in found.values():
            arguments = {
                "section": dict(section),
                "shipped": shipped_from(section["use"], plan.code, folder),
                "threads": sweep.resources.trainers.threads,
                **({"steps": steps} if part == "schedule" else {}),
            }
            task = f"sweeper.workers.rule_examiner:check_{part}"
            yield _Examination(words=f"{part} {describe_problem(section)}", task=task, arguments=arguments)


def _searcher(sweep: Sweep, code: Sequence[UserCode], folder: Path | None) -> Iterator[_Examination]:
    """The searcher, if it is the user's own."""
    search = sweep.sweep.search
    if search is None or ":" not in search.use:
        return
    searching = searching_of(sweep, RunState(), imports=False)
    assert searching is not None
    arguments = {
        "section": search.model_dump(mode="json"),
        "shipped": shipped_from(search.use, code, folder),
        "space": _space_json(searching.space),
    }
    yield _Examination(
        words=f"searcher {search.use}", task="sweeper.workers.search_examiner:check_searcher", arguments=arguments
    )


def _space_json(space: Space) -> dict[str, Any]:
    """A space as JSON has it."""
    return {
        "bases": [{"key": base.key, "arm": base.arm, "swept": dict(base.swept)} for base in space.bases],
        "seeds": list(space.seeds),
        "over": {path: list(ends) for path, ends in space.over.items()},
        "whole": sorted(space.whole),
        "steps": dict(space.steps),
        "trainers": space.trainers,
        "better": dict(space.better),
    }


def _clip_groups(plan: Plan, problem: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """The groups of parameters by which a problem's trials are clipped, each list of them once."""
    found = [trial.update_rule["clip_groups"] for trial in plan.trials if trial.problem == problem]
    return list({canonical(groups): groups for groups in found if groups is not None}.values())


def _died(died: Died, left: Sequence[str]) -> Iterator[Finding]:
    """The promise amid which the process ended, and those after it."""
    yield Finding(promise=left[0], status="broken", broken=died.words, fix=_CRASH)
    for promise in left[1:]:
        yield Finding(promise=promise, status="untested", untested="the process has ended")
