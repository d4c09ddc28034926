"""Where a monitor's rows go: what it asks of a writer, and the one door to the tables of clipsweep.

The estimators know nothing of run directories. A monitor needs something with the methods of :class:`TrialWriter`; for
a path, that comes from ``sweeper.recording``, which is imported here, inside the function, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["Block", "Repeat", "TrialDescription", "TrialWriter", "open_trial"]

Repeat = Literal["refuse", "replace"]
"""What happens where the same values and seed were recorded before."""


@dataclass(frozen=True, kw_only=True)
class TrialDescription:
    """What one loop trains, and how it is measured; one row of the table ``trials``.

    Attributes:
        optimizer: Class of the optimiser, in small letters: ``sgd``.
        options: Its options that take a step away from the gradient, in use: ``momentum``.
        settings: Its options that are not torch's defaults, by name.
        learning_rate: Of the optimiser, before any schedule; None where its parameter groups differ.
        clip_norm: The threshold of clipping by norm, as the user says; None for none.
        values: What else differs from other loops, by name.
        seed: Which repetition this is.
        first_step: The first step that is recorded; above 0 for a loop that resumes.
        steps: How many the loop will take; None where that is not known.
        measure: What is measured: estimators with their options, and what f is.
        threads: Threads of each numerical kernel.
        gpus: Whether the loop trains on a GPU.
    """

    optimizer: str
    options: Sequence[str]
    settings: Mapping[str, Any]
    learning_rate: float | None
    clip_norm: float | None
    values: Mapping[str, Any]
    seed: int
    first_step: int
    steps: int | None
    measure: Mapping[str, Any]
    threads: int
    gpus: bool


@dataclass(kw_only=True)
class Block:
    """The rows of consecutive steps, and what is known about them besides.

    Attributes:
        start: The first step.
        stop: One past the last.
        metrics: A row per logged step.
        measurements: Estimator to a row per snapshot.
        num_clipped: How many of the steps were clipped.
        num_snapshots: How many snapshots were taken.
        unmeasured: Error to the number of snapshots that could not be measured because of it.
        diverged_step: The first step without a finite loss or gradient; None if there was none.
        last_finite_loss: The last finite loss; None if there was none.
        started_at: Seconds since 1970.
        ended_at: The same.
        loop_s: Seconds of the loop, without those of the monitor.
        own_s: Seconds of the monitor.
        measured_s: Those of them that went into measurements.
        data: Hash of the probe's batches; None before there are any.
    """

    start: int
    stop: int
    metrics: list[dict[str, Any]] = field(default_factory=list)
    measurements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    num_clipped: int = 0
    num_snapshots: int = 0
    unmeasured: dict[str, int] = field(default_factory=dict)
    diverged_step: int | None = None
    last_finite_loss: float | None = None
    started_at: float = 0.0
    ended_at: float = 0.0
    loop_s: float = 0.0
    own_s: float = 0.0
    measured_s: float = 0.0
    data: str | None = None


class TrialWriter(Protocol):
    """Takes the rows of one trial."""

    def write(self, block: Block) -> bool:
        """Take rows, in order.

        Args:
            block: Rows that follow those written before.

        Returns:
            Whether they are safe; False to be given them again, together with the next ones.
        """
        ...

    def end(self, block: Block, *, outcome: Literal["done", "diverged", "stopped"], error: str | None = None) -> None:
        """Take the last rows.

        Args:
            block: Rows that follow those written before.
            outcome: How the loop ended.
            error: What it raised; None where it did not.
        """
        ...


def open_trial(out: str | Path, trial: TrialDescription, *, repeat: Repeat = "refuse") -> TrialWriter:
    """A writer of clipsweep's tables.

    Args:
        out: The run directory; created if it is missing. Several loops may write into one.
        trial: What is trained.
        repeat: What happens where the same was recorded before.

    Returns:
        The writer.

    Raises:
        RunDirectoryError: The directory is a sweep's, holds something else, or cannot be written; or other settings
            measured the trials in it; or the same trial was recorded before.
    """
    from sweeper.recording import open_trial as opened

    return opened(Path(out), **vars(trial), repeat=repeat)
