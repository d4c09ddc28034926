"""For TensorBoard: a run per trial, the seeds of a cell in one folder and in one group of the HParams tab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.metadata import (
    NULL_TENSOR,
    PLUGIN_DATA_VERSION,
    PLUGIN_NAME,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from sweeper.export.contents import ExportedTrial, Series, points_by_step, series_of, setting_text, trials_of
from sweeper.export.destination import Destination
from sweeper.export.names import cell_folder, trial_name
from sweeper.tables.run import Run

__all__ = ["export"]

_FILE = "events.out.tfevents.0.clipsweep"
"""The same for every export, so that a second one replaces the first."""


def export(run: Run, to: Destination) -> int:
    """Write a file of events per trial.

    Args:
        run: The run.
        to: Where they go.

    Returns:
        The number of trials.
    """
    trials = trials_of(run)
    for trial, series in series_of(run, trials):
        folder = cell_folder(trial.cell, trial.cell_id)
        with to.new_file(folder, trial_name(trial.seed, trial.trial_id), _FILE).open("wb") as file:
            _write(RecordWriter(file), trial, series)
    return len(trials)


def _write(writer: Any, trial: ExportedTrial, series: Mapping[str, Series]) -> None:
    """One trial. All of its events have the time at which it began: steps have no times of their own."""
    writer.write(Event(wall_time=trial.started_at, file_version="brain.Event:2").SerializeToString())
    for value in (_start(trial), _end(trial)):
        writer.write(Event(wall_time=trial.started_at, step=0, summary=Summary(value=[value])).SerializeToString())
    last = 0
    for step, values in points_by_step(series).items():
        last = step
        _scalars(writer, trial, step, values)
    if trial.results:
        _scalars(writer, trial, last, {f"result/{name}": value for name, value in trial.results.items()})


def _scalars(writer: Any, trial: ExportedTrial, step: int, values: Mapping[str, float]) -> None:
    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    writer.write(Event(wall_time=trial.started_at, step=step, summary=summary).SerializeToString())


def _start(trial: ExportedTrial) -> Any:
    info = SessionStartInfo(group_name=f"{trial.cell} ({trial.cell_id})", start_time_secs=trial.started_at)
    for name, value in {**trial.settings, "arm": trial.arm}.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = setting_text(value)
    return _hparams(SESSION_START_INFO_TAG, HParamsPluginData(version=PLUGIN_DATA_VERSION, session_start_info=info))


def _end(trial: ExportedTrial) -> Any:
    status = "FAILURE" if trial.has_failed else "RUNNING" if trial.is_running else "SUCCESS"
    info = SessionEndInfo(status=Status.Value(f"STATUS_{status}"), end_time_secs=trial.ended_at)
    return _hparams(SESSION_END_INFO_TAG, HParamsPluginData(version=PLUGIN_DATA_VERSION, session_end_info=info))


def _hparams(tag: str, data: Any) -> Any:
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=NULL_TENSOR)
