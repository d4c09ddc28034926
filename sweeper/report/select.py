"""Which trials and which points count: conditions, superseded trials, and measurements above their noise floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.cell_labels import TRANSFORMS, CellLabels
from sweeper.errors import ClipsweepError
from sweeper.labels import short_names
from sweeper.report.conditions import conditions_of, filtered
from sweeper.tables.described import EXACT
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MIN_SNR",
    "above_noise",
    "how_to_measure",
    "labels_of",
    "number_column",
    "of_the_transform",
    "outside_the_rule",
    "own_rows",
    "positive",
    "select",
    "superseded",
    "thresholded",
    "trusted_points",
    "unmeasured_words",
]


_OF_SWEEPS_ALONE = frozenset({"preconditioned_sharpness"})
"""Estimators that need to know more of a step than a monitor of the user's own loop does."""

MIN_SNR = 3.0
"""A smoothness below three times its noise floor is rounding, and is not correlated, fitted or drawn."""

_SMOOTHNESS = "directional_smoothness"


def select(run: Run, where: Sequence[str]) -> pd.DataFrame:
    """The trials that satisfy all conditions.

    Trials that were replaced after a change of spec or code are left out, unless a condition names the column
    ``superseded``.

    Args:
        run: The run.
        where: Conditions such as ``learning_rate <= 20 and clip_norm != none``, as of
            :mod:`~sweeper.report.condition_grammar`.

    Returns:
        The rows of the trials table. Swept values have the types of the spec, under their paths; no other column has a
        dot in its name, but for ``best_``, ``final_`` and ``test_`` ones.

    Raises:
        ClipsweepError: A column is unknown, a condition is malformed or means several values, or no trial satisfies
            the conditions.
    """
    trials = _with_values(run)
    names = short_names(run.swept)
    comparisons = conditions_of(where, trials, names)
    if not any(comparison.column == _SUPERSEDED for comparison in comparisons):
        trials = trials[~superseded(trials)]
    every = trials
    for comparison in comparisons:
        trials = filtered(trials, comparison, names, every)
    if trials.empty:
        raise ClipsweepError(f"{run.path}: no trial satisfies {' and '.join(where) or 'anything: there are none'}")
    return trials


def _with_values(run: Run) -> pd.DataFrame:
    """All trials, with what the journal says of their swept values in place of what columns of one type can say."""
    import pandas as pd

    trials = run.trials
    kept = [name for name in trials.columns if str(name).removesuffix(EXACT) not in run.swept]
    values = [run.values[trial] for trial in trials["trial_id"]]
    swept = {path: pd.Series([of[path] for of in values], index=trials.index, dtype=object) for path in run.swept}
    return trials[kept].assign(**swept)


def labels_of(run: Run, trials: pd.DataFrame) -> CellLabels:
    """What the cells of some trials are called.

    Args:
        run: The run.
        trials: Rows, as :func:`select` returns them.

    Returns:
        The labels, which show what differs between these cells.
    """
    firsts = trials.drop_duplicates("cell_id")
    cells = [str(cell) for cell in firsts["cell_id"]]
    swept = {cell: run.values[trial] for cell, trial in zip(cells, firsts["trial_id"], strict=True)}
    return CellLabels(swept, {cell: run.state.cases[cell] for cell in cells if cell in run.state.cases})


def outside_the_rule(names: Mapping[str, str]) -> dict[str, str]:
    """What is swept besides the update rule: within equal values of it, arms are compared.

    Args:
        names: Swept path to short name.

    Returns:
        Some of them.

    Example:
        >>> outside_the_rule({"update_rule.clip_norm": "clip_norm", "problem.width": "width"})
        {'problem.width': 'width'}
    """
    return {path: short for path, short in names.items() if not path.startswith("update_rule.")}


def of_the_transform(names: Mapping[str, str]) -> dict[str, str]:
    """What is swept of the transform of the gradient, besides ``clip_norm``, which is a column of every run.

    Args:
        names: Swept path to short name.

    Returns:
        Some of them.

    Example:
        >>> of_the_transform({"update_rule.clip_value": "clip_value", "update_rule.clip_norm": "clip_norm"})
        {'update_rule.clip_value': 'clip_value'}
    """
    sections = {f"update_rule.{name}" for name in TRANSFORMS if name != "clip_norm"}
    return {path: short for path, short in names.items() if ".".join(path.split(".")[:2]) in sections}


def number_column(path: str) -> str:
    """The column that has a value as it was used: a theorem's own rate and threshold where the spec has null.

    Args:
        path: A swept path.

    Returns:
        A column of what :func:`select` returns.

    Example:
        >>> number_column("update_rule.clip_norm"), number_column("problem.clip_norm")
        ('clip_norm', 'problem.clip_norm')
    """
    section, _, name = path.rpartition(".")
    return name if section == "update_rule" and name in {"learning_rate", "clip_norm"} else path


def how_to_measure(run: Run, estimator: str) -> str:
    """What has an estimator measure in a run, or in the next one like it.

    Args:
        run: The run.
        estimator: Its name.

    Returns:
        Words that fit behind a colon.
    """
    if run.state.recorder is None:
        return (
            f"measure.estimators takes {{use: {estimator}}}, and `clipsweep estimate {run.path} --estimator "
            f"{estimator}` measures kept snapshots"
        )
    if estimator in _OF_SWEEPS_ALONE:
        return f"{run.state.recorder} does not measure {estimator}, only sweeps do"
    return f"{run.state.recorder}(estimators={{{estimator!r}: {{}}, ...}}) measures it in loops to come"


def thresholded(trials: pd.DataFrame) -> frozenset[str]:
    """The trials whose rule has a threshold above which it clips.

    Args:
        trials: Rows, as :func:`select` returns them.

    Returns:
        Their ids; rules that only normalise have no threshold.
    """
    # A theorem's own threshold is in the table, and not in the name of the arm; of a recorded loop that was planned
    # without one, its steps alone tell.
    clips = trials["clip_norm"].notna() | trials["arm"].str.contains("clip")
    clips |= trials["clipped_fraction"].astype(float) > 0
    return frozenset(trials.loc[clips, "trial_id"])


_SUPERSEDED = "superseded"


def superseded(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials were replaced by others.

    Args:
        trials: Rows of the trials table.

    Returns:
        Whether each was; of tables that are older than the column, none.
    """
    if _SUPERSEDED not in trials:
        return trials["trial_id"].isna()  # every trial has an id
    return trials[_SUPERSEDED].fillna(value=False).astype(bool)


def trusted_points(run: Run) -> pd.DataFrame:
    """The points that every answer uses: each snapshot's latest smoothness that is above its noise floor.

    Kept snapshots measured again by ``clipsweep estimate`` do not count, only settings that the run itself has had; but
    where the run was opened with the id of a measurement, that one alone counts.

    Args:
        run: The run.

    Returns:
        Rows of the measurements table, at most one per trial and step, superseded trials included.

    Raises:
        ClipsweepError: The run has no measurements.
    """
    if _SMOOTHNESS not in run.estimators:
        raise ClipsweepError(
            f"{run.path}: no directional smoothness was measured; the spec's measure section says when to measure"
        )
    rows = run.measurements(_SMOOTHNESS).reset_index(drop=True)
    # Kept snapshots that were measured again, on other shares of the data, belong to another f.
    ids = run.state.measurements if run.measurement is None else [run.measurement]
    age = rows["measurement_id"].map({measurement: at for at, measurement in enumerate(ids)})
    kept = age.notna() & above_noise(rows)
    latest = rows[kept].assign(_age=age[kept]).sort_values("_age", kind="stable")
    return latest.drop_duplicates(["trial_id", "step"], keep="last").sort_index().drop(columns="_age")


def above_noise(points: pd.DataFrame, snr: str = "snr") -> pd.Series[bool]:
    """Which points have a smoothness that is no rounding.

    Args:
        points: Rows with a column ``smoothness``.
        snr: The column of its ratio to the noise floor; null where that was not audited.

    Returns:
        Whether each is measured, and at :data:`MIN_SNR` or above as far as is known.
    """
    return points["smoothness"].notna() & ((points[snr] >= MIN_SNR) | points[snr].isna())


def own_rows(run: Run, estimator: str) -> pd.DataFrame:
    """What an estimator measured under the settings of the run itself, or under those that it was opened with.

    Args:
        run: The run.
        estimator: Its name.

    Returns:
        Rows of the measurements table, without kept snapshots that were measured again.
    """
    rows = run.measurements(estimator)
    ids = run.state.measurements if run.measurement is None else [run.measurement]
    return rows[rows["measurement_id"].isin(list(ids))]


def positive(points: pd.DataFrame) -> pd.DataFrame:
    """The points that can be drawn on logarithmic axes.

    Args:
        points: As :func:`trusted_points` returns them.

    Returns:
        Those whose gradient norm and smoothness are positive and finite.
    """
    lowest, highest = points[["grad_norm", "smoothness"]].min(axis=1), points[["grad_norm", "smoothness"]].max(axis=1)
    return points[(lowest > 0) & (highest < math.inf)]


def unmeasured_words(run: Run, trials: pd.DataFrame) -> str:
    """Why there is nothing, as the rest of a message.

    Args:
        run: The run.
        trials: The trials that were chosen.

    Returns:
        One indented line per distinct error of snapshots that could not be measured; empty where there were none.
    """
    return "".join(f"\n  {line}" for line in run.state.unmeasured(trials["trial_id"]).lines)
