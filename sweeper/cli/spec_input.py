"""The spec that a command is given: a file, or standard input as ``-``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.cli.options import note

if TYPE_CHECKING:
    from sweeper.spec import Sweep

__all__ = ["STDIN", "from_stdin", "name_of_spec", "read_spec"]

STDIN = "<stdin>"
"""What messages call standard input."""


def from_stdin(spec: Path) -> bool:
    """Whether a spec is to be read from standard input.

    Args:
        spec: The spec, as the user gave it. A file that is called ``-`` is given by its absolute path.

    Returns:
        Whether it is ``-``.

    Example:
        >>> from_stdin(Path("-")), from_stdin(Path("sweep.yaml"))
        (True, False)
    """
    return str(spec) == "-"


def name_of_spec(spec: Path) -> str:
    """What messages call a spec.

    Args:
        spec: The spec, as the user gave it.

    Returns:
        The file, or ``<stdin>``.
    """
    return STDIN if from_stdin(spec) else str(spec)


def read_spec(spec: Path, overrides: Sequence[str] | None) -> Sweep:
    """Read and check the spec that a command is given.

    Args:
        spec: A file, or ``-`` for standard input. What is relative in the latter is relative to the current folder, and
            its run is called ``sweep`` if it does not say it.
        overrides: ``path=value`` each, in place of what the spec says.

    Returns:
        The sweep.

    Raises:
        SpecError: It cannot be read, or is not a spec; all problems at once.
    """
    from sweeper.spec import load_spec, loads_spec

    if from_stdin(spec):
        return loads_spec(_text_of_stdin(), name=STDIN, folder=Path.cwd(), overrides=overrides or [])
    return load_spec(spec, overrides or [])


@functools.cache
def _text_of_stdin() -> str:
    """Once, since a command that continues with other overrides reads its spec again."""
    from sweeper.errors import SpecError
    from sweeper.spec.syntax.overlay import read_stream

    if sys.stdin is None:
        raise SpecError(f"{STDIN}: is closed; give a file, or pipe a spec into the command")
    if sys.stdin.isatty():
        note("reading the spec from this terminal; Ctrl-D on a line of its own ends it")
    return read_stream(sys.stdin.buffer, STDIN)
