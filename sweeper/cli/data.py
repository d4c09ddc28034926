"""``clipsweep data``: published data by name, fetched once, checked, and found by every spec."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.help import add_command, new_app
from sweeper.cli.options import AsJson, Format, show, show_json, show_rows
from sweeper.errors import ClipsweepError
from sweeper.formats import choose_format
from sweeper.labels import printable
from trainers.data.sources import SOURCES, Download, Source, folder_of, is_present, where_it_goes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["data_app"]

data_app = new_app("Published data: fetch it, list it, say where it is.", path="data")

Name = Annotated[str, typer.Argument(metavar="NAME", help=f"{', '.join(SOURCES)}.", show_default=False)]


def fetch(
    name: Name,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="FOLDER|URL", help="Where the publisher's files are instead; still checked."),
    ] = None,
) -> None:
    """Download data into the cache, check its published hash, and unpack it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from trainers.data.fetch import fetch as fetch_source
    from trainers.errors import DataError

    source = _known(name)
    if is_present(source):
        typer.echo(f"{name} is already here", err=True)
        show(str(folder_of(source)))
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=console) if console.is_terminal and not console.is_dumb_terminal else None
    try:
        with shown or nullcontext():
            folder = fetch_source(source, origin=origin, progress=lambda download: _bar(shown, download))
    except DataError as error:
        raise ClipsweepError(str(error)) from error
    show(str(folder))


def list_data(wanted: Format = None, as_json: AsJson = False) -> None:
    """Show which data has a name, how large it is, and whether and where it is on this machine."""
    style = choose_format(wanted, as_json=as_json)
    rows = [_row(source) for source in SOURCES.values()]
    if style == "json":
        show_json(rows)
        return
    if style != "table":
        show_rows(style, rows, list(rows[0]))
        return
    for row in rows:
        here = "present" if row["present"] else "not here"
        typer.echo(
            f"{row['name']:<10} {row['kind']:<8} {row['bytes'] / 1e6:>6.1f} MB  {here:<9} {printable(row['folder'])}"
        )
        typer.echo(f"{'':<10} {row['about']}")


def path(name: Name) -> None:
    """Print the folder that data is in."""
    source = _known(name)
    if not is_present(source):
        raise ClipsweepError(f"{name} is not on this machine: {where_it_goes(source)}")
    show(str(folder_of(source)))


def _known(name: str) -> Source:
    if name not in SOURCES:
        from sweeper.spec.syntax.diagnostics import choices

        raise ClipsweepError(f"unknown data {name!r}; {choices(name, tuple(SOURCES))}")
    return SOURCES[name]


def _row(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": source.kind,
        "about": source.about,
        "bytes": sum(download.num_bytes for download in source.downloads),
        "present": is_present(source),
        "folder": str(folder_of(source)),
    }


class _Bar:
    """A line of rich's display that speaks pooch's protocol."""

    def __init__(self, shown: Progress, task: TaskID, expected: int) -> None:
        self._shown = shown
        self._task = task
        self.total = expected

    def update(self, n: int) -> None:
        # 0 comes from a server that does not announce the length of its answer.
        self._shown.update(self._task, advance=n, total=self.total or None)

    def reset(self) -> None:
        self._shown.update(self._task, completed=0)

    def close(self) -> None:
        self._shown.update(self._task, completed=self.total)


def _bar(shown: Progress | None, download: Download) -> _Bar | None:
    if shown is None:
        return None
    return _Bar(shown, shown.add_task(download.file_name, total=download.num_bytes), download.num_bytes)


add_command(data_app, "fetch", fetch, within="data")
add_command(data_app, "list", list_data, within="data")
add_command(data_app, "path", path, within="data")
