"""What the search of a run has found, from its directory alone: without its spec's file, its data or its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.cell_labels import CellLabels
from sweeper.errors import IntegrityError
from sweeper.planning.searching import base_key, seen_of, values_of
from sweeper.search.protocol import Ask, Base, Decision, Extent, History, Known, Space
from sweeper.search.registry import SEARCHERS, build_searcher
from sweeper.spec.bounds import bounds_of
from sweeper.spec.sections.search import SEARCHES
from sweeper.store.journal import RunState
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir
from sweeper.value_texts import in_order

__all__ = ["Found", "found_by_search", "search_document"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search knows.

    Attributes:
        use: Which searcher.
        over: The paths that it searches over.
        num_asked: How many trials it has asked for.
        extent: How many it takes in all.
        space: Where it looks.
        decision: What it knows.
        labels: Base to what it is called.
    """

    use: str
    over: tuple[str, ...]
    num_asked: int
    extent: Extent
    space: Space
    decision: Decision
    labels: Mapping[str, str]


def found_by_search(run_dir: RunDir, state: RunState) -> Found | None:
    """What the search of a run has found.

    Args:
        run_dir: The run.
        state: The run as its journal tells it.

    Returns:
        What it knows; None for a run whose latest spec has no search, or one whose searcher is the user's own: nothing
        that only looks at a run may import its code.
    """
    try:
        settings = resolved_settings(run_dir)
        section = SEARCHES[settings["sweep"]["search"]["use"]].model_validate(settings["sweep"]["search"])
        over: dict[str, tuple[float, float]] = dict(section.space)  # type: ignore[attr-defined]
        options = section.model_dump(mode="json")
        seeds = tuple(int(seed) for seed in settings["sweep"]["seeds"])
    except (IntegrityError, KeyError, TypeError, ValueError):
        return None
    if options["use"] not in SEARCHERS:
        return None
    current = [trial for name, trial in state.trials.items() if name not in state.superseded]
    bases: dict[str, Base] = {}
    seen = []
    steps: dict[str, int] = {}
    for trial in current:
        record = trial.record
        values = values_of(record.swept, over)
        if values is None:
            continue
        key = base_key(record.swept, over)
        swept = {path: value for path, value in record.swept.items() if path not in over}
        bases.setdefault(key, Base(key=key, arm=record.arm, swept=swept))
        steps[key] = record.steps or 0
        ask = Ask(base=key, seed=record.seed, values=values, until=trial.until)
        seen.append(seen_of(ask, trial))
    space = Space(
        bases=tuple(sorted(bases.values(), key=lambda base: in_order(base.swept.values()))),
        seeds=seeds,
        over=over,
        whole=frozenset(path for path in over if bounds_of(path).is_whole),
        steps=steps,
        better={key: way for name in state.trials for key, way in state.declared_metrics(name).items()},
    )
    searcher = build_searcher(options)
    labels = CellLabels({key: base.swept for key, base in bases.items()}, {})
    return Found(
        use=options["use"],
        over=tuple(over),
        num_asked=len(seen),
        extent=searcher.extent(space),
        space=space,
        decision=searcher.decide(space, History(seen=seen)),
        labels={key: labels[key] for key in bases},
    )


def search_document(found: Found | None) -> dict[str, Any] | None:
    """What a search knows as a JSON-able document.

    Args:
        found: As :func:`found_by_search` gives it.

    Returns:
        ``use``, ``over``, ``asked``, ``grid`` (trials of an equal grid), ``text``, ``is_finished`` and ``known``: for
        each cell, or cell and seed, ``cell``, ``seed``, ``text``, ``is_finished`` and ``values``, the numbers by name;
        None without a search.
    """
    if found is None:
        return None
    return {
        "use": found.use,
        "over": list(found.over),
        "asked": found.num_asked,
        "grid": found.extent.grid,
        "text": found.decision.text,
        "is_finished": found.decision.finished,
        "known": [_known(one, found.labels) for one in found.decision.known],
    }


def _known(one: Known, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "cell": labels[one.base],
        "seed": one.seed,
        "text": one.text,
        "is_finished": one.finished,
        "values": dict(one.values),
    }
