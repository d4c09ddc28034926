"""What commands print: data on stdout, all else on stderr; what others wrote is text, and moves no cursor."""

from __future__ import annotations

from pathlib import Path

import typer

from sweeper.labels import printable

__all__ = ["note", "shorten", "show"]


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


def shorten(path: Path) -> str:
    """A path as the user would type it here.

    Args:
        path: An absolute one.

    Returns:
        Relative to the current folder, where it lies below it.
    """
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
