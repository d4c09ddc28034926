"""Whether trials that two runs have under one id have the same rows, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SameRows", "compare_rows"]

_METRIC_KEY = ("trial_id", "step")
_MEASUREMENT_KEY = ("trial_id", "step", "measurement_id")


@dataclass(frozen=True, kw_only=True)
class SameRows:
    """Rows of the same trials in two runs.

    Attributes:
        trials: How many trials were compared.
        rows: How many rows both runs have of them.
        differing: How many of these differ in any column.
        missing: How many rows of metrics one of the runs alone has. Measurements may differ in number, as the two may
            have been measured under different settings, at other steps.
        first: The first difference: table, trial, step and column; empty where there is none.
    """

    trials: int
    rows: int
    differing: int
    missing: int
    first: str = ""

    @property
    def agree(self) -> bool:
        """Whether all rows are the same, bit for bit."""
        return not self.differing and not self.missing


def compare_rows(one: Run, other: Run, trials: Collection[str]) -> SameRows:
    """Compare the rows of trials that two runs have in common.

    Args:
        one: A run.
        other: Another one.
        trials: Ids of trials that both have finished.

    Returns:
        How they compare.
    """
    rows = differing = missing = 0
    first = ""
    for table, keys, left, right in _tables(one, other):
        left, right = (_of_trials(frame, trials, keys) for frame in (left, right))
        common = left.index.intersection(right.index)
        if table == "metrics":
            missing += len(left) + len(right) - 2 * len(common)
        rows += len(common)
        left, right = left.loc[common], right.loc[common]
        wrong = None
        for column in dict.fromkeys([*left.columns, *right.columns]):
            differs = _differs(left, right, column)
            if not first and differs.any():
                at = common[int(differs.to_numpy().argmax())]
                first = f"{table}, trial {at[0]}, step {at[1]}, {column}"
            wrong = differs if wrong is None else wrong | differs
        differing += 0 if wrong is None else int(wrong.sum())
    return SameRows(trials=len(trials), rows=rows, differing=differing, missing=missing, first=first)


def _tables(one: Run, other: Run) -> Iterator[tuple[str, list[str], pd.DataFrame, pd.DataFrame]]:
    if one.has("metrics") and other.has("metrics"):
        yield "metrics", list(_METRIC_KEY), one.metrics, other.metrics
    for name in one.estimators:
        if name in other.estimators:
            yield name, list(_MEASUREMENT_KEY), one.measurements(name), other.measurements(name)


def _of_trials(frame: pd.DataFrame, trials: Collection[str], keys: list[str]) -> pd.DataFrame:
    return frame[frame["trial_id"].isin(list(trials))].drop_duplicates(keys, keep="last").set_index(keys).sort_index()


def _differs(left: pd.DataFrame, right: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Where a column differs; one that a run does not have is null there."""
    import pandas as pd

    nothing = pd.Series(None, index=left.index, dtype=object)
    one, other = (frame[column] if column in frame else nothing for frame in (left, right))
    if one.dtype == object or other.dtype == object:
        one, other = one.map(_comparable), other.map(_comparable)
    return ~((one == other) | (one.isna() & other.isna()))


def _comparable(value: Any) -> Any:
    """Lists as texts, in which NaN is equal to NaN."""
    return repr(value.tolist()) if hasattr(value, "__len__") and hasattr(value, "tolist") else value
