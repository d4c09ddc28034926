"""What people read: ``trials``, ``metrics``, ``measurements/*`` and ``telemetry``, made from journal and parts.

Each file is replaced as a whole, so it can be read at any moment. All of them can be rebuilt from journal and parts.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweeper.formats import value_json
from sweeper.store.journal import RunState, TrialState
from sweeper.store.records import CommittedSegment, Part
from sweeper.store.run_dir import RunDir, file_hash
from sweeper.tables.described import EXACT, NOT_FINITE, described
from sweeper.tables.directions import direction_of
from sweeper.tables.parts import concatenate, encode, read_parts, sort_rows
from sweeper.tables.schemas import METRICS, TELEMETRY, TRIAL_TYPES
from sweeper.value_texts import key_of

__all__ = ["DECLARED", "Compactor", "declared_in", "trials_table"]

TAIL_FRACTION = 0.1
"""Share of the last logged steps over which ``final_train_loss`` is the mean: one batch's loss is mostly noise."""


DECLARED = b"clipsweep.metrics"
"""Metadata of ``trials``: the directions of metrics that the spec declared when the table was made, as JSON."""


class Compactor:
    """Writes the readable tables; keeps the rows that it has read, so refreshing reads only new parts.

    Args:
        run_dir: The run.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._rows: dict[str, list[pa.Table]] = {}
        self._num_parts = 0

    def refresh(self, state: RunState, *, running: frozenset[str] = frozenset()) -> None:
        """Write every readable table as of ``state``.

        Args:
            state: The run as its journal describes it.
            running: Trials that a trainer is working on.

        Raises:
            IntegrityError: A part is missing or damaged.
            OSError: The disk is full; the old tables stay.
        """
        self._read(state.parts)
        order = list(state.trials)
        for name, tables in self._rows.items():
            self._rows[name] = [concatenate(tables)]
            self._publish(name, sort_rows(self._rows[name][0], order))
        metrics = self._rows.get("metrics", [None])[0]
        self._publish("trials", trials_table(state, metrics, running=running), _swept(state))
        self._publish("telemetry", _telemetry_table(state))

    def _read(self, parts: Sequence[Part]) -> None:
        for name, tables in read_parts(self._run_dir, parts[self._num_parts :]).items():
            self._rows.setdefault(name, []).extend(tables)
        self._num_parts = len(parts)

    def _publish(self, name: str, table: pa.Table, swept: Collection[str] = ()) -> None:
        self._run_dir.publish(self._run_dir.table(name), encode(described(name, table, swept=swept)))


def trials_table(state: RunState, metrics: pa.Table | None, *, running: frozenset[str] = frozenset()) -> pa.Table:
    """One row per trial: what it was, how it ended, and its losses.

    Args:
        state: The run as its journal describes it.
        metrics: All committed metric rows; None for none.
        running: Trials that a trainer is working on.

    Returns:
        The ``trials`` table, including one column per swept path; rows in the order of the plan.
    """
    losses = _losses(
        metrics,
        {name: state.declared_metrics(name) for name in state.trials},
        {name: set(trial.segments[-1].facts.tests) for name, trial in state.trials.items() if trial.segments},
    )
    metric_names = sorted(
        {"final_train_loss", *(name for values in losses.values() for name in values)} if losses else ()
    )
    swept = _swept(state)
    rows = []
    for name, trial in state.trials.items():
        record = trial.record
        row: dict[str, Any] = {
            "trial_id": name,
            "cell_id": record.cell_id,
            "case": state.cases.get(record.cell_id),
            "arm": record.arm,
            "seed": record.seed,
            "status": trial.status(running=name in running),
        }
        row |= {path: record.value(path) for path in swept}
        row |= {"learning_rate": record.learning_rate, "clip_norm": record.clip_norm, "steps": trial.steps}
        known = losses.get(name, {})
        if trial.outcome == "diverged":
            known = {metric: value for metric, value in known.items() if metric != "final_train_loss"}
        elif (last := _last_iterate(trial)) is not None:
            known = {**known, "final_train_loss": last}
        row |= {metric: known.get(metric) for metric in metric_names}
        row["superseded"] = name in state.superseded
        row["code_id"] = "+".join(dict.fromkeys(code.sha256[:12] for code in record.all_code)) or None
        rows.append({**row, **_ending(trial), **_conditions(trial, state), **_own_columns(trial)})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    typed: dict[str, pa.Array] = {}
    for column in columns:
        values = [row.get(column) for row in rows]
        typed[column] = _column(column, values)
        if column in swept and not _says(typed[column], values):
            typed[f"{column}{EXACT}"] = pa.array([value_json(value) for value in values], pa.string())
    return pa.table(typed, metadata={DECLARED: json.dumps(dict(state.metrics))})


def _swept(state: RunState) -> list[str]:
    """The swept paths, in the order in which trials have them."""
    return list(dict.fromkeys(path for trial in state.trials.values() for path in trial.record.swept))


def declared_in(table: pa.Table) -> Mapping[str, str] | None:
    """The directions of metrics that the spec declared when a table ``trials`` was made.

    Args:
        table: The table as it was read.

    Returns:
        Metric to direction; None for a table of an earlier version, which asked only how a name ends.
    """
    try:
        declared = json.loads((table.schema.metadata or {})[DECLARED])
    except (KeyError, ValueError, RecursionError):
        return None
    return declared if isinstance(declared, dict) else None


def _last_iterate(trial: TrialState) -> float | None:
    """f at the last iterate of an analytic trial, whose rows have a loss only where a step was taken."""
    facts = trial.segments[-1].facts if trial.outcome == "done" else None
    return facts.last_finite_loss if facts is not None and "hitting_status" in facts.columns else None


def _ending(trial: TrialState) -> dict[str, Any]:
    segments = trial.segments
    facts = [segment.facts for segment in segments]
    num_steps = sum(fact.num_steps for fact in facts)
    last = facts[-1] if facts else None
    return {
        "committed_step": trial.step,
        "attempts": len(trial.attempts),
        "started_at": _moment(facts[0].started_at) if facts else None,
        "ended_at": _moment(last.ended_at) if trial.resolved and last is not None else None,
        "train_s": sum(fact.train_s for fact in facts),
        "estimate_s": sum(fact.estimate_s for fact in facts),
        "diverged_step": last.diverged_step if last is not None else None,
        "last_finite_loss": last.last_finite_loss if last is not None else None,
        "clipped_fraction": sum(fact.num_clipped for fact in facts) / num_steps if num_steps else None,
        "error": _ending_line(trial.failures[-1][1]) if trial.failures and trial.given_up else None,
    }


def _ending_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _conditions(trial: TrialState, state: RunState) -> dict[str, Any]:
    """What a trial was last trained with: versions, processor, threads, GPU; and whether they changed along the way."""
    known = [_environment_id(segment, state) for segment in trial.segments]
    return {
        "environment_id": known[-1] if known else None,
        "device": trial.segments[-1].facts.hardware.get("device") if known else None,
        "drift": len(set(known)) > 1,
    }


def _environment_id(segment: CommittedSegment, state: RunState) -> str:
    """Identifies what results depend on besides the spec: results with equal ids may be compared bit for bit."""
    environment = dict(state.environments.get(segment.driver_epoch, {}))
    if segment.facts.hardware:
        environment["hardware"] = dict(segment.facts.hardware)
    return file_hash(json.dumps(environment, sort_keys=True).encode())[:12]


def _own_columns(trial: TrialState) -> Mapping[str, Any]:
    """Extra columns from the trainer, for example a trial's hitting time."""
    return trial.segments[-1].facts.columns if trial.segments else {}


def _losses(
    metrics: pa.Table | None, declared: Mapping[str, Mapping[str, str]], tests: Mapping[str, Collection[str]]
) -> dict[str, dict[str, float]]:
    """Per trial: the mean training loss of the last tenth of its logged steps, and of each metric the best and last."""
    if metrics is None or metrics.num_rows == 0:
        return {}
    own = [name for name in metrics.column_names if name not in METRICS.names]
    table = metrics.sort_by([("trial_id", "ascending"), ("step", "ascending")])
    names = table["trial_id"].combine_chunks()
    starts = np.flatnonzero(pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)) + 1
    bounds = [0, *starts.tolist(), len(names)]
    columns = {name: _floats(table[name]) for name in ("train_loss", *own)}
    is_evaluated = {name: table[name].is_valid().to_numpy() for name in own}
    results = {}
    for low, high in itertools.pairwise(bounds):
        values: dict[str, float] = {}
        trial = names[low].as_py()
        logged = columns["train_loss"][low:high]
        logged = logged[~np.isnan(logged)]
        if logged.size:
            values["final_train_loss"] = float(logged[-max(1, round(TAIL_FRACTION * logged.size)) :].mean())
        for name in own:
            evaluated = columns[name][low:high][is_evaluated[name][low:high]]
            if evaluated.size:
                largest = direction_of(name, declared.get(trial, {})) == "max"
                finite = evaluated[np.isfinite(evaluated)]
                if name in tests.get(trial, ()):
                    # No best of them: nothing is to be chosen by the test data.
                    values[name] = float(evaluated[-1])
                else:
                    best = float(finite.max() if largest else finite.min()) if finite.size else math.nan
                    values |= {f"best_{name}": best, f"final_{name}": float(evaluated[-1])}
                if not_finite := evaluated.size - finite.size:
                    values[f"{NOT_FINITE}{name}"] = not_finite
        results[trial] = values
    return results


def _floats(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A float column with NaN for null."""
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    """An array of the first type that takes the values as they are, even if all of them are null; text at last."""
    if name in TRIAL_TYPES:
        return pa.array(values, TRIAL_TYPES[name])
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return pa.array(values, pa.bool_())
    if types == {int} and all(value is None or value in _INT64 for value in values):
        return pa.array(values, pa.int64())
    if types <= {int, float} and all(value is None or isinstance(value, float) or _fits(value) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if value is None or isinstance(value, str) else value_json(value) for value in values]
    return pa.array(texts, pa.string())


_INT64 = range(-(2**63), 2**63)


def _fits(value: int) -> bool:
    """Whether a float can be this integer."""
    try:
        return float(value) == value
    except OverflowError:
        return False


def _says(column: pa.Array, values: Sequence[Any]) -> bool:
    """Whether a column holds the values themselves, different ones differently."""
    held = column.to_pylist()
    if all(value is None or isinstance(value, dict | list) for value in values):
        return True  # a column of lists and sections is JSON already
    return held == list(values) and len(set(held)) == len({key_of(value) for value in values})


def _telemetry_table(state: RunState) -> pa.Table:
    """One row per segment: where it ran and what it cost."""
    segments = [segment for trial in state.trials.values() for segment in trial.segments]
    return pa.Table.from_pylist([_telemetry_row(segment, state) for segment in segments], schema=TELEMETRY)


def _telemetry_row(segment: CommittedSegment, state: RunState) -> dict[str, Any]:
    facts = segment.facts
    return {
        "trial_id": segment.trial,
        "driver_epoch": segment.driver_epoch,
        "attempt": segment.attempt,
        "start": segment.start,
        "stop": segment.stop,
        "started_at": _moment(facts.started_at),
        "ended_at": _moment(facts.ended_at),
        "train_s": facts.train_s,
        "evaluate_s": facts.evaluate_s,
        "waited_s": facts.waited_s,
        "estimate_s": facts.estimate_s,
        "num_snapshots": facts.num_snapshots,
        "host": facts.host,
        "node": facts.node,
        "pid": facts.pid,
        **{name: facts.hardware.get(name) for name in ("device", "driver", "cuda", "cudnn")},
        "measured_on": ", ".join(facts.measured_on) or None,
        "data": facts.data,
        "environment_id": _environment_id(segment, state),
    }


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
