"""Where an export goes: a folder that says what it holds, so that the next export replaces that and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from sweeper.errors import ClipsweepError
from sweeper.store.guarded_paths import read_file
from sweeper.store.run_dir import RunDir, file_hash, publish

__all__ = ["MANIFEST", "Destination"]

MANIFEST = "clipsweep-export.json"
"""Says which run was exported, for which target, and into which files."""

_FORMAT = 1


class Destination:
    """A folder for an export, used in a ``with`` block: files are put in place at its end, or not at all.

    Args:
        folder: The folder; created if it is missing.
        target: What is exported for.
        run_dir: The run.

    Raises:
        ClipsweepError: The folder is inside the run directory, holds another export, or cannot be written.
    """

    def __init__(self, folder: Path, *, target: str, run_dir: RunDir) -> None:
        self.folder = folder
        self._target = target
        # When it was begun, and with which trials: of one run alone, wherever its directory is moved.
        self._run = file_hash(b"\n".join(read_file(run_dir.journal).split(b"\n", 2)[:2]))
        if folder.resolve().is_relative_to(run_dir.path.resolve()):
            raise ClipsweepError(
                f"--to {folder}: is inside the run directory, which holds the run alone; choose another"
            )
        self._before = self._known()
        self._files: set[str] = set()
        self._staging = Path()

    def __enter__(self) -> Destination:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".clipsweep-export-", dir=self.folder))
        except OSError as error:
            raise ClipsweepError(f"--to {self.folder}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        except OSError as failed:
            raise ClipsweepError(
                f"{failed.filename or self.folder}: cannot be written: {failed.strerror}; export again once it can"
            ) from failed
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def staging(self) -> Path:
        """A folder for whatever is no result; removed at the end."""
        return self._staging / "other"

    def new_file(self, *parts: str) -> Path:
        """The place at which to write a file of the export.

        Args:
            parts: Its folders and its name, each a safe name.

        Returns:
            A path whose folder exists; the file is put in its place at the end.
        """
        self._files.add("/".join(parts))
        path = self._staging.joinpath("files", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def kept_file(self, name: str) -> Path:
        """The place of a file that every export extends, and that programs may have open.

        Args:
            name: Its name.

        Returns:
            Its path.

        Raises:
            ClipsweepError: There is a file of that name which is no export of this run.
        """
        self._refuse_foreign(name)
        self._files.add(name)
        # Now, because an export that is interrupted has begun the file.
        self._write_manifest(self._before | {name})
        return self.folder / name

    @property
    def size(self) -> int:
        """Bytes of what is exported, once it is."""
        return sum((self.folder / name).stat().st_size for name in self._files)

    @property
    def num_files(self) -> int:
        """Number of files of the export."""
        return len(self._files)

    def _publish(self) -> None:
        new = sorted(name for name in self._files if (self._staging / "files" / name).exists())
        for name in new:
            self._refuse_foreign(name)
        # First, so that an export that is interrupted here is known for one.
        self._write_manifest(self._before | self._files)
        for name in new:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (self._staging / "files" / name).replace(path)
        for name in sorted(self._before - self._files):
            self._remove(name)
        self._write_manifest(self._files)

    def _refuse_foreign(self, name: str) -> None:
        path = self.folder / name
        if not path.parent.resolve().is_relative_to(self.folder.resolve()) or path.is_symlink():
            raise ClipsweepError(
                f"{path}: leads out of {self.folder} through a link; remove it, or choose another --to"
            )
        if name not in self._before and path.exists():
            raise ClipsweepError(f"{path}: is no file of an earlier export; choose another --to")

    def _remove(self, name: str) -> None:
        """Remove what the last export had and this one has not, and folders that it leaves empty."""
        path = self.folder / name
        if path.parent.resolve().is_relative_to(self.folder.resolve()):
            path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.folder:
                break
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()

    def _write_manifest(self, files: set[str]) -> None:
        document = {"format": _FORMAT, "target": self._target, "run": self._run, "files": sorted(files)}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        publish(self.folder / MANIFEST, text.encode(), staging=self._staging / "manifest")

    def _known(self) -> set[str]:
        """The files of the last export.

        Returns:
            Their names, none of which leads out of the folder.

        Raises:
            ClipsweepError: It is of another run, or for another target.
        """
        path = self.folder / MANIFEST
        if self.folder.exists() and not self.folder.is_dir():
            raise ClipsweepError(f"--to {self.folder}: is a file; a folder is needed")
        if not os.path.lexists(path):
            return set()
        try:
            document: Any = json.loads(read_file(path))
            names = {str(name) for name in document["files"]}
            found = (document["format"], document["target"], document["run"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ClipsweepError(f"{path}: is not what an export writes; choose another --to") from error
        if found != (_FORMAT, self._target, self._run):
            raise ClipsweepError(
                f"--to {self.folder}: holds the export of another run or for another target; choose another --to"
            )
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
            raise ClipsweepError(f"{path}: names files outside its folder; choose another --to")
        return names
