"""Command ``init``: a spec to start from, with what an editor needs to complete it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.completion import one_of
from sweeper.cli.options import note, show
from sweeper.errors import ClipsweepError
from sweeper.formats import json_text

__all__ = ["init"]

_SCHEMA = ".clipsweep-schema.json"
_TEMPLATES = ("starter", "quickstart", "figure2", "theory", "own")


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write; - for standard output.")] = Path(
        "sweep.yaml"
    ),
    template: Annotated[
        str,
        typer.Option(
            "--template",
            metavar="NAME",
            help=f"What to start from: {', '.join(_TEMPLATES)}.",
            autocompletion=one_of(*_TEMPLATES),
        ),
    ] = "starter",
    schema: Annotated[
        bool,
        typer.Option(
            "--schema/--no-schema", help="Write the schema beside it, too, and a first line that names it to editors."
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write a spec to start from."""
    from sweeper.spec import json_schema
    from sweeper.spec.starter import MODULES, TEMPLATES, starter_module, starter_spec

    if template not in TEMPLATES:
        raise ClipsweepError(f"--template {template!r}: unknown; known: {', '.join(TEMPLATES)}")
    if str(file) == "-":
        if template in MODULES:
            raise ClipsweepError(f"--template {template} writes {MODULES[template]}, too: give it a file's name")
        show(starter_spec(Path("sweep.yaml"), template).rstrip("\n"))
        return
    if file.exists() and not force:
        raise ClipsweepError(f"{file}: already exists; give another name, or --force to overwrite it")
    text = starter_spec(file, template)
    if template in MODULES:
        _write_new(file.with_name(MODULES[template]), starter_module(template))
    if schema:
        # Relative to the spec, so that it holds without a network, and for whoever is given the folder.
        text = f"# yaml-language-server: $schema=./{_SCHEMA}\n{text}"
        _write_schema(file.with_name(_SCHEMA), json_text(json_schema()) + "\n")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error
    first = "check" if template in MODULES else "plan"
    note(f"wrote {file}; try `clipsweep {first} {file}`, then `clipsweep run {file}`")


def _write_new(file: Path, text: str) -> None:
    """Write a file that does not exist, whatever ``--force`` allows for the spec."""
    try:
        if file.exists() and file.read_text(encoding="utf-8", errors="replace") == text:
            return
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise ClipsweepError(f"{file}: already exists, and is kept; write the spec into another folder") from None
    except OSError as error:
        raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error
    note(f"wrote {file}")


def _write_schema(file: Path, text: str) -> None:
    """Write the schema beside the spec; one that is there stays, as another version or the user may have made it."""
    if file.exists():
        if file.read_text(encoding="utf-8", errors="replace") != text:
            note(f"{file} is another version's, and is kept: `clipsweep schema > {file}` renews it")
        return
    _write_new(file, text)
