"""A run's tables as pandas frames."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.errors import RunDirectoryError
from sweeper.store.journal import RunState, read_journal, replay
from sweeper.store.run_dir import RunDir
from sweeper.tables.parts import MEASUREMENTS, read_table

if TYPE_CHECKING:
    import pandas as pd

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

    @cached_property
    def state(self) -> RunState:
        """The run as its journal describes it."""
        records, _ = read_journal(self._run_dir.journal)
        return replay(records)

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

    @property
    def swept(self) -> list[str]:
        """The swept paths, each a column of :attr:`trials`."""
        trials = self.state.trials.values()
        return list(dict.fromkeys(path for trial in trials for path in trial.record.swept))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial."""
        return self._frame("trials")

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
        path = self._run_dir.table(table)
        if not path.exists():
            raise RunDirectoryError(
                f"{self.path}: table {table} is not written yet; it appears after the first results"
            )
        frame: pd.DataFrame = read_table(path).to_pandas()
        return frame
