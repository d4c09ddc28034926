"""What a run directory says about its run, without Ray or torch: status, list, logs, retry."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import RunDirectoryError
from sweeper.labels import counted, duration
from sweeper.planning.search_found import found_by_search, search_document
from sweeper.store.driver_files import Ending, driver_of, ending_of, live_document
from sweeper.store.journal import (
    STATUSES,
    Journal,
    RunState,
    TrialState,
    given_up_words,
    read_journal,
    read_state,
    repair_journal,
    replay,
)
from sweeper.store.lock import DriverLock
from sweeper.store.recorded import recording_now, refuse_recorded
from sweeper.store.records import Retried as RetriedRecord
from sweeper.store.run_dir import RunDir

__all__ = [
    "Retried",
    "find_trials",
    "in_words",
    "list_runs",
    "ran",
    "retry",
    "run_status",
    "state_of",
    "trial_heading",
    "trial_log",
    "trial_rows",
]


def state_of(run_dir: RunDir) -> RunState:
    """What the journal of a run says.

    Args:
        run_dir: The run directory.

    Returns:
        The state of the run.

    Raises:
        RunDirectoryError: There is no run.
        IntegrityError: Its journal is damaged.
    """
    return read_state(run_dir.require().journal)


def run_status(path: Path, state: RunState | None = None) -> dict[str, Any]:
    """A run as a JSON-able document.

    Args:
        path: The run directory.
        state: What its journal says, from whoever has read it; by default it is read.

    Returns:
        ``path``, ``driver`` (or None), ``recorder`` (what records loops of the user's own; None for a sweep), ``state``
        (``running``, ``finished``, ``stopped`` by its user, ``ended`` with an error, ``killed``, or ``empty`` where no
        trial was ever planned), ``counts`` by status, ``trials``, ``superseded`` (trials of an earlier spec that were
        replaced by others; the other numbers leave them out), ``steps_done``, ``steps_total``, ``failures`` (label,
        status and error of the trials given up), ``unmeasured`` (snapshots, and errors with their counts), ``search``
        (what a search knows; None without one), ``live``
        (what the driver is doing, or None) and ``ended`` (how the last driver ended: ``exit_code``, ``text``, ``job``,
        ``ended_at``; None while a driver is at work, or if it was killed).

    Raises:
        RunDirectoryError: There is no run.
        IntegrityError: Its journal is damaged.
    """
    run_dir = RunDir(path)
    state = state_of(run_dir) if state is None else state
    # A loop that records holds the directory for moments only.
    driver = driver_of(run_dir) if state.recorder is None else None
    live = live_document(run_dir) if driver is not None else None
    ending = ending_of(run_dir) if driver is None else None
    unmeasured = state.unmeasured()
    counts = {status: 0 for status in STATUSES}
    current = {name: trial for name, trial in state.trials.items() if name not in state.superseded}
    at_work = _at_work(live) | recording_now(state)
    for trial in current.values():
        counts[_status(trial, at_work)] += 1
    failed = {name: trial for name, trial in current.items() if trial.given_up}
    labels = state.labels() if failed else {}
    return {
        "path": str(path),
        "driver": driver,
        "recorder": state.recorder,
        "state": "running" if driver is not None or at_work else _state(list(current.values()), ending),
        "counts": {status: count for status, count in counts.items() if count},
        "trials": len(current),
        "superseded": len(state.superseded),
        "steps_done": sum(
            (trial.target if trial.outcome is not None else None) or trial.step for trial in current.values()
        ),
        "steps_total": sum(trial.step if trial.target is None else trial.target for trial in current.values()),
        "failures": [
            {"trial_id": name, "trial": labels[name], "status": trial.status(), "error": trial.failures[-1][1]}
            for name, trial in failed.items()
        ],
        "unmeasured": {"snapshots": unmeasured.total, "errors": dict(unmeasured.errors)},
        "search": search_document(found_by_search(run_dir, state)),
        "live": live,
        "ended": vars(ending) if ending is not None else None,
    }


def _at_work(live: Mapping[str, Any] | None) -> frozenset[str]:
    """The trials that a trainer is working on, according to their driver."""
    return frozenset(str(active.get("trial_id")) for active in live["active"]) if live is not None else frozenset()


def _status(trial: TrialState, at_work: Collection[str]) -> str:
    return trial.status(running=trial.record.trial_id in at_work)


def _state(trials: Sequence[TrialState], ending: Ending | None) -> str:
    """What a run without a driver is."""
    if not trials:
        return "empty"
    if all(trial.resolved for trial in trials):
        return "finished"
    if ending is None:
        return "killed"
    return "stopped" if ending.exit_code == 130 else "ended"


def in_words(document: Mapping[str, Any]) -> str:
    """What a run is now, and how far it is.

    Args:
        document: As :func:`run_status` gives it.

    Returns:
        One line, without the run's name.
    """
    driver, state = document["driver"], document["state"]
    if document.get("recorder") is not None:
        return _recorded_words(document)
    steps = document["steps_total"]
    done = f"{100 * document['steps_done'] / max(1, steps):.0f} % of {counted(steps, 'step')}"
    if driver:
        job = f", job {driver['job']}" if "job" in driver else ""
        left = (document["live"] or {}).get("left_s")
        rest = "" if left is None else f", about {duration(left)} left"
        return f"running (pid {driver['pid']} on {driver['host']}{job}), {done}{rest}"
    given_up = given_up_words(document["counts"])
    match state:
        case "finished":
            return f"finished, {given_up}, {done}" if given_up else f"finished, {done}"
        case "stopped":
            return f"stopped, {done}; the same command continues it"
        case "ended":
            ending = document["ended"]
            left = sum(document["counts"].get(status, 0) for status in ("queued", "paused"))
            is_early = ending is None or ending["exit_code"] > 1
            how = "ended early" if is_early else f"{counted(left, 'trial')} left to run"
            return f"{how}, {done}; the same command continues it"
        case "killed":
            return f"its driver disappeared, {done}; the same command continues it"
    return "no trial was begun"


def _recorded_words(document: Mapping[str, Any]) -> str:
    """What loops of the user's own have recorded."""
    counts = document["counts"]
    at_work, left = counts.get("running", 0), sum(counts.get(status, 0) for status in ("queued", "paused"))
    told = [f"{counted(document['steps_done'], 'step')} of {counted(document['trials'], 'loop')}"]
    told += [f"{at_work} at work"] if at_work else []
    told += [f"{left} not closed: killed, or not seen from this host"] if left else []
    return f"recorded by {document['recorder']}, {', '.join(told)}"


def _running(run_dir: RunDir, state: RunState) -> frozenset[str]:
    if state.recorder is not None:
        return recording_now(state)
    return _at_work(live_document(run_dir)) if driver_of(run_dir) is not None else frozenset()


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Every run directly in a folder, the latest first.

    Returns:
        One document of :func:`run_status` per run, or ``path`` and ``error`` if a journal cannot be read.

    Raises:
        RunDirectoryError: There is no such folder.
    """
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder}: no such directory; `clipsweep run SPEC` creates runs")
    journals = sorted(folder.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    documents = []
    for journal in journals:
        try:
            documents.append(run_status(journal.parent))
        except ValueError as error:
            documents.append({"path": str(journal.parent), "error": str(error)})
    return documents


def trial_rows(path: Path, state: RunState | None = None) -> list[dict[str, Any]]:
    """One row per trial: id, label, status, step, attempts, and whether a changed spec has replaced it.

    Args:
        path: The run directory.
        state: What its journal says, from whoever has read it; by default it is read.

    Returns:
        JSON-able rows in the order of the plan.

    Raises:
        RunDirectoryError: There is no run.
        IntegrityError: Its journal is damaged.
    """
    run_dir = RunDir(path)
    state = state_of(run_dir) if state is None else state
    at_work = _running(run_dir, state)
    labels = state.labels()
    return [
        {
            "trial_id": name,
            "trial": labels[name],
            "status": _status(trial, at_work),
            "step": trial.step,
            "steps": trial.steps,
            "attempts": len(trial.attempts),
            "superseded": name in state.superseded,
        }
        for name, trial in state.trials.items()
    ]


def find_trials(state: RunState, names: Sequence[str], path: Path) -> list[str]:
    """Trial ids by unambiguous prefix.

    Args:
        state: The run.
        names: Ids, or prefixes of ids.
        path: The run directory, for the message.

    Returns:
        Full ids.

    Raises:
        RunDirectoryError: A name matches no trial, or several.
    """
    found = []
    for name in names:
        fitting = [trial for trial in state.trials if trial.startswith(name)]
        if len(fitting) != 1:
            what = "no trial" if not fitting else f"{len(fitting)} trials"
            raise RunDirectoryError(
                f"{path}: {name!r} matches {what} of this run; `clipsweep status {path}` lists them"
            )
        found.append(fitting[0])
    return found


def trial_log(path: Path, name: str) -> list[str]:
    """What happened to one trial: its segments and failures from the journal, then its own log.

    Args:
        path: The run directory.
        name: The trial's id, or a prefix of it.

    Returns:
        Lines.

    Raises:
        RunDirectoryError: There is no such run or trial.
    """
    run_dir = RunDir(path)
    state = state_of(run_dir)
    (trial,) = find_trials(state, [name], path)
    segments, failures = ran(state, trial)
    lines = [trial_heading(run_dir, state, trial), *segments, *failures]
    log = run_dir.trial_log(trial)
    if log.exists():
        lines += ["", *log.read_text(errors="replace").splitlines()]
    return lines


def trial_heading(run_dir: RunDir, state: RunState, trial: str) -> str:
    """A trial and how it stands, in one line.

    Args:
        run_dir: The run directory.
        state: What its journal says.
        trial: The trial's id.

    Returns:
        The line.
    """
    return f"{trial}  {state.labels()[trial]}  {_status(state.trials[trial], _running(run_dir, state))}"


def ran(state: RunState, trial: str) -> tuple[list[str], list[str]]:
    """What one trial has done, as its run's journal tells it.

    Args:
        state: What the journal says.
        trial: The trial's id.

    Returns:
        A line per segment, and a line per failed attempt.
    """
    known = state.trials[trial]
    lines = []
    for segment in known.segments:
        facts = segment.facts
        ended = time.strftime("%F %T", time.localtime(facts.ended_at))
        outcome = f", {segment.outcome}" if segment.outcome else ""
        # Of those that began: some were handed to a trainer that ended before.
        number = sum(epoch == segment.driver_epoch and attempt <= segment.attempt for epoch, attempt in known.attempts)
        lines.append(
            f"{ended}  steps {segment.start} to {segment.stop}{outcome}  "
            f"(driver {segment.driver_epoch}, attempt {number}, {facts.train_s:.1f} s on {facts.host})"
        )
    return lines, [f"failed attempt ({kind}): {error}" for kind, error in known.failures]


@dataclass(frozen=True, kw_only=True)
class Retried:
    """What was queued again.

    Attributes:
        queued: Ids and labels of the trials.
        left_out: Failed trials that were not, because a changed spec has replaced them.
    """

    queued: Mapping[str, str]
    left_out: int


def retry(path: Path, names: Sequence[str]) -> Retried:
    """Queue trials that failed or were lost again; the next `clipsweep run` goes on from their last committed segment.

    Args:
        path: The run directory.
        names: Trial ids or prefixes of ids; none for all of these that the spec of the last run has.

    Returns:
        Which trials were queued.

    Raises:
        RunDirectoryError: A driver holds the directory, there is no such trial, it is not given up, or a changed spec
            has replaced it.
    """
    run_dir = RunDir(path).require()
    with DriverLock(run_dir).hold():
        records, whole = read_journal(run_dir.journal)
        repair_journal(run_dir.journal, whole, run_dir.quarantine)
        state = replay(records, run_dir.journal)
        refuse_recorded(run_dir, state, "be queued again")
        failed = [name for name, trial in state.trials.items() if trial.given_up]
        current = [name for name in failed if name not in state.superseded]
        chosen = find_trials(state, names, path) if names else current
        for name in chosen:
            if not state.trials[name].given_up:
                status = state.trials[name].status()
                raise RunDirectoryError(
                    f"{path}: trial {name} is {status}; only trials that failed or were lost are retried"
                )
            if name in state.superseded:
                raise RunDirectoryError(
                    f"{path}: trial {name} is superseded: a changed spec has replaced it, and no run would train it; "
                    "run the earlier spec with --accept-change first"
                )
        if chosen:
            Journal(run_dir.journal, state.next_number).append(RetriedRecord(trials=tuple(chosen)))
    labels = state.labels()
    return Retried(
        queued={name: labels[name] for name in chosen},
        left_out=0 if names else len(failed) - len(current),
    )
