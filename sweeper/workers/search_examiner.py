"""The worker that examines a searcher of the user's own, for ``clipsweep check``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.blame import Shipped
from sweeper.search.protocol import Base, Searcher, Space
from sweeper.search.registry import build_searcher
from sweeper.search.trying import BrokenPromise, try_searcher
from sweeper.workers.findings import Told, finding_row
from trainers.training.selftest import Finding

__all__ = ["check_searcher"]

_BUILT = "it can be imported, and takes its options"
_KEPT = "it is pure, stays in range, asks for nothing twice, and comes to an end"


def _space(section: Mapping[str, Any]) -> Space:
    return Space(
        bases=tuple(Base(**base) for base in section["bases"]),
        seeds=tuple(section["seeds"]),
        over={path: (ends[0], ends[1]) for path, ends in section["over"].items()},
        whole=frozenset(section["whole"]),
        steps=section["steps"],
        trainers=section["trainers"],
        better=section["better"],
    )


def check_searcher(
    *, section: Mapping[str, Any], shipped: Sequence[str] | None, space: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Hold a searcher to its promises, on made-up trials in the sweep's own space.

    Args:
        section: ``sweep.search`` as it was checked.
        shipped: The folder that its code is imported from, and the one that it came from.
        space: The fields of a :class:`~sweeper.search.protocol.Space`, as JSON has them.

    Yields:
        As :func:`~sweeper.workers.examiner.check_problem`: first the promises, then what was found of each.
    """
    folders = None
    if shipped is not None:
        folders = Shipped(folder=Path(shipped[0]), origin=Path(shipped[1]))
        sys.path.insert(0, shipped[0])
    told = Told()
    yield {"promises": [_BUILT, _KEPT]}

    def make() -> Searcher:
        return build_searcher(section)

    try:
        make()
    except BaseException as error:  # an exit, too, is what its code did
        yield finding_row(Finding(promise=_BUILT, raised=error), folders, told)
        yield finding_row(Finding(promise=_KEPT, untested="it cannot be built"), folders, told)
        return
    yield finding_row(Finding(promise=_BUILT), folders, told)
    try:
        extent = try_searcher(make, _space(space))
    except BrokenPromise as broken:
        fix = "ask for a function of the space and the history alone, which hold all that is known"
        finding = Finding(promise=_KEPT, broken=str(broken), fix=fix)
    except BaseException as error:
        finding = Finding(promise=_KEPT, raised=error)
    else:
        note = f"it takes about {extent.expected} trials here, at most {extent.worst}"
        finding = Finding(promise=_KEPT, note=note)
    yield finding_row(finding, folders, told)
