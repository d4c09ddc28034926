"""What of a run is exported, whatever the target: its trials, grouped by cell, and what was logged of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.errors import IntegrityError
from sweeper.formats import value_json
from sweeper.labels import plain_value, printable, short_names
from sweeper.store.journal import RunState
from sweeper.store.run_dir import RunDir
from sweeper.tables.parts import read_batches

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from sweeper.tables.run import Run

__all__ = ["ExportedTrial", "Series", "points_by_step", "series_of", "setting_text", "trials_of"]

_RESULTS = ("final_", "best_", "test_")
_MORE_RESULTS = ("diverged_step", "last_finite_loss", "clipped_fraction", "hitting_time")
_FIXED = ("learning_rate", "clip_norm", "steps")


@dataclass(frozen=True, kw_only=True)
class ExportedTrial:
    """A trial, as every target needs it.

    Attributes:
        trial_id: Its id.
        cell_id: Id of its cell, which its seeds share.
        cell: What its cell is called.
        label: What it is called.
        arm: The update rule up to its swept numbers.
        case: The name of its cell's case; None for none.
        seed: Its seed.
        status: Its status, in one word.
        settings: Short name to swept value, and its learning rate, clip norm and steps.
        results: Name to number: its last and best losses and metrics, and how it ended.
        started_at: When its training began, in seconds since 1970; 0 for a trial that has not begun.
        ended_at: When it ended; 0 for one that has not.
    """

    trial_id: str
    cell_id: str
    cell: str
    label: str
    arm: str
    case: str | None
    seed: int
    status: str
    settings: Mapping[str, Any]
    results: Mapping[str, float]
    started_at: float = 0.0
    ended_at: float = 0.0

    @property
    def is_running(self) -> bool:
        """Whether more of it may come."""
        return self.status in {"queued", "paused", "running", "held"}

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a loss."""
        return self.status in {"diverged", "failed", "lost"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """What was logged under one name.

    Attributes:
        steps: The steps, ascending, each once.
        values: The value at each: not null, but NaN or infinite where the trial had such.
    """

    steps: np.ndarray[Any, Any] = field(repr=False)
    values: np.ndarray[Any, Any] = field(repr=False)


def trials_of(run: Run) -> list[ExportedTrial]:
    """The trials of a run that count.

    Args:
        run: The run.

    Returns:
        In the order of the plan, without those that others stand in the place of.
    """
    frame: pd.DataFrame = run.trials
    names, labels = short_names(run.swept), run.state.labels()
    results = [str(name) for name in frame.columns if str(name).startswith(_RESULTS) or str(name) in _MORE_RESULTS]
    found = []
    for row in frame[~frame["trial_id"].isin(run.state.superseded)].to_dict("records"):
        label = labels[row["trial_id"]]
        seed = int(row["seed"])
        fixed = {name: plain_value(row.get(name)) for name in _FIXED}
        swept = {names[path]: value for path, value in run.values[row["trial_id"]].items()}
        found.append(
            ExportedTrial(
                trial_id=row["trial_id"],
                cell_id=row["cell_id"],
                cell=label.removesuffix(f"seed={seed}").rstrip() or row["arm"],
                label=label,
                arm=row["arm"],
                case=plain_value(row.get("case")),
                seed=seed,
                status=row["status"],
                settings={**fixed, **swept},
                results={name: float(row[name]) for name in results if _is_number(row[name])},
                started_at=_seconds(row.get("started_at")),
                ended_at=_seconds(row.get("ended_at")),
            )
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not math.isnan(float(value))


def _seconds(moment: Any) -> float:
    """Seconds since 1970; 0 for none."""
    return 0.0 if moment is None or moment != moment else float(moment.timestamp())


def setting_text(value: Any) -> str:
    r"""A setting as one line of text.

    Args:
        value: A value of :attr:`ExportedTrial.settings`.

    Returns:
        Text as it is, without control characters; anything else as JSON.

    Example:
        >>> setting_text("adam\nw"), setting_text(None), setting_text({"use": "cosine"})
        ('adam\\nw', 'null', '{"use": "cosine"}')
    """
    return printable(value).replace("\n", "\\n") if isinstance(value, str) else value_json(value)


def points_by_step(series: Mapping[str, Series]) -> dict[int, dict[str, float]]:
    """What was logged, step by step.

    Args:
        series: Name to what was logged under it.

    Returns:
        Step to name to value, the steps ascending.

    Example:
        >>> loss = Series(steps=np.array([0, 2]), values=np.array([1.0, 0.5]))
        >>> norm = Series(steps=np.array([1]), values=np.array([3.0]))
        >>> points_by_step({"loss": loss, "norm": norm})
        {0: {'loss': 1.0}, 1: {'norm': 3.0}, 2: {'loss': 0.5}}
    """
    found: dict[int, dict[str, float]] = {}
    for name, one in series.items():
        for step, value in zip(one.steps.tolist(), one.values.tolist(), strict=True):
            found.setdefault(step, {})[name] = value
    return dict(sorted(found.items()))


def series_of(
    run: Run, trials: Sequence[ExportedTrial], *, batch_rows: int = 65_536
) -> Iterator[tuple[ExportedTrial, dict[str, Series]]]:
    """What was logged of each trial: numbers of ``metrics``, and of the measurements of the sweep itself.

    Tables are read a batch at a time, so that memory holds one trial, however many there are.

    Args:
        run: The run.
        trials: The trials, in the order of the plan.
        batch_rows: Rows that are read at a time.

    Yields:
        Every trial, with name to series; a measurement's name begins with that of its estimator and a slash.

    Raises:
        IntegrityError: A table is damaged, or not in the order of the plan.
    """
    run_dir, state = RunDir(run.path), run.state
    tables = {"": "metrics"} if run.has("metrics") else {}
    tables |= {f"{name}/": f"measurements/{name}" for name in run.estimators}
    readers = {prefix: _ByTrial(run_dir, table, state, batch_rows) for prefix, table in tables.items()}
    for trial in trials:
        series: dict[str, Series] = {}
        for prefix, reader in readers.items():
            series |= {f"{prefix}{name}": one for name, one in reader.take(trial.trial_id).items()}
        yield trial, series


class _ByTrial:
    """Reads a table, whose rows are in the order of the plan, trial by trial."""

    def __init__(self, run_dir: RunDir, table: str, state: RunState, batch_rows: int) -> None:
        self._path = run_dir.table(table)
        self._measurements = state.measurements
        self._rank = {name: at for at, name in enumerate(state.trials)}
        self._last = -1
        self._groups = self._read(batch_rows)
        self._next = next(self._groups, None)

    def take(self, trial: str) -> dict[str, Series]:
        """The rows of one trial; those of trials before it are passed over."""
        pieces: list[pa.Table] = []
        while self._next is not None and self._rank[self._next[0]] <= self._rank[trial]:
            if self._next[0] == trial:
                pieces.append(self._next[1])
            self._next = next(self._groups, None)
        return _series(pieces) if pieces else {}

    def _read(self, batch_rows: int) -> Iterator[tuple[str, pa.Table]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        for batch in read_batches(self._path, numbers_beside=("trial_id", "step", "measurement_id"), rows=batch_rows):
            if "measurement_id" in batch.column_names:
                own = pa.array(list(self._measurements), pa.string())
                batch = batch.filter(pc.is_in(batch["measurement_id"], value_set=own)).drop_columns("measurement_id")
            names = batch["trial_id"].to_numpy()
            cuts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1).tolist(), len(names)] if len(names) else []
            for start, stop in itertools.pairwise(cuts):
                name = str(names[start])
                if name not in self._rank:
                    # Planned since the journal was read: the tables of a running sweep grow.
                    continue
                if self._rank[name] < self._last:
                    raise IntegrityError(f"{self._path}: is not in the order of the plan; `clipsweep run` rewrites it")
                self._last = self._rank[name]
                yield name, batch.slice(start, stop - start).drop_columns("trial_id")


def _series(pieces: Sequence[pa.Table]) -> dict[str, Series]:
    """Columns as series; of several rows of a step, the last one counts: it was measured last."""
    import pyarrow as pa

    rows = pa.concat_tables(pieces)
    steps = rows["step"].to_numpy()
    found = {}
    for name in rows.column_names:
        if name == "step" or rows[name].null_count == len(rows):
            continue
        known = rows[name].is_valid().to_numpy()
        values = rows[name].drop_null().cast(pa.float64()).to_numpy()
        at, first = np.unique(steps[known][::-1], return_index=True)
        found[str(name)] = Series(steps=at, values=values[::-1][first])
    return found
