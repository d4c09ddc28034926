"""A sweep whose trials are found by a search: what it has asked for so far, and what it asks for next."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sweeper.errors import ClipsweepError, SpecError, error_line
from sweeper.planning.environment import usable_cores
from sweeper.planning.plan import Making, Plan, Trial, UserCode, expand
from sweeper.search.protocol import Ask, Base, Decision, Extent, History, Score, Searcher, Seen, Space
from sweeper.search.registry import build_searcher
from sweeper.search.trying import check_ask
from sweeper.spec import Sweep
from sweeper.spec.bounds import bounds_of
from sweeper.spec.cells import Cell
from sweeper.spec.syntax.diagnostics import at, raise_if_any
from sweeper.spec.syntax.tree import Node
from sweeper.spec.user_code import user_code
from sweeper.spec.variants import canonical
from sweeper.store.journal import RunState, TrialState

__all__ = ["Asked", "Searching", "plan_of", "search_code", "searching_of", "seen_of"]


def plan_of(sweep: Sweep, state: RunState) -> Plan:
    """The trials of a sweep as far as they are known.

    Args:
        sweep: A checked spec.
        state: The run so far.

    Returns:
        All trials of a sweep without a search; of one with a search, those that it has asked for, or asks for now.

    Raises:
        SpecError: The sweep cannot be expanded.
    """
    searching = searching_of(sweep, state)
    if searching is None:
        return expand(sweep)
    searching.ask()
    return searching.plan()


def searching_of(sweep: Sweep, state: RunState, *, imports: bool = True) -> Searching | None:
    """The search of a sweep.

    Args:
        sweep: A checked spec.
        state: The run so far.
        imports: As for :class:`Searching`.

    Returns:
        The search; None for a sweep without one.
    """
    return Searching(sweep, state, imports=imports) if sweep.sweep.search is not None else None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a search asks for.

    Attributes:
        trials: New ones, and held ones that are to go on.
        until: Trial id to the step at which it is to be held, None for its end; of those for which this is news.
        text: Where the search stands, in one line.
    """

    trials: tuple[Trial, ...]
    until: Mapping[str, int | None]
    text: str


class Searching:
    """What a search has asked for, as trials.

    Args:
        sweep: A checked spec with a search.
        state: The run so far; kept up to date by others.
        imports: Whether a searcher of the user's own may be imported; if not, it asks for nothing.

    Raises:
        SpecError: The sweep cannot be expanded.
    """

    def __init__(self, sweep: Sweep, state: RunState, *, imports: bool = True) -> None:
        assert sweep.sweep.search is not None
        self._sweep = sweep
        self._state = state
        self._is_local = sweep.cluster.address == "local"
        self._making = Making(sweep)
        section = sweep.sweep.search
        self._own = _own_code(sweep)
        is_there = imports or self._own is None
        self._searcher = self._built(section.model_dump(mode="json")) if is_there else None
        self._over = dict(section.space)
        # Each cell of the sweep stands at the ends of what is searched over; one of the two is enough.
        self._cells: dict[str, Cell] = {}
        for cell in sweep.cells:
            self._cells.setdefault(base_key(cell.swept, self._over), cell)
        self.space = self._space()
        self._refuse()
        self._trials: dict[str, Trial] = {}
        self._asked: dict[str, Ask] = {}
        self._take_known()

    def _refuse(self) -> None:
        """Raise where the searcher says that it cannot be run here."""
        refuse = getattr(self._searcher, "refuse", None)
        if refuse is None:
            return
        with self._explained():
            why = str(refuse(self.space))
        if why:
            raise_if_any([at(_node_of(self._sweep), why)])

    def _built(self, section: Mapping[str, Any]) -> Searcher:
        """The searcher; one of the user's own from beside the spec, as its problems are."""
        with _in_front(self._own), self._explained():
            return build_searcher(section)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong in a searcher, as an error at its place in the spec."""
        try:
            yield
        except ImportError as error:
            # The name alone is what the user can install.
            missing = error.name or str(error)
            hint = "pip install 'clipsweep[search]'" if missing in _OF_THE_EXTRA else f"install {missing}"
            raise_if_any([at(_node_of(self._sweep), f"needs {missing}, which is not installed", hint)])
        except ClipsweepError:
            raise
        except Exception as error:
            if self._own is not None:
                what = f"{self.use} raised {error_line(error)}"
                raise_if_any([
                    at(_node_of(self._sweep), what, "clipsweep check tries a searcher of your own by itself")
                ])
            if isinstance(error, ValueError):
                raise_if_any([at(_node_of(self._sweep), str(error))])
            if self.use == "optuna":
                raise_if_any([
                    at(_node_of(self._sweep), f"Optuna raised {error_line(error)}", "see sampler and options")
                ])
            raise

    @property
    def use(self) -> str:
        """Which searcher."""
        assert self._sweep.sweep.search is not None
        return self._sweep.sweep.search.use

    @property
    def extent(self) -> Extent | None:
        """How many trials it takes in all; None of a searcher of the user's own that was not imported."""
        if self._searcher is None:
            return None
        with self._explained():
            return self._searcher.extent(self.space)

    @property
    def code(self) -> tuple[UserCode, ...]:
        """The user's own code that is imported: that of the trials, and that of the searcher."""
        return (*self._making.code, *([self._own] if self._own is not None else []))

    @property
    def num_asked(self) -> int:
        """How many trials it has asked for."""
        return len(self._trials)

    def plan(self) -> Plan:
        """All trials that were asked for, in the order of asking."""
        return self._making.plan([replace(trial, index=at) for at, trial in enumerate(self._trials.values())])

    def decide(self) -> Decision:
        """What the search knows, and asks for next."""
        if self._searcher is None:
            return Decision(text=f"{self.use} is not imported to look at it")
        # A problem may say of its metrics which way they get better, once a trial of it has run.
        told = [trial for trial in self._trials if trial in self._state.trials]
        declared = {key: way for name in told for key, way in self._state.declared_metrics(name).items()}
        space = replace(self.space, better={**declared, **self._sweep.metrics})
        with self._explained():
            decision = self._searcher.decide(space, self._history())
            if not isinstance(decision, Decision):
                raise ValueError(f"{self.use}: decide returned {type(decision).__name__}, not a Decision")
            for ask in decision.asks:
                check_ask(ask, space)
            return decision

    def ask(self) -> Asked:
        """Ask for more.

        Returns:
            What is asked for, which :meth:`plan` has from now on.

        Raises:
            SpecError: A value that it asks for is not one that the spec allows.
        """
        decision = self.decide()
        trials = [trial for ask in decision.asks for trial in self._add(ask)]
        until = {trial.trial_id: self._asked[trial.trial_id].until for trial in trials}
        go_on = {name: step for name, step in until.items() if step is not None or name in self._state.trials}
        return Asked(trials=tuple(trials), until=go_on, text=decision.text)

    def unfinished(self) -> str | None:
        """Where it stands if it neither asks for more nor has finished; None if all is well."""
        decision = self.decide()
        return None if decision.finished else decision.text or "nothing is known"

    def _add(self, ask: Ask) -> Iterator[Trial]:
        trial = self._trial(ask.base, ask.seed, ask.values)
        is_bounded = ask.until is not None and ask.until < trial.train["steps"] and trial.problem["use"] != "analytic"
        ask = replace(ask, until=ask.until if is_bounded else None)
        known = self._state.trials.get(trial.trial_id)
        is_new = trial.trial_id not in self._trials
        if is_new or (known is not None and known.held and (ask.until is None or ask.until > known.step)):
            self._trials[trial.trial_id] = trial
            self._asked[trial.trial_id] = ask
            yield trial

    def _trial(self, base: str, seed: int, values: Mapping[str, float]) -> Trial:
        cell = self._sweep.template.at(self._cells[base].place, values)
        return self._making.trials(cell, [seed])[0]

    def _space(self) -> Space:
        trainers = self._sweep.resources.trainers.count
        bases = tuple(
            Base(
                key=key,
                arm=self._making.trials(cell, [0])[0].arm,
                swept={path: value for path, value in cell.swept.items() if path not in self._over},
            )
            for key, cell in self._cells.items()
        )
        return Space(
            bases=bases,
            seeds=self._sweep.sweep.seeds,
            over=self._over,
            whole=frozenset(path for path in self._over if bounds_of(path).is_whole),
            steps={key: cell.train["steps"] for key, cell in self._cells.items()},
            # How many fit a cluster is not known before it is asked.
            trainers=trainers if trainers != "auto" else usable_cores() if self._is_local else None,
            better=self._sweep.metrics,
        )

    def _take_known(self) -> None:
        """Take in the trials of the run that belong to this search, whoever has asked for them."""
        # Whatever their seeds: a search may have asked for others than those of the spec.
        by_base: dict[str, list[TrialState]] = {}
        for known in self._state.trials.values():
            by_base.setdefault(base_key(known.record.swept, self._over), []).append(known)
        found: list[tuple[str, Ask]] = []
        for base in self._cells:
            for known in by_base.get(base, ()):
                values = values_of(known.record.swept, self._over)
                if values is None:
                    continue
                ask = Ask(base=base, seed=known.record.seed, values=values, until=known.until)
                found.append((known.record.trial_id, ask))
        order = {name: at for at, name in enumerate(self._state.trials)}
        for name, ask in sorted(found, key=lambda one: order[one[0]]):
            # Only a trial that this very spec would train.
            if (trial := self._trial(ask.base, ask.seed, ask.values)).trial_id == name:
                self._trials[name], self._asked[name] = trial, ask

    def _history(self) -> History:
        return History(
            seen=[
                seen_of(self._asked[name], self._state.trials.get(name), num_ended=self._state.num_ended)
                for name in self._trials
            ]
        )


def _node_of(sweep: Sweep) -> Node:
    """Where the spec names its searcher."""
    search = sweep.template.node.child("search")
    assert search is not None
    return search.child("use") or search


_OF_THE_EXTRA = ("optuna", "cmaes")


def _own_code(sweep: Sweep) -> UserCode | None:
    """The source of a searcher of the user's own."""
    assert sweep.sweep.search is not None
    try:
        return user_code(sweep.sweep.search.use, sweep.folder)
    except SpecError as error:
        raise_if_any([at(_node_of(sweep), str(error), "package.module:factory")])
        raise


@contextmanager
def _in_front(code: UserCode | None) -> Iterator[None]:
    """Import the user's own modules first, from where they were found."""
    if code is None:
        yield
        return
    place = str(code.root.parent)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def search_code(sweep: Sweep) -> tuple[UserCode, ...]:
    """The user's own code that a search imports into the driver; none for the registered ones.

    Args:
        sweep: A checked spec.

    Returns:
        The code.

    Raises:
        SpecError: There is no such module or factory.
    """
    own = _own_code(sweep) if sweep.sweep.search is not None else None
    return () if own is None else (own,)


def seen_of(ask: Ask, known: TrialState | None, *, num_ended: int = 0) -> Seen:
    """A trial as searchers see it.

    Args:
        ask: What was asked for.
        known: What the journal says of it; None where it says nothing yet.
        num_ended: How many trials have ended by now, for a trial of which the journal says nothing.

    Returns:
        The trial.
    """
    if known is None:
        return Seen(base=ask.base, seed=ask.seed, values=ask.values, until=ask.until, asked_after=num_ended)
    return Seen(
        base=ask.base,
        seed=ask.seed,
        values=ask.values,
        until=known.until,
        step=known.step,
        outcome="failed" if known.given_up else "held" if known.held else known.outcome,
        logged=[(segment.stop, _scores(segment.facts.scores)) for segment in known.segments],
        asked_after=known.asked_after,
        ended_at=known.ended_at,
    )


def _scores(scores: Mapping[str, Sequence[float]]) -> dict[str, Score]:
    return {
        name: Score(first=first, last=last, low=low, high=high) for name, (first, last, low, high) in scores.items()
    }


def base_key(swept: Mapping[str, Any], over: Mapping[str, Any]) -> str:
    """What tells a cell from others apart from what is searched over."""
    return canonical({path: value for path, value in swept.items() if path not in over})


def values_of(swept: Mapping[str, Any], over: Mapping[str, tuple[float, float]]) -> dict[str, float] | None:
    """The values that are searched over; None where one is missing, not a number or outside of its range."""
    numbers = {
        path: value
        for path, (low, high) in over.items()
        if isinstance(value := swept.get(path), int | float) and not isinstance(value, bool) and low <= value <= high
    }
    return numbers if len(numbers) == len(over) else None
