"""Which trials and which points count: conditions, superseded trials, and measurements above their noise floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeper.cell_labels import CellLabels, Labels
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MIN_SNR", "labels_of", "positive", "select", "thresholded", "trusted_points", "unmeasured_words"]


MIN_SNR = 3.0
"""A smoothness below three times its noise floor is rounding, and is not correlated, fitted or drawn."""

_SMOOTHNESS = "directional_smoothness"


def select(run: Run, where: Sequence[str]) -> pd.DataFrame:
    """The trials that satisfy all conditions, with swept columns under their short names.

    Trials that were replaced after a change of spec or code are left out, unless a condition names the column
    ``superseded``.

    Args:
        run: The run.
        where: ``column=value`` conditions; ``none`` means null, a number may have the four digits of a table, and a
            section its short form, as in ``schedule=cosine(0.01)``.

    Returns:
        The rows of the trials table.

    Raises:
        ClipsweepError: A column is unknown, a condition is malformed or means several values, or no trial satisfies
            the conditions.
    """
    names = short_names(run.swept)
    # learning_rate, clip_norm and steps have their own columns, which a swept path of the same name would repeat.
    repeated = [short for path, short in names.items() if short != path and short in run.trials.columns]
    trials = run.trials.drop(columns=repeated).rename(columns=names)
    if not any(condition.partition("=")[0].strip() == _SUPERSEDED for condition in where):
        trials = trials[~_superseded(trials)]
    every = trials
    for condition in where:
        trials = _filter(trials, condition, names, every)
    if trials.empty:
        raise ClipsweepError(f"{run.path}: no trial satisfies {' and '.join(where) or 'anything: there are none'}")
    return trials


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
    columns = {path: [plain_value(value) for value in firsts[name]] for path, name in short_names(run.swept).items()}
    swept = {cell: {path: values[at] for path, values in columns.items()} for at, cell in enumerate(cells)}
    return CellLabels(swept, {cell: run.state.cases[cell] for cell in cells if cell in run.state.cases})


def thresholded(run: Run, trials: pd.DataFrame) -> frozenset[str]:
    """The trials whose rule has a threshold above which it clips.

    Args:
        run: The run.
        trials: Rows, as :func:`select` returns them.

    Returns:
        Their ids; rules that only normalise have no threshold.
    """
    # A theorem's own threshold is in the table, and not in the name of the arm.
    own = run.trials.loc[trials.index, "clip_norm"]
    return frozenset(trials.loc[own.notna() | trials["arm"].str.contains("clip"), "trial_id"])


_SUPERSEDED = "superseded"


def _superseded(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which trials were replaced by others; none in tables that are older than the column."""
    if _SUPERSEDED not in trials:
        return trials["trial_id"].isna()  # every trial has an id
    return trials[_SUPERSEDED].fillna(value=False).astype(bool)


def _column(name: str, trials: pd.DataFrame, names: dict[str, str]) -> str:
    """A column by its short or dotted name."""
    found = names.get(name, name)
    if found not in trials.columns:
        case = ["case"] if trials["case"].notna().any() else []
        known = ", ".join([*case, *names.values(), "arm", "seed", "status"])
        raise ClipsweepError(f"no column {name!r}; known: {known}")
    return found


def _filter(trials: pd.DataFrame, condition: str, names: dict[str, str], every: pd.DataFrame) -> pd.DataFrame:
    name, mark, text = condition.partition("=")
    if not mark:
        raise ClipsweepError(f"--where {condition!r}: expected column=value, for example learning_rate=20")
    found = _column(name.strip(), trials, names)
    column = trials[found]
    text = text.strip()
    if text.lower() in {"none", "null"}:
        return trials[column.isna()]
    try:
        number = float(text)
    except ValueError:
        exact = trials[column.astype(str) == text]
        return exact if len(exact) else _as_shown(trials, found, text, every)
    meant = _meant(condition, number, list(dict.fromkeys(float(value) for value in column if _is_number(value))))
    return trials[column.map(lambda value: _is_number(value) and float(value) in meant).astype(bool)]


def _as_shown(trials: pd.DataFrame, name: str, text: str, every: pd.DataFrame) -> pd.DataFrame:
    """The trials of whose value a table shows this text: one of these trials, or one of all."""
    for shown in (trials, every):
        values = [plain_value(value) for value in shown[name].unique()]
        labels = Labels([{name: value} for value in values])
        meant = [value for value in values if labels.text(name, value) == text]
        if meant:
            return trials[trials[name].isin(meant)]
    return trials[:0]


def _meant(condition: str, number: float, values: Sequence[float]) -> list[float]:
    """The value that equals a number, or the one that tables print like it, with four digits."""
    if number in values:
        return [number]
    printed = [value for value in values if f"{value:.4g}" == f"{number:.4g}"]
    if len(printed) > 1:
        raise ClipsweepError(
            f"--where {condition!r}: means {' or '.join(repr(value) for value in printed)}; write all digits"
        )
    return printed


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
    kept = age.notna() & rows["smoothness"].notna() & ((rows["snr"] >= MIN_SNR) | rows["snr"].isna())
    latest = rows[kept].assign(_age=age[kept]).sort_values("_age", kind="stable")
    return latest.drop_duplicates(["trial_id", "step"], keep="last").sort_index().drop(columns="_age")


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
