"""A run's tables as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.store.driver_files import driver_of
from sweeper.store.journal import RunState, read_state
from sweeper.store.planned_trials import swept_values
from sweeper.store.run_dir import RunDir
from sweeper.tables.directions import direction_before, direction_of
from sweeper.tables.parts import MEASUREMENTS, read_table
from sweeper.tables.readable import declared_in

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Run"]

_RENAMED_TELEMETRY = {"epoch": "driver_epoch"}
"""Columns of earlier versions: ``epoch`` is the pass over the data everywhere else."""


class Run:
    """What a run has produced so far; usable while it runs.

    The frames have the contents of the files, which pandas can also read directly:
    ``pd.read_parquet("runs/x/metrics.parquet")``.

    Args:
        path: The run directory.
        measurement: Id, or the beginning of one, of the settings whose measurements count in answers; by default the
            latest measurement of each snapshot by the sweep itself.

    Raises:
        RunDirectoryError: There is no run in this directory, or it was never measured under such an id.

    Example:
        >>> Run("runs/nowhere")
        Traceback (most recent call last):
        ...
        sweeper.errors.RunDirectoryError: runs/nowhere: no such directory
    """

    def __init__(self, path: str | Path, *, measurement: str | None = None) -> None:
        self._run_dir = RunDir(Path(path)).require()
        self.measurement = None if measurement is None else self._known_measurement(measurement)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._run_dir.path

    @property
    def title(self) -> str:
        """What its answers are headed by."""
        return str(self.path)

    def folder_of(self, trial: str) -> Path:
        """The run directory that holds a trial."""
        return self.path

    @cached_property
    def state(self) -> RunState:
        """The run as its journal describes it."""
        return read_state(self._run_dir.journal)

    def _known_measurement(self, wanted: str) -> str:
        ids = [*self.state.measurements, *self.state.remeasurements]
        fitting = [known for known in ids if known.startswith(wanted)]
        if len(fitting) != 1:
            what = "no measurement" if not fitting else f"more than one measurement ({', '.join(fitting)})"
            raise RunDirectoryError(
                f"{self.path}: {what} of this run has an id that begins with {wanted!r}; there are: "
                f"{', '.join(ids) or 'none'}"
            )
        return fitting[0]

    @cached_property
    def swept(self) -> list[str]:
        """The swept paths, each a column of :attr:`trials`."""
        trials = self.state.trials.values()
        return list(dict.fromkeys(path for trial in trials for path in trial.record.swept))

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, Any]]:
        """Trial to swept path to value: null, boolean, number, text, list or section, as the spec has it.

        A column of a table has one type for all of its values; here ``1``, ``1.0`` and ``"1"`` are three.
        """
        return swept_values(trial.record for trial in self.state.trials.values())

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial; of tables that an earlier version has made, with what this version says of best and final.

        The best of each metric is by the direction that the journal declares, the final loss of an analytic trial is
        that of its last iterate, and cases have the names that the journal has.
        """
        table = self._table("trials")
        frame: pd.DataFrame = table.to_pandas()
        if frame.empty:
            raise ClipsweepError(f"{self.path}: no trial was planned yet, so that there is nothing to read")
        if "hitting_status" in frame and "final_train_loss" in frame:
            analytic = frame["hitting_status"].notna() & (frame["status"] == "done") & frame["last_finite_loss"].notna()
            frame["final_train_loss"] = frame["final_train_loss"].mask(analytic, frame["last_finite_loss"])
        if "case" not in frame:
            frame.insert(list(frame.columns).index("cell_id") + 1, "case", None)
        names = [self.state.cases.get(cell) for cell in frame["cell_id"]]
        if list(frame["case"]) != names:
            frame["case"] = names
        return self._turned(frame, table)

    def _turned(self, frame: pd.DataFrame, table: pa.Table) -> pd.DataFrame:
        """The same with the best of every metric by today's direction."""
        known = declared_in(table)
        if known == self.state.metrics or not self.has("metrics"):
            return frame
        names = [name.removeprefix("best_") for name in table.column_names if name.startswith("best_")]
        for name in names:
            turned = {
                trial: now
                for trial in frame["trial_id"]
                if (now := direction_of(name, self.state.declared_metrics(trial)))
                != self._direction_then(name, trial, known)
            }
            if not turned or name not in self.metrics:
                continue
            rows = self.metrics[self.metrics["trial_id"].isin(turned)]
            rows = rows[np.isfinite(rows[name])].groupby("trial_id")[name]
            best = {trial: values.max() if turned[trial] == "max" else values.min() for trial, values in rows}
            frame[f"best_{name}"] = frame["trial_id"].map(best).fillna(frame[f"best_{name}"])
        return frame

    def _direction_then(self, metric: str, trial: str, spec: Mapping[str, str] | None) -> str:
        """Which direction a metric had when the table was made."""
        if spec is None:
            return direction_before(metric)
        return direction_of(metric, self.state.declared_metrics(trial, spec))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per logged step."""
        return self._frame("metrics")

    @cached_property
    def telemetry(self) -> pd.DataFrame:
        """One row per segment: where it ran and what it cost; for runs of any version, with today's column names."""
        return self._frame("telemetry").rename(columns=_RENAMED_TELEMETRY)

    def has(self, table: str) -> bool:
        """Whether a table has been written."""
        return self._run_dir.table(table).exists()

    @property
    def estimators(self) -> list[str]:
        """The estimators that have measured something."""
        return [name for name in MEASUREMENTS if self._run_dir.table(f"measurements/{name}").exists()]

    def measurements(self, estimator: str = "directional_smoothness") -> pd.DataFrame:
        """One row per snapshot.

        Args:
            estimator: Name of the estimator.

        Returns:
            The frame.

        Raises:
            RunDirectoryError: The estimator has measured nothing here.
        """
        if estimator not in self.estimators:
            known = ", ".join(self.estimators) or "none"
            raise RunDirectoryError(f"{self.path}: no measurements by {estimator!r}; available: {known}")
        return self._frame(f"measurements/{estimator}")

    def _frame(self, table: str) -> pd.DataFrame:
        frame: pd.DataFrame = self._table(table).to_pandas()
        return frame

    def _table(self, table: str) -> pa.Table:
        path = self._run_dir.table(table)
        if not path.exists():
            follows = (
                "it follows the first results"
                if driver_of(self._run_dir) is not None
                else "nobody is running this sweep: `clipsweep run` with its spec continues it, and writes the tables"
            )
            raise RunDirectoryError(f"{self.path}: table {table} is not written yet; {follows}")
        return read_table(path)
