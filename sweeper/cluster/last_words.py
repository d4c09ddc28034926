"""What a worker's process printed before it ended: Ray keeps it in files of the worker's node, where it outlives it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sweeper.errors import clean_text

__all__ = ["begin", "last_words", "outputs"]

_MARK = "--- clipsweep: "

_TAIL = 65536
"""Bytes of a file that are looked through."""

_SHOWN = 4000
"""Characters of each stream that are passed on."""

_RAYS = re.compile(r"^(:job_id:|:actor_name:|:task_name:|\[\d{4}-\d\d-\d\d .*\d+\] |PC: @|\s+@ )")
"""Lines of Ray's own in the files: names for its log monitor, its own log, and the frames of a crash."""


def outputs() -> tuple[str, ...]:
    """The files that this process prints to.

    Returns:
        Those of stdout and stderr; nothing where these are not files, or are unknown.
    """
    found = []
    for descriptor in (1, 2):
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if os.path.isfile(path):
            found.append(path)
    return tuple(dict.fromkeys(found))


def begin(what: str) -> None:
    """Print on both streams what begins, so that what comes after can be told from what was before.

    Args:
        what: In one line.
    """
    for descriptor in (1, 2):
        try:
            os.write(descriptor, f"{_MARK}{what}\n".encode())
        except OSError:  # closed by user code, or a full disk: then it is not told apart
            continue


def last_words(paths: Sequence[str]) -> str:
    """What was printed last to files, since the last beginning in each.

    Args:
        paths: What :func:`outputs` returned in the process that has ended.

    Returns:
        Lines, those of the first file first; empty where nothing was printed, or where no file is here.
    """
    found = []
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                text = clean_text(file.read().decode(errors="replace"))
        except OSError:
            continue
        lines = text.rpartition(_MARK)[2].splitlines()[1:] if _MARK in text else text.splitlines()
        words = "\n".join(line.rstrip() for line in lines if not _RAYS.match(line)).strip()
        found.append(words[-_SHOWN:])
    return "\n".join(words for words in found if words)
