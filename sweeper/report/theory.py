"""What a theory sweep shows: hitting times next to the theorems' bounds, and gradient descent against clipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.cell_labels import CellLabels, Labels
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.report.select import labels_of, number_column, select, thresholded
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Speedup",
    "TheoryReport",
    "TheoryRow",
    "build_theory",
    "hitting_time",
    "largest_stable_step",
    "theory_trials",
]

_STATUSES = ("hit", "diverged", "capped")
_FUNCTION = "problem.function"
_SHOWN_APART = {_FUNCTION, "problem.function.use", "update_rule.from_theory"}


@dataclass(frozen=True, kw_only=True)
class TheoryRow:
    """One cell.

    Attributes:
        label: What differs from the other cells.
        case: The name that the spec gives its case; None for none.
        values: Short names and values of what is swept.
        texts: The same as tables show it.
        arm: The rule.
        function: Name of the function, with its numbers if the sweep sets both together.
        short_function: The same as tables show it.
        seeds: Trials that ended.
        time: T of eq. (8), over the seeds; infinite if fewer than half of them have hit.
        statuses: Counts of ``hit``, ``diverged`` and ``capped``.
        bound: The bound of the rule's theorem; None if there is none.
        clipped_fraction: Share of shortened steps; NaN for rules without a threshold.
        tail_grad_norm: Mean gradient norm over the second half, of trials that continue after their hit; NaN otherwise.
    """

    label: str
    case: str | None
    values: dict[str, Any]
    texts: dict[str, str]
    arm: str
    function: str
    short_function: str
    seeds: int
    time: float
    statuses: dict[str, int]
    bound: float | None
    clipped_fraction: float
    tail_grad_norm: float

    @property
    def slack(self) -> float | None:
        """The bound divided by the actual time; None without a bound or a hit."""
        return None if self.bound is None or not 0 < self.time < math.inf else self.bound / self.time


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """The two instances of Theorem 4 at one M; every rule is judged by the worse of them.

    Attributes:
        M: Gradient norm at the start of the steep instance.
        rule: Name of the rule it is compared with.
        descent_time: The smallest, over the fixed steps tried, of the larger of the two hitting times.
        descent_rate: The fixed step that reaches it.
        rule_time: The larger of the rule's two hitting times.
        rates_tried: How many fixed steps ran on both instances.
    """

    M: float
    rule: str
    descent_time: float
    descent_rate: float
    rule_time: float
    rates_tried: int

    @property
    def ratio(self) -> float:
        """How many times longer gradient descent takes; below 1 it wins."""
        return self.descent_time / self.rule_time if math.isfinite(self.rule_time) else math.nan


@dataclass(frozen=True, kw_only=True)
class TheoryReport:
    """Everything that ``clipsweep theory`` shows.

    Attributes:
        path: The run directory.
        statuses: Trials by how they ended.
        rows: The cells.
        speedups: By M, if both instances of Theorem 4 were run.
        notes: Caveats about these numbers.
    """

    path: str
    statuses: dict[str, int]
    rows: tuple[TheoryRow, ...]
    speedups: tuple[Speedup, ...]
    notes: tuple[str, ...]


def build_theory(run: Run, *, where: Sequence[str] = ()) -> TheoryReport:
    """Aggregate a theory sweep over its seeds.

    Args:
        run: The run.
        where: ``column=value`` conditions, as for a report.

    Returns:
        The report.

    Raises:
        ClipsweepError: The run has no analytic trial that ended, or a condition is wrong.
    """
    chosen = select(run, where)
    trials = _ended(run, chosen)
    # The function and the rule have their own columns.
    names = {path: short for path, short in short_names(run.swept).items() if path not in _SHOWN_APART}
    groups = [(str(cell), group) for cell, group in trials.groupby("cell_id", sort=False)]
    values = [
        {name: plain_value(group.iloc[0][number_column(path)]) for path, name in names.items()} for _, group in groups
    ]
    # The numbers in the table are those of a theorem, the labels are of what the spec says.
    shown, labels = Labels(values), labels_of(run, chosen)
    clipping = thresholded(trials)
    rows = tuple(
        _row(
            group,
            label=labels[cell],
            values=of_cell,
            texts={name: shown.text(name, value) for name, value in of_cell.items()},
            short_function=_short_function(group.iloc[0], labels),
            function=_function(group.iloc[0]),
            clips=not clipping.isdisjoint(group["trial_id"]),
        )
        for (cell, group), of_cell in zip(groups, values, strict=True)
    )
    counts = trials["hitting_status"].value_counts()
    return TheoryReport(
        path=str(run.path),
        statuses={status: int(counts[status]) for status in _STATUSES if status in counts},
        rows=rows,
        speedups=tuple(_speedups(trials)),
        notes=tuple(_notes(trials, rows)),
    )


def theory_trials(run: Run, where: Sequence[str] = ()) -> pd.DataFrame:
    """The analytic trials that ended.

    Args:
        run: The run.
        where: ``column=value`` conditions.

    Returns:
        Rows of the trials table, as :func:`~sweeper.report.select.select` returns them.

    Raises:
        ClipsweepError: There are none, or a condition is wrong.
    """
    return _ended(run, select(run, where))


def _ended(run: Run, trials: pd.DataFrame) -> pd.DataFrame:
    if "hitting_status" not in trials or trials["hitting_status"].isna().all():
        raise ClipsweepError(f"{run.path}: no analytic trial has ended; theory is about problem: {{use: analytic}}")
    return trials[trials["hitting_status"].notna()]


def hitting_time(times: Sequence[float]) -> float:
    """T of eq. (8): the first t by which at least half of the runs have hit; for one run, eq. (7).

    Args:
        times: Hitting time of each run, infinite if it never hit.

    Returns:
        The lower median.

    Example:
        >>> hitting_time([5, 3, math.inf]), hitting_time([5, math.inf, math.inf]), hitting_time([7, 4])
        (5, inf, 4)
    """
    return sorted(times)[(len(times) + 1) // 2 - 1]


def largest_stable_step(L0: float, L1: float, M: float) -> float:
    """h* = 2 log(1 + L1 M / L0)/(L1 M): beyond it gradient descent diverges on the extremal function.

    From f'(x0) = M a step of this length ends at -x0; a longer one ends beyond, where the gradient is larger.

    Args:
        L0: Of the extremal function.
        L1: Of the extremal function.
        M: Gradient norm at the start.

    Returns:
        The step size.
    """
    return 2 * math.log1p(L1 * M / L0) / (L1 * M)


def _times(group: pd.DataFrame) -> list[float]:
    return [math.inf if math.isnan(time) else float(time) for time in group["hitting_time"].astype(float)]


def _function(first: Any) -> str:
    """The function with its numbers, if the sweep sets them together."""
    if first.get(_FUNCTION) is None:
        return str(first["function_name"])
    section = first[_FUNCTION]
    numbers = [
        f"{name}={value:g}" if isinstance(value, float | int) else f"{name}={value}"
        for name, value in section.items()
        if name != "use"
    ]
    return " ".join([section["use"], *numbers])


def _short_function(first: Any, labels: CellLabels) -> str:
    """The function with those of its numbers in which it differs from the others."""
    value = first.get(_FUNCTION)
    return str(first["function_name"]) if value is None else labels.text(labels.names[_FUNCTION], value)


def _row(group: pd.DataFrame, *, clips: bool, **known: Any) -> TheoryRow:
    first = group.iloc[0]
    counts = group["hitting_status"].value_counts()
    bound = float(first["iteration_bound"])
    return TheoryRow(
        **known,
        case=plain_value(first["case"]),
        arm=str(first["arm"]),
        seeds=len(group),
        time=hitting_time(_times(group)),
        statuses={status: int(counts.get(status, 0)) for status in _STATUSES},
        bound=None if math.isnan(bound) else bound,
        clipped_fraction=float(group["clipped_fraction"].astype(float).mean()) if clips else math.nan,
        tail_grad_norm=float(group["tail_grad_norm"].astype(float).mean()),
    )


def _speedups(trials: pd.DataFrame) -> list[Speedup]:
    """Both instances of Theorem 4, without noise: for every rule, the worse of them counts."""
    still = trials[trials["noise"] == 0]
    steep, flat = (still[still["function_name"] == name] for name in ("theorem4_steep", "theorem4_flat"))
    if steep.empty or flat["initial_gap"].nunique() != 1:
        return []
    found = []
    for _, walls in steep.groupby("M"):
        descent = _worst(walls[walls["arm"] == "sgd"], flat[flat["arm"] == "sgd"], "learning_rate")
        if not descent:
            continue
        rate = min(descent, key=lambda rate: descent[rate])
        for rule, time in _worst(walls[walls["arm"] != "sgd"], flat[flat["arm"] != "sgd"], "arm").items():
            found.append(
                Speedup(
                    M=float(walls["M"].iloc[0]),
                    rule=str(rule),
                    descent_time=descent[rate],
                    descent_rate=float(rate),
                    rule_time=time,
                    rates_tried=len(descent),
                )
            )
    return found


def _worst(walls: pd.DataFrame, valley: pd.DataFrame, key: str) -> dict[Any, float]:
    """For each rule that ran on both instances, the larger hitting time; the better result if a rule ran twice."""

    def best(frame: pd.DataFrame) -> dict[Any, float]:
        return {value: min(_times(group)) for value, group in frame.groupby(key)}

    on_walls, in_valley = best(walls), best(valley)
    return {value: max(time, in_valley[value]) for value, time in on_walls.items() if value in in_valley}


def _notes(trials: pd.DataFrame, rows: Sequence[TheoryRow]) -> list[str]:
    notes = []
    seeds = int(trials.groupby("cell_id").size().max())
    if (trials["noise"] > 0).any():
        notes.append(f"T is eq. (8): half of {seeds} seeds have hit by then; clipped is the share of clipped steps")
        if seeds < 10:
            notes.append("with so few seeds the median is coarse")
    if any(row.arm == "theorem7" for row in rows):
        notes.append(
            "theorem7's bound is as printed, which its proof does not give: that gives 4 to 1,024 times as much"
        )
    if any(row.slack is not None and row.slack > 100 for row in rows):
        notes.append(
            "a bound is about the worst function of its class: that it holds with so much to spare proves little"
        )
    return notes
