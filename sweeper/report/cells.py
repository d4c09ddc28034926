"""One row of a report: its trials averaged within each seed first, then over the seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from estimators.fits.intervals import Interval, correlation_interval, positive_interval, share_interval
from sweeper.cell_labels import CellLabels
from sweeper.labels import plain_value
from sweeper.report.correlations import Correlations
from sweeper.tables.described import NOT_FINITE
from sweeper.tables.directions import is_share
from sweeper.value_texts import keys_of
from trainers.metric_names import TEST

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TEST_LOSS", "TRAIN_LOSS", "UNFINISHED", "Cell", "cell_of", "deterministic", "rows_of", "status_counts"]

TRAIN_LOSS = "final_train_loss"

TEST_LOSS = "test_loss"
"""Loss on the test data at the end, of problems that have any."""

UNFINISHED = ("queued", "paused", "running")
"""Statuses of trials that will have another one."""

_LEFT_OUT = ("diverged", "failed", "lost")
"""Trials that ended without a loss."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the report: a cell, or the trials that share the values asked for with ``--by``.

    Attributes:
        cell_id: The cell's id; None for a row of several cells.
        values: Short name to value of what is swept.
        texts: The same as tables show it: structured values in short, and different ones always as different texts.
        label: What differs from the other rows; empty if there is none or nothing differs.
        case: The name that the spec gives its case; None for none, and for a row of several.
        arm: The update rule up to its numbers; several are joined.
        seeds: Different seeds in the row: the unit of replication.
        trials: Trials in the row; more than seeds where a row is of several cells.
        statuses: Status word to count of trials.
        losses: Name to interval over the seeds, of the trials that are done; ``final_train_loss``, the best of each
            metric, and those of the test data, which are empty unless all trials that are done have them.
        clipped_fraction: Mean share of clipped steps, 0 for trials whose rule has no threshold; NaN if none has one,
            and where nothing was trained.
        has_threshold: Whether the rule of any trial clips at all.
        is_mixed: Whether some of its trials have a threshold and others have none.
        correlation: Of log smoothness with log gradient norm, Pearson; interval over seeds.
        rank_correlation: The same by ranks, Spearman.
        seed_rank_correlations: Its values by themselves, one per seed.
        bound_correlation: The rank correlation of the mechanical bound with the gradient norm; interval over seeds.
        partial_correlation: What of the rank correlation is left, given the bound.
        control_correlation: The rank correlation of the curvature along the update; without values if not measured.
        points: Snapshots that went into the correlations.
        seed_losses: Seed to primary loss, of the seeds of which a trial is done.
        test_losses: Seed to ``test_loss``, of the same seeds; empty unless all trials that are done have one. Not what
            a cell is chosen by.
        is_best: Whether it is the best cell of its arm in its context.
        not_finite: Losses of which trials that are done have only values that are not finite, each to their number.
    """

    cell_id: str | None
    values: dict[str, Any]
    texts: dict[str, str] = field(repr=False)
    label: str
    case: str | None
    arm: str
    seeds: int
    trials: int
    statuses: dict[str, int]
    losses: dict[str, Interval]
    clipped_fraction: float
    has_threshold: bool
    is_mixed: bool
    correlation: Interval
    rank_correlation: Interval
    seed_rank_correlations: tuple[float, ...]
    bound_correlation: Interval
    partial_correlation: Interval
    control_correlation: Interval
    points: int
    seed_losses: dict[int, float]
    test_losses: dict[int, float] = field(default_factory=dict)
    is_best: bool = False
    not_finite: Mapping[str, int] = field(default_factory=dict)

    @property
    def diverged(self) -> int:
        """How many of its trials diverged."""
        return self.statuses.get("diverged", 0)

    @property
    def done(self) -> int:
        """How many of its trials are done."""
        return self.statuses.get("done", 0)

    def is_of_all_trials(self, loss: str) -> bool:
        """Whether a loss is of all trials that ended, and finite in each of them.

        Args:
            loss: One of :attr:`losses`.

        Returns:
            False where it is of the survivors alone.
        """
        return not self.left_out and not self.not_finite.get(loss)

    @property
    def left_out(self) -> str:
        """Which trials the losses say nothing of; empty where none ended without a loss, and where all did."""
        ended = [f"{self.statuses[word]} {word}" for word in _LEFT_OUT if word in self.statuses]
        if not ended or not self.done:
            return ""
        first, _, word = ended[0].partition(" ")
        others = "".join(f" and {text}" for text in ended[1:])
        verb = "that is" if self.done == 1 else "that are"
        return (
            f"{first} of {self.trials} trials {_verb(word, int(first))}{others}; "
            f"the mean is of the {self.done} {verb} done"
        )


def _verb(word: str, count: int) -> str:
    """``lost`` is no verb of what a trial does."""
    return word if word != "lost" else "was lost" if count == 1 else "were lost"


def deterministic(trials: pd.DataFrame) -> bool:
    """Whether trials are analytic ones without noise, of one seed: another seed would give the same.

    Args:
        trials: Rows of the trials table; those that have not ended say nothing.

    Returns:
        False also where none has ended.
    """
    if "hitting_status" not in trials or trials["seed"].nunique() > 1:
        return False
    ended = trials[trials["status"].isin(["done", "diverged"])]
    return bool(len(ended) and ended["hitting_status"].notna().all() and (ended["noise"] == 0).all())


def status_counts(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials there are of each status word.

    Args:
        trials: Rows of the trials table.

    Returns:
        Word to count, in the order of the table.
    """
    return {str(status): int(count) for status, count in trials["status"].value_counts(sort=False).items()}


def rows_of(trials: pd.DataFrame, columns: Sequence[str]) -> list[pd.DataFrame]:
    """Trials that share the values of some columns.

    Args:
        trials: Rows of the trials table, as :func:`~sweeper.report.select.select` returns them.
        columns: The columns; null is a value like any other, and values of different types are different.

    Returns:
        Groups, in the order in which they first appear.
    """
    if not columns:
        return [trials]
    rows: dict[Hashable, list[int]] = {}
    for at, key in enumerate(zip(*(keys_of(trials[name]) for name in columns), strict=True)):
        rows.setdefault(key, []).append(at)
    return [trials.iloc[places] for places in rows.values()]


def cell_of(
    group: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    correlations: Mapping[str, Correlations],
    primary: str,
    labels: CellLabels,
    thresholded: frozenset[str],
) -> Cell:
    """Sum up the trials of one row.

    Trials of one seed are no replications of each other: they are averaged first, and the interval is over the seeds.

    Args:
        group: The trials, at least one.
        columns: Column whose values they share to the name that the row has for it.
        correlations: Trial to the correlations of its points.
        primary: The loss by which cells are ranked.
        labels: What the cells are called.
        thresholded: Trials whose rule has a threshold.

    Returns:
        The row.
    """
    # A cell has a handful of trials: pandas takes a hundred times as long for them as plain lists do.
    trial_ids, seeds, statuses, arms = (group[name].tolist() for name in ("trial_id", "seed", "status", "arm"))
    done = [status == "done" for status in statuses]
    tests = [name for name in group.columns if str(name).startswith(TEST)]
    losses = [TRAIN_LOSS, *(name for name in group.columns if name.startswith("best_")), *tests]
    numbers = {name: group[name].astype(float).tolist() for name in losses if name in group}
    found = {trial: correlations[trial] for trial in trial_ids if trial in correlations}
    by_kind = {
        kind: list(
            _by_seed(
                (seed, getattr(found[trial], kind))
                for seed, trial in zip(seeds, trial_ids, strict=True)
                if trial in found
            ).values()
        )
        for kind in ("pearson", "spearman", "bound", "partial", "control")
    }
    first = group.iloc[0]
    values = {name: plain_value(first[column]) for column, name in columns.items()}
    cells, cases = set(group["cell_id"]), {plain_value(case) for case in group["case"]}
    is_cell = len(cells) == 1 and set(columns) >= set(labels.names)
    clips = [trial in thresholded for trial in trial_ids]
    # Rules without a threshold count as never clipped beside others that have one.
    clipped = [
        share if clip else 0.0
        for share, clip in zip(group["clipped_fraction"].astype(float).tolist(), clips, strict=True)
        if not math.isnan(share)
    ]
    by_seed = {
        name: _by_seed((seed, value) for seed, value, is_done in zip(seeds, of, done, strict=True) if is_done)
        for name, of in numbers.items()
    }
    # Trials of an earlier release have none, and the mean of the others would not be the cell's.
    by_seed |= {name: {} for name in tests if not all(math.isfinite(value) for value in compress(numbers[name], done))}
    return Cell(
        cell_id=str(first["cell_id"]) if is_cell else None,
        values=values,
        texts=labels.texts(values),
        label=labels[str(first["cell_id"])] if is_cell else labels.part(values),
        case=plain_value(first["case"]) if is_cell and len(cases) == 1 else None,
        arm=" / ".join(dict.fromkeys(arms)),
        seeds=len(set(seeds)),
        trials=len(group),
        statuses=dict(Counter(statuses)),
        losses={name: _interval(name, list(of_seed.values())) for name, of_seed in by_seed.items()},
        clipped_fraction=sum(clipped) / len(clipped) if any(clips) and clipped else math.nan,
        has_threshold=any(clips),
        is_mixed=any(clips) and not all(clips),
        correlation=correlation_interval(by_kind["pearson"]),
        rank_correlation=correlation_interval(by_kind["spearman"]),
        seed_rank_correlations=tuple(by_kind["spearman"]),
        bound_correlation=correlation_interval(by_kind["bound"]),
        partial_correlation=correlation_interval(by_kind["partial"]),
        control_correlation=correlation_interval(by_kind["control"]),
        points=sum(one.points for one in found.values()),
        seed_losses=by_seed.get(primary, {}),
        test_losses=by_seed.get(TEST_LOSS, {}),
        not_finite=_not_finite(group, numbers, done),
    )


def _interval(metric: str, values: list[float]) -> Interval:
    """The mean of a loss or of an accuracy, with an interval of values that it can have."""
    return share_interval(values) if is_share(metric) else positive_interval(values)


def _not_finite(group: pd.DataFrame, numbers: Mapping[str, Sequence[float]], done: Sequence[bool]) -> dict[str, int]:
    """Losses that trials which are done have evaluated, but never as a finite number."""
    counts = {}
    for name, values in numbers.items():
        evaluations = f"{NOT_FINITE}{name.removeprefix('best_')}"
        if evaluations in group:
            bad = group[evaluations].astype(float).tolist()
            rows = zip(values, bad, done, strict=True)
            if count := sum(math.isnan(value) and number > 0 and is_done for value, number, is_done in rows):
                counts[name] = count
    return counts


def _by_seed(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Seed to the mean over its trials, in the order in which the seeds appear; without what has no finite value."""
    of_seed: dict[int, list[float]] = {}
    for seed, value in values:
        if not math.isnan(value):
            of_seed.setdefault(seed, []).append(value)
    means = {seed: sum(of) / len(of) for seed, of in of_seed.items()}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}
