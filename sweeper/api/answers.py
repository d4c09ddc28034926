"""Answers that show themselves: as tables in a terminal, as HTML in a notebook."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from sweeper.errors import ClipsweepError
from sweeper.labels import printable

__all__ = ["Answer", "PageAnswer", "write_text"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, repr=False)
class Answer(Generic[_T]):
    """What a command would print, and what it was printed from.

    In a notebook it shows itself as a table; ``print`` shows what the terminal would.

    Attributes:
        name: What it is, in words.
        found: The numbers behind it, as plain data.
    """

    name: str
    found: _T
    _render: Callable[..., str] = field(compare=False)

    def text(self, style: str = "table", *, width: int | None = None, color: bool = False) -> str:
        """The answer as the command prints it.

        Args:
            style: ``table``, ``md``, ``csv`` or ``json``.
            width: Columns of the terminal; as many as it takes if None.
            color: Whether tables may use colours.

        Returns:
            The text, without a trailing newline, and without anything that a terminal would act on but colours.

        Raises:
            ClipsweepError: There is no such style.
        """
        try:
            text = self._render(style, width=width, color=color)
        except ValueError as error:
            if isinstance(error, ClipsweepError):
                raise
            raise ClipsweepError(str(error)) from error
        # Where there are colours, names have been escaped one by one.
        return text if color and style == "table" else printable(text)

    def to_dict(self) -> dict[str, Any]:
        """The document that the command prints with ``--json``; docs/json.md has its keys.

        Returns:
            Dicts, lists, texts, numbers and None; what is not finite is None.
        """
        document: dict[str, Any] = json.loads(self._render("json"))
        return document

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<{printable(self.name)}>"

    def _repr_html_(self) -> str:
        return self._render("html")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


@dataclass(frozen=True, kw_only=True, repr=False)
class PageAnswer:
    """A run's page: one HTML document with tables and charts that needs nothing else.

    In a notebook it shows itself in a frame of its own, from which its scripts reach nothing of the notebook.

    Attributes:
        name: What it is, in words.
        answer: What it says first, in words.
        html: The document.
    """

    name: str
    answer: tuple[str, ...]
    html: str

    def to_html(self, file: str | os.PathLike[str]) -> Path:
        """Write the page.

        Args:
            file: Where to; replaced if it exists.

        Returns:
            The file.

        Raises:
            ClipsweepError: It cannot be written.
        """
        return write_text(Path(file), self.html)

    def __str__(self) -> str:
        return printable("\n".join([self.name, *self.answer]))

    def __repr__(self) -> str:
        return f"<{printable(self.name)}>"

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" title="{html.escape(printable(self.name))}" width="100%" height="640" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}


def write_text(file: Path, text: str) -> Path:
    """Write an answer to a file of the user's choice.

    Args:
        file: The file; replaced if it exists.
        text: What it is to hold.

    Returns:
        The file.

    Raises:
        ClipsweepError: It cannot be written.
    """
    try:
        file.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error
    return file
