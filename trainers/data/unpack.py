"""Extract known files from an archive, and nothing else, whatever paths its members claim."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from trainers.errors import DataError

__all__ = ["is_archive", "unpack"]

_SUFFIXES = (".zip", ".tar.gz")


def is_archive(file: Path) -> bool:
    """Whether a file has the name of an archive that :func:`unpack` reads."""
    return file.name.endswith(_SUFFIXES)


def unpack(archive: Path, names: Collection[str], folder: Path) -> None:
    """Write the wanted files of an archive into a folder, without the folders that they lie in there.

    Args:
        archive: A ``.zip`` or ``.tar.gz``.
        names: File names that are wanted; the last part of a member's path is compared.
        folder: Where they go; a name that the archive lacks is not written.

    Raises:
        DataError: The archive is damaged, has a member that is no plain file or folder or whose path is absolute or
            climbs upwards, or has two members of a wanted name. Nothing has been written outside ``folder``.
    """
    opened = _zip if archive.name.endswith(".zip") else _tar
    try:
        with opened(archive) as members:
            for path, stream in members:
                if path.name not in names or stream is None:
                    continue
                # Exclusive: a second member of the same name is a mistake or an attack.
                with (folder / path.name).open("xb") as file:
                    shutil.copyfileobj(stream, file)
    except FileExistsError as error:
        raise DataError(f"{archive.name}: has two files named {Path(error.filename).name}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive.name}: a damaged archive: {error}") from error


Members = Iterator[tuple[PurePosixPath, IO[bytes] | None]]


@contextmanager
def _zip(archive: Path) -> Iterator[Members]:
    """The members of a zip file, all checked before the first is read."""
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            # Archives that were not made on Unix do not say what kind a member is.
            plain = kind in {0, stat.S_IFREG, stat.S_IFDIR}
            _admit(archive, info.filename, plain=plain)

        def members() -> Members:
            for info in infos:
                if info.is_dir():
                    continue
                with file.open(info) as stream:
                    yield PurePosixPath(info.filename), stream

        yield members()


@contextmanager
def _tar(archive: Path) -> Iterator[Members]:
    """The members of a tar archive, all checked before the first is read."""
    with tarfile.open(archive, "r:gz") as file:
        infos = file.getmembers()
        for info in infos:
            _admit(archive, info.name, plain=info.isreg() or info.isdir())
        yield ((PurePosixPath(info.name), file.extractfile(info)) for info in infos)


def _admit(archive: Path, name: str, *, plain: bool) -> None:
    """Refuse an archive that holds anything but plain files below one folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise DataError(f"{archive.name}: refused, since {name!r} points out of the folder it would be unpacked into")
    if not plain:
        raise DataError(f"{archive.name}: refused, since {name!r} is neither a file nor a folder (a link, perhaps)")
