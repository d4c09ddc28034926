"""``optuna``: any of Optuna's samplers, through ask and tell.

A value with all its seeds is one trial in Optuna's eyes: its result is the mean over them, infinite where one diverged.
Nothing is kept in a storage of Optuna's: the study is made again from the history, by asking and telling in the order
in which that was done, with a sampler of the same seed. Where a release of Optuna answers otherwise than the one
before, what was asked for stands: the sampler is told of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from sweeper.search.protocol import Ask, Base, Decision, Extent, History, Known, Seen, Space, whole_or_not

__all__ = ["Optuna"]

_DIGITS = 4

_UNFIT = {"BaseSampler", "BaseGASampler", "BruteForceSampler", "GridSampler", "PartialFixedSampler"}
"""What is no sampler of values by itself: a grid is written as a grid."""


@dataclass(frozen=True, kw_only=True)
class _Set:
    """One point with all its seeds.

    Attributes:
        values: Searched path to value.
        asked_after: How many outcomes of the run were known when it was asked for.
        ended_at: How many were known before the last of its own; None while any is on its way.
        result: The mean over the seeds; infinite where one diverged, NaN while any is on its way.
    """

    values: Mapping[str, float]
    asked_after: int
    ended_at: int | None
    result: float


class Optuna:
    """One of Optuna's samplers, with a study for every base.

    Args:
        over: Path to its smallest and largest value.
        sampler: Name of a class of ``optuna.samplers``.
        options: Its arguments; ``seed`` is one of its own here.
        metric: What is compared: ``train_loss``, or a metric of the problem.
        budget: Trials of each arm, a trial for each seed; an arm of several cells shares it among them.
        seed: The sampler's.

    Raises:
        ValueError: There is no such sampler, or it does not take these options.
    """

    def __init__(
        self,
        *,
        over: Mapping[str, Sequence[float]],
        sampler: str = "TPESampler",
        options: Mapping[str, Any] | None = None,
        metric: str = "train_loss",
        budget: int = 40,
        seed: int = 0,
    ) -> None:
        self._over = {path: (float(ends[0]), float(ends[1])) for path, ends in over.items()}
        self._metric = metric
        self._budget = budget
        self._seed = seed
        self._options = dict(options or {})
        if "seed" in self._options:
            raise ValueError("seed is an option of the search itself, not among those of the sampler")
        known = [name for name in optuna.samplers.__all__ if name.endswith("Sampler") and name not in _UNFIT]
        if sampler not in known:
            raise ValueError(
                f"Optuna {optuna.__version__} has no sampler {sampler!r} for this; known: {', '.join(known)}"
            )
        self._sampler_class = getattr(optuna.samplers, sampler)
        self._name = sampler
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._sampler()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{sampler} does not take these options: {error}") from None

    def decide(self, space: Space, history: History) -> Decision:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        asks: list[Ask] = []
        known: list[Known] = []
        for base in space.bases:
            sets, lost = self._sets(space, base, history)
            most = self._num_sets(space, base)
            moving = sum(one.ended_at is None for one in sets)
            room = 0 if lost else min(most - len(sets), max(1, self._at_a_time(space)) - moving)
            new = self._next(space, base, sets, count=room) if room > 0 else []
            asks += [Ask(base=base.key, seed=seed, values=values) for values in new for seed in space.seeds]
            # Seeds that an earlier spec did not have, and trials that its search has held.
            rest = [] if lost else self._rest(space, base, history)
            asks += rest
            known.append(self._known(space, base, sets, most, asks=len(new) + len(rest), lost=lost))
        ended = sum(one.finished for one in known)
        text = f"{self._name}: {ended} of {len(known)} studies have ended; {len(history.seen)} trials asked for"
        return Decision(asks=tuple(asks), known=tuple(known), text=text)

    def extent(self, space: Space) -> Extent:
        """See :class:`~sweeper.search.protocol.Searcher`."""
        count = sum(self._num_sets(space, base) * len(space.seeds) for base in space.bases)
        return Extent(worst=count, expected=count, grid=count)

    def _num_sets(self, space: Space, base: Base) -> int:
        of_arm = sum(other.arm == base.arm for other in space.bases)
        return max(1, self._budget // (of_arm * len(space.seeds)))

    @staticmethod
    def _at_a_time(space: Space) -> int:
        """Points that are on their way at a time, for each base: as many as keep the trainers busy."""
        return math.ceil((space.trainers or 1) / max(1, len(space.bases) * len(space.seeds)))

    def _sets(self, space: Space, base: Base, history: History) -> tuple[list[_Set], str]:
        """The points of a base in the order of asking; and why it cannot go on, if it cannot."""
        points: dict[tuple[float, ...], list[Seen]] = {}
        for one in history.seen:
            if one.base == base.key and one.seed in space.seeds:
                points.setdefault(tuple(one.values[path] for path in self._over), []).append(one)
        sets = []
        failed = 0
        for point, seen in points.items():
            failed += sum(one.outcome == "failed" for one in seen)
            results = [self._result(space, one) for one in seen if one.outcome in {"done", "diverged"}]
            is_moving = any(one.outcome not in {"done", "diverged"} for one in seen) or len(seen) < len(space.seeds)
            ends = [one.ended_at for one in seen if one.ended_at is not None]
            sets.append(
                _Set(
                    values=dict(zip(self._over, point, strict=True)),
                    asked_after=min(one.asked_after for one in seen),
                    ended_at=None if is_moving else max(ends, default=0),
                    result=math.nan if is_moving else math.fsum(results) / len(results),
                )
            )
        return sets, f"{failed} failed, so that `clipsweep retry` goes on" if failed else ""

    def _rest(self, space: Space, base: Base, history: History) -> list[Ask]:
        """What is missing of the points that were asked for."""
        points: dict[tuple[float, ...], dict[int, Seen]] = {}
        for one in history.seen:
            if one.base == base.key:
                points.setdefault(tuple(one.values[path] for path in self._over), {})[one.seed] = one
        asks = []
        for seen in points.values():
            values = next(iter(seen.values())).values
            lacking = [seed for seed in space.seeds if seed not in seen or seen[seed].outcome == "held"]
            asks += [Ask(base=base.key, seed=seed, values=values) for seed in lacking]
        return asks

    def _result(self, space: Space, one: Seen) -> float:
        if one.outcome == "diverged":
            return math.inf
        score = one.score(self._metric)
        # No finite value of the metric: as bad as a divergence.
        return math.inf if score is None else space.result(self._metric, score)

    def _next(self, space: Space, base: Base, sets: Sequence[_Set], *, count: int) -> list[dict[str, float]]:
        """The next points, none of which was asked for before."""
        study = self._study(space, sets)
        tried = {tuple(one.values.values()) for one in sets}
        found: list[dict[str, float]] = []
        # A sampler that has come to its end repeats itself.
        for _ in range(10 * count):
            if len(found) == count:
                break
            values = self._asked(space, study.ask())
            if tuple(values.values()) not in tried:
                tried.add(tuple(values.values()))
                found.append(values)
        return found

    def _asked(self, space: Space, trial: optuna.Trial) -> dict[str, float]:
        values = {}
        for path, (low, high) in self._over.items():
            if path in space.whole:
                values[path] = float(trial.suggest_int(path, math.ceil(low), math.floor(high), log=low >= 1))
            else:
                values[path] = trial.suggest_float(path, low, high, log=low > 0)
        rounded = {
            path: whole_or_not(value, is_whole=path in space.whole, digits=_DIGITS) for path, value in values.items()
        }
        # Rounding may not leave the range.
        return {path: min(max(value, self._over[path][0]), self._over[path][1]) for path, value in rounded.items()}

    def _study(self, space: Space, sets: Sequence[_Set]) -> optuna.Study:
        """The study after everything that has happened, in the order in which it did."""
        study = optuna.create_study(sampler=self._sampler())
        told: set[int] = set()
        trials: list[optuna.Trial] = []
        for number, one in enumerate(sets):
            self._tell(study, trials, sets[:number], told, known=one.asked_after)
            trials.append(self._again(space, study, one))
        self._tell(study, trials, sets, told, known=None)
        return study

    def _again(self, space: Space, study: optuna.Study, one: _Set) -> optuna.Trial:
        """The trial of a point, asked for again."""
        for _ in range(10):
            trial = study.ask()
            if self._asked(space, trial) == dict(one.values):
                return trial
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(dict(one.values))
        trial = study.ask()
        self._asked(space, trial)
        return trial

    @staticmethod
    def _tell(
        study: optuna.Study, trials: Sequence[optuna.Trial], sets: Sequence[_Set], told: set[int], *, known: int | None
    ) -> None:
        """Tell the results that were known at a time, in the order in which they came."""
        ends = sorted((one.ended_at, number) for number, one in enumerate(sets) if one.ended_at is not None)
        for ended_at, number in ends:
            if number not in told and (known is None or ended_at < known):
                told.add(number)
                study.tell(trials[number], sets[number].result)

    def _sampler(self) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            # Who names a sampler knows that it is new.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: optuna.samplers.BaseSampler = self._sampler_class(**self._options, seed=self._seed)
        return sampler

    def _known(self, space: Space, base: Base, sets: Sequence[_Set], most: int, *, asks: int, lost: str) -> Known:
        ended = [one for one in sets if one.ended_at is not None and math.isfinite(one.result)]
        best = min(ended, key=lambda one: one.result, default=None)
        text = f"{len(sets)} of {most} values asked for"
        value = None
        if best is not None:
            value = -best.result if space.is_max(self._metric) else best.result
            told = ", ".join(f"{path.rpartition('.')[2]}={number:g}" for path, number in best.values.items())
            text = f"best {told}: {self._metric} {value:.4g}; {text}"
        if lost:
            text = f"{text}; {lost}"
        moving = any(one.ended_at is None for one in sets)
        return Known(
            base=base.key,
            seed=None,
            text=text,
            values={
                "best": None if best is None else dict(best.values),
                "value": value,
                "metric": self._metric,
                "asked": len(sets),
                "budget": most,
            },
            finished=bool(lost) or (not moving and not asks),
        )
