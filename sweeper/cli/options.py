"""Arguments and options that several commands of the command line share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.cli.completion import complete_condition, complete_format, complete_run, one_of
from sweeper.formats import FORMATS, csv_table, json_text, markdown_table
from sweeper.labels import printable

__all__ = [
    "TEXT_FORMATS",
    "AllowCode",
    "AsJson",
    "Device",
    "Format",
    "Insecure",
    "Measurement",
    "Out",
    "Overrides",
    "RunPath",
    "SpecPath",
    "TextFormat",
    "Where",
    "how_to_retry",
    "note",
    "shorten",
    "show",
    "show_json",
    "show_rows",
]

TEXT_FORMATS = ("table", "json")
"""Formats of commands whose answer is no table."""

SpecPath = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The sweep, a YAML file; - for standard input.", show_default=False)
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False, autocompletion=complete_run)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the spec; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document; short for --format json.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(FORMATS),
        help="How to print it; a table by default.",
        show_default=False,
        autocompletion=complete_format,
    ),
]
TextFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(TEXT_FORMATS),
        help="How to print it; a table by default.",
        show_default=False,
        autocompletion=one_of(*TEXT_FORMATS),
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only these trials: column=value, with =, !=, <, <=, >, >=, in [a, b], not in [a, b], and; none means "
        "null; may be repeated.",
        autocompletion=complete_condition,
    ),
]
Measurement = Annotated[
    str | None,
    typer.Option(
        "--measurement", metavar="ID", help="Count these measurements alone; by default each snapshot's latest."
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure-cluster", help="Join a cluster without a token, open to its whole network.")
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code", help="Import the spec's code, and call what `on` names, even from outside its folder."
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="Where to do it: cpu, cuda or cuda:N, on this machine.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run directory; runs/<name> by default.")]


def note(text: str) -> None:
    """Tell the user something.

    Args:
        text: One line or several.
    """
    typer.echo(printable(text), err=True)


def show(text: str) -> None:
    """Print data.

    Args:
        text: One line or several.
    """
    typer.echo(printable(text))


def how_to_retry(path: str, counts: Mapping[str, int]) -> str:
    """What to do about trials that were given up.

    Args:
        path: The run directory, as the user would type it.
        counts: Status to number of trials.

    Returns:
        One line; empty where no trial was given up.
    """
    from sweeper.store.journal import given_up_words, num_failed

    if not (what := given_up_words(counts)):
        return ""
    return (
        f"{what}: `clipsweep status {path}` says why; once that is mended, "
        f"`clipsweep retry {path}` queues {'it' if num_failed(counts) == 1 else 'them'} again"
    )


def show_json(document: Any) -> None:
    """Print a document as JSON, alone on stdout.

    Args:
        document: As for :func:`~sweeper.formats.json_text`.
    """
    typer.echo(json_text(document))


def show_rows(style: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as CSV or Markdown.

    Args:
        style: ``csv`` or ``md``.
        rows: Each has all columns.
        columns: The columns, in order.
    """
    if style == "csv":
        typer.echo(csv_table([{name: row[name] for name in columns} for row in rows], columns))
    else:
        cells = [["–" if row[name] is None else str(row[name]) for name in columns] for row in rows]
        typer.echo("\n".join(markdown_table(columns, cells)))


def shorten(path: Path) -> str:
    """A path as the user would type it in the current folder.

    Args:
        path: An absolute one.

    Returns:
        Relative to the current folder, if it is below it.
    """
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
