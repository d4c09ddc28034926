"""What every command that adds to a run does first: repair what a crash or a bad disk left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sweeper.errors import IntegrityError
from sweeper.labels import counted
from sweeper.store.journal import Journal, Line, RunState, apply, read_journal, repair_journal, replay
from sweeper.store.records import Committed, Damaged, DamagedTrial, Remeasured, parse_record
from sweeper.store.run_dir import RunDir

__all__ = ["recover"]

_log = logging.getLogger(__name__)


def recover(run_dir: RunDir, say: Callable[[str], None] = _log.warning) -> RunState:
    """Repair what a crash or a bad disk left behind, and return the state of the run. Only under the lock.

    A torn line is cut off the journal. Parts that are missing or hold other bytes than were written are set aside, and
    the journal records that their trials resume from before them: training is deterministic, so it gives the same rows.

    Args:
        run_dir: The run.
        say: Receives one message per repair.

    Returns:
        The state; an empty one if no run was begun.

    Raises:
        IntegrityError: The journal is damaged before its end.
    """
    if not run_dir.exists:
        return RunState()
    # First of all, cut the torn tail: a record appended behind it would turn it into a damaged line before an intact
    # one, which no longer looks like a crash and is refused.
    lines, whole = read_journal(run_dir.journal)
    if repair_journal(run_dir.journal, whole, run_dir.quarantine):
        say(f"the journal ended with a torn line; it was cut off, and its bytes are in {run_dir.quarantine}")
    state = replay(lines, run_dir.journal)
    _set_damaged_parts_aside(run_dir, lines, state, say)
    keep = {run_dir.parts / part.file for part in state.parts}
    for name, trial in state.trials.items():
        keep |= {run_dir.checkpoints / name / s.checkpoint[0] for s in trial.segments if s.checkpoint is not None}
    # Last, when every damaged part is in quarantine: this deletes what the journal does not name.
    if lost := run_dir.clean(keep=keep):
        say(
            f"the journal has lost lines, as an older copy of it has: {counted(lost, 'file')} of rows that none names "
            f"{'is' if lost == 1 else 'are'} in {run_dir.quarantine}, and their trials go on from before them"
        )
    return state


def _set_damaged_parts_aside(
    run_dir: RunDir, lines: Sequence[Line], state: RunState, say: Callable[[str], None]
) -> None:
    """Quarantine parts that are not what was written, and journal what must be trained or measured again."""
    damaged: dict[str, str] = {}
    for part in state.parts:
        try:
            run_dir.read_checked(run_dir.parts / part.file, part.xxh3)
        except IntegrityError as error:
            damaged[part.file] = str(error)
    if not damaged:
        return
    first: dict[str, int] = {}
    snapshots: list[tuple[str, str, int]] = []
    parts = set(damaged)
    for record in map(parse_record, lines):
        match record:
            case Committed() if parts & _files(record):
                # A part holds rows of its whole group, so every trial of the group lost rows or measurements. Each
                # resumes from its first such segment: later segments continue from rows that are gone.
                for segment in record.segments:
                    first[segment.trial] = min(segment.start, first.get(segment.trial, segment.start))
            case Remeasured() if parts & _files(record):
                # All snapshots of the record are measured again, so its intact parts have to go, too.
                parts |= _files(record)
                snapshots += [(record.measurement, trial, step) for trial, step in record.snapshots]
    found = Damaged(
        parts=frozenset(parts),
        trials=tuple(
            DamagedTrial(trial=name, step=step, checkpoints=_remaining_checkpoints(run_dir, name))
            for name, step in first.items()
        ),
        snapshots=tuple(snapshots),
    )
    for name, why in damaged.items():
        say(f"damaged: {why}; {_consequence(len(first), len(snapshots), recorded=state.recorder is not None)}")
        run_dir.set_aside(run_dir.parts / name)
    # Only after the move: if it crashes in between, the next driver finds these parts missing and does the same again.
    # In the other order, it would find parts that the journal no longer names, and delete the bytes.
    Journal(run_dir.journal, state.next_number).append(found)
    apply(state, found)
    state.next_number += 1


def _files(record: Committed | Remeasured) -> set[str]:
    return {part.file for part in record.parts}


def _remaining_checkpoints(run_dir: RunDir, trial: str) -> tuple[str, ...]:
    """The checkpoints that are left: none for a trial that had ended, the last two for others."""
    return tuple(sorted(path.name for path in (run_dir.checkpoints / trial).glob("*")))


def _consequence(num_trials: int, num_snapshots: int, *, recorded: bool) -> str:
    """What has to be done again; of recorded loops, which nobody here can train, what is lost."""
    if recorded:
        return f"the rows of {counted(num_trials, 'loop')} from there on are lost: `repeat='replace'` records it anew"
    again = [f"{num_trials} trials resume from before it"] if num_trials else []
    again += [f"{num_snapshots} snapshots will be measured again"] if num_snapshots else []
    return " and ".join(again)
