"""One row of a report: its trials averaged within each seed first, then over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from estimators.fits.statistics import Interval, correlation_interval, mean_interval
from sweeper.labels import describe, plain_value

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TRAIN_LOSS", "Cell", "cell_of", "deterministic", "status_counts"]

TRAIN_LOSS = "final_train_loss"

_LEFT_OUT = ("diverged", "failed", "lost")
"""Trials that ended without a loss."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the report: a cell, or the trials that share the values asked for with ``--by``.

    Attributes:
        values: Short name to value of what is swept.
        arm: The update rule up to its numbers; several are joined.
        seeds: Different seeds in the row: the unit of replication.
        trials: Trials in the row; more than seeds where a row is of several cells.
        statuses: Status word to count of trials.
        losses: Name to interval over the seeds, of the trials that are done; ``final_train_loss`` and the best of each
            metric.
        clipped_fraction: Mean share of clipped steps; NaN where nothing was trained.
        correlation: Of log smoothness with log gradient norm, Pearson; interval over seeds.
        rank_correlation: The same by ranks, Spearman.
        points: Snapshots that went into the correlations.
        seed_losses: Seed to primary loss, of the seeds of which a trial is done.
    """

    values: dict[str, Any]
    arm: str
    seeds: int
    trials: int
    statuses: dict[str, int]
    losses: dict[str, Interval]
    clipped_fraction: float
    correlation: Interval
    rank_correlation: Interval
    points: int
    seed_losses: dict[int, float]

    @property
    def diverged(self) -> int:
        """How many of its trials diverged."""
        return self.statuses.get("diverged", 0)

    @property
    def done(self) -> int:
        """How many of its trials are done."""
        return self.statuses.get("done", 0)

    @property
    def label(self) -> str:
        """``name=value`` pairs."""
        return describe(self.values)

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


def cell_of(
    group: pd.DataFrame, columns: Sequence[str], correlations: Mapping[str, tuple[float, float, int]], primary: str
) -> Cell:
    """Sum up the trials of one row.

    Trials of one seed are no replications of each other: they are averaged first, and the interval is over the seeds.

    Args:
        group: The trials, at least one.
        columns: Columns whose values they share.
        correlations: Trial to Pearson of logs, Spearman, and the number of points.
        primary: The loss by which cells are ranked.

    Returns:
        The row.
    """
    done = group[group["status"] == "done"]
    losses = [TRAIN_LOSS] + [name for name in group.columns if name.startswith("best_")]
    found = {trial: correlations[trial] for trial in group["trial_id"] if trial in correlations}
    measured = group[group["trial_id"].isin(found)]
    pearson, spearman = (
        measured.assign(value=[found[trial][index] for trial in measured["trial_id"]]) for index in (0, 1)
    )
    first = group.iloc[0]
    return Cell(
        values={name: plain_value(first[name]) for name in columns},
        arm=" / ".join(dict.fromkeys(group["arm"])),
        seeds=int(group["seed"].nunique()),
        trials=len(group),
        statuses=status_counts(group),
        losses={name: mean_interval(list(_by_seed(done, name).values())) for name in losses if name in group},
        clipped_fraction=float(group["clipped_fraction"].astype(float).mean()),
        correlation=correlation_interval(list(_by_seed(pearson, "value").values())),
        rank_correlation=correlation_interval(list(_by_seed(spearman, "value").values())),
        points=sum(points for _, _, points in found.values()),
        seed_losses=_by_seed(done, primary) if primary in done else {},
    )


def _by_seed(trials: pd.DataFrame, column: str) -> dict[int, float]:
    """Seed to the mean over its trials, in the order in which the seeds appear; without what has no value."""
    values = trials.assign(value=trials[column].astype(float)).groupby("seed", sort=False)["value"].mean()
    values = values.dropna()
    return dict(zip(values.index.tolist(), values.tolist(), strict=True))
