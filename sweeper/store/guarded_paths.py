"""Access to files and folders that other users cannot redirect: no symbolic link is followed, only the owner writes."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import IO

from sweeper.errors import RunDirectoryError

__all__ = ["make_folder", "open_new", "open_to_append", "read_file", "refuse_strangers"]

_STRANGERS = stat.S_IWGRP | stat.S_IWOTH


def make_folder(folder: Path) -> None:
    """Create a folder and missing parents; only their owner may write there, whatever the umask."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)


def open_new(path: Path) -> IO[bytes]:
    """Create a new file, open for writing.

    Returns:
        The open file.

    Raises:
        FileExistsError: Something of that name exists, even if it is only a dangling link.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb")


def open_to_append(path: Path) -> IO[bytes]:
    """Open a file for appending; create it if it is missing.

    Returns:
        The open file.

    Raises:
        OSError: It is a symbolic link, or cannot be written.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644), "ab")


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Returns:
        All of them.

    Raises:
        OSError: It is a symbolic link, or cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def refuse_strangers(root: Path, *, to_write: bool) -> None:
    """Check a whole run directory once, before anything in it is opened.

    This costs one directory listing per folder and opens no file: the listing itself says what is a link. One check is
    enough: with ``to_write``, it also makes sure that nobody else can add a link later.

    Args:
        root: The directory itself; links above it are up to its owner.
        to_write: Whether it will be written to: then neither a folder nor a file directly in ``root`` may be writable
            by anyone but its owner.

    Raises:
        RunDirectoryError: There is a symbolic link, something that is neither file nor folder, or others may write.
    """
    if to_write:
        _refuse_mode(root, root.stat().st_mode, root)
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        # A running driver may remove folders in the meantime.
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise RunDirectoryError(
                        f"{entry.path}: is a symbolic link, which is not followed in a run directory; "
                        "replace it with what it points to, or remove it"
                    )
                is_folder = entry.is_dir(follow_symlinks=False)
                if not is_folder and not entry.is_file(follow_symlinks=False):
                    raise RunDirectoryError(f"{entry.path}: is neither a file nor a folder; remove it")
                if is_folder:
                    folders.append(entry.path)
                if to_write and (is_folder or folder == str(root)):
                    with contextlib.suppress(FileNotFoundError):
                        _refuse_mode(Path(entry.path), entry.stat(follow_symlinks=False).st_mode, root)


def _refuse_mode(path: Path, mode: int, root: Path) -> None:
    if mode & _STRANGERS:
        raise RunDirectoryError(
            f"{path}: can be written by others (mode {stat.S_IMODE(mode):04o}), who could change results; "
            f"`chmod -R go-w {root}`, or choose another directory with --out"
        )
