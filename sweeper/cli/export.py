"""``export``: a run for the programs that a team already looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.options import TEXT_FORMATS, AsJson, RunPath, TextFormat, note, shorten, show, show_json
from sweeper.formats import choose_format

__all__ = ["export"]


def export(
    run: RunPath,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="tensorboard, wandb, mlflow, csv or latex.", show_default=False),
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="The folder to write to; RUN-TARGET beside the run by default."),
    ] = None,
    wanted: TextFormat = None,
    as_json: AsJson = False,
) -> None:
    """Write a run for TensorBoard, W&B, MLflow, spreadsheets or LaTeX; again after it has grown, without doubles."""
    style = choose_format(wanted, as_json=as_json, known=TEXT_FORMATS)
    from sweeper.export.registry import export_run

    found = export_run(run, target, to)
    if found.then:
        note(f"look at it with `{found.then.replace(str(found.to), shorten(found.to))}`")
    if style == "json":
        show_json({**vars(found), "then": found.then or None})
    else:
        show(shorten(found.to))
