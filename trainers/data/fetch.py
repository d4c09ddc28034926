"""Bring published data into the cache: download, check, unpack, and only then move it into place."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from trainers.data.sources import Download, Source, folder_of, is_present, where_it_goes
from trainers.data.unpack import is_archive, unpack
from trainers.errors import DataError

__all__ = ["Progress", "fetch"]

_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 16


class Progress(Protocol):
    """Shows the progress of a download; the protocol is pooch's."""

    total: int

    def update(self, n: int) -> None:
        """This many more bytes have arrived."""

    def reset(self) -> None:
        """Start again at 0."""

    def close(self) -> None:
        """The download is complete."""


def _unseen(download: Download) -> Progress | None:
    return None


def fetch(
    source: Source, *, origin: str | None = None, progress: Callable[[Download], Progress | None] = _unseen
) -> Path:
    """Download data and put it where specs find it, whole or not at all.

    Args:
        source: What to fetch.
        origin: A folder or an address with the publisher's files; None for the publisher's own. The hashes are
            checked all the same.
        progress: Makes something that shows the progress of a download, or None.

    Returns:
        The folder; it is left as it is if the data is there already.

    Raises:
        DataError: The data cannot be reached, does not match the published hashes, or cannot be stored. Nothing
            is left behind.
    """
    folder = folder_of(source)
    if is_present(source):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=folder.parent) as staging:
            whole = Path(staging) / "whole"
            whole.mkdir()
            for download in source.downloads:
                file = Path(staging) / download.file_name
                _bring(source, download, file, origin, progress(download))
                _check(download, file)
                if is_archive(file):
                    unpack(file, source.layouts[0], whole)
                else:
                    file.rename(whole / file.name)
            missing = [name for name in source.layouts[0] if not (whole / name).is_file()]
            if missing:
                raise DataError(f"{source.name}: what was fetched lacks {', '.join(missing)}")
            _place(whole, folder)
    except OSError as error:
        raise DataError(f"{source.name}: cannot be stored in {folder}: {error}") from error
    return folder


def _bring(source: Source, download: Download, file: Path, origin: str | None, progress: Progress | None) -> None:
    """One file, from wherever it is."""
    if origin is not None and "://" not in origin:
        given = Path(origin).expanduser() / download.file_name
        if not given.is_file():
            raise DataError(f"{source.name}: there is no file {given}")
        shutil.copyfile(given, file)
        return
    url = download.url if origin is None else f"{origin.rstrip('/')}/{download.file_name}"
    # Imported here: it takes half a second, which is saved when the data is there already.
    import pooch
    import requests

    bring: Any = pooch.HTTPDownloader(
        progressbar=progress if progress is not None else False, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_S
    )
    try:
        bring(url, str(file), None)
    except requests.RequestException as error:
        raise DataError(f"{source.name}: {url} cannot be fetched: {error}\n{where_it_goes(source)}") from error


def _check(download: Download, file: Path) -> None:
    """Refuse a file that is not the publisher's."""
    for algorithm, expected in download.hashes.items():
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
        if found != expected:
            raise DataError(
                f"{download.file_name}: {file.stat().st_size} bytes whose {algorithm} is {found}, but what is "
                f"published at {download.url} has {expected}: changed, cut short, or another page; not kept"
            )


def _place(whole: Path, folder: Path) -> None:
    """Rename into place, unless a faster process has done so; an incomplete folder is replaced."""
    try:
        whole.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Files that a user put there by hand stay, next to those that were missing.
        for file in whole.iterdir():
            os.replace(file, folder / file.name)
