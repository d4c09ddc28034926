"""clipsweep: sweeps of clipped and unclipped training on Ray, with local smoothness measured along the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.results import Run

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    # Not imported above: pandas takes half a second that `clipsweep plan` does not have.
    if name == "Run":
        from sweeper.results import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
