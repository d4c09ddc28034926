"""What a changed measure section means for a run that has measured under another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.errors import RunDirectoryError
from sweeper.labels import counted
from sweeper.planning.plan import estimator_code, measurement_id
from sweeper.planning.spec_change import differences
from sweeper.protocol.consent import Consent
from sweeper.spec import Sweep
from sweeper.store.journal import RunState
from sweeper.store.run_dir import RunDir

__all__ = ["MeasurementChange", "check_measurement", "measurement_change"]


@dataclass(frozen=True, kw_only=True)
class MeasurementChange:
    """A measure section that is new to a run whose trials have begun.

    Attributes:
        now: Its id, as in the column ``measurement_id``.
        before: Ids of the sections that the run has had.
        begun: Trials with rows measured under one of these.
        done: Trials that are done, and will not be measured under the new section by a run.
        kept: Whether the snapshots of the last section were kept.
        text: What changed, as a diff.
    """

    now: str
    before: tuple[str, ...]
    begun: int
    done: int
    kept: bool
    text: str


def measurement_change(sweep: Sweep, state: RunState) -> MeasurementChange | None:
    """Compare a measure section with the one that a run was last given.

    Args:
        sweep: The spec.
        state: The run as its journal tells it.

    Returns:
        The change; None if there is none, or nothing has begun.
    """
    now = measurement_id(sweep.measure, estimator_code(sweep))
    begun = [trial for trial in state.trials.values() if trial.segments]
    if now in state.measurements or not begun:
        return None
    last = list(state.measurements.values())[-1]
    return MeasurementChange(
        now=now,
        before=tuple(state.measurements),
        begun=len(begun),
        done=sum(trial.resolved for trial in begun),
        kept=bool(last and last.get("keep")),
        text="\n".join(f"  {line}" for line in _diff(last, sweep)),
    )


_SAME_SECTION = (
    "the section is the same, but f is not: another release of clipsweep began the run, and this one makes the probe "
    "of whole batches"
)


def _diff(last: Mapping[str, Any] | None, sweep: Sweep) -> list[str]:
    now = sweep.measure.model_dump(mode="json") if sweep.measure is not None else None
    before, after = (None if section is None else {**section, "keep": None} for section in (last, now))
    lines = [f"{sign}{path}: {value}" for path, sign, value in differences("measure", before, after)]
    return lines or [_SAME_SECTION]


def check_measurement(run_dir: RunDir, change: MeasurementChange | None, consent: Consent) -> None:
    """Refuse to measure differently from now on without the user's consent.

    Args:
        run_dir: The run.
        change: As :func:`measurement_change` gives it.
        consent: ``new_measurement`` accepts it.

    Raises:
        RunDirectoryError: There is no consent; the text says what a run can and cannot do.
    """
    if change is None or consent.new_measurement:
        return
    lines = [
        f"{run_dir.path}: what is measured changed (now {change.now}, before {', '.join(change.before)}):",
        change.text,
        f"  {counted(change.begun, 'trial')} with rows measured under the earlier one: they stay, and are not trained "
        "again.",
        "  What is trained from now on would be measured under the new one; column measurement_id distinguishes them.",
    ]
    if change.done and change.kept:
        lines.append(
            f"  Snapshots of the {counted(change.done, 'trial')} already done were kept: "
            f"`clipsweep estimate {run_dir.path} --estimator NAME --set OPTION=VALUE` measures them again."
        )
    elif change.done:
        lines.append(
            f"  The {counted(change.done, 'trial')} already done cannot be measured again, since no snapshots were "
            "kept; `measure: {keep: true}` keeps them, for `clipsweep estimate`."
        )
    lines.append("Continue with --new-measurement, restore the section, or choose another directory with --out.")
    raise RunDirectoryError("\n".join(lines))
