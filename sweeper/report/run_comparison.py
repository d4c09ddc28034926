"""Runs compared with each other: what differs in what they are, and what that did to the cells that they share.

Cells are the same where all that is swept in any of the runs has the same value; what a run does not sweep has the
value of its spec. Trials of one cell and seed are paired: they begin with the same weights and see the same batches.
Where nothing that training depends on differs, they have the same id, and should have the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.fits.intervals import Interval, mean_interval
from estimators.fits.significance import holm, p_value
from sweeper.cell_labels import CellLabels
from sweeper.errors import RunDirectoryError
from sweeper.labels import counted
from sweeper.report.cells import TEST_LOSS, TRAIN_LOSS, status_counts
from sweeper.report.origins import Difference, differences_between, unread
from sweeper.report.same_rows import SameRows, compare_rows
from sweeper.report.select import select
from sweeper.tables.directions import direction_of
from sweeper.tables.run import Run
from sweeper.tables.several import RUN, run_names, unswept_value
from sweeper.value_texts import key_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CellPair", "PairedLoss", "RunPair", "RunsComparison", "build_comparison"]

_LEVEL = 0.05
_VALID = "best_valid_loss"


@dataclass(frozen=True, kw_only=True)
class PairedLoss:
    """A loss of one cell in two runs, seed by seed.

    Attributes:
        loss: Its name.
        reference: Mean in the reference, over the common seeds.
        other: Mean in the other run, over the same seeds.
        difference: Other minus reference over the common seeds.
        larger_is_better: Whether the loss is maximised.
        p_value: Of the paired t test; NaN for fewer than two seeds, and where all trials are the same ones.
        p_adjusted: The same by Holm's correction: of a cell for the tests of all cells, of the mean over cells for
            those of all runs.
    """

    loss: str
    reference: float
    other: float
    difference: Interval
    larger_is_better: bool = False
    p_value: float = math.nan
    p_adjusted: float = math.nan

    @property
    def is_decided(self) -> bool:
        """Whether chance is excluded at 95 %, all such tests together."""
        return self.p_adjusted < _LEVEL and not self.difference.low <= 0 <= self.difference.high

    @property
    def verdict(self) -> str:
        """What can be concluded of the other run."""
        if self.difference.count == 0:
            return "no seed with both"
        if self.is_decided:
            return "better" if (self.difference.mean > 0) == self.larger_is_better else "worse"
        if self.difference.mean == self.difference.low == self.difference.high == 0:
            return "no difference"
        return "undecided" if self.difference.count > 1 else "one seed says nothing about chance"


@dataclass(frozen=True, kw_only=True)
class CellPair:
    """A cell that two runs have in common.

    Attributes:
        label: What tells it from the others.
        values: Short name to value of what is swept.
        texts: The same as tables show it.
        arm: Its arm in the reference.
        cell_ids: Its id in the reference and in the other run.
        statuses: Status word to count of trials, in the reference and in the other run.
        same_trials: How many trials both have under the same id.
        losses: The losses that both have.
    """

    label: str
    values: Mapping[str, Any]
    texts: Mapping[str, str]
    arm: str
    cell_ids: tuple[str, str]
    statuses: tuple[Mapping[str, int], Mapping[str, int]]
    same_trials: int
    losses: tuple[PairedLoss, ...]


@dataclass(frozen=True, kw_only=True)
class RunPair:
    """A run compared with the reference.

    Attributes:
        other: Name of the run.
        cells: The cells in common, in the order of the reference.
        overall: Each loss averaged over the cells that are done in both runs with a seed, and then paired by seed.
        only_reference: Labels of cells that the reference alone has.
        only_other: Labels of cells that the other run alone has.
        num_trials: Number of trials of the reference, and of the other run.
        same_trials: How many trials both have under the same id.
        same_rows: Whether the rows of these agree; None where there are none that both have finished.
    """

    other: str
    cells: tuple[CellPair, ...]
    overall: tuple[PairedLoss, ...]
    only_reference: tuple[str, ...]
    only_other: tuple[str, ...]
    num_trials: tuple[int, int]
    same_trials: int
    same_rows: SameRows | None


@dataclass(frozen=True, kw_only=True)
class RunsComparison:
    """Everything that ``clipsweep compare`` shows.

    Attributes:
        paths: Name of a run to its directory, the reference first.
        differences: What differs in spec, code and environment.
        pairs: Every other run against the reference.
        num_tests: How many tests of cells Holm's correction counts.
        notes: What to know of these numbers.
    """

    paths: Mapping[str, str]
    differences: tuple[Difference, ...]
    pairs: tuple[RunPair, ...]
    num_tests: int
    notes: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The name of the run with which the others are compared."""
        return next(iter(self.paths))


def build_comparison(runs: Sequence[Run], *, where: Sequence[str] = ()) -> RunsComparison:
    """Compare runs with the first of them.

    Args:
        runs: Two or more, all different.
        where: Conditions on the trials that are compared, as of :func:`~sweeper.report.select.select`.

    Returns:
        The comparison.

    Raises:
        ClipsweepError: There are fewer than two runs, one is given twice, or no trial of one satisfies the conditions.
    """
    if len(runs) < 2:
        raise RunDirectoryError(f"{runs[0].path}: a comparison takes two runs or more")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise RunDirectoryError(f"{runs[-1].path}: one of the runs is given twice")
    named = dict(zip(run_names([run.path for run in runs]), runs, strict=True))
    swept = [path for path in dict.fromkeys(path for run in runs for path in run.swept) if path != RUN]
    of_runs = [_Cells.of(run, swept, where) for run in runs]
    # One set of labels, so that a cell has one name, in whichever run it is.
    values = {key: of_key for cells in of_runs for key, of_key in cells.values.items()}
    places = {key: str(at) for at, key in enumerate(values)}
    labels = CellLabels({places[key]: of_key for key, of_key in values.items()})
    names = {key: labels[places[key]] for key in values}
    first = of_runs[0]
    pairs = _corrected([
        _pair(name, first, other, names, labels) for name, other in zip(list(named)[1:], of_runs[1:], strict=True)
    ])
    tests = [one for pair in pairs for one in _of_cells(pair) if not math.isnan(one.p_value)]
    return RunsComparison(
        paths={name: str(run.path) for name, run in named.items()},
        differences=differences_between(named),
        pairs=pairs,
        num_tests=len(tests),
        notes=tuple(_notes(named, pairs, len(tests))),
    )


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """The trials of a run by cell: what is the same in another run has the same key."""

    run: Run
    trials: pd.DataFrame
    values: Mapping[Hashable, Mapping[str, Any]]
    groups: Mapping[Hashable, pd.DataFrame]

    @classmethod
    def of(cls, run: Run, swept: Sequence[str], where: Sequence[str]) -> _Cells:
        trials = select(run, where)
        fixed = {path: unswept_value(run, path) for path in swept if path not in run.swept}
        values: dict[Hashable, Mapping[str, Any]] = {}
        places: dict[Hashable, list[int]] = {}
        for at, trial in enumerate(trials["trial_id"]):
            of_trial = {path: run.values[trial].get(path, fixed.get(path)) for path in swept}
            key = tuple(_key(value) for value in of_trial.values())
            values.setdefault(key, of_trial)
            places.setdefault(key, []).append(at)
        groups = {key: trials.iloc[found] for key, found in places.items()}
        return cls(run=run, trials=trials, values=values, groups=groups)


def _key(value: Any) -> Hashable:
    """Equal for equal values; 1 and 1.0 are the same number, by whichever spec."""
    return key_of(float(value)) if isinstance(value, int) and not isinstance(value, bool) else key_of(value)


def _pair(name: str, first: _Cells, other: _Cells, names: Mapping[Hashable, str], labels: CellLabels) -> RunPair:
    common = [key for key in first.values if key in other.values]
    losses = _losses(first, other)
    cells = tuple(_cell(key, first, other, names[key], labels, losses) for key in common)
    ids = set(first.trials["trial_id"]) & set(other.trials["trial_id"])
    done = [set(of.trials.loc[of.trials["status"].isin(["done", "diverged"]), "trial_id"]) for of in (first, other)]
    both = ids & done[0] & done[1]
    return RunPair(
        other=name,
        cells=cells,
        overall=tuple(
            _overall(loss, larger, [(first.groups[key], other.groups[key]) for key in common])
            for loss, larger in losses.items()
        ),
        only_reference=tuple(names[key] for key in first.values if key not in other.values),
        only_other=tuple(names[key] for key in other.values if key not in first.values),
        num_trials=(len(first.trials), len(other.trials)),
        same_trials=len(ids),
        same_rows=compare_rows(first.run, other.run, both) if both else None,
    )


def _losses(first: _Cells, other: _Cells) -> dict[str, bool]:
    """The losses that both runs have, each with whether the largest is the best."""
    names = [_VALID if all(_has(of, _VALID) for of in (first, other)) else TRAIN_LOSS, TEST_LOSS]
    declared = first.run.state.declared_metrics(str(first.trials["trial_id"].iloc[0]))
    return {
        name: direction_of(name.removeprefix("best_"), declared) == "max"
        for name in names
        if all(_has(of, name) for of in (first, other))
    }


def _has(cells: _Cells, loss: str) -> bool:
    return loss in cells.trials and bool(cells.trials[loss].notna().any())


def _cell(
    key: Hashable, first: _Cells, other: _Cells, label: str, labels: CellLabels, losses: Mapping[str, bool]
) -> CellPair:
    groups = first.groups[key], other.groups[key]
    same = set(groups[0]["trial_id"]) & set(groups[1]["trial_id"])
    values = {labels.names[path]: value for path, value in first.values[key].items()}
    return CellPair(
        label=label,
        values=values,
        texts=labels.texts(values),
        arm=" / ".join(dict.fromkeys(groups[0]["arm"])),
        cell_ids=(str(groups[0]["cell_id"].iloc[0]), str(groups[1]["cell_id"].iloc[0])),
        statuses=(status_counts(groups[0]), status_counts(groups[1])),
        same_trials=len(same),
        losses=tuple(
            _paired(loss, larger, *(_by_seed(of, loss) for of in groups), same=_is_same(groups))
            for loss, larger in losses.items()
        ),
    )


def _is_same(groups: tuple[pd.DataFrame, pd.DataFrame]) -> bool:
    """Whether all trials with a seed in common have the same id, so that there is nothing to test."""
    ids = [dict(zip(of["seed"], of["trial_id"], strict=True)) for of in groups]
    return all(ids[0][seed] == ids[1][seed] for seed in ids[0].keys() & ids[1].keys())


def _by_seed(group: pd.DataFrame, loss: str) -> dict[int, float]:
    """Seed to loss, of trials that are done and have a finite one."""
    done = group[group["status"] == "done"]
    found = zip(done["seed"].tolist(), done[loss].astype(float).tolist(), strict=True)
    return {int(seed): value for seed, value in found if math.isfinite(value)}


def _paired(
    loss: str, larger: bool, reference: Mapping[int, float], other: Mapping[int, float], *, same: bool
) -> PairedLoss:
    seeds = sorted(reference.keys() & other.keys())
    differences = [other[seed] - reference[seed] for seed in seeds]
    return PairedLoss(
        loss=loss,
        reference=mean_interval([reference[seed] for seed in seeds]).mean,
        other=mean_interval([other[seed] for seed in seeds]).mean,
        difference=mean_interval(differences),
        larger_is_better=larger,
        p_value=math.nan if same else p_value(differences),
    )


def _overall(loss: str, larger: bool, groups: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> PairedLoss:
    """The mean over the cells, for each seed with which all of them are done in both runs."""
    cells = [tuple(_by_seed(of, loss) for of in both) for both in groups]
    seeds = set.intersection(*(set(one) & set(other) for one, other in cells)) if cells else set()
    means = [{seed: float(np.mean([cell[side][seed] for cell in cells])) for seed in seeds} for side in (0, 1)]
    return _paired(loss, larger, *means, same=all(_is_same(both) for both in groups))


def _of_cells(pair: RunPair) -> Iterator[PairedLoss]:
    yield from (loss for cell in pair.cells for loss in cell.losses)


def _corrected(pairs: Sequence[RunPair]) -> tuple[RunPair, ...]:
    """The same with p values for all tests of cells together, and for all means over cells."""
    of_cells = iter(holm([one.p_value for pair in pairs for one in _of_cells(pair)]))
    of_means = iter(holm([one.p_value for pair in pairs for one in pair.overall]))

    def with_p(losses: Sequence[PairedLoss], adjusted: Iterator[float]) -> tuple[PairedLoss, ...]:
        return tuple(replace(one, p_adjusted=next(adjusted)) for one in losses)

    return tuple(
        replace(
            pair,
            cells=tuple(replace(cell, losses=with_p(cell.losses, of_cells)) for cell in pair.cells),
            overall=with_p(pair.overall, of_means),
        )
        for pair in pairs
    )


def _notes(runs: Mapping[str, Run], pairs: Sequence[RunPair], tests: int) -> Iterator[str]:
    for name, run in runs.items():
        if missing := unread(run):
            yield f"{name} has no {' and no '.join(missing)} that can be read, so that what differs there is not known"
    if any(pair.cells for pair in pairs):
        yield "differences are the other run's value minus the reference's, trials of one cell and seed being paired"
    if tests > 1:
        yield (
            f"{counted(tests, 'test')} of cells: each interval is 95 % by itself, and which cell is better or worse is "
            "decided by Holm's correction at 5 % for all of them together"
        )
    if any(pair.cells and pair.same_trials == 0 for pair in pairs):
        yield (
            "cells are matched by their swept values: no trial has the same id in both runs, since settings or code "
            "that training depends on differ"
        )
    unfinished = {"queued", "paused", "running", "held"}
    if any(unfinished & of.keys() for pair in pairs for cell in pair.cells for of in cell.statuses):
        yield "some trials are unfinished: the numbers will change"
