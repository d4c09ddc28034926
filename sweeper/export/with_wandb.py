"""For W&B: an offline run per trial, for ``wandb sync``; nothing is sent, and no process is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper.errors import ClipsweepError
from sweeper.export.contents import ExportedTrial, Series, points_by_step, series_of, setting_text, trials_of
from sweeper.export.destination import Destination
from sweeper.export.names import safe_name
from sweeper.tables.run import Run

__all__ = ["export"]

_MAX_NAME = 128
_PREFIX = "WANDB_"


def export(run: Run, to: Destination) -> int:
    """Write an offline run per trial: its group is the cell, its type of job the arm.

    Args:
        run: The run.
        to: Where they go.

    Returns:
        The number of trials.

    Raises:
        ClipsweepError: W&B has not written a run.
    """
    trials = trials_of(run)
    project = safe_name(run.path.resolve().name)[:_MAX_NAME]
    with _silent_wandb() as wandb:
        settings = wandb.Settings(
            mode="offline",
            silent=True,
            console="off",
            host="",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        for trial, series in series_of(run, trials):
            folder = to.staging / "wandb" / trial.trial_id
            folder.mkdir(parents=True)
            _write(wandb, settings, trial, series, folder, project)
            written = list(folder.glob("wandb/offline-run-*/*.wandb"))
            if len(written) != 1:
                raise ClipsweepError(f"W&B has written no file for trial {trial.trial_id}; export again")
            began = datetime.fromtimestamp(trial.started_at, UTC)
            name = safe_name(trial.trial_id)
            # The form that `wandb sync --sync-all` looks for, and the same for every export of the trial.
            place = to.new_file("wandb", f"offline-run-{began:%Y%m%d_%H%M%S}-{name}", f"run-{name}.wandb")
            written[0].replace(place)
    return len(trials)


def _write(
    wandb: Any, settings: Any, trial: ExportedTrial, series: dict[str, Series], folder: Path, project: str
) -> None:
    run = wandb.init(
        project=project,
        dir=str(folder),
        id=safe_name(trial.trial_id),
        name=setting_text(trial.label)[:_MAX_NAME],
        group=setting_text(f"{trial.cell} ({trial.cell_id})")[-_MAX_NAME:],
        job_type=setting_text(trial.arm)[:_MAX_NAME],
        config={
            **trial.settings,
            "seed": trial.seed,
            "arm": trial.arm,
            "case": trial.case,
            "cell_id": trial.cell_id,
            "trial_id": trial.trial_id,
        },
        settings=settings,
        reinit="create_new",
    )
    try:
        for step, values in points_by_step(series).items():
            run.log(values, step=step)
        run.summary.update({**trial.results, "status": trial.status})
    finally:
        run.finish(exit_code=int(trial.has_failed))


@contextmanager
def _silent_wandb() -> Iterator[Any]:
    """W&B as if its user had set nothing: no account, no server, no reports of errors; its process ends here."""
    theirs = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_PREFIX)}
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    try:
        import wandb

        try:
            yield wandb
        finally:
            wandb.teardown()
    finally:
        for name in [name for name in os.environ if name.startswith(_PREFIX)]:
            del os.environ[name]
        os.environ |= theirs
