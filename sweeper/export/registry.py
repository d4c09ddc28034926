"""The targets of ``clipsweep export``, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sweeper.errors import ClipsweepError
from sweeper.export.destination import Destination
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

__all__ = ["TARGETS", "Exported", "Target", "export_run"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A program that a run can be exported for.

    Attributes:
        module: Has a function ``export(run, destination)`` that returns the number of trials.
        needs: Packages that must be installed.
        extra: The extra of clipsweep that installs them; empty for none.
        then: The command that shows the export, with the folder for ``{to}``; empty for none.
    """

    module: str
    needs: tuple[str, ...] = ()
    extra: str = ""
    then: str = ""


TARGETS: Mapping[str, Target] = {
    "tensorboard": Target(
        module="with_tensorboard",
        needs=("tensorboard",),
        extra="tensorboard",
        then="tensorboard --logdir {to}",
    ),
    "wandb": Target(module="with_wandb", needs=("wandb",), extra="wandb", then="wandb sync {to}/wandb/offline-run-*"),
    "mlflow": Target(
        module="with_mlflow",
        needs=("mlflow", "sqlalchemy", "alembic"),
        extra="mlflow",
        then="mlflow ui --backend-store-uri sqlite:///{to}/mlflow.db",
    ),
    "csv": Target(module="as_csv"),
    "latex": Target(module="as_latex", then="pdflatex document.tex in {to}"),
}
"""Name to target."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has written.

    Attributes:
        run: The run directory.
        target: For what.
        to: The folder.
        trials: Number of trials.
        files: Number of files.
        bytes: Their size.
        then: The command that shows it; empty for none.
    """

    run: Path
    target: str
    to: Path
    trials: int
    files: int
    bytes: int
    then: str


def export_run(path: Path, target: str, to: Path | None = None) -> Exported:
    """Export a run; a second export into the same folder replaces or extends the first.

    Args:
        path: The run directory.
        target: One of :data:`TARGETS`.
        to: The folder; by default beside the run directory, named like it and the target.

    Returns:
        What was written.

    Raises:
        ClipsweepError: The target is unknown or its package is missing, or the folder holds something else.

    Example:
        >>> export_run(Path("runs/nowhere"), "csv")
        Traceback (most recent call last):
        ...
        sweeper.errors.RunDirectoryError: runs/nowhere: no such directory
    """
    if target not in TARGETS:
        raise ClipsweepError(f"export {target!r}: unknown target; known: {', '.join(TARGETS)}")
    known = TARGETS[target]
    run_dir = RunDir(path).require()
    missing = [name for name in known.needs if find_spec(name) is None]
    if missing:
        raise ClipsweepError(
            f"export {target}: {' and '.join(missing)} is not installed: `pip install 'clipsweep[{known.extra}]'`"
        )
    run = Run(path)
    folder = to if to is not None else path.resolve().with_name(f"{path.resolve().name}-{target}")
    module = importlib.import_module(f"sweeper.export.{known.module}")
    export: Callable[[Run, Destination], int] = module.export
    destination = Destination(folder, target=target, run_dir=run_dir)
    with destination:
        trials = export(run, destination)
    return Exported(
        run=path,
        target=target,
        to=folder,
        trials=trials,
        files=destination.num_files,
        bytes=destination.size,
        then=known.then.format(to=folder),
    )
