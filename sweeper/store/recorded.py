"""Run directories into which loops are recorded: what they are not for, and which loops are at it right now."""

from __future__ import annotations

import socket

from sweeper.errors import RunDirectoryError
from sweeper.store.journal import RunState
from sweeper.store.run_dir import RunDir

__all__ = ["RECORDER", "recording_now", "refuse_recorded"]

RECORDER = "SmoothnessMonitor"
"""What the journal of such a directory says of its author."""

_SAME_PROCESS_S = 1.0
"""How much later than its trial a process may seem to have been created, by clocks that were set in between."""


def refuse_recorded(run_dir: RunDir, state: RunState, verb: str) -> None:
    """Refuse to do to recorded loops what only a sweep can do.

    Args:
        run_dir: The run directory.
        state: The run as its journal tells it.
        verb: What cannot be done: ``be run``.

    Raises:
        RunDirectoryError: The directory holds recorded loops.
    """
    if state.recorder is not None:
        raise RunDirectoryError(
            f"{run_dir.path}: holds loops of your own, recorded by {state.recorder}, and no sweep: it cannot {verb}; "
            "only such a loop adds to it, and `clipsweep status` shows how far they are"
        )


def recording_now(state: RunState) -> frozenset[str]:
    """The trials of a recorded run whose loops are at work, as far as this host can see.

    Args:
        state: The run as its journal tells it.

    Returns:
        Ids of trials that have not ended and whose process is alive here. One that has not committed anything yet is
        not among them.
    """
    if state.recorder is None:
        return frozenset()
    import psutil  # takes 25 ms, and most runs are sweeps

    found = set()
    for name, trial in state.trials.items():
        if trial.resolved or not trial.segments or trial.segments[-1].outcome is not None:
            continue
        facts = trial.segments[-1].facts
        if facts.pid is None or facts.host != socket.gethostname():
            continue
        try:
            process = psutil.Process(facts.pid)
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            if not is_dead and process.create_time() <= trial.segments[-1].facts.ended_at + _SAME_PROCESS_S:
                found.add(name)
        except psutil.Error:
            continue
    return frozenset(found)
