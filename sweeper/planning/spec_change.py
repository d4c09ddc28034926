"""What a changed spec, or a change of the user's own code, means for a run that was begun before it.

A trial's id depends on everything it is trained with, so no trial continues under other settings: trials of a changed
spec are new ones. What needs the user's consent is that they would replace others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.errors import IntegrityError, RunDirectoryError
from sweeper.labels import counted, printable
from sweeper.planning.plan import Plan, Trial, UserCode
from sweeper.protocol.consent import Consent
from sweeper.spec import Sweep
from sweeper.spec.paths import TRAINED, swept_paths
from sweeper.spec.sections.axes import CASE_NAME
from sweeper.spec.variants import canonical
from sweeper.store.journal import RunState, TrialState
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir

__all__ = ["SpecChange", "check_change", "code_record", "differences", "spec_change"]

_MAX_LINES = 40
_NOT_TRAINED = "train.checkpoint_every"
"""The part of the trained sections that does not affect results."""


@dataclass(frozen=True, kw_only=True)
class SpecChange:
    """Trials of an earlier spec that this one replaces.

    Attributes:
        replaced: Ids of the trials that are no longer in the spec, and were not replaced before.
        begun: How many of these have rows, or have failed.
        unfinished: How many of the begun ones have steps left.
        new: How many trials of the plan replace them.
        spec_changed: Whether the description of what is trained changed.
        code_changed: Whether the user's own code changed.
        text: What changed, as a diff.
    """

    replaced: frozenset[str]
    begun: int
    unfinished: int
    new: int
    spec_changed: bool
    code_changed: bool
    text: str

    @property
    def options(self) -> tuple[str, ...]:
        """The options that the change asks for; none if nothing was begun."""
        if not self.begun:
            return ()
        return (*(["--accept-change"] if self.spec_changed else []), *(["--accept-drift"] if self.code_changed else []))


def spec_change(run_dir: RunDir, sweep: Sweep, plan: Plan, state: RunState) -> SpecChange | None:
    """Compare a spec with the one that the run was last called with.

    New values of a grid, more seeds, and values or seeds that are left out replace nothing: every cell means what it
    meant.

    Args:
        run_dir: The run.
        sweep: The spec.
        plan: Its trials.
        state: The run as its journal tells it.

    Returns:
        The change, or None if no trial replaces another.
    """
    planned = {trial.trial_id for trial in plan.trials}
    gone = {name: t for name, t in state.trials.items() if name not in planned and name not in state.superseded}
    new = [t for t in plan.trials if t.trial_id not in state.trials or t.trial_id in state.superseded]
    if not gone or not new:
        return None
    before = _resolved(run_dir)
    lines = list(_diff(before, sweep.resolved()))
    code_lines = list(_code_diff(run_dir, plan.code, gone))
    changed = any(_decides(line, before, sweep) for line in lines)
    if not (changed or code_lines or _same_place(new, gone)):
        return None
    begun = [trial for trial in gone.values() if trial.segments or trial.given_up]
    where = sweep.source_path or "this spec"
    head = [f"--- {run_dir.resolved}, as the run was begun", f"+++ {where}"]
    shown = [f"{sign}{path}: {value}" for path, sign, value in lines]
    if len(shown) > _MAX_LINES:
        shown = [*shown[:_MAX_LINES], f"... and {len(shown) - _MAX_LINES} more lines"]
    if not shown and not code_lines:
        shown = ["the spec is the same, but this version of clipsweep gives its trials other ids"]
    return SpecChange(
        replaced=frozenset(gone),
        begun=len(begun),
        unfinished=sum(not trial.resolved for trial in begun),
        new=len(new),
        spec_changed=changed or not code_lines,
        code_changed=bool(code_lines),
        text="\n".join(f"  {line}" for line in [*(head if lines else []), *shown, *code_lines]),
    )


def check_change(run_dir: RunDir, change: SpecChange | None, consent: Consent) -> None:
    """Refuse to replace trials that were begun without the user's consent.

    Args:
        run_dir: The run.
        change: As :func:`spec_change` gives it.
        consent: ``change`` accepts the changed spec, ``drift`` the changed code.

    Raises:
        RunDirectoryError: A consent is missing.
    """
    if change is None:
        return
    missing = [option for option in change.options if option not in consent.options]
    if not missing:
        return
    what = " and ".join([
        *(["the spec"] if change.spec_changed else []),
        *(["your own code"] if change.code_changed else []),
    ])
    kept = f"{counted(change.begun, 'trial')} ({change.unfinished} unfinished)"
    raise RunDirectoryError(
        f"{run_dir.path}: {what} changed, so other trials would replace those that were begun:\n"
        f"{change.text}\n"
        f"  {kept} were trained under the earlier version; {change.new} would be trained from step 0.\n"
        "  The earlier ones keep their rows (superseded in trials.parquet), are not continued, and reports leave them "
        "out.\n"
        f"Continue with {' '.join(missing)}, restore what changed, or choose another directory with --out."
    )


def code_record(code: UserCode) -> dict[str, Any]:
    """What a run directory keeps of the user's own code: enough to say later which files changed.

    Args:
        code: The code.

    Returns:
        A JSON-able document.
    """
    return {"use": code.use, "root": str(code.root), "sha256": code.sha256, "files": dict(code.files)}


def _resolved(run_dir: RunDir) -> dict[str, Any]:
    """The spec of the last call, with all defaults; empty if it cannot be read."""
    try:
        return resolved_settings(run_dir)
    except IntegrityError:
        return {}


def _diff(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Path, sign and value of what differs in the sections that decide the trials."""
    if not before:
        return
    for section in (*TRAINED, "sweep"):
        yield from differences(section, before.get(section), now.get(section))


def differences(section: str, before: Any, now: Any) -> Iterator[tuple[str, str, str]]:
    """How a section of a spec differs from an earlier one.

    Args:
        section: Its name.
        before: The earlier one, in plain values.
        now: The present one.

    Yields:
        Path, sign and value: ``-`` for what was, ``+`` for what is.
    """
    old, new = dict(_leaves(before, section)), dict(_leaves(now, section))
    for path in dict.fromkeys([*old, *new]):
        if old.get(path) != new.get(path):
            yield from ((path, sign, side[path]) for sign, side in (("-", old), ("+", new)) if path in side)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Dotted paths, as ``--set`` takes them, and values on one line each."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, printable(canonical(value))


def _decides(line: tuple[str, str, str], before: Mapping[str, Any], sweep: Sweep) -> bool:
    """Whether a difference changes what every cell means, rather than which cells there are."""
    path = line[0]
    if path.partition(".")[0] not in TRAINED or path == _NOT_TRAINED:
        return False
    swept = {*swept_paths(sweep.sweep), *_swept_before(before)}
    # A path that either spec sweeps has one value per cell; the value outside ``sweep`` is ignored.
    return not any(path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in swept)


def _swept_before(before: Mapping[str, Any]) -> Iterator[str]:
    block = before.get("sweep")
    if not isinstance(block, dict):
        return
    for part in ("grid", "zip"):
        yield from (str(path) for path in block.get(part) or {})
    for case in block.get("cases") or ():
        yield from (str(path) for path in case if path != CASE_NAME)


def _same_place(new: list[Trial], gone: Mapping[str, TrialState]) -> bool:
    """Whether some trial has the swept values and the seed of a removed one."""
    places = {canonical([dict(trial.record.swept), trial.record.seed]) for trial in gone.values()}
    return any(canonical([dict(trial.swept), trial.seed]) in places for trial in new)


def _code_diff(run_dir: RunDir, code: tuple[UserCode, ...], gone: Mapping[str, TrialState]) -> Iterator[str]:
    """The user's own code before and now, if the removed trials were trained with other code."""
    known = {record.use: record for trial in gone.values() for record in trial.record.all_code}
    for now in code:
        before = known.get(now.use)
        if before is None or before.sha256 == now.sha256:
            continue
        yield f"code of {now.use}: {before.sha256[:12]} -> {now.sha256[:12]}"
        files = _files_before(run_dir, now.use, before.sha256)
        if files is None:
            yield f"  some file of {now.root}; which one was not recorded"
            continue
        for name in sorted({*files, *now.files}):
            if name not in now.files:
                yield f"  {printable(name)}: removed (was {files[name][:12]})"
            elif name not in files:
                yield f"  {printable(name)}: added ({now.files[name][:12]})"
            elif files[name] != now.files[name]:
                yield f"  {printable(name)}: {files[name][:12]} -> {now.files[name][:12]}"


def _files_before(run_dir: RunDir, use: str, sha256: str) -> dict[str, str] | None:
    """The hashes of single files, as the last call recorded them; None if that was other code."""
    try:
        records = json.loads(run_dir.environment.read_bytes())["code"]
        return next({**record["files"]} for record in records if (record["use"], record["sha256"]) == (use, sha256))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return None
