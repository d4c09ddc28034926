"""What ``clipsweep estimate`` is to measure: which f and estimator, which kept snapshots, and with whose code."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.events import SnapshotId
from sweeper.journal import RunState
from sweeper.resolved import resolved_settings
from sweeper.run_dir import RunDir
from sweeper.snapshots import kept_steps
from sweeper.spec import loads_spec
from sweeper.spec.diagnostics import choices
from sweeper.spec.estimator_options import ESTIMATOR_OPTIONS
from sweeper.spec.user_code import UserCode, user_code

__all__ = ["code_of", "kept_snapshots", "remeasure_section", "uses_of"]

_OF_F = ("data_fraction", "probe", "audit")


def remeasure_section(run_dir: RunDir, estimator: str, options: Sequence[str]) -> dict[str, Any]:
    """What is measured: the run's own f, unless an option says otherwise, and one estimator.

    Args:
        run_dir: The run.
        estimator: Name of the estimator.
        options: ``option=value`` each.

    Returns:
        ``data_fraction``, ``probe``, ``audit`` and ``estimators`` of a resolved measure section.

    Raises:
        ClipsweepError: The estimator or an option is unknown, or a value is wrong.
    """
    if estimator not in ESTIMATOR_OPTIONS:
        raise ClipsweepError(f"--estimator {estimator!r}: unknown; {choices(estimator, tuple(ESTIMATOR_OPTIONS))}")
    own = resolved_settings(run_dir).get("measure") or {}
    measure = {key: own[key] for key in _OF_F if key in own}
    measure |= {"every": 1, "estimators": [{"use": estimator}]}
    text = yaml.safe_dump({
        "problem": {"use": "deep_linear"},
        "update_rule": {"learning_rate": 1},
        "train": {"steps": 1},
        "measure": measure,
    })
    paths = [_place(option) for option in options]
    checked = loads_spec(text, name=f"{run_dir.path.name}: estimate", folder=Path.cwd(), overrides=paths).measure
    assert checked is not None
    full = checked.model_dump(mode="json")
    return {key: full[key] for key in (*_OF_F, "estimators")}


def _place(option: str) -> str:
    """Where in a measure section an option stands."""
    of_f = option.partition("=")[0].partition(".")[0].strip() in _OF_F
    return f"measure.{option}" if of_f else f"measure.estimators[0].{option}"


def kept_snapshots(run_dir: RunDir, state: RunState) -> list[SnapshotId]:
    """The kept snapshots of committed steps.

    Args:
        run_dir: The run.
        state: The same, as its journal tells it.

    Returns:
        Their ids, trial after trial; attempts are not told apart.

    Raises:
        RunDirectoryError: There are none.
    """
    found = [
        SnapshotId(trial=name, attempt=0, step=step)
        for name, trial in state.trials.items()
        for step in kept_steps(run_dir, name)
        # Of a step that is not committed an attempt may still write another file, or a changed problem have written
        # one.
        if step < trial.step
    ]
    if not found:
        raise RunDirectoryError(
            f"{run_dir.path}: no snapshots were kept, so there is nothing to measure again; "
            "a run whose spec says `measure: {keep: true}` keeps them"
        )
    return found


def code_of(run_dir: RunDir, state: RunState, trials: Collection[str], *, allow_code: bool) -> list[UserCode]:
    """The user's own code that trials were trained with, if it is still the same and may be imported.

    Args:
        run_dir: The run.
        state: The same, as its journal tells it.
        trials: Those whose snapshots are to be measured.
        allow_code: Import code that lies neither in a folder above the run nor in the working directory.

    Returns:
        The code of each problem once.

    Raises:
        RunDirectoryError: It is not what they were trained with any more.
        ClipsweepError: It is such code as ``allow_code`` is for.
    """
    found: dict[str, UserCode] = {}
    for name in trials:
        wanted = state.trials[name].record.get("code")
        if wanted is None:
            continue
        use, root, sha256 = wanted["use"], Path(wanted["root"]), wanted["sha256"]
        code = user_code(use, root.parent)
        if code is None or code.sha256 != sha256:
            raise RunDirectoryError(
                f"{run_dir.path}: {root} is not what trial {name} was trained with any more; "
                "restore it, since another problem would be measured"
            )
        found[use] = code
    # The journal's word alone does not allow it: a run directory may come from anybody, as a spec may. Code in a folder
    # above it came with it, as code beside a spec does, and what lies in the working directory is at hand.
    near = {Path.cwd(), *run_dir.path.parents}
    far = [code for code in found.values() if not (code.beside and code.root.parent in near)]
    if far and not allow_code:
        what = ", ".join(f"{code.use} from {code.place}" for code in far)
        raise ClipsweepError(
            f"{run_dir.path}: its problem would run code that lies neither in a folder above the run nor in the "
            f"working directory: {what}; go on with --allow-code if you trust it"
        )
    return list(found.values())


def uses_of(state: RunState, todo: Iterable[SnapshotId]) -> dict[str, str]:
    """Which code the file of each snapshot may name: none but its trial's.

    Args:
        state: The run, as its journal tells it.
        todo: The snapshots.

    Returns:
        Trial to the problem of the user's own that it was trained with, where there is one.
    """
    codes = {one.trial: state.trials[one.trial].record.get("code") for one in todo}
    return {trial: code["use"] for trial, code in codes.items() if code is not None}
