"""Checks by name, each with a deadline of its own; a line of JSON for every number, and a table of them at the end."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Bench", "Item", "Row", "run_items", "table"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every check is given.

    Attributes:
        device: ``cuda`` or ``cpu``.
        data: The folder with what every machine makes alike.
        real: The folder with ``ptb`` and ``cifar``, if they are there.
        references: What a CPU gave, see :mod:`benchmarks.gpu_check.references`.
        cases: The cases to look at.
        scratch: A folder for what a check writes.
    """

    device: str
    data: Path
    real: Path
    references: dict[str, Any]
    cases: Sequence[str]
    scratch: Path

    @property
    def is_gpu(self) -> bool:
        """Whether the device is one of NVIDIA's."""
        return self.device.startswith("cuda")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    Attributes:
        item: Of which check.
        name: What it is of.
        value: What was found.
        expected: In words; guesses are marked with a question mark.
        holds: Whether it is as expected; None where nothing is required.
    """

    item: str
    name: str
    value: Any
    expected: str = ""
    holds: bool | None = None


Rows = Iterator[tuple[str, Any, str, bool | None]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A check.

    Attributes:
        name: For ``--only``.
        part: ``A``, does it run, and is it right; ``B``, how fast.
        seconds: Its deadline.
        run: Yields name, value, expectation and whether it holds.
        needs_gpu: Whether it says nothing of a CPU.
    """

    name: str
    part: str
    seconds: float
    run: Callable[[Bench], Rows]
    needs_gpu: bool = False
    words: str = field(default="")


class DeadlineError(Exception):
    """A check took too long."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise DeadlineError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_items(items: Sequence[Item], bench: Bench, out: Path, *, slack: float = 1.0) -> list[Row]:
    """Run checks; one that fails or is late leaves the others alone.

    Args:
        items: The checks, in order.
        bench: What they are given.
        out: The file for the lines of JSON.
        slack: Factor of all deadlines.

    Returns:
        All rows.
    """
    rows: list[Row] = []
    with out.open("a") as sink:

        def note(row: Row) -> None:
            rows.append(row)
            sink.write(json.dumps(asdict(row), default=str) + "\n")
            sink.flush()

        for item in items:
            if item.needs_gpu and not bench.is_gpu:
                note(Row(item=item.name, name=item.words, value="needs a GPU"))
                continue
            started = time.perf_counter()
            try:
                with _deadline(slack * item.seconds):
                    for name, value, expected, holds in item.run(bench):
                        note(Row(item=item.name, name=name, value=value, expected=expected, holds=holds))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                note(Row(item=item.name, name=item.words, value=text, expected="no error", holds=False))
                sink.write(json.dumps({"item": item.name, "traceback": traceback.format_exc()}) + "\n")
            note(Row(item=item.name, name="seconds", value=round(time.perf_counter() - started, 1)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """All rows as text, those that are not as expected marked."""
    marks = {True: "ok", False: "WRONG", None: ""}
    lines = [("", "check", "of", "found", "expected")]
    lines += [(marks[row.holds], row.item, row.name, _shown(row.value), row.expected) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    shown = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in shown)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
