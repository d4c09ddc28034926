"""Which line of the user's own code raised, and what to do about it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeper.own_packages import BESIDE

__all__ = ["Line", "Shipped", "line_of", "place_of", "remedy"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the user's own code.

    Attributes:
        file: Where the user has it, not where it was copied to.
        number: From 1.
        function: The function that it is in; ``<module>`` for none.
        code: The line itself.
    """

    file: str
    number: int
    function: str
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}, in {self.function}"


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """Where the user's own code is imported from, and where it came from.

    Attributes:
        folder: The copy.
        origin: The folder that was copied from.
    """

    folder: Path
    origin: Path


def line_of(error: BaseException, shipped: Shipped | None) -> Line | None:
    """The last line of the user's own code that an exception, or what led to it, passed through.

    Args:
        error: What was raised.
        shipped: Where the user's code is; None where there is none.

    Returns:
        The line; None where it passed through no such code.
    """
    if shipped is None:
        return None
    for one in _chain(error):
        for frame in reversed(traceback.extract_tb(one.__traceback__)):
            file = Path(frame.filename)
            if file.is_relative_to(shipped.folder):
                parts = file.relative_to(shipped.folder).parts
                return Line(
                    file=str(shipped.origin.joinpath(*parts[parts[0] == BESIDE :])),
                    number=frame.lineno or 0,
                    function=frame.name,
                    code=(frame.line or "")[:120],
                )
    return None


def place_of(error: BaseException) -> tuple[str, str, int]:
    """What makes two exceptions the same one again: the type, and the file and line that raised.

    Args:
        error: What was raised.

    Returns:
        A key.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return (type(error).__qualname__, *((frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)))


def remedy(error: BaseException) -> str:
    """What to do about an exception of a problem's code, where its kind tells.

    Args:
        error: What was raised.

    Returns:
        The remedy; empty where there is nothing to say that the exception does not.

    Example:
        >>> remedy(FileNotFoundError("data.txt"))
        'give data by absolute path: a worker does not run in this folder'
    """
    for kind, text in _REMEDIES:
        if any(isinstance(one, kind) for one in _chain(error)):
            return text
    return ""


_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (
        SystemExit,
        "raise an error in place of exiting, and parse arguments only under `if __name__ == '__main__':`",
    ),
    (KeyboardInterrupt, "raise an error in its place: a worker takes this for an interruption from outside"),
    (GeneratorExit, "raise an error in its place: a worker takes this for its own end"),
    (
        ImportError,
        "keep the module and what it imports in one package next to the spec, or install it wherever workers run",
    ),
    (FileNotFoundError, "give data by absolute path: a worker does not run in this folder"),
    (EOFError, "ask for nothing: a worker has no terminal"),
)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it was raised from, and so on."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
