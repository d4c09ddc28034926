"""The searchers by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sweeper.search.protocol import Searcher

__all__ = ["SEARCHERS", "build_searcher"]

SEARCHERS: dict[str, str] = {
    "best": "sweeper.search.best:Best",
    "halving": "sweeper.search.halving:Halving",
    "optuna": "sweeper.search.with_optuna:Optuna",
    "stability_frontier": "sweeper.search.frontier:StabilityFrontier",
}
"""Name to factory; imported when it is used, since some need libraries that take long to load."""


def build_searcher(section: Mapping[str, Any]) -> Searcher:
    """The searcher of a section of a spec.

    Args:
        section: ``sweep.search`` as it was checked: ``use``, a name or ``module:factory``, and options.

    Returns:
        The searcher.

    Raises:
        ImportError: A searcher of one's own is not there, or a library that one needs.
        ValueError: The searcher does not take its options.
    """
    options = {key: value for key, value in section.items() if key != "use"}
    module, _, factory = SEARCHERS.get(section["use"], section["use"]).partition(":")
    make = getattr(import_module(module), factory)
    try:
        searcher: Searcher = make(**options)
    except TypeError as error:
        raise ValueError(f"{section['use']}: {error}") from error
    return searcher
