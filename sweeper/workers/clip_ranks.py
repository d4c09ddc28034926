"""The ranks of a clip audit, from outside: started, given cases, given up when they hang, and ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.apart import how_it_ended, pass_on
from sweeper.errors import ClipsweepError, last_line
from sweeper.own_packages import own_folder
from trainers.clip_audit.cases import Call, Case, Outcome, Seen, Spot

__all__ = ["Ranks"]

# As in sweeper.apart; Ctrl-C is for the parent, which ends its ranks.
_CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path.insert(0, sys.argv[1])
import sweeper
del sys.path[0]
from sweeper.workers.clip_rank import serve_rank
serve_rank(sys.argv[2])
"""

_STARTING_S = 120.0
_BEHIND_S = 5.0
"""How much longer a rank may take once another one has raised: it may wait for that one in a collective."""
_MERCY_S = 10.0
"""How much longer than its own time limit a rank may take to say that it has hung."""


@dataclass(kw_only=True)
class _Rank:
    """A process."""

    process: subprocess.Popen[bytes]
    tail: bytearray
    passing: threading.Thread
    held: bytes = b""

    @property
    def fileno(self) -> int:
        """Of the pipe that it writes to."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def lines(self) -> list[bytes] | None:
        """Whole lines that have come; None where no more can come."""
        data = os.read(self.fileno, 1 << 20)
        if not data:
            return None
        *whole, self.held = (self.held + data).split(b"\n")
        return whole


class Ranks:
    """Processes that play cases on a user's step, as many as there are ranks.

    Args:
        use: ``module:function``.
        prepare: Name of the function in the same module that wraps the model; None for ``prepare``, if there is one.
        folder: The folder that the module is imported from.
        ranks: How many.
        timeout_s: How long a case may take.
        waits: Is told the name of a case, now and then, that takes long.
    """

    def __init__(
        self, use: str, prepare: str | None, folder: Path, *, ranks: int, timeout_s: float,
        waits: Callable[[str, float], None],
    ) -> None:  # fmt: skip
        self._given = {"use": use, "prepare": prepare, "folder": str(folder), "ranks": ranks, "timeout_s": timeout_s}
        self._num, self._timeout_s, self._waits = ranks, timeout_s, waits
        self._ranks: list[_Rank] = []
        self._folder = tempfile.TemporaryDirectory(prefix="clipsweep-ranks-")
        self._meetings = 0

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def play(self, case: Case) -> list[Outcome]:
        """Play a case on every rank.

        Args:
            case: What is done.

        Returns:
            What it did on each. Ranks that raised, hung or ended are replaced by new ones where there are several.

        Raises:
            ClipsweepError: The step cannot be imported or called, or what it is wrapped in cannot be read.
            RuntimeError: The audit's own code raised there; the text is the traceback.
        """
        if not self._ranks:
            self._start()
        line = json.dumps({
            "name": case.name,
            "steps": [one.tolist() for one in case.steps],
            "optimizer": case.optimizer,
            "frozen": case.frozen,
        }).encode()  # fmt: skip
        for rank in self._ranks:
            assert rank.process.stdin is not None
            with suppress(BrokenPipeError):
                rank.process.stdin.write(line + b"\n")
                rank.process.stdin.flush()
        answers = self._collect(case.name, self._timeout_s + _MERCY_S)
        outcomes = [self._outcome(answer) for answer in answers]
        if any(one.hung_s or one.died or (one.raised and self._num > 1) for one in outcomes):
            self._end()
        return outcomes

    def _start(self) -> None:
        self._meetings += 1
        meeting = Path(self._folder.name, f"meeting-{self._meetings}")
        for rank in range(self._num):
            given = json.dumps(self._given | {"rank": rank, "meeting": str(meeting)})
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(own_folder("sweeper").parent), given],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stderr is not None
            tail = bytearray()
            passing = threading.Thread(target=pass_on, args=(process.stderr, tail, {}), daemon=True)
            passing.start()
            self._ranks.append(_Rank(process=process, tail=tail, passing=passing))
        for answer in self._collect("importing the step", _STARTING_S):
            if isinstance(answer, Outcome):
                what = answer.died or f"it had not been imported after {_STARTING_S:.0f} s"
                raise ClipsweepError(f"{self._given['use']}: importing it: {what}")
            self._refuse(answer)

    def _collect(self, what: str, limit_s: float) -> list[Outcome | dict[str, Any]]:
        """One answer from every rank; an outcome where the rank gives none."""
        answers: dict[int, Outcome | dict[str, Any]] = {}
        began = time.monotonic()
        until, patience = began + limit_s, 10.0
        while len(answers) < len(self._ranks):
            now = time.monotonic()
            if now - began > patience:
                self._waits(what, now - began)
                patience *= 2
            open_ranks = [at for at in range(len(self._ranks)) if at not in answers]
            if now > until:
                for at in open_ranks:
                    answers[at] = Outcome(hung_s=now - began)
                break
            sources = {self._ranks[at].fileno: at for at in open_ranks}
            for source in select.select(list(sources), [], [], 0.2)[0]:
                at = sources[source]
                lines = self._ranks[at].lines()
                if lines is None:
                    answers[at] = Outcome(died=self._death(at))
                elif lines:
                    answers[at] = json.loads(lines[0])
            if any(_is_trouble(one) for one in answers.values()):
                until = min(until, time.monotonic() + _BEHIND_S)
        return [answers[at] for at in range(len(self._ranks))]

    def _death(self, at: int) -> str:
        rank = self._ranks[at]
        with suppress(subprocess.TimeoutExpired):
            rank.process.wait(timeout=2)
        rank.passing.join(timeout=1)
        code = rank.process.returncode
        how = "the process has closed its output" if code is None else how_it_ended(code)
        return how + last_line(rank.tail.decode(errors="replace").strip())

    def _outcome(self, answer: Outcome | dict[str, Any]) -> Outcome:
        if isinstance(answer, Outcome):
            return answer
        self._refuse(answer)
        given = answer["outcome"]
        seen = [
            Seen(
                moved=np.array(one["moved"]),
                held=np.array(one["held"], dtype=bool),
                factors=tuple(one["factors"]),
                rates=tuple(map(tuple, one["rates"])),
                rate=np.array(one["rate"]),
                calls=tuple(Call(**call | {"spot": _spot(call["spot"])}) for call in one["calls"]),
            )
            for one in given["seen"]
        ]
        return Outcome(**given | {"seen": seen, "spot": _spot(given["spot"])})

    def _refuse(self, answer: Mapping[str, Any]) -> None:
        if "internal" in answer:
            raise RuntimeError(f"in a rank of the audit:\n{answer['internal']}")
        if "refused" in answer:
            spot = _spot(answer["spot"])
            where = "" if spot is None else f" ({spot.file}:{spot.number}, in {spot.function}: {spot.code})"
            fix = f"; {answer['remedy']}" if answer["remedy"] else ""
            raise ClipsweepError(f"{self._given['use']}: {answer['refused']}{where}{fix}")

    def _end(self) -> None:
        """End every process, and wait for it."""
        for rank in self._ranks:
            with suppress(OSError):
                rank.process.kill()
        for rank in self._ranks:
            rank.process.wait()
            for pipe in (rank.process.stdin, rank.process.stdout):
                with suppress(OSError, ValueError):
                    assert pipe is not None
                    pipe.close()
            rank.passing.join(timeout=1)
        self._ranks = []


def _is_trouble(answer: Outcome | Mapping[str, Any]) -> bool:
    if isinstance(answer, Outcome):
        return not answer.is_whole
    outcome: Sequence[Any] | Mapping[str, Any] = answer.get("outcome", {})
    return (
        "refused" in answer
        or "internal" in answer
        or bool(isinstance(outcome, Mapping) and (outcome.get("raised") or outcome.get("hung_s")))
    )


def _spot(given: Mapping[str, Any] | None) -> Spot | None:
    return None if given is None else Spot(**given)
