"""Several runs read as one, for figures: their cells side by side, told apart by a column ``run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.formats import value_json
from sweeper.store.journal import RunState
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RUN", "SeveralRuns", "run_names", "unswept_value"]

RUN = "run"
"""The column, and swept path, that says of which run a trial is."""


def run_names(paths: Sequence[Path]) -> list[str]:
    """What each of several runs is called: the last parts of its path, as few as tell it apart.

    Args:
        paths: The run directories, all different.

    Returns:
        Their names.

    Example:
        >>> run_names([Path("/a/runs/one"), Path("/b/runs/one"), Path("/a/runs/two")])
        ['a/runs/one', 'b/runs/one', 'two']
    """
    folders = [path.resolve().parts for path in paths]
    names = []
    for folder in folders:
        length = next(
            length
            for length in range(1, len(folder) + 1)
            if sum(other[-length:] == folder[-length:] for other in folders) == 1
        )
        names.append("/".join(folder[-length:]))
    return names


class SeveralRuns(Run):
    """The tables of several runs, one below the other.

    A trial that several of them hold, under one id and so with the same results, counts once, as the first run's.
    What one run sweeps and another does not is filled in from the other's spec.

    Args:
        paths: The run directories, at least one; the first is the one that messages name.

    Raises:
        RunDirectoryError: One of them is not a run, or is given twice.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        super().__init__(paths[0])
        self._runs = [Run(path) for path in paths]
        folders = [run.path.resolve() for run in self._runs]
        if len(set(folders)) < len(folders):
            raise RunDirectoryError(f"{paths[-1]}: one of the runs is given twice")

    def __repr__(self) -> str:
        return f"SeveralRuns({[str(run.path) for run in self._runs]!r})"

    @property
    def title(self) -> str:
        """The directories of all."""
        return ", ".join(str(run.path) for run in self._runs)

    @cached_property
    def names(self) -> list[str]:
        """What each run is called: the last parts of its path, as few as tell it apart."""
        return run_names([run.path for run in self._runs])

    @cached_property
    def state(self) -> RunState:
        """The trials and measurements of all."""
        merged = RunState()
        for run in self._runs:
            for name, trial in run.state.trials.items():
                merged.trials.setdefault(name, trial)
            merged.measurements |= {**run.state.measurements, **merged.measurements}
            merged.remeasurements |= {**run.state.remeasurements, **merged.remeasurements}
            merged.superseded |= run.state.superseded
            merged.metrics = {**run.state.metrics, **merged.metrics}
            merged.cases = {**run.state.cases, **merged.cases}
        return merged

    @cached_property
    def swept(self) -> list[str]:
        """The paths that any of them sweeps, and the run itself."""
        return list(dict.fromkeys([RUN, *(path for run in self._runs for path in run.swept)]))

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, Any]]:
        """Trial to swept path to value, with the run, and with what other runs sweep."""
        found: dict[str, dict[str, Any]] = {}
        for run, name in zip(self._runs, self.names, strict=True):
            swept = set(run.swept)
            alike = {path: unswept_value(run, path) for path in self.swept if path not in swept}
            for trial, values in run.values.items():
                found.setdefault(trial, {path: values.get(path, alike.get(path)) for path in self.swept} | {RUN: name})
        return found

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per trial, with a column for the run, and with what other runs sweep."""
        frames = []
        for run, name in zip(self._runs, self.names, strict=True):
            alike = {path: _in_a_column(unswept_value(run, path)) for path in self.swept if path not in run.trials}
            frames.append(run.trials.assign(**alike | {RUN: name}))
        return self._joined(frames, ["trial_id"])

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per logged step."""
        return self._joined([run.metrics for run in self._runs if run.has("metrics")], ["trial_id", "step"])

    @cached_property
    def telemetry(self) -> pd.DataFrame:
        """One row per segment."""
        return self._joined([run.telemetry for run in self._runs if run.has("telemetry")], ["trial_id", "start"])

    def has(self, table: str) -> bool:
        """Whether any of them has written a table."""
        return any(run.has(table) for run in self._runs)

    @property
    def estimators(self) -> list[str]:
        """The estimators that have measured something in any of them."""
        return list(dict.fromkeys(name for run in self._runs for name in run.estimators))

    def measurements(self, estimator: str = "directional_smoothness") -> pd.DataFrame:
        """One row per snapshot and settings.

        Args:
            estimator: Name of the estimator.

        Returns:
            The frame.

        Raises:
            RunDirectoryError: The estimator has measured nothing in any of them.
        """
        frames = [run.measurements(estimator) for run in self._runs if estimator in run.estimators]
        if not frames:
            return super().measurements(estimator)
        return self._joined(frames, ["trial_id", "step", "measurement_id"])

    def folder_of(self, trial: str) -> Path:
        """The run directory whose trial counts."""
        return next(run.path for run in self._runs if trial in run.state.trials)

    @staticmethod
    def _joined(frames: Sequence[pd.DataFrame], key: list[str]) -> pd.DataFrame:
        import pandas as pd

        # Columns without a value have no type, which would make that of the others uncertain.
        filled = [frame.dropna(axis="columns", how="all") for frame in frames]
        names = list(dict.fromkeys(name for frame in frames for name in frame))
        joined = pd.concat(filled, ignore_index=True).reindex(columns=names)
        return joined.drop_duplicates(key, keep="first", ignore_index=True)


def unswept_value(run: Run, path: str) -> Any:
    """The value that all trials of a run have at a path that it does not sweep.

    Args:
        run: The run.
        path: The path.

    Returns:
        The value; None if its spec does not say.
    """
    try:
        value: Any = resolved_settings(RunDir(run.path))
    except ClipsweepError:
        return None
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _in_a_column(value: Any) -> Any:
    """A value as a table has it: lists and sections as JSON."""
    return value_json(value) if isinstance(value, dict | list) else value
