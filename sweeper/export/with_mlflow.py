"""For MLflow: a database file, with a parent run per cell and a nested run per seed; exports extend it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from sweeper.export.contents import ExportedTrial, Series, points_by_step, series_of, setting_text, trials_of
from sweeper.export.destination import Destination
from sweeper.tables.run import Run

__all__ = ["DATABASE", "TRIAL", "export"]

DATABASE = "mlflow.db"
"""Name of the file; ``mlflow ui --backend-store-uri sqlite:///mlflow.db`` shows it."""

TRIAL, CELL = "clipsweep.trial_id", "clipsweep.cell_id"
"""Tags by which an export finds the runs of an earlier one."""

_EXPORTED = "clipsweep.exported_steps"
_BATCH = 1000
_MAX_TEXT = 500
_QUIET = ("mlflow", "alembic")


def export(run: Run, to: Destination) -> int:
    """Write what an earlier export has not.

    Args:
        run: The run.
        to: Where the database is.

    Returns:
        The number of trials.
    """
    trials = trials_of(run)
    database = to.kept_file(DATABASE)
    client = _client(f"sqlite:///{database.resolve()}")
    name = setting_text(run.path.resolve().name)
    found = client.get_experiment_by_name(name)
    artifacts = (to.folder / "artifacts").resolve().as_uri()
    experiment = found.experiment_id if found is not None else client.create_experiment(name, artifacts)
    known = {
        (tag, one.data.tags[tag]): one
        for one in _runs(client, experiment)
        for tag in (TRIAL, CELL)
        if tag in one.data.tags
    }
    parents: dict[str, str] = {}
    for trial, series in series_of(run, trials):
        if trial.cell_id not in parents:
            parents[trial.cell_id] = _parent(client, experiment, known.get((CELL, trial.cell_id)), trial)
        _write(client, experiment, known.get((TRIAL, trial.trial_id)), trial, series, parents[trial.cell_id])
    gone = {(TRIAL, trial.trial_id) for trial in trials} | {(CELL, cell) for cell in parents}
    for key in known.keys() - gone:
        # Others stand in the place of these trials now.
        client.delete_run(known[key].info.run_id)
    return len(trials)


def _client(address: str) -> Any:
    """A client of a database file, without telemetry and without MLflow's own messages."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with warnings.catch_warnings():
        # Of what MLflow uses and others will change: nothing that a user could do about.
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        # MLflow sets the levels of its loggers as it is imported.
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=address)


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=_BATCH, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _parent(client: Any, experiment: str, known: Any, trial: ExportedTrial) -> str:
    tags = {CELL: trial.cell_id, "arm": trial.arm, **({"case": trial.case} if trial.case is not None else {})}
    name = setting_text(trial.cell)[:_MAX_TEXT]
    if known is not None:
        run_id = known.info.run_id
        client.update_run(run_id, name=name)
    else:
        run_id = client.create_run(experiment, start_time=_milliseconds(trial.started_at), run_name=name).info.run_id
        _log(client, run_id, params=trial.settings)
        client.set_terminated(run_id, end_time=_milliseconds(trial.ended_at) or None)
    _log(client, run_id, tags=tags)
    return str(run_id)


def _write(
    client: Any, experiment: str, known: Any, trial: ExportedTrial, series: Mapping[str, Series], parent: str
) -> None:
    name = setting_text(trial.label)[:_MAX_TEXT]
    if known is None:
        tags = {TRIAL: trial.trial_id, "mlflow.parentRunId": parent}
        start = _milliseconds(trial.started_at)
        known = client.create_run(experiment, start_time=start, tags=tags, run_name=name)
        _log(client, known.info.run_id, params={**trial.settings, "seed": trial.seed})
    run_id = known.info.run_id
    client.update_run(run_id, name=name)
    points = points_by_step(series)
    before = int(known.data.tags.get(_EXPORTED, -1))
    if not trial.is_running and before == max(points, default=-1) and known.data.tags.get("status") == trial.status:
        # A trial that has ended has all of its rows, which took MLflow long enough the first time.
        _log(client, run_id, tags={"mlflow.parentRunId": parent, "case": trial.case or ""})
        return
    # A measurement of a step may come after its loss is exported: what is there already is ignored.
    again = [step for step in points if step > before or any("/" in name for name in points[step])]
    _log_points(client, run_id, {step: points[step] for step in again})
    last = max(points, default=-1)
    if not trial.is_running:
        _log_points(client, run_id, {max(last, 0): {f"result/{name}": of for name, of in trial.results.items()}})
    tags = {"arm": trial.arm, "status": trial.status, "cell_id": trial.cell_id, "case": trial.case or ""}
    # Last: an export that is interrupted before has not exported these steps.
    _log(client, run_id, tags={**tags, "mlflow.parentRunId": parent, _EXPORTED: str(last)})
    status = "FAILED" if trial.has_failed else "RUNNING" if trial.is_running else "FINISHED"
    client.update_run(run_id, status=status)
    if not trial.is_running:
        client.set_terminated(run_id, status=status, end_time=_milliseconds(trial.ended_at) or None)


def _log_points(client: Any, run_id: str, points: Mapping[int, Mapping[str, float]]) -> None:
    """Log numbers; of equal ones MLflow keeps one, as all of them have the same time."""
    from mlflow.entities import Metric

    metrics = (Metric(name, value, 0, step) for step, values in points.items() for name, value in values.items())
    while batch := list(islice(metrics, _BATCH)):
        client.log_batch(run_id, metrics=batch)


def _log(
    client: Any, run_id: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
) -> None:
    from mlflow.entities import Param, RunTag

    client.log_batch(
        run_id,
        params=[Param(_key(name), setting_text(value)[:_MAX_TEXT]) for name, value in (params or {}).items()],
        tags=[RunTag(name, setting_text(value)) for name, value in (tags or {}).items()],
    )


def _key(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in name)[:250]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
