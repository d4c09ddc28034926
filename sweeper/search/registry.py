"""The searchers by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sweeper.search.protocol import Searcher

__all__ = ["SEARCHERS", "build_searcher"]

SEARCHERS: dict[str, str] = {
    "halving": "sweeper.search.halving:Halving",
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
    """
    options = {key: value for key, value in section.items() if key != "use"}
    module, _, factory = SEARCHERS.get(section["use"], section["use"]).partition(":")
    searcher: Searcher = getattr(import_module(module), factory)(**options)
    return searcher
